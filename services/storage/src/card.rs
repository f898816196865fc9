//! The card as Linux shows it: a disk and its partitions.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

/// Firmware, kernel, settings.
pub const BOOT: u8 = 1;
/// What the head must not forget.
pub const DATA: u8 = 4;

/// A disk that was found in sysfs.
#[derive(Debug)]
pub struct Card {
    /// Its device, such as `/dev/mmcblk0`.
    pub device: PathBuf,
    sysfs: PathBuf,
}

impl Card {
    /// The disk itself.
    ///
    /// # Errors
    /// When there is no such block device.
    pub fn of_disk(device: &Path) -> anyhow::Result<Self> {
        Self::open(device.to_owned(), sysfs_of(device)?)
    }

    /// The disk that a partition is on.
    ///
    /// # Errors
    /// When it is not a partition.
    pub fn of_partition(partition: &Path) -> anyhow::Result<Self> {
        // /sys/class/block/vda2 links to .../block/vda/vda2.
        let sysfs = sysfs_of(partition)?;
        let disk = sysfs.parent().filter(|_| sysfs.join("partition").exists());
        let disk = disk.with_context(|| format!("{} is not a partition of a disk", partition.display()))?;
        let name = disk.file_name().context("a disk has a name")?;
        Self::open(partition.with_file_name(name), disk.to_owned())
    }

    fn open(device: PathBuf, sysfs: PathBuf) -> anyhow::Result<Self> {
        anyhow::ensure!(sysfs.join("queue").exists(), "{} is not a whole disk", device.display());
        Ok(Self { device, sysfs })
    }

    /// The device of a partition by number.
    ///
    /// # Errors
    /// When the disk has none of that number.
    pub fn partition(&self, number: u8) -> anyhow::Result<PathBuf> {
        let children = fs::read_dir(&self.sysfs).context("cannot list partitions")?.flatten();
        let mut numbered = children.filter(|child| {
            let text = fs::read_to_string(child.path().join("partition")).unwrap_or_default();
            text.trim().parse() == Ok(number)
        });
        let name = numbered.next().map(|child| child.file_name());
        let name = name.ok_or_else(|| anyhow!("{} has no partition {number}", self.device.display()))?;
        Ok(self.device.with_file_name(name))
    }
}

fn sysfs_of(device: &Path) -> anyhow::Result<PathBuf> {
    let name = device.file_name().with_context(|| format!("{} names no device", device.display()))?;
    fs::canonicalize(Path::new("/sys/class/block").join(name))
        .with_context(|| format!("{} is not a block device", device.display()))
}
