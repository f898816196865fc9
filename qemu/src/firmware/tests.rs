//! The firmware model against cards and servers made here.

mod card;
mod discover;
mod fake_server;
mod network;
mod pi_3;

use libdeflater::{CompressionLvl, Compressor};

use super::{Board, Model};

/// The smallest thing a board starts: an arm64 Image header, then a pattern.
pub(super) fn image(bytes: usize) -> Vec<u8> {
    let mut image: Vec<u8> = (0..bytes).map(|index| (index / 7) as u8).collect();
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

pub(super) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::fastest());
    let mut packed = vec![0; compressor.gzip_compress_bound(content.len())];
    let length = compressor.gzip_compress(content, &mut packed).unwrap();
    packed.truncate(length);
    packed
}

const TREE: &[u8] = b"\xd0\x0d\xfe\xed device tree";
const CONFIG: &[u8] = b"arm_64bit=1\nenable_uart=1\nkernel=vmlinuz\ninitramfs initramfs.img followkernel\n";

type Files = Vec<(String, Vec<u8>)>;

/// All that `model` needs, beneath `prefix`.
fn boot_files(model: Model, prefix: &str) -> Files {
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("config.txt", CONFIG.to_vec()),
        ("cmdline.txt", b"bramble.role=node quiet\n".to_vec()),
        ("vmlinuz", gzip(&image(300_000))),
        ("initramfs.img", vec![7; 20_000]),
        (model.device_tree().downstream, TREE.to_vec()),
    ];
    if let Some((start, fixup)) = pi_boot::firmware_files(model.generation(), Default::default()) {
        files.extend([(start, vec![1; 50_000]), (fixup, vec![2; 5_000])]);
    }
    files.into_iter().map(|(name, content)| (format!("{prefix}{name}"), content)).collect()
}

fn board(model: Model) -> Board {
    Board { name: "node-1".to_owned(), mac: [0xdc, 0xa6, 0x32, 0x01, 0x36, 0xc2], serial: 0x1a2b_3c4d, model }
}
