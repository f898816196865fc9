//! Growing: the data partition to the end of the card, and its file system to the partition.
//!
//! Safe against a power cut at any moment: the table is one sector, which a card writes whole or not at all, and both
//! the old and the new one are right; ext4 grows online within its journal. Both only ever grow, and only
//! what bears our label.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context as _;

use crate::card::{Card, DATA};
use crate::ext4::{self, Superblock};
use crate::table::{self, Extent, SECTOR, Sector};

/// Grows the data partition; its new size in bytes, `None` when it is as large as it can be.
///
/// # Errors
/// By step; the partition keeps its size, at the latest until the next boot.
pub fn partition(card: &Card) -> anyhow::Result<Option<u64>> {
    let mut disk =
        OpenOptions::new().read(true).write(true).open(&card.device).context("cannot open the card")?;
    let size = sys::block_device_size(disk.as_fd()).context("cannot size the card")?;
    let Some(extent) = write_table(&mut disk, size)? else { return Ok(None) };
    let (start, length) = (extent.start * SECTOR, extent.length * SECTOR);
    sys::resize_partition(disk.as_fd(), u32::from(DATA), start, length)
        .context("the kernel takes the new size at the next boot only")?;
    Ok(Some(length))
}

/// Grows the mounted file system to its partition; its new size in bytes, `None` when it fills it.
///
/// # Errors
/// By step.
pub fn file_system(device: &Path, mounted_at: &Path) -> anyhow::Result<Option<u64>> {
    let mut partition = File::open(device).context("cannot open the partition")?;
    let size = sys::block_device_size(partition.as_fd()).context("cannot size the partition")?;
    let Superblock { block_size, blocks } = superblock(&mut partition, 0)?;
    let wanted = size / block_size;
    if wanted <= blocks {
        return Ok(None);
    }
    let folder = File::open(mounted_at).context("cannot open its folder")?;
    sys::resize_ext4(folder.as_fd(), wanted).context("the kernel refuses")?;
    Ok(Some(wanted * block_size))
}

/// The part that needs no block device: reads and checks, and writes the table when the partition can grow.
fn write_table(disk: &mut (impl Read + Write + Seek + Durable), size: u64) -> anyhow::Result<Option<Extent>> {
    let mut sector: Sector = [0; SECTOR as usize];
    disk.seek(SeekFrom::Start(0)).context("cannot read the partition table")?;
    disk.read_exact(&mut sector).context("cannot read the partition table")?;
    let Some((new, extent)) = table::grown(&sector, DATA, size / SECTOR)? else { return Ok(None) };
    superblock(disk, extent.start * SECTOR)?;
    disk.seek(SeekFrom::Start(0)).context("cannot write the partition table")?;
    disk.write_all(&new).context("cannot write the partition table")?;
    disk.make_durable().context("cannot write the partition table")?;
    Ok(Some(extent))
}

fn superblock(disk: &mut (impl Read + Seek), partition: u64) -> anyhow::Result<Superblock> {
    let mut bytes = [0; ext4::LENGTH];
    disk.seek(SeekFrom::Start(partition + ext4::OFFSET)).context("cannot read the superblock")?;
    disk.read_exact(&mut bytes).context("cannot read the superblock")?;
    Superblock::parse(&bytes).context("it holds no file system of ours")
}

/// What `File::sync_all` promises.
trait Durable {
    fn make_durable(&mut self) -> std::io::Result<()>;
}

impl Durable for File {
    fn make_durable(&mut self) -> std::io::Result<()> {
        self.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A card image with one small ext4 as partition 4; `None` without mke2fs.
    fn image(label: &str) -> Option<File> {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        file.as_file().set_len(64 * MIB).expect("sparse");
        let made = Command::new("/usr/sbin/mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", label, "-E", "offset=8388608"])
            .arg(file.path())
            .arg("16384k")
            .status();
        if !made.is_ok_and(|status| status.success()) {
            println!("skipped: needs mke2fs");
            return None;
        }
        let mut disk = file.into_file();
        let mut sector = [0; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector[498] = 0x83;
        sector[502..506].copy_from_slice(&(16384_u32).to_le_bytes());
        sector[506..510].copy_from_slice(&(32768_u32).to_le_bytes());
        disk.seek(SeekFrom::Start(0)).expect("a file");
        disk.write_all(&sector).expect("a file");
        Some(disk)
    }

    #[test]
    fn a_data_partition_of_ours_grows_once() {
        let Some(mut disk) = image("bramble-data") else { return };
        let extent = write_table(&mut disk, 64 * MIB).expect("a card").expect("room");
        assert_eq!((extent.start, extent.length), (16384, (64 - 8) * 2048));
        assert_eq!(write_table(&mut disk, 64 * MIB).expect("a card"), None);
        let superblock = superblock(&mut disk, 8 * MIB).expect("untouched");
        assert_eq!(superblock.block_size * superblock.blocks, 16 * MIB);
    }

    #[test]
    fn somebody_elses_file_system_is_left_alone() {
        let Some(mut disk) = image("photos") else { return };
        assert!(write_table(&mut disk, 64 * MIB).is_err());
        let mut sector = [0; 512];
        disk.seek(SeekFrom::Start(0)).expect("a file");
        disk.read_exact(&mut sector).expect("a file");
        assert_eq!(table::extent(&sector, 4).expect("a table").length, 32768);
    }
}
