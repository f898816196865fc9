//! The sending end: one file on its way to one client.
//!
//! ```text
//!              options granted                 ACK 0
//!   new ------------------------> offering -----------+
//!    |                               |                v       last block acknowledged
//!    +-------------------------------+-----------> sending ---------------------------> completed
//!        no options                  |                |
//!                                    +--- ERROR ------+--> aborted      (an answered probe, usually)
//!                                    +--- silence ----+--> given up
//! ```
//!
//! The machine never sees the file: [`Output::Data`] names a range and the driver sends it from wherever it is.
//!
//! Retransmission follows RFC 6298 with the estimator's bounds narrowed to a switched network: first 200 ms (a
//! Pi 3 boot ROM is dead about one second after a lost packet), doubled for every silence, never sampled from a
//! repeated block (Karn). RFC 2349's `timeout` replaces the estimate when the client asked for one.
//!
//! Amplification is bounded: until its first acknowledgement a request costs at most [`UNHEARD_SENDS`] datagrams
//! (in lock-step; a window is not opened before the client has spoken).

use std::time::{Duration, Instant};

use crate::options::{BlockSize, Limits, Options};
use crate::packet::{ErrorCode, Packet};

/// One file on its way to one client.
#[derive(Debug)]
pub struct Transfer {
    size: u64,
    block_size: u64,
    window: u64,
    offer: Option<Options>,
    phase: Phase,
    /// Blocks the client surely has; block 0 is the request or the OACK.
    acknowledged: u64,
    /// The last block sent since the window was (re)started.
    sent: u64,
    /// The last block sent at all: what lies at or below it is a repetition.
    highest_sent: u64,
    heard: bool,
    pending_offer: bool,
    silences: u32,
    last_progress: Instant,
    retransmit_at: Instant,
    /// The moment of the latest call, for the blocks that leave because of it.
    now: Instant,
    /// Which block is being timed, and since when.
    sample: Option<(u64, Instant)>,
    timer: Timer,
    retransmissions: u64,
}

/// Where a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has a deadline.
    Running,
    /// The client has acknowledged the last block.
    Completed,
    /// The client ended it. For a probe that is success.
    Aborted(ErrorCode),
    /// The client fell silent.
    GaveUp,
}

/// What to send to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// OACK.
    OptionAcknowledgement(Options),
    /// DATA: `length` octets of the file from `offset`.
    Data {
        /// The number on the wire.
        block: u16,
        /// Where in the file.
        offset: u64,
        /// Octets; less than the block size, perhaps 0, in the last block.
        length: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Offering,
    Sending,
    Ended(State),
}

impl Transfer {
    /// Answers a request for a file of `size` octets. The first output is ready at once.
    pub fn new(size: u64, requested: &Options, limits: &Limits, now: Instant) -> Self {
        let granted = requested.granted(size, limits);
        let offer = (!granted.is_empty()).then_some(granted);
        let timer = match granted.timeout {
            Some(seconds) => Timer::Fixed(Duration::from_secs(u64::from(seconds.get()))),
            None => Timer::Adaptive(Estimate::default()),
        };
        Self {
            size,
            block_size: u64::from(granted.block_size.unwrap_or(BlockSize::DEFAULT).get()),
            window: granted.window_size.map_or(1, |blocks| u64::from(blocks.get())),
            offer,
            phase: if offer.is_some() { Phase::Offering } else { Phase::Sending },
            acknowledged: 0,
            sent: 0,
            highest_sent: 0,
            heard: false,
            pending_offer: offer.is_some(),
            silences: 0,
            last_progress: now,
            retransmit_at: now + timer.interval(0),
            now,
            sample: None,
            timer,
            retransmissions: 0,
        }
    }

    /// A packet from the client's port.
    pub fn receive(&mut self, packet: &Packet<'_>, now: Instant) {
        self.now = now;
        match (packet, self.phase) {
            (_, Phase::Ended(_)) => {}
            (Packet::Error { code, .. }, _) => self.phase = Phase::Ended(State::Aborted(*code)),
            (Packet::Acknowledgement { block: 0 }, Phase::Offering) => {
                self.heard = true;
                self.phase = Phase::Sending;
                self.progress(now);
            }
            (Packet::Acknowledgement { block }, Phase::Sending) => self.acknowledge(*block, now),
            // Whatever else comes is stray or hostile, and changes nothing.
            _ => {}
        }
    }

    /// The same request again, from the same port: our first answer was lost, or is late.
    pub fn request_repeated(&mut self, now: Instant) {
        self.now = now;
        if self.heard || matches!(self.phase, Phase::Ended(_)) {
            return;
        }
        self.restart_window();
        self.pending_offer = self.offer.is_some();
        self.retransmit_at = now + self.timer.interval(self.silences);
    }

    /// The promised moment has come.
    pub fn expire(&mut self, now: Instant) {
        self.now = now;
        if matches!(self.phase, Phase::Ended(_)) || now < self.retransmit_at {
            return;
        }
        self.silences += 1;
        let unheard = !self.heard && self.silences >= UNHEARD_SENDS;
        if unheard || now.duration_since(self.last_progress) >= GIVE_UP_AFTER {
            self.phase = Phase::Ended(State::GaveUp);
            return;
        }
        self.retransmissions += 1;
        self.pending_offer = self.phase == Phase::Offering;
        self.restart_window();
        self.retransmit_at = now + self.timer.interval(self.silences);
    }

    /// The client's port is closed (ICMP says so): nobody will ever answer.
    pub fn unreachable(&mut self) {
        if self.state() != State::Running {
            return;
        }
        // A client that has all blocks and closes its port before our repetition of the last one has the file.
        let all_sent = self.phase == Phase::Sending && self.highest_sent == self.last_block();
        self.phase = Phase::Ended(if all_sent { State::Completed } else { State::GaveUp });
    }

    /// When to call [`Self::expire`]; `None` once ended.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ended(_) => None,
            Phase::Offering | Phase::Sending => Some(self.retransmit_at),
        }
    }

    /// The next packet to send; drain to `None` after each call above.
    pub fn transmit(&mut self) -> Option<Output> {
        match self.phase {
            Phase::Ended(_) => None,
            Phase::Offering => {
                let offer = self.offer.filter(|_| self.pending_offer)?;
                self.pending_offer = false;
                Some(Output::OptionAcknowledgement(offer))
            }
            Phase::Sending => self.next_block(),
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Ended(state) => state,
            Phase::Offering | Phase::Sending => State::Running,
        }
    }

    /// Octets the client has acknowledged.
    pub fn acknowledged_octets(&self) -> u64 {
        self.acknowledged.saturating_mul(self.block_size).min(self.size)
    }

    /// How often silence made it repeat itself.
    pub fn retransmissions(&self) -> u64 {
        self.retransmissions
    }

    /// The last block is the first one shorter than the block size; it may be empty (RFC 1350 §6).
    fn last_block(&self) -> u64 {
        self.size / self.block_size + 1
    }

    fn next_block(&mut self) -> Option<Output> {
        let window = if self.heard { self.window } else { 1 };
        let last = self.acknowledged.saturating_add(window).min(self.last_block());
        if self.sent >= last {
            return None;
        }
        self.sent += 1;
        if self.sent > self.highest_sent {
            self.highest_sent = self.sent;
            // Only a window's last block is answered, so only that one can be timed.
            if self.sent == last && self.sample.is_none() {
                self.sample = Some((self.sent, self.now));
            }
        }
        let offset = (self.sent - 1) * self.block_size;
        let length = self.size.saturating_sub(offset).min(self.block_size);
        Some(Output::Data { block: wire_number(self.sent), offset, length: low_16(length) })
    }

    fn acknowledge(&mut self, block: u16, now: Instant) {
        let ahead = u64::from(block.wrapping_sub(wire_number(self.acknowledged)));
        // RFC 1350 §4 and RFC 1123 §4.2.3.1: a duplicate acknowledgement is ignored, or every later block would
        // be sent twice (the Sorcerer's Apprentice). A number beyond what was sent is stray.
        if ahead == 0 || ahead > self.highest_sent - self.acknowledged {
            return;
        }
        self.heard = true;
        self.acknowledged += ahead;
        if let Some((_, since)) = self.sample.filter(|(timed, _)| *timed == self.acknowledged) {
            self.timer.observe(now.duration_since(since));
        }
        if self.acknowledged >= self.last_block() {
            self.phase = Phase::Ended(State::Completed);
            return;
        }
        // RFC 7440 §4: an acknowledgement inside the window reports a gap, and the next window begins behind it.
        // One at its end makes this the same thing; one from before a retransmission moves it forward.
        self.restart_window();
        self.progress(now);
    }

    /// Karn: what is sent a second time is not timed.
    fn restart_window(&mut self) {
        self.sample = None;
        self.sent = self.acknowledged;
    }

    fn progress(&mut self, now: Instant) {
        self.silences = 0;
        self.last_progress = now;
        self.retransmit_at = now + self.timer.interval(0);
    }
}

/// How long to wait for an acknowledgement.
#[derive(Clone, Copy, Debug)]
enum Timer {
    /// The client asked for it (RFC 2349).
    Fixed(Duration),
    Adaptive(Estimate),
}

impl Timer {
    fn interval(&self, silences: u32) -> Duration {
        match self {
            Self::Fixed(interval) => *interval,
            Self::Adaptive(estimate) => {
                let doublings = silences.min(DOUBLINGS);
                estimate.timeout().saturating_mul(1 << doublings).min(LONGEST_WAIT)
            }
        }
    }

    fn observe(&mut self, round_trip: Duration) {
        if let Self::Adaptive(estimate) = self {
            estimate.observe(round_trip);
        }
    }
}

/// RFC 6298 §2: smoothed round trip and its variation.
#[derive(Clone, Copy, Debug, Default)]
struct Estimate {
    smoothed: Option<(Duration, Duration)>,
}

impl Estimate {
    fn observe(&mut self, round_trip: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (round_trip, round_trip / 2),
            Some((mean, variation)) => {
                ((mean * 7 + round_trip) / 8, (variation * 3 + mean.abs_diff(round_trip)) / 4)
            }
        });
    }

    fn timeout(&self) -> Duration {
        match self.smoothed {
            None => FIRST_WAIT,
            Some((mean, variation)) => (mean + variation * 4).clamp(SHORTEST_WAIT, LONGEST_WAIT),
        }
    }
}

fn wire_number(block: u64) -> u16 {
    low_16(block & 0xffff)
}

fn low_16(number: u64) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// The first repetition: early enough for a boot ROM that waits one second, late enough for a slow emulator.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Boards pause for some 10 ms while they clear memory or read a hash; that is no loss.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
/// The pace at which boards repeat their own side.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// 50 ms doubled six times is beyond [`LONGEST_WAIT`].
const DOUBLINGS: u32 = 6;
/// `TFTP_FILE_TIMEOUT`, what a board allows for a whole file: nobody is waiting after that much silence.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// 0.2 + 0.4 + 0.8 + 1.6 + 2 s of waiting. A board that is still there repeats its request every 2 s, and is
/// answered by a new transfer once this one is gone.
pub const UNHEARD_SENDS: u32 = 5;

#[cfg(test)]
mod tests;
