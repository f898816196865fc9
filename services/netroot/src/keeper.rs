//! When to dial the NBD server, and what to do with the answer: the keeper's decisions, without clock or socket.
//!
//! ```text
//!           Start          Dialled ok      HandedOver ok
//!   Idle ──────────> Dialling ─────> HandingOver ─────> Up ──┐
//!                     ^   │ failed        │ failed           │ Lost, Rejected
//!                     │   v               v                  │
//!                     └── Waiting <───────┴──────────────────┘   (at once when it was up long enough)
//! ```
//!
//! There is no last try: the root of the machine is at the other end, and its I/O waits as long as it takes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// There is a network: begin.
    Start,
    /// The answer to [`Output::Dial`]: the size of the export, or none.
    Dialled(Option<u64>),
    /// The answer to [`Output::HandOver`]: whether the kernel took the connection.
    HandedOver(bool),
    /// The connection has ended.
    Lost,
    /// What the export holds cannot be the root: start over from nothing.
    Rejected,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Connect to the server and ask for the export.
    Dial,
    /// Give the new connection to the kernel.
    HandOver,
    /// Close the new connection: it is of no use.
    HangUp,
    /// Tell people.
    Say(News),
}

/// What people may want to know; numbers for the log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The connection has ended; I/O waits.
    Lost,
    /// Service is (back) there, after so long and so many failed tries.
    Up {
        /// Since it was lost, or since the start.
        after: Duration,
        /// Tries that failed.
        failures: u32,
    },
    /// The server has another thing under this name.
    WrongSize {
        /// What the machine was started from, bytes.
        expected: u64,
        /// What is offered, bytes.
        found: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Dialling,
    HandingOver { size: u64 },
    Up { since: Instant },
    Waiting { until: Instant },
}

/// A server that was killed is back within 100 ms when its supervisor is quick.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Two tries a second of 750 boards are nothing for a head that is up again, and I/O is back within two seconds: the
/// kernel takes up to 1.3 of them to repeat the requests in flight.
const LAST_DELAY: Duration = Duration::from_millis(500);
/// The server has to be given another image; nobody does that within a second.
const AFTER_REJECTION: Duration = Duration::from_secs(2);
/// A connection that lived shorter counts as another failure, so that a server that accepts and drops is
/// not dialled in a tight loop.
const STABLE: Duration = Duration::from_secs(5);

/// The machine. Call `receive` and `expire`, then drain `transmit`.
#[derive(Debug)]
pub struct Keeper {
    state: State,
    size: Option<u64>,
    down_since: Instant,
    failures: u32,
    // At most a Say, a HangUp and a Dial between two drains.
    outputs: VecDeque<Output>,
}

impl Keeper {
    /// A keeper with nothing attached.
    pub fn new(now: Instant) -> Self {
        Self { state: State::Idle, size: None, down_since: now, failures: 0, outputs: VecDeque::new() }
    }

    /// A keeper of a device that an earlier process attached.
    pub fn adopted(size: u64, now: Instant) -> Self {
        Self { state: State::Up { since: now }, size: Some(size), ..Self::new(now) }
    }

    /// Takes in what happened. What does not fit the state is late news and changes nothing, except that a
    /// connection nobody waits for is closed.
    pub fn receive(&mut self, input: Input, now: Instant) {
        match (input, self.state) {
            (Input::Start, State::Idle) => {
                self.down_since = now;
                self.dial();
            }
            (Input::Dialled(None), State::Dialling) => self.wait(now),
            (Input::Dialled(Some(size)), State::Dialling) => self.dialled(size, now),
            (Input::Dialled(Some(_)), _) => self.outputs.push_back(Output::HangUp),
            (Input::HandedOver(true), State::HandingOver { size }) => {
                self.size = Some(size);
                self.state = State::Up { since: now };
                let after = now.saturating_duration_since(self.down_since);
                self.outputs.push_back(Output::Say(News::Up { after, failures: self.failures }));
            }
            (Input::HandedOver(false), State::HandingOver { .. }) => {
                self.outputs.push_back(Output::HangUp);
                self.wait(now);
            }
            (Input::Lost, State::Up { since }) => {
                self.down_since = now;
                self.outputs.push_back(Output::Say(News::Lost));
                if now.saturating_duration_since(since) >= STABLE {
                    self.failures = 0;
                    self.dial();
                } else {
                    self.wait(now);
                }
            }
            (Input::Rejected, State::Up { .. }) => {
                self.size = None;
                self.down_since = now;
                self.state = State::Waiting { until: now + AFTER_REJECTION };
            }
            _ => {}
        }
    }

    /// Does what is due.
    pub fn expire(&mut self, now: Instant) {
        if let State::Waiting { until } = self.state
            && now >= until
        {
            self.dial();
        }
    }

    /// When to call [`Self::expire`].
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            _ => None,
        }
    }

    /// What to do next; until none.
    pub fn transmit(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn dialled(&mut self, size: u64, now: Instant) {
        match self.size {
            // A smaller device would turn reads into errors, a different one into garbage.
            Some(expected) if expected != size => {
                self.outputs.push_back(Output::Say(News::WrongSize { expected, found: size }));
                self.outputs.push_back(Output::HangUp);
                self.wait(now);
            }
            _ => {
                self.state = State::HandingOver { size };
                self.outputs.push_back(Output::HandOver);
            }
        }
    }

    fn dial(&mut self) {
        self.state = State::Dialling;
        self.outputs.push_back(Output::Dial);
    }

    fn wait(&mut self, now: Instant) {
        let delay = FIRST_DELAY.saturating_mul(1 << self.failures.min(8)).min(LAST_DELAY);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Waiting { until: now + delay };
    }
}

#[cfg(test)]
mod tests;
