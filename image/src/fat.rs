//! Writes the boot partition: a FAT32 volume that every Pi boot ROM and every PC reads.
//!
//! Specification: Microsoft FAT specification 1.03; the writing is the crate `fatfs`. All times are the
//! FAT epoch and the volume id is given, so equal trees make equal bytes. FAT has no owners and modes.

use std::io::{Cursor, Write as _};

use anyhow::{Context, Result, bail};
use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

use crate::tree::{Kind, Tree};

/// A FAT32 volume of `size` bytes labelled `label` that holds `tree`.
///
/// # Errors
/// If the tree does not fit, or holds something else than files and directories.
pub fn volume(tree: &Tree, size: u32, label: [u8; 11], volume_id: u32) -> Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; size as usize]);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(CLUSTER)
        .volume_label(label)
        .volume_id(volume_id);
    fatfs::format_volume(&mut disk, options).context("cannot format the boot partition")?;
    {
        let options = FsOptions::new().time_provider(&EPOCH).update_accessed_date(false);
        let volume = FileSystem::new(&mut disk, options).context("cannot open the boot partition")?;
        for (path, entry) in tree.entries() {
            let added = match &entry.kind {
                Kind::Directory => volume.root_dir().create_dir(path).map(drop),
                Kind::File(content) => volume
                    .root_dir()
                    .create_file(path)
                    .and_then(|mut file| file.write_all(content).and_then(|()| file.flush())),
                _ => bail!("{path}: FAT holds only files and directories"),
            };
            added.with_context(|| format!("cannot write {path} to the boot partition"))?;
        }
        volume.unmount().context("cannot close the boot partition")?;
    }
    Ok(disk.into_inner())
}

/// 1 KiB keeps 96 MiB above the 65,525 clusters that make a volume FAT32, by which readers tell the types apart.
const CLUSTER: u32 = 1024;

#[derive(Debug)]
struct FatEpoch;
static EPOCH: FatEpoch = FatEpoch;

impl TimeProvider for FatEpoch {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}
