//! The handshake as bytes.
//!
//! ```text
//!  S  "NBDMAGIC" | "IHAVEOPT" | handshake flags 2
//!  C  client flags 4
//!  C  "IHAVEOPT" | option 4 | length 4 | data              repeated
//!  S  0x0003e889045565a9 | option 4 | type 4 | length 4 | data   one or more for each
//! ```

use crate::TransmissionFlags;
use crate::export::{BlockSizes, Export};

/// No name or description is longer ("Values of string type").
pub const MAXIMUM_STRING: usize = 4096;

/// Bytes of the greeting.
pub const GREETING_BYTES: usize = 18;
/// Bytes before an option's data.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes before a reply's data.
pub const REPLY_HEADER_BYTES: usize = 20;

pub(crate) const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake and client flag: options may be refused without closing.
pub(crate) const FIXED_NEWSTYLE: u16 = 1;
/// Handshake and client flag: no 124 zeroes behind the answer to EXPORT_NAME.
pub(crate) const NO_ZEROES: u16 = 2;

/// The options a machine of ours sends or understands.
pub(crate) mod number {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
}

/// Reply: the option is done.
pub const REPLY_ACK: u32 = 1;
/// Reply: one export of a list.
pub const REPLY_SERVER: u32 = 2;
/// Reply: one fact about an export.
pub const REPLY_INFO: u32 = 3;

/// A reply with bit 31: the option was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub u32);

impl Refusal {
    /// Unknown option.
    pub const UNSUPPORTED: Self = Self(1 << 31 | 1);
    /// Malformed data.
    pub const INVALID: Self = Self(1 << 31 | 3);
    /// No such export.
    pub const UNKNOWN_EXPORT: Self = Self(1 << 31 | 6);
    /// The server is about to end.
    pub const SHUTTING_DOWN: Self = Self(1 << 31 | 7);
    /// More data than the server wants to read.
    pub const TOO_BIG: Self = Self(1 << 31 | 9);
}

/// What INFO and GO may ask about.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// One fact about an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Info<'a> {
    Export { size: u64, flags: TransmissionFlags },
    Name(&'a [u8]),
    Description(&'a [u8]),
    BlockSizes(BlockSizes),
    Other,
}

impl<'a> Info<'a> {
    /// `None` when the data is malformed.
    pub(crate) fn decode(data: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor(data);
        let decoded = match cursor.u16()? {
            info::EXPORT => Self::Export { size: cursor.u64()?, flags: TransmissionFlags(cursor.u16()?) },
            info::NAME => Self::Name(cursor.rest()),
            info::DESCRIPTION => Self::Description(cursor.rest()),
            info::BLOCK_SIZE => Self::BlockSizes(BlockSizes {
                minimum: cursor.u32()?,
                preferred: cursor.u32()?,
                maximum: cursor.u32()?,
            }),
            _ => {
                cursor.rest();
                Self::Other
            }
        };
        cursor.is_empty().then_some(decoded)
    }

    /// Appends the fact as one INFO reply to `option`.
    pub(crate) fn encode(&self, option: u32, out: &mut Vec<u8>) {
        let mut data = Vec::with_capacity(16);
        match self {
            Self::Export { size, flags } => {
                data.extend_from_slice(&info::EXPORT.to_be_bytes());
                data.extend_from_slice(&size.to_be_bytes());
                data.extend_from_slice(&flags.0.to_be_bytes());
            }
            Self::Name(text) => {
                data.extend_from_slice(&info::NAME.to_be_bytes());
                data.extend_from_slice(text);
            }
            Self::Description(text) => {
                data.extend_from_slice(&info::DESCRIPTION.to_be_bytes());
                data.extend_from_slice(text);
            }
            Self::BlockSizes(sizes) => {
                data.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
                for size in [sizes.minimum, sizes.preferred, sizes.maximum] {
                    data.extend_from_slice(&size.to_be_bytes());
                }
            }
            Self::Other => return,
        }
        reply(option, REPLY_INFO, &data, out);
    }
}

/// The data of INFO and GO: a name, and what is asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inquiry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) infos: Vec<u16>,
}

impl<'a> Inquiry<'a> {
    /// `None` when the data is malformed.
    pub(crate) fn decode(data: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor(data);
        let name_length = usize::try_from(cursor.u32()?).ok()?;
        let name = cursor.bytes(name_length)?;
        let count = cursor.u16()?;
        let infos = (0..count).map(|_| cursor.u16()).collect::<Option<Vec<u16>>>()?;
        cursor.is_empty().then_some(Self { name, infos })
    }

    /// Appends it as option `option`.
    pub(crate) fn encode(&self, option: u32, out: &mut Vec<u8>) {
        let mut data = Vec::with_capacity(self.name.len() + 16);
        data.extend_from_slice(&length_of(self.name).to_be_bytes());
        data.extend_from_slice(self.name);
        let count = u16::try_from(self.infos.len()).unwrap_or(u16::MAX);
        data.extend_from_slice(&count.to_be_bytes());
        for info in self.infos.iter().take(usize::from(count)) {
            data.extend_from_slice(&info.to_be_bytes());
        }
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&length_of(&data).to_be_bytes());
        out.extend_from_slice(&data);
    }
}

/// Appends the greeting.
pub(crate) fn greeting(out: &mut Vec<u8>) {
    out.extend_from_slice(&NBD_MAGIC.to_be_bytes());
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
}

/// Appends a reply to `option`.
pub(crate) fn reply(option: u32, kind: u32, data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&length_of(data).to_be_bytes());
    out.extend_from_slice(data);
}

/// Appends one line of a list.
pub(crate) fn listed(export: &Export, out: &mut Vec<u8>) {
    let name = export.name.as_bytes();
    let mut data = length_of(name).to_be_bytes().to_vec();
    data.extend_from_slice(name);
    data.extend_from_slice(export.description.as_bytes());
    reply(number::LIST, REPLY_SERVER, &data, out);
}

/// An option's header: its number and the length of its data. `None` when the magic is wrong.
pub(crate) fn option_header(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut cursor = Cursor(bytes);
    (cursor.u64()? == OPTION_MAGIC).then_some(())?;
    Some((cursor.u32()?, cursor.u32()?))
}

/// A reply's header: option, type, and the length of its data. `None` when the magic is wrong.
pub(crate) fn reply_header(bytes: &[u8]) -> Option<(u32, u32, u32)> {
    let mut cursor = Cursor(bytes);
    (cursor.u64()? == REPLY_MAGIC).then_some(())?;
    Some((cursor.u32()?, cursor.u32()?, cursor.u32()?))
}

fn length_of(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

/// Big-endian fields from bytes that may end too early.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
