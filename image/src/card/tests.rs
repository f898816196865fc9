use std::io::{Read as _, Seek as _, SeekFrom};

use super::*;
use crate::tree::Kind;

const ID: &str = "33db85f057c8e33294279614d9a3de127e982d00c2a6fd556ed17d595356cda5";

fn boot_tree() -> Tree {
    let mut tree = Tree::new();
    tree.file("config.txt", 0o644, "arm_64bit=1\n");
    tree.file("bcm2711-rpi-4-b.dtb", 0o644, vec![7; 70_000]);
    tree
}

fn card(folder: &Path, root: &[u8]) -> std::path::PathBuf {
    let path = folder.join("head.img");
    write(&path, &boot_tree(), root, ID, 0).unwrap();
    path
}

fn bytes(path: &Path, at: u64, length: usize) -> Vec<u8> {
    let mut file = File::open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes).unwrap();
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Reads the table by its published layout, not with the crate that wrote it.
#[test]
fn the_partition_table_says_where_the_parts_are() {
    let folder = tempfile::tempdir().unwrap();
    let sector = bytes(&card(folder.path(), b"root"), 0, 512);
    assert_eq!(&sector[510..], [0x55, 0xaa]);
    assert_eq!(format!("{:08x}", u32_at(&sector, 440)), ID[..8]);
    let entries: Vec<(u8, u8, u64, u64)> = (0..4)
        .map(|index| {
            let entry = &sector[446 + index * 16..446 + index * 16 + 16];
            (entry[0], entry[4], u64::from(u32_at(entry, 8)) * 512, u64::from(u32_at(entry, 12)) * 512)
        })
        .collect();
    let expected: Vec<(u8, u8, u64, u64)> = [BOOT, SLOT_A, SLOT_B, DATA]
        .iter()
        .map(|extent| (0, extent.kind, extent.start, extent.size))
        .collect();
    assert_eq!(entries, expected);
    for pair in expected.windows(2) {
        assert_eq!(pair[0].2 + pair[0].3, pair[1].2, "partitions follow each other");
        assert_eq!(pair[1].2 % (4 * MIB), 0, "and begin at erase blocks");
    }
}

#[test]
fn the_boot_partition_is_fat32_and_holds_the_tree() {
    let folder = tempfile::tempdir().unwrap();
    let volume = bytes(&card(folder.path(), b"root"), BOOT.start, BOOT.size as usize);
    let volume = fatfs::FileSystem::new(Cursor::new(volume), fatfs::FsOptions::new()).unwrap();
    assert_eq!(volume.fat_type(), fatfs::FatType::Fat32);
    assert_eq!(volume.volume_label(), "BRAMBLE");
    assert_eq!(volume.volume_id(), 0x33db_85f0);
    assert_eq!(volume.root_dir().iter().filter(|entry| entry.as_ref().unwrap().is_file()).count(), 2);
    for (path, entry) in boot_tree().entries() {
        let mut content = Vec::new();
        volume.root_dir().open_file(path).unwrap().read_to_end(&mut content).unwrap();
        assert_eq!(entry.kind, Kind::File(content), "{path}");
    }
}

#[test]
fn slot_a_holds_the_root_and_slot_b_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root: Vec<u8> = (0..100_000u32).map(|number| (number % 251) as u8).collect();
    let path = card(folder.path(), &root);
    assert_eq!(bytes(&path, SLOT_A.start, root.len()), root);
    assert!(bytes(&path, SLOT_B.start, SLOT_B.size as usize).iter().all(|byte| *byte == 0));
}

/// Offsets from Documentation/filesystems/ext4/super.rst.
#[test]
fn the_data_partition_is_ext4_that_can_grow_to_two_tebibytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = card(folder.path(), b"root");
    let superblock = bytes(&path, DATA.start + 1024, 1024);
    let u16_at = |at: usize| u16::from_le_bytes([superblock[at], superblock[at + 1]]);
    assert_eq!(u16_at(0x38), 0xef53, "magic");
    assert_eq!(u32_at(&superblock, 0x18), 2, "4 KiB blocks");
    assert_eq!(u64::from(u32_at(&superblock, 0x4)) * 4096, DATA.size);
    assert_eq!(u16_at(0x58), 256, "inode size");
    assert_eq!(&superblock[0x78..0x84], b"bramble-data");
    let (compatible, incompatible, read_only) =
        (u32_at(&superblock, 0x5c), u32_at(&superblock, 0x60), u32_at(&superblock, 0x64));
    assert_eq!(compatible & 0x14, 0x14, "has_journal, resize_inode");
    assert_eq!(incompatible & 0x2c0, 0x2c0, "extents, 64bit, flex_bg");
    assert_eq!(read_only & 0x400, 0x400, "metadata_csum");
    // Each descriptor block describes 64 groups (64-byte descriptors) of 128 MiB.
    let descriptor_blocks = u64::from(u16_at(0xce)) + 1;
    assert!(descriptor_blocks * 64 * 128 * MIB >= 2 << 40, "{descriptor_blocks}");
    assert_eq!(u32_at(&superblock, 0x2c), 0, "never mounted");
}

#[test]
fn the_image_is_sparse_and_equal_inputs_make_equal_bytes() {
    use std::os::unix::fs::MetadataExt as _;
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = card(first.path(), &[5; 10_000]);
    // mke2fs stamps the second it ran in, unless told otherwise: let another one begin.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let other = card(second.path(), &[5; 10_000]);
    assert_eq!(file::sha256(&one).unwrap(), file::sha256(&other).unwrap());
    let metadata = fs::metadata(&one).unwrap();
    assert!(metadata.blocks() * 512 < metadata.size() / 10, "{} blocks", metadata.blocks());
}

#[test]
fn a_root_that_does_not_fit_its_slot_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = vec![1; SLOT_A.size as usize + 1];
    let error = write(&folder.path().join("head.img"), &boot_tree(), &root, ID, 0).unwrap_err();
    assert!(error.to_string().contains("root slot"), "{error}");
    assert!(!folder.path().join("head.img").exists());
}

#[test]
fn a_boot_tree_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut tree = boot_tree();
    tree.file("big", 0o644, vec![1; BOOT.size as usize]);
    let error = write(&folder.path().join("head.img"), &tree, b"", ID, 0).unwrap_err();
    assert!(error.to_string().contains("big"), "{error}");
}
