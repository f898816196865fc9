//! The firmware model against SD cards with anything on them.

use std::cell::RefCell;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::sync::OnceLock;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use mbrman::{CHS, MBRHeader, MBRPartitionEntry};
use qemu::firmware::{Board, Model, boot_from_card};
use tempfile::NamedTempFile;

use crate::input::Input;

/// A card never boots what is not there, and a damaged one is an error. The input is the card itself, or changes to one
/// that boots: an offset in 24 bits, a length in 8, and bytes, over and over.
pub fn card_image(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.u8();
    let model = Model::ALL[usize::from(choice >> 1) % Model::ALL.len()];
    let tryboot = choice & 0x80 != 0;
    let untouched = choice & 1 != 0 && input.is_empty() && !tryboot;
    let image = if choice & 1 == 0 { input.0.to_vec() } else { damaged(&mut input) };
    let board = Board { name: "board".to_owned(), mac: [2, 0, 0, 0, 0, 1], serial: 0x1a2b_3c4d, model };
    let result = CARD.with_borrow_mut(|file| {
        file.seek(SeekFrom::Start(0)).expect("a file can be rewound");
        file.as_file().set_len(0).expect("a file can be emptied");
        file.write_all(&image).expect("there is room for a small image");
        boot_from_card(file.path(), &board, tryboot)
    });
    assert!(result.is_ok() || !untouched, "{:?}", result.err());
    if let Ok(files) = result {
        assert_eq!(files.kernel.get(56..60), Some(&b"ARM\x64"[..]));
        assert!(files.initramfs.is_none_or(|bytes| bytes.len() as u64 <= 768 << 20));
    }
}

thread_local! {
    static CARD: RefCell<NamedTempFile> =
        RefCell::new(NamedTempFile::new().expect("there is a place for temporary files"));
}

fn damaged(input: &mut Input<'_>) -> Vec<u8> {
    static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
    let mut image = WHOLE.get_or_init(whole).clone();
    while !input.is_empty() {
        let [high, middle, low, length] = input.array();
        let at = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let bytes = input.take(usize::from(length));
        let at = at % image.len();
        for (to, from) in image[at..].iter_mut().zip(bytes) {
            *to = *from;
        }
    }
    image
}

const SECTOR: usize = 512;
/// The smallest FAT that holds a directory and a few files.
const VOLUME_SECTORS: usize = 128;

/// A card that boots every model: sector 0 the table, then a FAT12 partition.
fn whole() -> Vec<u8> {
    let mut table = MBRHeader::new([1, 2, 3, 4]);
    table[1] = MBRPartitionEntry {
        boot: 0,
        first_chs: CHS::empty(),
        sys: 0x0c,
        last_chs: CHS::empty(),
        starting_lba: 1,
        sectors: VOLUME_SECTORS as u32,
    };
    let mut card = Cursor::new(vec![0; SECTOR]);
    table.write_into(&mut card).expect("a table fits its sector");
    let mut card = card.into_inner();
    card.resize(SECTOR, 0);
    let mut volume = Cursor::new(vec![0; SECTOR * VOLUME_SECTORS]);
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat12).max_root_dir_entries(64);
    format_volume(&mut volume, options).expect("a volume is formatted");
    let system = FileSystem::new(&mut volume, FsOptions::new()).expect("a new volume is read");
    for (name, content) in files() {
        let mut file = system.root_dir().create_file(&name).expect("there is room for a name");
        file.write_all(&content).expect("there is room for a file");
    }
    drop(system);
    volume.seek(SeekFrom::Start(0)).expect("memory can be rewound");
    volume.read_to_end(&mut card).expect("memory can be read");
    card
}

fn files() -> Vec<(String, Vec<u8>)> {
    let mut kernel = vec![0; 64];
    kernel[56..60].copy_from_slice(b"ARM\x64");
    let settings = b"arm_64bit=1\nkernel=vmlinuz\ninitramfs initramfs.img followkernel\n";
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("config.txt", settings.to_vec()),
        ("cmdline.txt", b"quiet\n".to_vec()),
        ("vmlinuz", kernel),
        ("initramfs.img", vec![7; 1500]),
        ("bootcode.bin", vec![1; 8]),
        ("autoboot.txt", b"[all]\nboot_partition=1\n".to_vec()),
    ];
    for name in ["start.elf", "fixup.dat", "start4.elf", "fixup4.dat"] {
        files.push((name, vec![2; 8]));
    }
    for model in Model::ALL {
        files.push((model.device_tree().downstream, b"\xd0\x0d\xfe\xed".to_vec()));
    }
    files.into_iter().map(|(name, content)| (name.to_owned(), content)).collect()
}
