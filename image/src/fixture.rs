//! A kernel and a firmware package made of nothing, in the layouts Debian uses: enough for every step of the builder.

use std::fs;
use std::path::{Path, PathBuf};

/// Release of the fixture kernel.
pub const RELEASE: &str = "9.9.9-fixture";

/// A module file: a 64-bit ELF with nothing but a `.modinfo` section holding `strings`.
pub fn module(strings: &[&str]) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let modinfo: Vec<u8> = strings.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
    let (names_at, modinfo_at) = (64, 64 + names.len());
    let table_at = (modinfo_at + modinfo.len()).next_multiple_of(8);
    let mut elf = Vec::new();
    // Identification: ELF, 64 bits, little-endian, version 1; then relocatable, AArch64 (183).
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend_from_slice(&[1, 0, 183, 0, 1, 0, 0, 0]);
    for number in [0, 0, table_at as u64] {
        elf.extend_from_slice(&number.to_le_bytes());
    }
    elf.extend_from_slice(&0u32.to_le_bytes());
    // Sizes of the headers, three sections, names in the last one.
    for number in [64u16, 0, 0, 64, 3, 2] {
        elf.extend_from_slice(&number.to_le_bytes());
    }
    elf.extend_from_slice(names);
    elf.extend_from_slice(&modinfo);
    elf.resize(table_at, 0);
    elf.resize(table_at + 64, 0);
    elf.extend_from_slice(&section(1, 1, modinfo_at, modinfo.len()));
    elf.extend_from_slice(&section(10, 3, names_at, names.len()));
    elf
}

fn section(name: u32, kind: u32, offset: usize, size: usize) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend_from_slice(&name.to_le_bytes());
    header.extend_from_slice(&kind.to_le_bytes());
    for number in [0, 0, offset as u64, size as u64, 0, 1, 0] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header
}

/// Every module named in `modules.toml`, without marks, in file order and with repetitions.
pub fn declared() -> Vec<String> {
    let table: toml::Table = toml::from_str(include_str!("../modules.toml")).unwrap();
    let machines = table.values().filter_map(toml::Value::as_table);
    let lists = machines.flat_map(|machine| machine.values()).filter_map(toml::Value::as_array);
    lists.flatten().map(|name| name.as_str().unwrap().trim_end_matches('?').to_owned()).collect()
}

/// Writes a kernel in Debian's 7.x layout into `root`, with all declared modules. `smsc95xx` is a chain of three, partly
/// compressed; `virtio_blk` is built in; `genet` has wishes.
pub fn kernel(root: &Path) -> PathBuf {
    let modules = root.join("usr/lib/modules").join(RELEASE);
    let kernel = modules.join("kernel");
    write(&modules.join("vmlinuz"), &image());
    write(&modules.join("modules.builtin"), b"kernel/drivers/block/virtio_blk.ko\nkernel/fs/other.ko\n");
    for name in declared() {
        let strings: &[&str] = match name.as_str() {
            "virtio_blk" => continue,
            "smsc95xx" => &["name=smsc95xx", "depends=usbnet,mii", "alias=usb:v0424pEC00d*"],
            "genet" => {
                &["depends=", "softdep=pre: mdio-bcm-unimac gone post: late", "alias=of:N*T*Cbrcm,genetC*"]
            }
            _ => &["depends="],
        };
        write(&kernel.join("drivers").join(format!("{name}.ko")), &module(strings));
    }
    let xz = |data: &[u8]| {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        std::io::Write::write_all(&mut encoder, data).unwrap();
        encoder.finish().unwrap()
    };
    write(&kernel.join("net/usbnet.ko.xz"), &xz(&module(&["depends=mii,usbcore"])));
    write(&kernel.join("net/mii.ko.zst"), &zstd::bulk::compress(&module(&["depends="]), 1).unwrap());
    write(&kernel.join("net/usbcore.ko"), &module(&["depends=virtio_blk"]));
    write(&kernel.join("net/late.ko"), &module(&["depends=genet"]));
    write(&kernel.join("net/unwanted.ko"), &module(&["depends="]));
    for name in
        ["bcm2837-rpi-3-b", "bcm2711-rpi-4-b", "bcm2711-rpi-cm4-io", "bcm2712-d-rpi-5-b", "bcm4908-other"]
    {
        write(&modules.join(format!("dtb/broadcom/{name}.dtb")), name.as_bytes());
    }
    root.to_owned()
}

/// A kernel image that is one as far as its header goes, and does not compress away.
pub fn image() -> Vec<u8> {
    let mut state = 1u32;
    let mut image: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x1f
    })
    .take(300_000)
    .collect();
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

/// Writes an unpacked `raspi-firmware` into `root`.
pub fn firmware(root: &Path) -> PathBuf {
    for name in ["bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat"] {
        write(&root.join("usr/lib/raspi-firmware").join(name), name.as_bytes());
    }
    write(&root.join("usr/share/doc/raspi-firmware/copyright"), b"terms");
    root.to_owned()
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The checkout.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
