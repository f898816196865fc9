//! The server's end of the handshake: greeting, options, and which export the client chose.
//!
//! ```text
//!  flags --> header <------------------------------+
//!    |         |  |                                |
//!    |         |  +-- data, or past too much data -+   LIST INFO STRUCTURED_REPLY, and all that is refused
//!    |         |           |
//!    |         |           +--> chosen                 GO, EXPORT_NAME
//!    +---------+--------------> closed                 ABORT, no NBD, EXPORT_NAME of nothing
//! ```

use std::sync::Arc;

use crate::export::Export;
use crate::option::{self, Info, Inquiry, MAXIMUM_STRING, REPLY_ACK, Refusal, info, number};
use crate::transmission::{ReplyStyle, TransmissionFlags};

/// One client's handshake.
#[derive(Debug)]
pub struct Handshake {
    exports: Arc<[Export]>,
    phase: Phase,
    buffer: Vec<u8>,
    wanted: usize,
    no_zeroes: bool,
    style: ReplyStyle,
    out: Vec<u8>,
}

/// Where a handshake stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It wants more bytes.
    Running,
    /// Transmission begins with the next byte, once what is to send was sent.
    Chosen {
        /// Index among the exports.
        export: usize,
        /// How to answer reads.
        style: ReplyStyle,
    },
    /// Send what is to send, then close.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Flags,
    Header,
    Data {
        option: u32,
    },
    /// Past data that is not worth keeping, this many bytes after the ones wanted now.
    Skip {
        option: u32,
        left: usize,
    },
    Ended(State),
}

impl Handshake {
    /// Greets a client that may choose among these. The nameless export of the protocol is the first one.
    pub fn new(exports: Arc<[Export]>) -> Self {
        let mut out = Vec::new();
        option::greeting(&mut out);
        Self {
            exports,
            phase: Phase::Flags,
            buffer: Vec::new(),
            wanted: CLIENT_FLAGS_BYTES,
            no_zeroes: false,
            style: ReplyStyle::Simple,
            out,
        }
    }

    /// How many bytes to read from the socket at most; 0 once it has ended.
    pub fn wanted(&self) -> usize {
        self.wanted.saturating_sub(self.buffer.len())
    }

    /// Takes bytes from the socket, at most [`Self::wanted`] of them, and says how many. To be called with what is to
    /// send drained, so that a client that never reads cannot make it grow.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let now = bytes.get(..self.wanted().min(bytes.len())).unwrap_or_default();
        self.buffer.extend_from_slice(now);
        if self.wanted() == 0 && self.wanted > 0 {
            let buffer = std::mem::take(&mut self.buffer);
            self.step(&buffer);
        }
        now.len()
    }

    /// Bytes to send; drain to `None`.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        (!self.out.is_empty()).then(|| std::mem::take(&mut self.out))
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Ended(state) => state,
            _ => State::Running,
        }
    }

    fn step(&mut self, bytes: &[u8]) {
        match self.phase {
            Phase::Flags => self.client_flags(bytes),
            Phase::Header => self.option_header(bytes),
            Phase::Data { option } => self.option(option, bytes),
            Phase::Skip { option, left } => self.skip(option, left),
            Phase::Ended(_) => {}
        }
    }

    fn client_flags(&mut self, bytes: &[u8]) {
        let flags = option::Cursor(bytes).u32().unwrap_or_default();
        let known = u32::from(option::FIXED_NEWSTYLE | option::NO_ZEROES);
        // "If the server receives a flag it does not know, it must close." A client without the fixed style would
        // take the first refusal for the end, which is where it then ends.
        if flags & !known != 0 {
            return self.end(State::Closed);
        }
        self.no_zeroes = flags & u32::from(option::NO_ZEROES) != 0;
        self.expect(Phase::Header, option::OPTION_HEADER_BYTES);
    }

    fn option_header(&mut self, bytes: &[u8]) {
        let Some((option, length)) = option::option_header(bytes) else {
            return self.end(State::Closed);
        };
        match usize::try_from(length).unwrap_or(usize::MAX) {
            0 => self.option(option, &[]),
            length if length <= MAXIMUM_DATA => self.expect(Phase::Data { option }, length),
            // This one option has no way to say so.
            _ if option == number::EXPORT_NAME => self.end(State::Closed),
            length => self.skip(option, length),
        }
    }

    fn skip(&mut self, option: u32, left: usize) {
        if left == 0 {
            return self.refuse(option, Refusal::TOO_BIG, "too much data");
        }
        let now = left.min(MAXIMUM_DATA);
        self.expect(Phase::Skip { option, left: left - now }, now);
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        match option {
            number::EXPORT_NAME => self.export_name(data),
            number::ABORT => {
                option::reply(option, REPLY_ACK, &[], &mut self.out);
                self.end(State::Closed);
            }
            number::LIST if data.is_empty() => {
                for export in self.exports.iter() {
                    option::listed(export, &mut self.out);
                }
                self.acknowledge(option);
            }
            number::STRUCTURED_REPLY if data.is_empty() => {
                self.style = ReplyStyle::Structured;
                self.acknowledge(option);
            }
            number::LIST | number::STRUCTURED_REPLY => {
                self.refuse(option, Refusal::INVALID, "this option has no data");
            }
            number::INFO | number::GO => self.inquiry(option, data),
            _ => self.refuse(option, Refusal::UNSUPPORTED, "unknown option"),
        }
    }

    fn export_name(&mut self, name: &[u8]) {
        // "There is no way to report an error; the server must close."
        let Some((index, export)) = self.find(name) else { return self.end(State::Closed) };
        let (size, flags) = (export.size, self.flags_of(export));
        self.out.extend_from_slice(&size.to_be_bytes());
        self.out.extend_from_slice(&flags.0.to_be_bytes());
        if !self.no_zeroes {
            self.out.extend_from_slice(&[0; 124]);
        }
        self.choose(index);
    }

    fn inquiry(&mut self, option: u32, data: &[u8]) {
        let Some(inquiry) = Inquiry::decode(data) else {
            return self.refuse(option, Refusal::INVALID, "malformed request");
        };
        let Some((index, export)) = self.find(inquiry.name) else {
            return self.refuse(option, Refusal::UNKNOWN_EXPORT, "no such export");
        };
        let mut out = Vec::new();
        Info::Export { size: export.size, flags: self.flags_of(export) }.encode(option, &mut out);
        // Asked for twice is answered once: the answer must not be longer than the question by much.
        if inquiry.infos.contains(&info::NAME) {
            Info::Name(export.name.as_bytes()).encode(option, &mut out);
        }
        if inquiry.infos.contains(&info::DESCRIPTION) {
            Info::Description(export.description.as_bytes()).encode(option, &mut out);
        }
        if inquiry.infos.contains(&info::BLOCK_SIZE) {
            Info::BlockSizes(export.block_sizes).encode(option, &mut out);
        }
        self.out.append(&mut out);
        option::reply(option, REPLY_ACK, &[], &mut self.out);
        if option == number::GO {
            self.choose(index);
        } else {
            self.expect(Phase::Header, option::OPTION_HEADER_BYTES);
        }
    }

    fn find(&self, name: &[u8]) -> Option<(usize, &Export)> {
        if name.is_empty() {
            return self.exports.first().map(|export| (0, export));
        }
        self.exports.iter().enumerate().find(|(_, export)| export.name.as_bytes() == name)
    }

    fn flags_of(&self, export: &Export) -> TransmissionFlags {
        match self.style {
            ReplyStyle::Simple => export.transmission_flags(),
            ReplyStyle::Structured => export.transmission_flags().with(TransmissionFlags::SEND_DF),
        }
    }

    fn acknowledge(&mut self, option: u32) {
        option::reply(option, REPLY_ACK, &[], &mut self.out);
        self.expect(Phase::Header, option::OPTION_HEADER_BYTES);
    }

    fn refuse(&mut self, option: u32, refusal: Refusal, message: &str) {
        option::reply(option, refusal.0, message.as_bytes(), &mut self.out);
        self.expect(Phase::Header, option::OPTION_HEADER_BYTES);
    }

    fn choose(&mut self, export: usize) {
        self.end(State::Chosen { export, style: self.style });
    }

    fn end(&mut self, state: State) {
        self.expect(Phase::Ended(state), 0);
    }

    fn expect(&mut self, phase: Phase, wanted: usize) {
        self.phase = phase;
        self.wanted = wanted;
    }
}

const CLIENT_FLAGS_BYTES: usize = 4;

/// The longest name, and as many questions about it as anybody has.
const MAXIMUM_DATA: usize = MAXIMUM_STRING + 1024;
