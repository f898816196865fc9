//! A raw image in a file, or a block device.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::{Access, Disk, DiskError, Extent, Space, within};

/// A file or block device, from its first byte.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    size: u64,
    access: Access,
}

/// Why a path cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened.
    #[error("cannot open")]
    Open(#[source] std::io::Error),
    /// It is a directory, a pipe, or another thing without a length.
    #[error("neither a regular file nor a block device")]
    Kind,
    /// Its end cannot be found.
    #[error("cannot measure")]
    Measure(#[source] std::io::Error),
    /// Less is there than was asked for.
    #[error("only {available} of {wanted} bytes are there")]
    TooShort {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes there are.
        available: u64,
    },
}

impl FileDisk {
    /// Opens all of a file or block device.
    ///
    /// # Errors
    /// When it is no such thing, or cannot be opened that way.
    pub fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        // Asked before opening: to open a pipe would wait for its other end.
        let kind = path.metadata().map_err(OpenError::Open)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::Kind);
        }
        let writable = access == Access::ReadWrite;
        let mut file = OpenOptions::new().read(true).write(writable).open(path).map_err(OpenError::Open)?;
        let size = file.seek(SeekFrom::End(0)).map_err(OpenError::Measure)?;
        Ok(Self { file, size, access })
    }

    /// Only its first `size` bytes.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn shortened_to(self, size: u64) -> Result<Self, OpenError> {
        if size > self.size {
            return Err(OpenError::TooShort { wanted: size, available: self.size });
        }
        Ok(Self { size, ..self })
    }

    fn may_change(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        match self.access {
            Access::ReadOnly => Err(DiskError::ReadOnly),
            Access::ReadWrite => within(self.size, offset, length),
        }
    }

    fn allocate(&self, mode: FallocateFlags, offset: u64, length: u64) -> Result<(), Errno> {
        // An empty range is EINVAL to the kernel, and no work to us.
        if length == 0 {
            return Ok(());
        }
        let signed = |number: u64| i64::try_from(number).map_err(|_| Errno::EFBIG);
        fallocate(&self.file, mode, signed(offset)?, signed(length)?)
    }
}

impl Disk for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        4096
    }

    fn access(&self) -> Access {
        self.access
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        within(self.size, offset, buffer.len() as u64)?;
        Ok(self.file.read_exact_at(buffer, offset)?)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        self.may_change(offset, data.len() as u64)?;
        Ok(self.file.write_all_at(data, offset)?)
    }

    fn flush(&self) -> Result<(), DiskError> {
        match self.access {
            Access::ReadOnly => Ok(()),
            Access::ReadWrite => Ok(self.file.sync_data()?),
        }
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.may_change(offset, length)?;
        match self.allocate(PUNCH_HOLE, offset, length) {
            // A hint that the medium cannot take is still a hint.
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(DiskError::InputOutput(error.into())),
        }
    }

    fn zero(&self, offset: u64, length: u64, space: Space) -> Result<(), DiskError> {
        self.may_change(offset, length)?;
        let mode = match space {
            Space::Release => PUNCH_HOLE,
            Space::Keep => ZERO_RANGE,
        };
        match self.allocate(mode, offset, length) {
            Ok(()) => Ok(()),
            Err(Errno::EOPNOTSUPP) => write_zeroes(self, offset, length),
            Err(error) => Err(DiskError::InputOutput(error.into())),
        }
    }

    fn extent(&self, offset: u64, length: u64) -> Option<Extent<'_>> {
        within(self.size, offset, length).ok()?;
        Some(Extent { file: self.file.as_fd(), offset })
    }
}

/// For media that cannot do it themselves (tmpfs has no ZERO_RANGE).
fn write_zeroes(disk: &FileDisk, offset: u64, length: u64) -> Result<(), DiskError> {
    let mut left = length;
    while left > 0 {
        let now = left.min(ZEROES.len() as u64);
        let piece = usize::try_from(now).map_or(&ZEROES[..], |now| &ZEROES[..now]);
        disk.write_at(piece, offset + (length - left))?;
        left -= now;
    }
    Ok(())
}

const PUNCH_HOLE: FallocateFlags =
    FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);
const ZERO_RANGE: FallocateFlags =
    FallocateFlags::FALLOC_FL_ZERO_RANGE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];
