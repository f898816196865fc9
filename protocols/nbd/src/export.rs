//! What is served, and which requests to it make sense.

use crate::MAXIMUM_PAYLOAD;
use crate::transmission::{Command, DF, ErrorNumber, FUA, NO_HOLE, Request, TransmissionFlags};

/// Something a client can attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// At most [`crate::option::MAXIMUM_STRING`] bytes.
    pub name: String,
    /// For people, and for clients that want to know a new generation from an old one.
    pub description: String,
    /// Bytes.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// What requests should keep to.
    pub block_sizes: BlockSizes,
}

/// Bytes; powers of two, `minimum` <= `preferred` <= `maximum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it.
    pub minimum: u32,
    /// What works best.
    pub preferred: u32,
    /// The most data in one request.
    pub maximum: u32,
}

impl Default for BlockSizes {
    /// What the protocol has clients assume, and all that a page cache needs.
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: MAXIMUM_PAYLOAD }
    }
}

/// A request that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Answer with this range.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes; 0 is allowed.
        length: u32,
    },
    /// Store the payload.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// When to answer.
        durability: Durability,
    },
    /// Make durable what was answered.
    Flush,
    /// Forget this range.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// When to answer.
        durability: Durability,
    },
    /// Fill this range with zeroes.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
        /// When to answer.
        durability: Durability,
        /// Whether space may be given back.
        hole: Hole,
    },
    /// Go.
    Disconnect,
}

/// When a request that changes the export is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As soon as reads see it.
    Visible,
    /// When a power cut cannot undo it (FUA).
    Durable,
}

/// How zeroes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hole {
    /// As is cheapest.
    Allowed,
    /// As allocated space, so that a later write cannot run out of it.
    Forbidden,
}

impl Export {
    /// What the export can do. Read-only ones, and those of one process, may be used over several connections.
    pub fn transmission_flags(&self) -> TransmissionFlags {
        let both = TransmissionFlags::HAS_FLAGS
            .with(TransmissionFlags::SEND_FLUSH)
            .with(TransmissionFlags::CAN_MULTI_CONN);
        if self.read_only {
            return both.with(TransmissionFlags::READ_ONLY);
        }
        both.with(TransmissionFlags::SEND_FUA)
            .with(TransmissionFlags::SEND_TRIM)
            .with(TransmissionFlags::SEND_WRITE_ZEROES)
    }

    /// Judges a request. The payload of a write that is refused still has to be read past.
    ///
    /// # Errors
    /// The number to answer with.
    pub fn admit(&self, request: &Request) -> Result<Work, ErrorNumber> {
        let Request { flags, command, offset, length, .. } = *request;
        let (known, changes) = match command {
            Command::Read => (FUA | DF, false),
            Command::Write | Command::Trim => (FUA, true),
            Command::WriteZeroes => (FUA | NO_HOLE, true),
            Command::Flush => (FUA, false),
            // FUA may come with any command and means nothing on most of them.
            Command::Disconnect => return Ok(Work::Disconnect),
            Command::Other(_) => return Err(ErrorNumber::Invalid),
        };
        if flags & !known != 0 {
            return Err(ErrorNumber::Invalid);
        }
        if changes && self.read_only {
            return Err(ErrorNumber::NotPermitted);
        }
        if command == Command::Flush {
            // Offset and length must be 0 and have no meaning; refusing others would only lose a flush.
            return Ok(Work::Flush);
        }
        let minimum = u64::from(self.block_sizes.minimum);
        let aligned = |number: u64| minimum == 0 || number.is_multiple_of(minimum);
        if !aligned(offset) || !aligned(u64::from(length)) {
            return Err(ErrorNumber::Invalid);
        }
        if offset.checked_add(u64::from(length)).is_none_or(|end| end > self.size) {
            return Err(if changes { ErrorNumber::NoSpace } else { ErrorNumber::Invalid });
        }
        let carries_data = matches!(command, Command::Read | Command::Write);
        if carries_data && length > self.block_sizes.maximum {
            return Err(ErrorNumber::Invalid);
        }
        let durability = if flags & FUA == 0 { Durability::Visible } else { Durability::Durable };
        let hole = if flags & NO_HOLE == 0 { Hole::Allowed } else { Hole::Forbidden };
        Ok(match command {
            Command::Write => Work::Write { offset, length, durability },
            Command::Trim => Work::Trim { offset, length, durability },
            Command::WriteZeroes => Work::Zero { offset, length, durability, hole },
            _ => Work::Read { offset, length },
        })
    }
}
