//! Block back ends behind one small interface: what a block server serves, and what a layer is put upon.
//!
//! A [`Disk`] is a row of bytes of fixed length with positional, blocking operations that may be called from many
//! threads at once. A layer (an overlay, say) is a `Disk` that holds another one and passes on what it does not
//! answer itself; [`Disk::extent`] is how it tells for each range whether the bytes below may go out untouched.
//!
//! | back end | for |
//! |---|---|
//! | [`FileDisk`] | a raw image in a file, or a block device |
//! | [`MemoryDisk`] | tests, and measuring a server without a medium |
//!
//! Not supported: image formats, direct I/O (the page cache is what makes one head serve many nodes), growing.

mod file;
mod memory;

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

pub use file::{FileDisk, OpenError};
pub use memory::MemoryDisk;

/// A row of bytes of fixed length.
///
/// Every range must lie within the disk; one that does not is [`DiskError::OutOfRange`] and has no effect.
pub trait Disk: Debug + Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;

    /// The unit that works best, in bytes; a power of two. Any offset and length works.
    fn block_size(&self) -> u32;

    /// Whether the four operations that change it work at all.
    fn access(&self) -> Access;

    /// Fills `buffer` with what is at `offset`.
    ///
    /// # Errors
    /// Out of range, or the medium failed.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError>;

    /// Stores `data` at `offset`. Later reads see it; [`Disk::flush`] makes it durable.
    ///
    /// # Errors
    /// Read-only, out of range, or the medium failed.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError>;

    /// Returns when all that was written before is durable.
    ///
    /// # Errors
    /// The medium failed; what was written before may be lost.
    fn flush(&self) -> Result<(), DiskError>;

    /// Says that a range is of no more use. What it reads as afterwards is undefined.
    ///
    /// # Errors
    /// As [`Disk::write_at`].
    fn discard(&self, offset: u64, length: u64) -> Result<(), DiskError>;

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// As [`Disk::write_at`].
    fn zero(&self, offset: u64, length: u64, space: Space) -> Result<(), DiskError>;

    /// Where exactly these bytes lie in a file, so that the kernel can send them without a copy. `None` when they do
    /// not, or only in parts; then [`Disk::read_at`] is the way.
    fn extent(&self, _offset: u64, _length: u64) -> Option<Extent<'_>> {
        None
    }
}

/// A range of a disk, in a file.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// Where in it the range begins.
    pub offset: u64,
}

/// Who may change a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    ReadOnly,
    /// Everybody who holds it.
    ReadWrite,
}

/// What becomes of the space under zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// It may be given back.
    Release,
    /// It stays, so that a later write cannot run out of it.
    Keep,
}

/// Why an operation on a disk failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The disk is read-only.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The range does not lie within the disk.
    #[error("{length} bytes at {offset} do not lie within the disk")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// The medium failed, or is full.
    #[error("input/output")]
    InputOutput(#[from] std::io::Error),
}

/// The check that every back end makes first.
fn within(size: u64, offset: u64, length: u64) -> Result<(), DiskError> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(DiskError::OutOfRange { offset, length }),
    }
}

#[cfg(test)]
mod tests;
