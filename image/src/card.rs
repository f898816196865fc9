//! Puts the card together: `head.img`, which is written to an SD card as it is.
//!
//! | partition | start | size | content |
//! |---|---|---|---|
//! | 1 | 4 MiB | 96 MiB | FAT32 `BRAMBLE`: firmware, kernel, initramfs, settings |
//! | 2 | 100 MiB | 64 MiB | root slot A: the squashfs, raw |
//! | 3 | 164 MiB | 64 MiB | root slot B: empty |
//! | 4 | 228 MiB | 64 MiB | ext4 `bramble-data`; the head grows partition and file system to the card at its first boot |
//!
//! The partition table is an MBR, which every boot ROM reads (GPT needs a Pi 4's EEPROM). The image is written sparse.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, bail};
use mbrman::{CHS, MBR, MBRPartitionEntry};

use crate::tree::Tree;
use crate::{boot, ext4, fat, file};

/// Writes the image of a head's card to `path`.
///
/// # Errors
/// If the root or the boot tree does not fit its partition, mke2fs is missing, or the disk is full.
pub fn write(path: &Path, boot_tree: &Tree, root: &[u8], image_id: &str, mtime: u32) -> Result<()> {
    if root.len() as u64 > SLOT_A.size {
        bail!("the root file system has {} bytes; a root slot holds {}", root.len(), SLOT_A.size);
    }
    let signature = boot::disk_signature(image_id);
    let size = u32::try_from(BOOT.size).context("the boot partition is below 4 GiB")?;
    let volume = fat::volume(boot_tree, size, *LABEL, signature)?;
    let part = file::beside(path);
    let failed = || format!("cannot write {}", path.display());
    let mut disk = File::create(&part).with_context(failed)?;
    disk.set_len(DATA.start + DATA.size).with_context(failed)?;
    file::write_sparse(&mut disk, 0, &partition_table(signature)?).with_context(failed)?;
    file::write_sparse(&mut disk, BOOT.start, &volume).with_context(failed)?;
    file::write_sparse(&mut disk, SLOT_A.start, root).with_context(failed)?;
    drop(disk);
    ext4::format(&part, DATA.start, DATA.size, DATA_LABEL, &data_uuid(image_id), mtime)?;
    fs::rename(&part, path).with_context(failed)
}

/// The first sector of the card.
fn partition_table(signature: u32) -> Result<Vec<u8>> {
    let mut sector = Cursor::new(vec![0; SECTOR as usize]);
    let mut table = MBR::new_from(&mut sector, SECTOR, signature.to_le_bytes())?;
    for (number, extent) in (1..).zip([BOOT, SLOT_A, SLOT_B, DATA]) {
        table[number] = MBRPartitionEntry {
            boot: mbrman::BOOT_INACTIVE,
            // Cylinders mean nothing on a card; zero says "use the block address".
            first_chs: CHS::empty(),
            sys: extent.kind,
            last_chs: CHS::empty(),
            starting_lba: sectors(extent.start)?,
            sectors: sectors(extent.size)?,
        };
    }
    sector.set_position(0);
    table.write_into(&mut sector).context("cannot make the partition table")?;
    Ok(sector.into_inner())
}

fn sectors(bytes: u64) -> Result<u32> {
    u32::try_from(bytes / u64::from(SECTOR)).context("beyond what an MBR can address")
}

/// A UUID (RFC 9562 §5.8, version 8: made by our own rule) from the image id's second half.
fn data_uuid(image_id: &str) -> String {
    let digits = image_id.get(32..64).unwrap_or("00000000000000000000000000000000");
    let [a, b, c, d, e] = [&digits[..8], &digits[8..12], &digits[13..16], &digits[17..20], &digits[20..32]];
    format!("{a}-{b}-8{c}-8{d}-{e}")
}

/// A partition's place on the card, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// First byte; a multiple of 4 MiB, the largest erase block SD cards report.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// MBR partition type.
    pub kind: u8,
}

const MIB: u64 = 1024 * 1024;
const SECTOR: u32 = 512;

/// Firmware, kernel and initramfs take about 26 MiB: there is room for an update beside the running set, twice.
pub const BOOT: Extent = Extent { start: 4 * MIB, size: 96 * MIB, kind: 0x0c };
/// Eight times what a root needs today.
pub const SLOT_A: Extent = Extent { start: 100 * MIB, size: 64 * MIB, kind: 0x83 };
/// As large as slot A.
pub const SLOT_B: Extent = Extent { start: 164 * MIB, size: 64 * MIB, kind: 0x83 };
/// Small in the image, grown on the card.
pub const DATA: Extent = Extent { start: 228 * MIB, size: 64 * MIB, kind: 0x83 };
const LABEL: &[u8; 11] = b"BRAMBLE    ";
const DATA_LABEL: &str = "bramble-data";

#[cfg(test)]
#[path = "card/tests.rs"]
mod tests;
