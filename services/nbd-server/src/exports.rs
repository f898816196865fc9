//! What is served.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context as _;
use disk::{Access, Disk, FileDisk};
use nbd::option::MAXIMUM_STRING;
use nbd::{BlockSizes, Export};

/// All exports: what clients are told of them, and the disks behind, in the same order. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Exports {
    /// What clients are told.
    pub described: Arc<[Export]>,
    /// What is behind.
    pub disks: Arc<[Arc<dyn Disk>]>,
}

/// `NAME=PATH[,ro|rw]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    name: String,
    path: PathBuf,
    access: Access,
}

/// Why a definition is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// No `=`, or nothing on one of its sides.
    #[error("expected NAME=PATH[,ro|rw]")]
    Form,
    /// Clients could not ask for it.
    #[error("the name is longer than {MAXIMUM_STRING} bytes")]
    NameTooLong,
}

impl FromStr for Definition {
    type Err = DefinitionError;

    fn from_str(text: &str) -> Result<Self, DefinitionError> {
        let (name, rest) = text.split_once('=').ok_or(DefinitionError::Form)?;
        let (path, access) = match rest.rsplit_once(',') {
            Some((path, "rw")) => (path, Access::ReadWrite),
            Some((path, "ro")) => (path, Access::ReadOnly),
            _ => (rest, Access::ReadOnly),
        };
        if name.is_empty() || path.is_empty() {
            return Err(DefinitionError::Form);
        }
        if name.len() > MAXIMUM_STRING {
            return Err(DefinitionError::NameTooLong);
        }
        Ok(Self { name: name.to_owned(), path: PathBuf::from(path), access })
    }
}

impl Exports {
    /// Opens them all.
    ///
    /// # Errors
    /// When one cannot be opened, or two have one name.
    pub fn open(definitions: &[Definition]) -> anyhow::Result<Self> {
        let mut exports: Vec<(String, String, Arc<dyn Disk>)> = Vec::new();
        for Definition { name, path, access } in definitions {
            if exports.iter().any(|(taken, ..)| taken == name) {
                anyhow::bail!("two exports are called {name:?}");
            }
            let disk =
                FileDisk::open(path, *access).with_context(|| format!("cannot export {}", path.display()))?;
            exports.push((name.clone(), String::new(), Arc::new(disk)));
        }
        Ok(Self::new(exports))
    }

    /// Exports these disks: name, description, disk.
    pub fn new(exports: Vec<(String, String, Arc<dyn Disk>)>) -> Self {
        let describe = |(name, description, disk): &(String, String, Arc<dyn Disk>)| Export {
            name: name.clone(),
            description: description.clone(),
            size: disk.size(),
            read_only: disk.access() == Access::ReadOnly,
            block_sizes: BlockSizes { preferred: disk.block_size(), ..BlockSizes::default() },
        };
        Self {
            described: exports.iter().map(describe).collect(),
            disks: exports.into_iter().map(|(_, _, disk)| disk).collect(),
        }
    }

    /// In a few words.
    pub fn summary(&self) -> String {
        match &*self.described {
            [only] => format!("{} ({} MiB)", only.name, only.size >> 20),
            several => format!("{} exports", several.len()),
        }
    }
}

/// The image this machine runs from: its root device as far as the squashfs on it goes.
///
/// # Errors
/// When the device cannot be read, or there is no squashfs on it.
pub fn of_machine(machine: &config::Machine) -> anyhow::Result<Exports> {
    let path = Path::new(&machine.root_device);
    let disk = root_image(path).with_context(|| format!("cannot export {}", path.display()))?;
    let description = format!("bramble root {}", machine.image);
    Ok(Exports::new(vec![(machine.image.clone(), description, Arc::new(disk))]))
}

/// The squashfs at the beginning of a device or file, in whole pages: clients shall see none of the slot behind it.
fn root_image(path: &Path) -> anyhow::Result<FileDisk> {
    let disk = FileDisk::open(path, Access::ReadOnly)?;
    // fs/squashfs/squashfs_fs.h: s_magic is a little-endian u32 at 0, bytes_used a u64 at 40.
    let (mut magic, mut bytes_used) = ([0; 4], [0; 8]);
    disk.read_at(&mut magic, 0)?;
    disk.read_at(&mut bytes_used, 40)?;
    anyhow::ensure!(magic == *b"hsqs", "there is no squashfs on it");
    let size = u64::from_le_bytes(bytes_used)
        .checked_next_multiple_of(PAGE)
        .context("the squashfs has an impossible length")?;
    // The file may end inside the last page, as an image does that nobody padded.
    let size = size.min(disk.size().max(u64::from_le_bytes(bytes_used)));
    Ok(disk.shortened_to(size)?)
}

/// The kernel's client wants whole pages of 4096 bytes.
const PAGE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_read_and_nonsense_is_refused() {
        let definition =
            |path: &str, access| Ok(Definition { name: "a".into(), path: PathBuf::from(path), access });
        assert_eq!("a=/x".parse(), definition("/x", Access::ReadOnly));
        assert_eq!("a=/x,ro".parse(), definition("/x", Access::ReadOnly));
        assert_eq!("a=/x,rw".parse(), definition("/x", Access::ReadWrite));
        assert_eq!("a=/x=1,2".parse(), definition("/x=1,2", Access::ReadOnly));
        for text in ["", "a", "=", "a=", "=/x", "a=,rw"] {
            assert_eq!(text.parse::<Definition>(), Err(DefinitionError::Form), "{text}");
        }
        let long = format!("{}=/x", "a".repeat(MAXIMUM_STRING + 1));
        assert_eq!(long.parse::<Definition>(), Err(DefinitionError::NameTooLong));
    }

    fn slot(bytes_used: u64, length: usize) -> tempfile::NamedTempFile {
        let mut bytes = vec![0; length];
        bytes[..4].copy_from_slice(b"hsqs");
        bytes[40..48].copy_from_slice(&bytes_used.to_le_bytes());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn root_image_ends_with_the_page_its_squashfs_ends_in() {
        for (bytes_used, length, size) in [
            (5000, 20_480, Some(8192)),
            (8192, 8192, Some(8192)),
            (5000, 5100, Some(5100)),
            (5000, 4999, None),
        ] {
            let opened = root_image(slot(bytes_used, length).path());
            assert_eq!(opened.ok().map(|disk| disk.size()), size, "{bytes_used} of {length}");
        }
        assert!(root_image(slot(u64::MAX, 8192).path()).is_err());
    }

    #[test]
    fn what_is_no_squashfs_is_not_exported() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(root_image(file.path()).is_err());
        std::fs::write(file.path(), [0; 4096]).unwrap();
        assert!(root_image(file.path()).is_err());
    }

    #[test]
    fn two_exports_of_one_name_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let one: Definition = format!("a={}", file.path().display()).parse().unwrap();
        assert!(Exports::open(&[one.clone(), one]).is_err());
    }
}
