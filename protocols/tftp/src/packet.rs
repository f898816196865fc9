//! The six packets (RFC 1350 §5, RFC 2347).
//!
//! ```text
//!   2 bytes   string    1  string  1  option 1 value 1 ...
//!  +--------+---------+---+-------+---+--------------------+
//!  | 1 or 2 |  file   | 0 | mode  | 0 |   options          |   RRQ, WRQ
//!  +--------+---------+---+-------+---+--------------------+
//!  |   3    | block (2 bytes) | 0 to blksize octets         |   DATA
//!  |   4    | block (2 bytes) |                                ACK
//!  |   5    | code  (2 bytes) | message | 0 |                  ERROR
//!  |   6    | options                                     |   OACK
//! ```

use crate::options::Options;

/// No request is longer than this (RFC 2347 §2: "the maximum size of a request packet is 512 octets").
pub const MAXIMUM_REQUEST: usize = 512;

/// One datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RRQ.
    ReadRequest(Request<'a>),
    /// WRQ.
    WriteRequest(Request<'a>),
    /// DATA.
    Data {
        /// The block's number modulo 65536; the first one is 1.
        block: u16,
        /// Shorter than the block size in the last block only.
        payload: &'a [u8],
    },
    /// ACK.
    Acknowledgement {
        /// The block received, or 0 for an OACK.
        block: u16,
    },
    /// ERROR, which ends a transfer and is never answered.
    Error {
        /// Why.
        code: ErrorCode,
        /// For a person to read; any bytes at all.
        message: &'a [u8],
    },
    /// OACK.
    OptionAcknowledgement(Options),
}

/// What RRQ and WRQ carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// As sent: any bytes but NUL, perhaps none.
    pub file: &'a [u8],
    /// How lines end.
    pub mode: Mode,
    /// What of the options was understood.
    pub options: Options,
}

/// The transfer mode (RFC 1350 §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes as they are.
    Octet,
    /// Lines end in CR LF.
    Netascii,
    /// `mail`, or a word nobody defined.
    Other,
}

/// Why a transfer ended early. Any number may come; the constants are those with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// See the message. Boards end a probe with it.
    pub const NOT_DEFINED: Self = Self(0);
    /// File not found.
    pub const FILE_NOT_FOUND: Self = Self(1);
    /// Access violation.
    pub const ACCESS_VIOLATION: Self = Self(2);
    /// Illegal operation.
    pub const ILLEGAL_OPERATION: Self = Self(4);
    /// A packet from a port that has no transfer.
    pub const UNKNOWN_TRANSFER_ID: Self = Self(5);
    /// Options not acceptable (RFC 2347); UEFI ends a probe with it.
    pub const OPTION_REFUSED: Self = Self(8);
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The packet ends before its fixed part does.
    #[error("cut short after {length} bytes")]
    CutShort {
        /// Bytes there were.
        length: usize,
    },
    /// Not one of the six.
    #[error("operation {0} does not exist")]
    UnknownOperation(u16),
    /// A string has no end, at this offset.
    #[error("unterminated string at byte {offset}")]
    Unterminated {
        /// Where the string begins.
        offset: usize,
    },
    /// An OACK of something no client of ours ever asks for.
    #[error("unknown option acknowledged")]
    UnknownOption,
    /// An OACK whose value is no number, or out of the option's range.
    #[error("option acknowledged with an impossible value")]
    OptionValue,
}

impl<'a> Packet<'a> {
    /// Reads one datagram.
    ///
    /// # Errors
    /// When the bytes are no packet of RFC 1350 or 2347.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (operation, rest) = take_u16(bytes, bytes.len())?;
        match operation {
            1 => Ok(Self::ReadRequest(Request::decode(rest)?)),
            2 => Ok(Self::WriteRequest(Request::decode(rest)?)),
            3 => {
                let (block, payload) = take_u16(rest, bytes.len())?;
                Ok(Self::Data { block, payload })
            }
            4 => {
                // Bytes behind the number are padding of short Ethernet frames by some ROMs.
                let (block, _) = take_u16(rest, bytes.len())?;
                Ok(Self::Acknowledgement { block })
            }
            5 => {
                let (code, message) = take_u16(rest, bytes.len())?;
                let message = message.split(|byte| *byte == 0).next().unwrap_or_default();
                Ok(Self::Error { code: ErrorCode(code), message })
            }
            6 => Options::from_acknowledgement(Strings::new(rest, 2)).map(Self::OptionAcknowledgement),
            unknown => Err(DecodeError::UnknownOperation(unknown)),
        }
    }

    /// Appends the datagram.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut head = |operation: u16| out.extend_from_slice(&operation.to_be_bytes());
        match self {
            Self::ReadRequest(request) => {
                head(1);
                request.encode(out);
            }
            Self::WriteRequest(request) => {
                head(2);
                request.encode(out);
            }
            Self::Data { block, payload } => {
                head(3);
                out.extend_from_slice(&block.to_be_bytes());
                out.extend_from_slice(payload);
            }
            Self::Acknowledgement { block } => {
                head(4);
                out.extend_from_slice(&block.to_be_bytes());
            }
            Self::Error { code, message } => {
                head(5);
                out.extend_from_slice(&code.0.to_be_bytes());
                out.extend_from_slice(message);
                out.push(0);
            }
            Self::OptionAcknowledgement(options) => {
                head(6);
                options.encode(out);
            }
        }
    }
}

impl<'a> Request<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut strings = Strings::new(bytes, 2);
        let file = strings.next_strict()?;
        let mode = match strings.next_lenient().unwrap_or_default() {
            text if text.eq_ignore_ascii_case(b"octet") => Mode::Octet,
            text if text.eq_ignore_ascii_case(b"netascii") => Mode::Netascii,
            _ => Mode::Other,
        };
        Ok(Self { file, mode, options: Options::from_request(strings) })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.file);
        out.push(0);
        out.extend_from_slice(match self.mode {
            Mode::Octet => b"octet",
            Mode::Netascii => b"netascii",
            Mode::Other => b"mail",
        });
        out.push(0);
        self.options.encode(out);
    }
}

/// NUL-terminated strings, one behind the other.
#[derive(Clone, Copy)]
pub(crate) struct Strings<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Strings<'a> {
    fn new(rest: &'a [u8], offset: usize) -> Self {
        Self { rest, offset }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn next_strict(&mut self) -> Result<&'a [u8], DecodeError> {
        let end = self.rest.iter().position(|byte| *byte == 0);
        let (text, rest) = end
            .and_then(|end| Some((self.rest.get(..end)?, self.rest.get(end + 1..)?)))
            .ok_or(DecodeError::Unterminated { offset: self.offset })?;
        self.rest = rest;
        self.offset += text.len() + 1;
        Ok(text)
    }

    /// Takes the end of the packet for the missing NUL; `None` when nothing is left.
    pub(crate) fn next_lenient(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        Some(self.next_strict().unwrap_or_else(|_| std::mem::take(&mut self.rest)))
    }
}

fn take_u16(bytes: &[u8], length: usize) -> Result<(u16, &[u8]), DecodeError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(DecodeError::CutShort { length })?;
    Ok((u16::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests;
