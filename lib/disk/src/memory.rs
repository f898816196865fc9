//! A disk in memory.

use std::sync::{PoisonError, RwLock};

use crate::{Access, Disk, DiskError, Space, within};

/// Bytes in memory, zeroes at first. Nothing survives the process.
#[derive(Debug)]
pub struct MemoryDisk {
    bytes: RwLock<Vec<u8>>,
    size: u64,
}

impl MemoryDisk {
    /// A disk with this content.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { size: bytes.len() as u64, bytes: RwLock::new(bytes) }
    }

    fn change(&self, offset: u64, length: u64, fill: impl FnOnce(&mut [u8])) -> Result<(), DiskError> {
        within(self.size, offset, length)?;
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(range) = bytes.get_mut(range(offset, length)) {
            fill(range);
        }
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        4096
    }

    fn access(&self) -> Access {
        Access::ReadWrite
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        within(self.size, offset, buffer.len() as u64)?;
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(range) = bytes.get(range(offset, buffer.len() as u64)) {
            buffer.copy_from_slice(range);
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        self.change(offset, data.len() as u64, |range| range.copy_from_slice(data))
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.zero(offset, length, Space::Release)
    }

    fn zero(&self, offset: u64, length: u64, _space: Space) -> Result<(), DiskError> {
        self.change(offset, length, |range| range.fill(0))
    }
}

/// Exact for ranges within the disk, for its size is a `usize`.
fn range(offset: u64, length: u64) -> std::ops::Range<usize> {
    let exact = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    exact(offset)..exact(offset + length)
}
