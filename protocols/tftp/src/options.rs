//! The options of RFC 2347: pairs of NUL-terminated ASCII strings behind a request, echoed in an OACK.

use std::num::{NonZeroU8, NonZeroU16};

use crate::packet::{DecodeError, Strings};

/// Octets of payload in every block but the last: 8 to 65464 (RFC 2348).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockSize(u16);

impl BlockSize {
    /// What both sides use without negotiation (RFC 1350 §2).
    pub const DEFAULT: Self = Self(512);
    /// The largest that fits an Ethernet frame with the headers of IPv4, UDP and TFTP: 1500 - 20 - 8 - 4.
    pub const ETHERNET: Self = Self(1468);
    /// The largest of RFC 2348.
    pub const LARGEST: Self = Self(65464);

    /// `None` outside 8 to 65464.
    pub const fn new(octets: u16) -> Option<Self> {
        match octets {
            8..=65464 => Some(Self(octets)),
            _ => None,
        }
    }

    /// Octets.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The options of a request or of its acknowledgement. `None` is "not mentioned".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `blksize`.
    pub block_size: Option<BlockSize>,
    /// `tsize`: 0 in a read request, the file's length in octets in its acknowledgement (RFC 2349).
    pub transfer_size: Option<u64>,
    /// `timeout`: seconds until the sender of data repeats itself (RFC 2349).
    pub timeout: Option<NonZeroU8>,
    /// `windowsize`: blocks sent before an acknowledgement is due (RFC 7440).
    pub window_size: Option<NonZeroU16>,
}

impl Options {
    /// Nothing asked for, nothing to acknowledge.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What a server grants of what this request asks for; each answer is at most what was asked.
    /// An option the server does not want is left out, which RFC 2347 makes a refusal.
    pub fn granted(&self, file_size: u64, limits: &Limits) -> Self {
        Self {
            block_size: self.block_size.map(|asked| asked.min(limits.block_size)),
            transfer_size: self.transfer_size.map(|_| file_size),
            timeout: self.timeout.filter(|asked| *asked <= limits.timeout),
            window_size: self.window_size.map(|asked| asked.min(limits.window_size)),
        }
    }

    /// A request's options. Whatever is unknown, malformed or out of range counts as not mentioned, as RFC 2347
    /// wants it of a server; of an option given twice the first counts.
    pub(crate) fn from_request(strings: Strings<'_>) -> Self {
        let mut options = Self::default();
        let mut strings = strings;
        while let (Some(name), Some(value)) = (strings.next_lenient(), strings.next_lenient()) {
            let (Some(known), Some(number)) = (Name::of(name), decimal(value)) else { continue };
            // RFC 2348, 7440: the answer may be less than what was asked, so too much is no mistake.
            // `None` is an unusable value: to leave it out refuses it.
            let _ = options.set(known, number.min(known.largest()));
        }
        options
    }

    /// An acknowledgement's options. A value that cannot be read is an error, for a client has to obey it.
    pub(crate) fn from_acknowledgement(strings: Strings<'_>) -> Result<Self, DecodeError> {
        let mut options = Self::default();
        let mut strings = strings;
        while !strings.is_empty() {
            let (name, value) = (strings.next_strict()?, strings.next_strict()?);
            let known = Name::of(name).ok_or(DecodeError::UnknownOption)?;
            decimal(value).and_then(|number| options.set(known, number)).ok_or(DecodeError::OptionValue)?;
        }
        Ok(options)
    }

    /// `None` when the number is outside the option's range.
    fn set(&mut self, name: Name, number: u64) -> Option<()> {
        match name {
            Name::BlockSize => {
                self.block_size.get_or_insert(BlockSize::new(u16::try_from(number).ok()?)?);
            }
            Name::TransferSize => {
                self.transfer_size.get_or_insert(number);
            }
            Name::Timeout => {
                self.timeout.get_or_insert(NonZeroU8::new(u8::try_from(number).ok()?)?);
            }
            Name::WindowSize => {
                self.window_size.get_or_insert(NonZeroU16::new(u16::try_from(number).ok()?)?);
            }
        }
        Some(())
    }

    /// Appends the options in the order boards send them: `tsize`, `blksize`, then the rest.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let pairs = [
            ("tsize", self.transfer_size),
            ("blksize", self.block_size.map(|size| u64::from(size.get()))),
            ("timeout", self.timeout.map(|seconds| u64::from(seconds.get()))),
            ("windowsize", self.window_size.map(|blocks| u64::from(blocks.get()))),
        ];
        for (name, value) in pairs {
            if let Some(value) = value {
                out.extend_from_slice(name.as_bytes());
                out.push(0);
                out.extend_from_slice(value.to_string().as_bytes());
                out.push(0);
            }
        }
    }
}

/// The most a server grants.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Larger requests are answered with this size.
    pub block_size: BlockSize,
    /// Larger requests are answered with this window.
    pub window_size: NonZeroU16,
    /// Larger requests are left unanswered: a silent client would hold its transfer for that much longer.
    pub timeout: NonZeroU8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // IP fragments are what boot ROMs cannot put together, so no block outgrows a frame.
            block_size: BlockSize::ETHERNET,
            // 32 blocks of 1468 octets are 47 kB in flight, what a small NIC's receive ring surely holds.
            window_size: NonZeroU16::MIN.saturating_add(31),
            timeout: NonZeroU8::MIN.saturating_add(9),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    BlockSize,
    TransferSize,
    Timeout,
    WindowSize,
}

impl Name {
    /// RFC 2347 §2: option names are case-insensitive.
    fn of(text: &[u8]) -> Option<Self> {
        [
            (&b"blksize"[..], Self::BlockSize),
            (b"tsize", Self::TransferSize),
            (b"timeout", Self::Timeout),
            (b"windowsize", Self::WindowSize),
        ]
        .into_iter()
        .find_map(|(name, known)| text.eq_ignore_ascii_case(name).then_some(known))
    }

    /// The end of the range, for options a server may answer with less than was asked.
    fn largest(self) -> u64 {
        match self {
            Self::BlockSize => u64::from(BlockSize::LARGEST.get()),
            Self::WindowSize => u64::from(u16::MAX),
            Self::TransferSize | Self::Timeout => u64::MAX,
        }
    }
}

/// A decimal number in ASCII without sign or space; `None` when it is anything else or beyond 64 bits.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}
