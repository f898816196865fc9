//! The receiving end: one file, or a probe for one, from a server.
//!
//! ```text
//!             OACK, DATA 1             last block
//!  requesting ------------> receiving ------------> complete
//!      |                        |
//!      +-- ERROR -> refused     +-- silence -> timed out
//!      +-- OACK of a probe -> probed, with ERROR 0 "Early terminate" to the server
//! ```
//!
//! The payload is not kept: [`Fetch::receive`] hands back the part of the datagram that continues the file.
//!
//! Whose packets count: the driver passes on datagrams of the server's *address* only; the machine itself binds
//! to the port of the first answer and tells every other port ERROR 5 (RFC 1350 §4).

use std::time::{Duration, Instant};

use crate::options::{BlockSize, Options};
use crate::packet::{ErrorCode, Mode, Packet, Request};

/// One read, from request to end.
#[derive(Debug)]
pub struct Fetch {
    file: Vec<u8>,
    wish: Options,
    purpose: Purpose,
    patience: Patience,
    phase: Phase,
    server: Option<u16>,
    granted: Option<Options>,
    received: u64,
    octets: u64,
    /// Blocks since the last acknowledgement.
    in_window: u16,
    /// A gap was reported; what is behind it stays unanswered until the missing block comes.
    gap_reported: bool,
    give_up_at: Instant,
    repeat_at: Option<Instant>,
    pending: Option<Reply>,
    stranger: Option<u16>,
}

/// What the request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The file.
    Read,
    /// Whether it exists and how long it is: ends with the first answer.
    Probe,
}

/// How long a client tries.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Pause before the last packet is sent again. `None`: never again, as the Pi 3's boot ROM.
    pub repeat: Option<Duration>,
    /// Allowed for the whole file.
    pub file: Duration,
}

impl Default for Patience {
    /// What the Pi 4 and 5 do: every 2 s, `TFTP_FILE_TIMEOUT` = 30 s.
    fn default() -> Self {
        Self { repeat: Some(Duration::from_secs(2)), file: Duration::from_secs(30) }
    }
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All octets were handed out.
    Complete,
    /// The file exists; `size` if the server said so.
    Probed {
        /// `tsize` of the OACK.
        size: Option<u64>,
    },
    /// The server answered with ERROR.
    Refused {
        /// Its number.
        code: ErrorCode,
        /// Its text, at most [`MESSAGE_KEPT`] octets.
        message: Vec<u8>,
    },
    /// The server acknowledged what was not asked for, or broke the block size.
    Violation,
    /// Nobody answered for too long.
    TimedOut,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The server's port; `None` is the well-known one.
    pub port: Option<u16>,
    /// The bytes.
    pub datagram: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Requesting,
    Receiving,
    Ended(Outcome),
}

#[derive(Clone, Copy, Debug)]
enum Reply {
    Request,
    Acknowledge,
    EarlyTerminate,
    RefuseOptions,
}

impl Fetch {
    /// Asks for `file`. The request is ready at once.
    pub fn new(file: &[u8], wish: Options, purpose: Purpose, patience: Patience, now: Instant) -> Self {
        Self {
            file: file.to_vec(),
            wish,
            purpose,
            patience,
            phase: Phase::Requesting,
            server: None,
            granted: None,
            received: 0,
            octets: 0,
            in_window: 0,
            gap_reported: false,
            give_up_at: now + patience.file,
            repeat_at: patience.repeat.map(|pause| now + pause),
            pending: Some(Reply::Request),
            stranger: None,
        }
    }

    /// A datagram from the server's address, sent from its `port`. Returns the octets that continue the file, if
    /// it brought any.
    pub fn receive<'a>(&mut self, port: u16, datagram: &'a [u8], now: Instant) -> Option<&'a [u8]> {
        if self.server.is_some_and(|bound| bound != port) {
            self.stranger = Some(port);
            return None;
        }
        let packet = Packet::decode(datagram);
        match (packet, &self.phase) {
            (Ok(Packet::Data { block, payload }), Phase::Ended(Outcome::Complete)) => {
                // Our last acknowledgement was lost (RFC 1350 §6: "dallying").
                if self.is_repetition(block) && payload.len() < self.block_size() {
                    self.pending = Some(Reply::Acknowledge);
                }
                None
            }
            (_, Phase::Ended(_)) => None,
            (Ok(Packet::Error { code, message }), _) => {
                let message = message.iter().copied().take(MESSAGE_KEPT).collect();
                self.end(Outcome::Refused { code, message }, None);
                None
            }
            (Ok(Packet::OptionAcknowledgement(granted)), _) => {
                self.options_acknowledged(port, granted, now);
                None
            }
            (Ok(Packet::Data { block, payload }), _) => self.data(port, block, payload, now),
            (Err(_), Phase::Requesting) if datagram.starts_with(&[0, 6]) => {
                self.server = Some(port);
                self.end(Outcome::Violation, Some(Reply::RefuseOptions));
                None
            }
            _ => None,
        }
    }

    /// The promised moment has come.
    pub fn expire(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Ended(_)) {
            return;
        }
        if now >= self.give_up_at {
            self.end(Outcome::TimedOut, None);
            return;
        }
        if self.repeat_at.is_some_and(|due| now >= due) {
            self.in_window = 0;
            self.pending = Some(match self.phase {
                Phase::Requesting => Reply::Request,
                Phase::Receiving | Phase::Ended(_) => Reply::Acknowledge,
            });
            self.rearm(now);
        }
    }

    /// When to call [`Self::expire`]; `None` once ended.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ended(_) => None,
            _ => Some(self.repeat_at.map_or(self.give_up_at, |repeat| repeat.min(self.give_up_at))),
        }
    }

    /// The next datagram to send; drain to `None`.
    pub fn transmit(&mut self) -> Option<Output> {
        let mut datagram = Vec::new();
        if let Some(port) = self.stranger.take() {
            let code = ErrorCode::UNKNOWN_TRANSFER_ID;
            Packet::Error { code, message: b"Unknown transfer" }.encode(&mut datagram);
            return Some(Output { port: Some(port), datagram });
        }
        match self.pending.take()? {
            Reply::Request => {
                let request = Request { file: &self.file, mode: Mode::Octet, options: self.wish };
                Packet::ReadRequest(request).encode(&mut datagram);
                return Some(Output { port: None, datagram });
            }
            Reply::Acknowledge => {
                Packet::Acknowledgement { block: wire_number(self.received) }.encode(&mut datagram);
            }
            Reply::EarlyTerminate => {
                let code = ErrorCode::NOT_DEFINED;
                Packet::Error { code, message: b"Early terminate" }.encode(&mut datagram);
            }
            Reply::RefuseOptions => {
                let code = ErrorCode::OPTION_REFUSED;
                Packet::Error { code, message: b"Option not requested" }.encode(&mut datagram);
            }
        }
        Some(Output { port: self.server, datagram })
    }

    /// `None` while it runs.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Ended(outcome) => Some(outcome),
            Phase::Requesting | Phase::Receiving => None,
        }
    }

    /// The options the server acknowledged; `None` if it sent data without an OACK, as old servers do.
    pub fn granted(&self) -> Option<&Options> {
        self.granted.as_ref()
    }

    /// Octets handed out so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Blocks received so far.
    pub fn blocks(&self) -> u64 {
        self.received
    }

    fn options_acknowledged(&mut self, port: u16, granted: Options, now: Instant) {
        if self.phase == Phase::Receiving {
            // A repeated OACK means that ACK 0 was lost; later it is a stray.
            if self.granted.is_some() && self.received == 0 {
                self.pending = Some(Reply::Acknowledge);
            }
            return;
        }
        self.server = Some(port);
        // RFC 2347 §2: only what was asked for, RFC 2348/7440: and at most as much, may be acknowledged.
        let obeys = within(granted.block_size, self.wish.block_size)
            && within(granted.window_size, self.wish.window_size)
            && granted.timeout.is_none_or(|seconds| self.wish.timeout == Some(seconds))
            && (granted.transfer_size.is_none() || self.wish.transfer_size.is_some());
        if !obeys {
            self.end(Outcome::Violation, Some(Reply::RefuseOptions));
            return;
        }
        self.granted = Some(granted);
        match self.purpose {
            Purpose::Probe => {
                self.end(Outcome::Probed { size: granted.transfer_size }, Some(Reply::EarlyTerminate));
            }
            Purpose::Read => {
                self.phase = Phase::Receiving;
                self.pending = Some(Reply::Acknowledge);
                self.rearm(now);
            }
        }
    }

    fn data<'a>(&mut self, port: u16, block: u16, payload: &'a [u8], now: Instant) -> Option<&'a [u8]> {
        if self.phase == Phase::Requesting {
            if block != 1 {
                return None;
            }
            self.server = Some(port);
            if self.purpose == Purpose::Probe {
                self.end(Outcome::Probed { size: None }, Some(Reply::EarlyTerminate));
                return None;
            }
            self.phase = Phase::Receiving;
        }
        if self.is_repetition(block) {
            self.pending = Some(Reply::Acknowledge);
            return None;
        }
        if block != wire_number(self.received + 1) {
            // RFC 7440 §4: behind a gap, acknowledge once what came before it.
            if self.window() > 1 && !self.gap_reported {
                self.gap_reported = true;
                self.in_window = 0;
                self.pending = Some(Reply::Acknowledge);
            }
            return None;
        }
        if payload.len() > self.block_size() {
            self.end(Outcome::Violation, Some(Reply::EarlyTerminate));
            return None;
        }
        self.received += 1;
        self.octets += payload.len() as u64;
        self.gap_reported = false;
        self.in_window += 1;
        self.rearm(now);
        if payload.len() < self.block_size() {
            self.end(Outcome::Complete, Some(Reply::Acknowledge));
        } else if self.in_window >= self.window() {
            self.in_window = 0;
            self.pending = Some(Reply::Acknowledge);
        }
        Some(payload)
    }

    fn is_repetition(&self, block: u16) -> bool {
        self.received > 0 && block == wire_number(self.received)
    }

    fn end(&mut self, outcome: Outcome, reply: Option<Reply>) {
        self.phase = Phase::Ended(outcome);
        self.pending = reply;
    }

    fn rearm(&mut self, now: Instant) {
        self.repeat_at = self.patience.repeat.map(|pause| now + pause);
    }

    fn block_size(&self) -> usize {
        let granted = self.granted.and_then(|options| options.block_size);
        usize::from(granted.unwrap_or(BlockSize::DEFAULT).get())
    }

    fn window(&self) -> u16 {
        self.granted.and_then(|options| options.window_size).map_or(1, |blocks| blocks.get())
    }
}

/// Whether `granted` was asked for and is not more.
fn within<T: PartialOrd>(granted: Option<T>, asked: Option<T>) -> bool {
    granted.is_none() || granted <= asked
}

fn wire_number(block: u64) -> u16 {
    u16::try_from(block & 0xffff).unwrap_or(u16::MAX)
}

/// Octets of an ERROR's text that are kept: a line on a console.
pub const MESSAGE_KEPT: usize = 128;
