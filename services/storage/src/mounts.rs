//! The mounts of a head. Nothing on them is executed, no device node or set-user-id bit on them counts.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};

/// Partition 1, read-only: the head changes it during an update only.
///
/// # Errors
/// When the kernel refuses, as for a damaged file system.
pub fn boot(device: &Path, target: &Path) -> anyhow::Result<()> {
    // The files have no owners of their own: everybody may read, nobody write.
    attach(Some(device), target, "vfat", MsFlags::MS_RDONLY, "fmask=0133,dmask=0022")
}

/// Partition 4. An error found by the kernel makes it read-only rather than worse.
///
/// # Errors
/// When the kernel refuses, as for a damaged file system.
pub fn data(device: &Path, target: &Path) -> anyhow::Result<()> {
    attach(Some(device), target, "ext4", MsFlags::MS_NOATIME, "errors=remount-ro")
}

/// In place of partition 4.
///
/// # Errors
/// When the kernel refuses even this.
pub fn memory(target: &Path) -> anyhow::Result<()> {
    // An eighth of the memory holds the leases and the inventory of any cluster.
    attach(None, target, "tmpfs", MsFlags::empty(), "size=12%,mode=0755")
}

fn attach(
    device: Option<&Path>,
    target: &Path,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> anyhow::Result<()> {
    // Started again after a failure of a later step: what is mounted stays.
    if is_mount_point(target) {
        return Ok(());
    }
    let name = device.unwrap_or(Path::new("none")).display();
    fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    let flags = flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(device.unwrap_or(Path::new("none"))), target, Some(kind), flags, Some(options))
        .with_context(|| format!("cannot mount {name} ({kind}) at {}", target.display()))
}

fn is_mount_point(target: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let (inside, outside) = (device(target), target.parent().and_then(device));
    inside.is_some() && outside.is_some() && inside != outside
}
