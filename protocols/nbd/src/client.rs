//! The client's end of the handshake: greeting, `GO`, and the socket is ready for the kernel.
//!
//! ```text
//!             greeting            INFO ...            ACK
//!  greeting ----------> replying ----------> replying -----> attached
//!      |                    |
//!      +-- no NBD, too old -+-- refused, nonsense -> an error, and the machine has ended
//! ```
//!
//! It never asks for structured replies: Linux' client understands simple ones only (`drivers/block/nbd.c`).

use crate::TransmissionFlags;
use crate::export::BlockSizes;
use crate::option::{
    self, Cursor, Info, Inquiry, MAXIMUM_STRING, REPLY_ACK, REPLY_INFO, Refusal, info, number,
};

/// One handshake for one export.
#[derive(Debug)]
pub struct Handshake {
    export: Vec<u8>,
    phase: Phase,
    buffer: Vec<u8>,
    wanted: usize,
    facts: u32,
    size_and_flags: Option<(u64, TransmissionFlags)>,
    block_sizes: Option<BlockSizes>,
    description: Option<String>,
    pending: Option<Vec<u8>>,
}

/// What the kernel has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Bytes.
    pub size: u64,
    /// Verbatim for `NBD_ATTR_SERVER_FLAGS`.
    pub flags: TransmissionFlags,
    /// If the server said so.
    pub block_sizes: Option<BlockSizes>,
    /// If the server has one.
    pub description: Option<String>,
}

/// Why there is no export.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Something else listens there.
    #[error("the peer is no NBD server")]
    NotNbd,
    /// Oldstyle, or newstyle before it was fixed.
    #[error("the server does not speak fixed newstyle NBD")]
    TooOld,
    /// Not this export, or not now.
    #[error("the server refuses the export (reply {:#x}): {message}", refusal.0)]
    Refused {
        /// Which error.
        refusal: Refusal,
        /// The server's words, perhaps none.
        message: String,
    },
    /// An answer that no server gives.
    #[error("the server breaks the protocol: {0}")]
    Nonsense(&'static str),
}

impl HandshakeError {
    /// Whether the same question may have another answer in a while: a server that is being replaced does not know
    /// its exports yet, and another program may have had the port for a moment.
    pub fn worth_retrying(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => {
                matches!(*refusal, Refusal::UNKNOWN_EXPORT | Refusal::SHUTTING_DOWN)
            }
            Self::NotNbd => true,
            Self::TooOld | Self::Nonsense(_) => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    ReplyHeader,
    ReplyData { kind: u32 },
    Attached,
    Ended,
}

impl Handshake {
    /// Will ask for the export of this name, which is cut to what the protocol allows.
    pub fn new(export: &str) -> Self {
        let export = export.as_bytes();
        Self {
            export: export.get(..MAXIMUM_STRING).unwrap_or(export).to_vec(),
            phase: Phase::Greeting,
            buffer: Vec::new(),
            wanted: option::GREETING_BYTES,
            facts: 0,
            size_and_flags: None,
            block_sizes: None,
            description: None,
            pending: None,
        }
    }

    /// How many bytes to read from the socket at most; 0 once it has ended. Reading no more leaves the socket as
    /// the kernel needs it.
    pub fn wanted(&self) -> usize {
        self.wanted.saturating_sub(self.buffer.len())
    }

    /// Takes bytes from the socket, at most [`Self::wanted`] of them, and says how many.
    ///
    /// # Errors
    /// The handshake is over without an export.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<usize, HandshakeError> {
        let now = bytes.get(..self.wanted().min(bytes.len())).unwrap_or_default();
        self.buffer.extend_from_slice(now);
        if self.wanted() == 0 && self.wanted > 0 {
            let buffer = std::mem::take(&mut self.buffer);
            self.step(&buffer).inspect_err(|_| self.expect(Phase::Ended, 0))?;
        }
        Ok(now.len())
    }

    /// Bytes to send; drain to `None`.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.pending.take()
    }

    /// The export, once the server has agreed.
    pub fn attached(&self) -> Option<Attached> {
        let (size, flags) = self.size_and_flags.filter(|_| self.phase == Phase::Attached)?;
        let (block_sizes, description) = (self.block_sizes, self.description.clone());
        Some(Attached { size, flags, block_sizes, description })
    }

    fn step(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        match self.phase {
            Phase::Greeting => self.greeting(bytes),
            Phase::ReplyHeader => self.reply_header(bytes),
            Phase::ReplyData { kind } => self.reply(kind, bytes),
            Phase::Attached | Phase::Ended => Ok(()),
        }
    }

    fn greeting(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        let mut cursor = Cursor(bytes);
        if cursor.u64() != Some(option::NBD_MAGIC) {
            return Err(HandshakeError::NotNbd);
        }
        let newstyle = cursor.u64() == Some(option::OPTION_MAGIC);
        let flags = cursor.u16().unwrap_or_default();
        if !newstyle || flags & option::FIXED_NEWSTYLE == 0 {
            return Err(HandshakeError::TooOld);
        }
        let ours = u32::from(flags & (option::FIXED_NEWSTYLE | option::NO_ZEROES));
        let mut out = ours.to_be_bytes().to_vec();
        let infos = vec![info::BLOCK_SIZE, info::DESCRIPTION];
        Inquiry { name: &self.export, infos }.encode(number::GO, &mut out);
        self.pending = Some(out);
        self.expect(Phase::ReplyHeader, option::REPLY_HEADER_BYTES);
        Ok(())
    }

    fn reply_header(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        let (option, kind, length) =
            option::reply_header(bytes).ok_or(HandshakeError::Nonsense("no reply where one is due"))?;
        if option != number::GO {
            return Err(HandshakeError::Nonsense("a reply to an option never sent"));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAXIMUM_REPLY {
            return Err(HandshakeError::Nonsense("an endless reply"));
        }
        if length == 0 {
            return self.reply(kind, &[]);
        }
        self.expect(Phase::ReplyData { kind }, length);
        Ok(())
    }

    fn reply(&mut self, kind: u32, data: &[u8]) -> Result<(), HandshakeError> {
        match kind {
            REPLY_ACK if self.size_and_flags.is_none() => {
                Err(HandshakeError::Nonsense("an export without a size"))
            }
            REPLY_ACK => {
                self.expect(Phase::Attached, 0);
                Ok(())
            }
            REPLY_INFO => {
                self.facts += 1;
                if self.facts > MAXIMUM_FACTS {
                    return Err(HandshakeError::Nonsense("endless replies"));
                }
                self.fact(Info::decode(data).ok_or(HandshakeError::Nonsense("malformed information"))?);
                self.expect(Phase::ReplyHeader, option::REPLY_HEADER_BYTES);
                Ok(())
            }
            refusal if refusal & 1 << 31 != 0 => Err(HandshakeError::Refused {
                refusal: Refusal(refusal),
                message: String::from_utf8_lossy(data).into_owned(),
            }),
            _ => Err(HandshakeError::Nonsense("a reply that does not fit the question")),
        }
    }

    fn fact(&mut self, fact: Info<'_>) {
        match fact {
            Info::Export { size, flags } => self.size_and_flags = Some((size, flags)),
            Info::BlockSizes(sizes) => self.block_sizes = Some(sizes),
            Info::Description(text) => self.description = Some(String::from_utf8_lossy(text).into_owned()),
            Info::Name(_) | Info::Other => {}
        }
    }

    fn expect(&mut self, phase: Phase, wanted: usize) {
        self.phase = phase;
        self.wanted = wanted;
    }
}

/// A description and a little more: nothing we ask for has a longer answer.
const MAXIMUM_REPLY: usize = MAXIMUM_STRING + 64;

/// There are four facts today; servers may volunteer those of tomorrow.
const MAXIMUM_FACTS: u32 = 32;
