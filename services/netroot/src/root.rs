//! The root file system: squashfs below, a size-limited tmpfs above, overlayfs of both at `/sysroot`.
//!
//! All calls here may wait for the network block device; they belong on a thread of their own, because it is
//! this process that brings the device back.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};

/// Where init finds the root.
pub const SYSROOT: &str = "/sysroot";
const LOWER: &str = "/lower";
const UPPER: &str = "/overlay";

/// Half of the memory for what is written to `/`; the kernel's default for a tmpfs, said aloud.
const UPPER_OPTIONS: &str = "size=50%,mode=0755";

/// Why there is no root on a device.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The beginning of the device cannot be read.
    #[error("cannot read {0}")]
    Read(String, #[source] io::Error),
    /// Something else, or nothing.
    #[error("{0} holds no squashfs")]
    NotSquashfs(String),
    /// A truncated copy.
    #[error("{device} has {size} bytes, its squashfs needs {needed}")]
    TooSmall {
        /// The device.
        device: String,
        /// Its size.
        size: u64,
        /// `bytes_used` of the superblock.
        needed: u64,
    },
    /// A mount failed.
    #[error("cannot mount {0}")]
    Mount(&'static str, #[source] io::Error),
}

impl RootError {
    /// Whether the device itself is to blame, so that another one may be better.
    pub fn is_the_devices_fault(&self) -> bool {
        !matches!(self, Self::Mount(UPPER | SYSROOT, _))
    }
}

/// Whether an earlier process has mounted the root already.
pub fn is_mounted() -> bool {
    statfs(SYSROOT).is_ok_and(|there| there.filesystem_type() == OVERLAYFS_SUPER_MAGIC)
}

/// Checks what is on the device and mounts it.
///
/// # Errors
/// By step; what was mounted on the way is unmounted again.
pub fn mount_all(device: &str) -> Result<(), RootError> {
    check(device)?;
    let outcome = mount_each(device);
    if outcome.is_err() {
        unmount();
    }
    outcome
}

/// Unmounts what is below the root, after init has unmounted the root itself. What is still in use stays.
pub fn unmount() {
    for folder in [SYSROOT, UPPER, LOWER] {
        let _ = umount2(folder, MntFlags::UMOUNT_NOFOLLOW);
    }
}

fn mount_each(device: &str) -> Result<(), RootError> {
    let at = |target: &'static str, source: &str, kind: &str, flags: MsFlags, options: Option<&str>| {
        fs::create_dir_all(target).map_err(|error| RootError::Mount(target, error))?;
        mount(Some(source), target, Some(kind), flags, options)
            .map_err(|error| RootError::Mount(target, error.into()))
    };
    at(LOWER, device, "squashfs", MsFlags::MS_RDONLY | MsFlags::MS_NODEV, None)?;
    at(UPPER, "overlay", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(UPPER_OPTIONS))?;
    for name in ["upper", "work"] {
        fs::create_dir_all(Path::new(UPPER).join(name)).map_err(|error| RootError::Mount(UPPER, error))?;
    }
    let options = format!("lowerdir={LOWER},upperdir={UPPER}/upper,workdir={UPPER}/work");
    at(SYSROOT, "root", "overlay", MsFlags::empty(), Some(&options))
}

fn check(device: &str) -> Result<(), RootError> {
    let read = |error| RootError::Read(device.to_owned(), error);
    let mut file = File::open(device).map_err(read)?;
    let mut superblock = [0; SUPERBLOCK_BYTES];
    file.read_exact(&mut superblock).map_err(read)?;
    let size = io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(read)?;
    let needed = bytes_used(&superblock).ok_or_else(|| RootError::NotSquashfs(device.to_owned()))?;
    if size < needed {
        return Err(RootError::TooSmall { device: device.to_owned(), size, needed });
    }
    Ok(())
}

/// fs/squashfs/squashfs_fs.h: magic at 0, major version at 28, bytes_used at 40, all little-endian.
const SUPERBLOCK_BYTES: usize = 96;

fn bytes_used(superblock: &[u8; SUPERBLOCK_BYTES]) -> Option<u64> {
    let (magic, major) = (superblock.get(..4)?, superblock.get(28..30)?);
    let used = u64::from_le_bytes(superblock.get(40..48)?.try_into().ok()?);
    (magic == b"hsqs" && major == [4, 0]).then_some(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: &[u8]) -> String {
        let path = std::env::temp_dir().join(format!("netroot-{name}-{}", std::process::id()));
        fs::write(&path, bytes).expect("temporary file");
        path.to_string_lossy().into_owned()
    }

    fn image(used: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[..4].copy_from_slice(b"hsqs");
        bytes[28] = 4;
        bytes[40..48].copy_from_slice(&used.to_le_bytes());
        bytes
    }

    #[test]
    fn only_a_whole_squashfs_passes() {
        let outcome = |name, bytes: &[u8]| {
            let path = file(name, bytes);
            let outcome = check(&path);
            fs::remove_file(path).expect("temporary file");
            outcome
        };
        assert!(outcome("whole", &image(4096, 4096)).is_ok());
        assert!(matches!(outcome("cut", &image(4097, 4096)), Err(RootError::TooSmall { needed: 4097, .. })));
        assert!(matches!(outcome("zero", &[0; 4096]), Err(RootError::NotSquashfs(_))));
        assert!(matches!(outcome("short", b"hsqs"), Err(RootError::Read(..))));
        assert!(matches!(check("/nonexistent"), Err(RootError::Read(..))));
    }
}
