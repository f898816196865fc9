//! The transmission phase: requests, simple replies, and structured replies to reads.
//!
//! ```text
//!  0x25609513 | flags 2 | type 2 | cookie 8 | offset 8 | length 4 | payload of WRITE     request
//!  0x67446698 | error 4 | cookie 8 | payload of READ                                     simple reply
//!  0x668e33ef | flags 2 | type 2 | cookie 8 | length 4 | payload                         structured chunk
//! ```

/// Bytes of a request's header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply's header.
pub const SIMPLE_REPLY_BYTES: usize = 16;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_OFFSET_DATA: u16 = 1;
const CHUNK_ERROR: u16 = 0x8001;

/// What an export can do, as the wire has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransmissionFlags(pub u16);

impl TransmissionFlags {
    /// The others mean something. Always set.
    pub const HAS_FLAGS: Self = Self(1 << 0);
    /// Writes fail with EPERM.
    pub const READ_ONLY: Self = Self(1 << 1);
    /// FLUSH is understood.
    pub const SEND_FLUSH: Self = Self(1 << 2);
    /// The FUA flag of requests is understood.
    pub const SEND_FUA: Self = Self(1 << 3);
    /// TRIM is understood.
    pub const SEND_TRIM: Self = Self(1 << 5);
    /// WRITE_ZEROES is understood.
    pub const SEND_WRITE_ZEROES: Self = Self(1 << 6);
    /// The DF flag of structured reads is understood.
    pub const SEND_DF: Self = Self(1 << 7);
    /// A flush on one connection covers writes completed on all, and reads see them.
    pub const CAN_MULTI_CONN: Self = Self(1 << 8);

    /// Both sets together.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Data from the export.
    Read,
    /// Data for the export, which follows the header.
    Write,
    /// The end; never answered.
    Disconnect,
    /// All writes answered before have to be durable when this is.
    Flush,
    /// The range is of no more use.
    Trim,
    /// The range shall read as zeroes.
    WriteZeroes,
    /// A number of an extension nobody negotiated.
    Other(u16),
}

impl Command {
    fn of(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            6 => Self::WriteZeroes,
            other => Self::Other(other),
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::WriteZeroes => 6,
            Self::Other(number) => number,
        }
    }
}

/// Flag of a request: answer when the data is durable.
pub const FUA: u16 = 1 << 0;
/// Flag of WRITE_ZEROES: do not punch a hole.
pub const NO_HOLE: u16 = 1 << 1;
/// Flag of a structured READ: one data chunk.
pub const DF: u16 = 1 << 2;

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// [`FUA`], [`NO_HOLE`], [`DF`].
    pub flags: u16,
    /// What is asked for.
    pub command: Command,
    /// The client's name for it, which its reply carries.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

/// The stream is out of step, and no byte behind this one can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an NBD header: begins with {found:#010x}")]
pub struct BadMagic {
    /// The four bytes at its place.
    pub found: u32,
}

impl Request {
    /// Reads a header.
    ///
    /// # Errors
    /// When it does not begin as one.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, BadMagic> {
        let mut fields = Fields(bytes);
        let magic = fields.u32();
        if magic != REQUEST_MAGIC {
            return Err(BadMagic { found: magic });
        }
        Ok(Self {
            flags: fields.u16(),
            command: Command::of(fields.u16()),
            cookie: fields.u64(),
            offset: fields.u64(),
            length: fields.u32(),
        })
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = Bytes::<REQUEST_BYTES>::default();
        bytes.put(&REQUEST_MAGIC.to_be_bytes());
        bytes.put(&self.flags.to_be_bytes());
        bytes.put(&self.command.number().to_be_bytes());
        bytes.put(&self.cookie.to_be_bytes());
        bytes.put(&self.offset.to_be_bytes());
        bytes.put(&self.length.to_be_bytes());
        bytes.bytes
    }
}

/// Why a request failed; the protocol fixes the numbers (Linux' own).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorNumber {
    /// Writing to what is read-only.
    NotPermitted = 1,
    /// The medium failed.
    InputOutput = 5,
    /// No memory now.
    NoMemory = 12,
    /// The request makes no sense.
    Invalid = 22,
    /// Writing beyond the end.
    NoSpace = 28,
    /// The back end cannot do this.
    NotSupported = 95,
    /// The server is about to end.
    ShuttingDown = 108,
}

/// The header of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0, or an errno.
    pub error: u32,
    /// The request's.
    pub cookie: u64,
}

impl SimpleReply {
    /// Reads a header.
    ///
    /// # Errors
    /// When it does not begin as one.
    pub fn decode(bytes: &[u8; SIMPLE_REPLY_BYTES]) -> Result<Self, BadMagic> {
        let mut fields = Fields(bytes);
        let magic = fields.u32();
        if magic != SIMPLE_REPLY_MAGIC {
            return Err(BadMagic { found: magic });
        }
        Ok(Self { error: fields.u32(), cookie: fields.u64() })
    }
}

/// How a client wants its reads answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyStyle {
    /// What every client, and Linux' only, understands.
    #[default]
    Simple,
    /// Agreed by `STRUCTURED_REPLY`.
    Structured,
}

/// All of a reply but a read's payload, which follows it.
#[derive(Clone, Copy, Debug)]
pub struct ReplyHead {
    bytes: Bytes<28>,
}

impl ReplyHead {
    /// The request succeeded, and there is no payload.
    pub fn done(cookie: u64) -> Self {
        Self::simple(0, cookie)
    }

    /// The request was a read, and `length` bytes from `offset` follow.
    pub fn data(style: ReplyStyle, cookie: u64, offset: u64, length: u32) -> Self {
        match (style, length) {
            (ReplyStyle::Simple, _) => Self::simple(0, cookie),
            // A chunk of data may not be empty.
            (ReplyStyle::Structured, 0) => Self::chunk(CHUNK_NONE, cookie, 0),
            (ReplyStyle::Structured, _) => {
                let mut head = Self::chunk(CHUNK_OFFSET_DATA, cookie, length.saturating_add(8));
                head.bytes.put(&offset.to_be_bytes());
                head
            }
        }
    }

    /// The request failed. Only reads are answered structured.
    pub fn error(style: ReplyStyle, command: Command, cookie: u64, error: ErrorNumber) -> Self {
        let number = error as u32;
        if style == ReplyStyle::Simple || command != Command::Read {
            return Self::simple(number, cookie);
        }
        let mut head = Self::chunk(CHUNK_ERROR, cookie, 6);
        head.bytes.put(&number.to_be_bytes());
        head.bytes.put(&0u16.to_be_bytes());
        head
    }

    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.bytes.get(..self.bytes.filled).unwrap_or_default()
    }

    fn simple(error: u32, cookie: u64) -> Self {
        let mut bytes = Bytes::default();
        bytes.put(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        bytes.put(&error.to_be_bytes());
        bytes.put(&cookie.to_be_bytes());
        Self { bytes }
    }

    fn chunk(kind: u16, cookie: u64, length: u32) -> Self {
        let mut bytes = Bytes::default();
        bytes.put(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        bytes.put(&CHUNK_DONE.to_be_bytes());
        bytes.put(&kind.to_be_bytes());
        bytes.put(&cookie.to_be_bytes());
        bytes.put(&length.to_be_bytes());
        Self { bytes }
    }
}

/// An array filled from its beginning.
#[derive(Clone, Copy, Debug)]
struct Bytes<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Default for Bytes<N> {
    fn default() -> Self {
        Self { bytes: [0; N], filled: 0 }
    }
}

impl<const N: usize> Bytes<N> {
    fn put(&mut self, field: &[u8]) {
        let end = self.filled + field.len();
        self.bytes
            .get_mut(self.filled..end)
            .expect("each header's fields add up to at most its array")
            .copy_from_slice(field);
        self.filled = end;
    }
}

/// Big-endian fields, one behind the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("each header's fields add up to its array");
        self.0 = rest;
        *field
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }
}

#[cfg(test)]
mod tests;
