//! Cards made here, and what each model says of them.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use fscommon::StreamSlice;
use mbrman::{CHS, MBRHeader, MBRPartitionEntry};
use tempfile::NamedTempFile;

use super::*;
use crate::firmware::*;

const PARTITION_BYTES: u64 = 8 << 20;
const FAT16: u8 = 0x0e;
const LINUX: u8 = 0x83;

/// One file system per entry: its partition type, and its files.
fn card(partitions: &[(u8, Files)]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    let mut table = MBRHeader::new([1, 2, 3, 4]);
    for (index, (kind, files)) in partitions.iter().enumerate() {
        let start = ((index as u64 + 1) << 20) + index as u64 * PARTITION_BYTES;
        *table.get_mut(index + 1).unwrap() = MBRPartitionEntry {
            boot: 0,
            first_chs: CHS::empty(),
            sys: *kind,
            last_chs: CHS::empty(),
            starting_lba: (start / 512) as u32,
            sectors: (PARTITION_BYTES / 512) as u32,
        };
        file.as_file().set_len(start + PARTITION_BYTES).unwrap();
        fill(&mut file, start, files);
    }
    file.seek(SeekFrom::Start(0)).unwrap();
    table.write_into(file.as_file_mut()).unwrap();
    file
}

fn fill(file: &mut NamedTempFile, start: u64, files: &Files) {
    let slice = || StreamSlice::new(file.reopen().unwrap(), start, start + PARTITION_BYTES).unwrap();
    format_volume(slice(), FormatVolumeOptions::new().fat_type(FatType::Fat16)).unwrap();
    let volume = FileSystem::new(slice(), FsOptions::new()).unwrap();
    for (name, content) in files {
        if let Some((directory, _)) = name.rsplit_once('/') {
            volume.root_dir().create_dir(directory).unwrap();
        }
        volume.root_dir().create_file(name).unwrap().write_all(content).unwrap();
    }
}

fn with(mut files: Files, more: &[(&str, &[u8])]) -> Files {
    files.extend(more.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())));
    files
}

fn boot_whole(model: Model) -> Files {
    with(boot_files(model, ""), &[("bootcode.bin", b"b")])
}

fn boot(card: &NamedTempFile, model: Model, tryboot: bool) -> Result<BootFiles, CardError> {
    boot_from_card(card.path(), &board(model), tryboot)
}

#[test]
fn every_model_boots_from_its_own_files() {
    for model in Model::ALL {
        let card = card(&[(FAT16, boot_whole(model)), (LINUX, Vec::new())]);
        let files = boot(&card, model, false).unwrap();
        assert_eq!(files.kernel, image(300_000), "{model:?}");
        assert_eq!(files.initramfs, Some(vec![7; 20_000]));
        assert_eq!(files.command_line, "bramble.role=node quiet");
        assert_eq!(files.device_tree.as_deref(), Some(TREE));
        assert!(files.trace.iter().any(|entry| entry.outcome == Outcome::Read(20_000)));
    }
}

#[test]
fn one_card_with_everything_boots_every_model() {
    let mut all: Files = Model::ALL.iter().flat_map(|model| boot_whole(*model)).collect();
    all.sort();
    all.dedup();
    let card = card(&[(FAT16, all)]);
    for model in Model::ALL {
        assert!(boot(&card, model, false).is_ok(), "{model:?}");
    }
}

#[test]
fn a_missing_file_is_named_with_its_partition() {
    let cases = [
        (Model::Pi3B, "bootcode.bin", "bootcode.bin is missing on partition 1"),
        (Model::Pi3B, "start.elf", "partition 1 is not bootable for this model: start.elf is missing"),
        (Model::Pi4, "start4.elf", "partition 1 is not bootable for this model: start4.elf is missing"),
        (Model::Pi5, "config.txt", "partition 1 is not bootable for this model: config.txt is missing"),
        (
            Model::Pi4,
            "fixup4.dat",
            "boot from partition 1 stopped: fixup4.dat is missing: firmware of this model",
        ),
        (
            Model::Pi5,
            "bcm2712-rpi-5-b.dtb",
            "boot from partition 1 stopped: OS does not indicate support for Raspberry Pi 5: \
             bcm2712-rpi-5-b.dtb is missing and os_check is not 0",
        ),
    ];
    for (model, file, message) in cases {
        let mut files = boot_whole(model);
        files.retain(|(name, _)| name != file);
        let error = boot(&card(&[(FAT16, files)]), model, false).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn a_directory_in_the_place_of_a_file_is_no_file() {
    let mut files = boot_whole(Model::Pi4);
    files.retain(|(name, _)| name != "vmlinuz");
    let files = with(files, &[("vmlinuz/inside", b"")]);
    let error = boot(&card(&[(FAT16, files)]), Model::Pi4, false).unwrap_err();
    assert!(error.to_string().contains("vmlinuz is missing"), "{error}");
}

#[test]
fn a_partition_without_the_marker_is_passed_over() {
    let card = card(&[
        (FAT16, with(Vec::new(), &[("other", b"")])),
        (LINUX, Vec::new()),
        (FAT16, boot_whole(Model::Pi4)),
    ]);
    assert!(boot(&card, Model::Pi4, false).is_ok());
}

fn slots(autoboot: &[u8]) -> NamedTempFile {
    let first = with(Vec::new(), &[("autoboot.txt", autoboot), ("bootcode.bin", b"b")]);
    let slot = |name: &str| {
        let mut files = boot_files(Model::Pi4, "");
        files.retain(|(name, _)| name != "cmdline.txt");
        with(files, &[("cmdline.txt", name.as_bytes())])
    };
    card(&[(FAT16, first), (FAT16, slot("a")), (FAT16, slot("b"))])
}

#[test]
fn autoboot_chooses_the_slot_and_tryboot_the_other_one() {
    let card = slots(b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n");
    assert_eq!(boot(&card, Model::Pi4, false).unwrap().command_line, "a");
    assert_eq!(boot(&card, Model::Pi4, true).unwrap().command_line, "b");
}

#[test]
fn autoboot_to_a_partition_that_is_none_does_not_boot() {
    let error = boot(&slots(b"boot_partition=4\n"), Model::Pi4, false).unwrap_err();
    assert!(matches!(error, CardError::NoSuchPartition { partition: 4 }), "{error}");
    let error = boot(&slots(b"boot_partition=1\n"), Model::Pi4, false).unwrap_err();
    assert!(matches!(error, CardError::NotBootable { partition: 1, marker: "start4.elf" }), "{error}");
}

#[test]
fn tryboot_without_slots_reads_tryboot_txt() {
    let tryboot = b"arm_64bit=1\nkernel=vmlinuz\ncmdline=try.txt\n";
    let files = with(boot_whole(Model::Pi4), &[("tryboot.txt", tryboot), ("try.txt", b"trying")]);
    let card = card(&[(FAT16, files)]);
    assert_eq!(boot(&card, Model::Pi4, true).unwrap().command_line, "trying");
    assert_eq!(boot(&card, Model::Pi4, false).unwrap().command_line, "bramble.role=node quiet");
}

#[test]
fn what_is_no_card_is_refused_as_what_it_is() {
    let error = |path: &Path| boot_from_card(path, &board(Model::Pi4), false).unwrap_err();
    assert!(matches!(error(Path::new("/nowhere")), CardError::Image { .. }));
    let empty = NamedTempFile::new().unwrap();
    assert!(matches!(error(empty.path()), CardError::Image { .. }));
    empty.as_file().set_len(4096).unwrap();
    assert!(matches!(error(empty.path()), CardError::NoPartitionTable { .. }));
    assert!(matches!(error(card(&[(LINUX, Vec::new())]).path()), CardError::NoFatPartition { .. }));
    assert!(matches!(error(card(&[(0xee, Vec::new())]).path()), CardError::Gpt { .. }));
}

#[test]
fn a_directory_whose_chain_is_a_circle_has_an_end() {
    let card = card(&[(FAT16, with(boot_whole(Model::Pi4), &[("overlays/A", b"")]))]);
    let start = 1 << 20;
    let cluster_bytes = {
        let slice = StreamSlice::new(card.reopen().unwrap(), start, start + PARTITION_BYTES).unwrap();
        let volume = FileSystem::new(slice, FsOptions::new()).unwrap();
        let directory = volume.root_dir().open_dir("overlays").unwrap();
        let cluster_bytes = volume.stats().unwrap().cluster_size() as usize;
        // With ".", ".." and "A" the directory fills its one cluster, and so has no end mark.
        for index in 3..cluster_bytes / 32 {
            directory.create_file(&format!("F{index}")).unwrap();
        }
        cluster_bytes
    };
    let bytes = std::fs::read(card.path()).unwrap();
    let entry = bytes.windows(11).position(|window| window == b"OVERLAYS   ").unwrap();
    let cluster = u16::from_le_bytes([bytes[entry + 26], bytes[entry + 27]]);
    let fat =
        start + 512 * u64::from(u16::from_le_bytes([bytes[start as usize + 14], bytes[start as usize + 15]]));
    let mut file = card.reopen().unwrap();
    file.seek(SeekFrom::Start(fat + 2 * u64::from(cluster))).unwrap();
    file.write_all(&cluster.to_le_bytes()).unwrap();
    let error = boot(&card, Model::Pi4, false).unwrap_err();
    assert!(error.to_string().ends_with("the file system has no end"), "{error}, {cluster_bytes}");
}

/// Bytes of the table, the boot sector, the FAT and the directory, each turned in several ways.
#[test]
fn damaged_cards_end_in_an_error_or_a_boot_and_never_hang() {
    let whole = card(&[(FAT16, boot_whole(Model::Pi4))]);
    let original = std::fs::read(whole.path()).unwrap();
    let start = 1 << 20;
    let table = 446..462;
    let boot_sector = start + 11..start + 62;
    let fat = start + 512..start + 600;
    // The root directory follows two FATs of 32 sectors; its first entries are found by their content.
    let directory = original.windows(11).position(|window| window == b"CONFIG  TXT").unwrap();
    for at in table.chain(boot_sector).chain(fat.step_by(3)).chain(directory..directory + 128) {
        for value in [0x00, 0xff, 0x80, original[at] ^ 1] {
            let mut damaged = whole.reopen().unwrap();
            damaged.seek(SeekFrom::Start(at as u64)).unwrap();
            damaged.write_all(&[value]).unwrap();
            let _ = boot(&whole, Model::Pi4, false);
            damaged.seek(SeekFrom::Start(at as u64)).unwrap();
            damaged.write_all(&[original[at]]).unwrap();
        }
    }
    assert!(boot(&whole, Model::Pi4, false).is_ok());
}
