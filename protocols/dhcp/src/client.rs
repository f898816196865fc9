//! The DHCP client (RFC 2131 §4.4) as a clockless machine: it gets a lease and keeps it for as long as it is driven.
//!
//! ```text
//!             DISCOVER           OFFER, send REQUEST            ACK
//!   Init ───────────> Selecting ────────────────> Requesting ──────────> Bound
//!    ^  ^                 ^    no answer to 4       │                   │ ^  ^ ACK
//!    │  └── wait ─────────┴─────────────────────────┤ NAK            T1 v │  │
//!    │                                              │             Renewing│  │
//!    │                        Rebooting ── ACK ─────┼──> Bound       T2 v    │
//!    │                 NAK, or no answer to 3: Init │             Rebinding──┘
//!    └──────────── lease over, or NAK: Deconfigure ─┴──────────────────┘
//! ```
//!
//! The driver owns the socket, the clock and the interface: it hands in every message that arrives, calls `expire` at
//! `deadline`, and after each call drains `transmit`. Messages it must send as raw frames while the interface has no
//! address ([`crate::frame`]).
//!
//! *Deviations*: no random wait of 1 to 10 s before the first DISCOVER (RFC 2131 §4.4.1), and the first repetition
//! after about 1 s, not 4: a node's whole boot is meant to take 5 s, and the first frame after link-up is the one
//! that gets lost. The back-off doubles to 64 s all the same. The first usable OFFER wins.
//!
//! *Not supported*: address conflict detection itself (ARP is the driver's; it says [`Input::Conflict`]), INFORM.

mod lease;
mod types;

pub use lease::{Lease, Lifetime};
pub use types::{Config, Ended, Input, Output, State};

use crate::{Message, MessageType, Op, code};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// First repetition of an unanswered message.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// RFC 2131 §4.1: the back-off ends at 64 s.
const LAST_RETRY: Duration = Duration::from_secs(64);
/// 1 + 2 + 4 + 8 s: longer than a server that restarts, shorter than somebody's patience.
const REQUEST_TRIES: u32 = 4;
/// After 1 + 2 + 4 s nobody here remembers the address.
const REBOOT_TRIES: u32 = 3;
/// RFC 2131 §3.1 step 5: after DECLINE wait at least 10 s before starting again.
const AFTER_DECLINE: Duration = Duration::from_secs(10);

/// The machine.
#[derive(Debug)]
pub struct Client {
    config: Config,
    state: State,
    lease: Option<Lease>,
    xid: u32,
    /// When this attempt to get a lease began: `secs` counts from here.
    began: Instant,
    /// What `secs` said in the last DISCOVER: the REQUEST repeats it (RFC 2131 §4.1).
    secs: u16,
    /// Messages sent in this state without an answer.
    tries: u32,
    /// Refusals and silences since the last lease: they slow the next beginning down.
    failures: u32,
    wake: Option<Instant>,
    random: u64,
    // One of each is enough: a later message or event makes an undrained earlier one obsolete.
    message: Option<Output>,
    event: Option<Output>,
}

impl Client {
    /// A client that begins at `now` (call `expire`). `seed` chooses transaction numbers and the jitter of repetitions:
    /// it must differ between machines and between starts.
    pub fn new(config: Config, seed: u64, now: Instant) -> Self {
        Self {
            config,
            state: State::Init,
            lease: None,
            xid: 0,
            began: now,
            secs: 0,
            tries: 0,
            failures: 0,
            wake: Some(now),
            random: seed,
            message: None,
            event: None,
        }
    }

    /// A client that had `address` before and asks to have it again (INIT-REBOOT, RFC 2131 §4.4.2).
    pub fn resume(config: Config, address: Ipv4Addr, seed: u64, now: Instant) -> Self {
        let mut client = Self::new(config, seed, now);
        client.reboot(address, now);
        client
    }

    /// Where the client stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// The lease, while there is one.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// When to call [`expire`](Self::expire).
    pub fn deadline(&self) -> Option<Instant> {
        self.wake
    }

    /// What to do next; call until it answers none.
    pub fn transmit(&mut self) -> Option<Output> {
        // A RELEASE must leave before the address it is sent from does.
        self.message.take().or_else(|| self.event.take())
    }

    /// Takes in what happened.
    pub fn receive(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Message(message) => self.message_arrived(message, now),
            Input::Verify => {
                if let Some(lease) = &self.lease {
                    self.reboot(lease.address, now);
                } else if self.state != State::Stopped {
                    self.discover(now);
                }
            }
            Input::Conflict => self.decline(now),
            Input::Release => self.release(),
        }
    }

    /// Does what is due at `now`.
    pub fn expire(&mut self, now: Instant) {
        if self.wake.is_none_or(|wake| now < wake) {
            return;
        }
        let lifetime = self.lease.as_ref().and_then(|lease| lease.lifetime);
        if lifetime.is_some_and(|lifetime| now >= lifetime.expires) {
            self.end_lease(Ended::Expired);
            return self.discover(now);
        }
        match self.state {
            State::Init => self.discover(now),
            State::Selecting => self.send_discover(now),
            State::Requesting { .. } if self.tries < REQUEST_TRIES => self.send_request(now),
            State::Requesting { .. } => self.begin_again(now),
            State::Rebooting { .. } if self.tries < REBOOT_TRIES => self.send_request(now),
            // RFC 2131 §3.2 step 4: nobody answers, so the lease is used for what is left of it.
            State::Rebooting { .. } if self.lease.is_some() => {
                self.state = State::Bound;
                self.wake = lifetime.map(|lifetime| lifetime.renew.max(now));
            }
            State::Rebooting { .. } => self.discover(now),
            State::Bound | State::Renewing | State::Rebinding => self.extend(now),
            State::Stopped => self.wake = None,
        }
    }

    fn message_arrived(&mut self, message: &Message, now: Instant) {
        if message.op != Op::Reply || message.xid != self.xid || message.mac() != Some(self.config.mac) {
            return;
        }
        let server = message.options.server_id();
        if self.config.server.is_some() && server != self.config.server {
            return;
        }
        match (message.message_type(), self.state) {
            (Some(MessageType::Offer), State::Selecting) => {
                let (Some(server), Some(_)) = (server, Lease::read(message, now)) else { return };
                self.state = State::Requesting { address: message.yiaddr, server };
                self.tries = 0;
                self.send_request(now);
            }
            (Some(MessageType::Ack), _) if self.awaits_ack(message) => {
                let Some(lease) = Lease::read(message, now) else { return };
                self.bind(lease);
            }
            (Some(MessageType::Nak), _) if self.awaits_nak(server) => {
                self.end_lease(Ended::Refused);
                self.begin_again(now);
            }
            _ => {}
        }
    }

    fn awaits_ack(&self, message: &Message) -> bool {
        let server = message.options.server_id();
        match self.state {
            State::Requesting { address, server: chosen } => {
                message.yiaddr == address && server == Some(chosen)
            }
            State::Rebooting { address } => message.yiaddr == address,
            State::Renewing | State::Rebinding => {
                self.lease.as_ref().is_some_and(|lease| lease.address == message.yiaddr)
            }
            _ => false,
        }
    }

    /// A refusal counts from the server that was asked, or from any when all were.
    fn awaits_nak(&self, server: Option<Ipv4Addr>) -> bool {
        match self.state {
            State::Requesting { server: chosen, .. } => server == Some(chosen),
            State::Renewing => self.lease.as_ref().is_some_and(|lease| server == Some(lease.server)),
            State::Rebinding | State::Rebooting { .. } => true,
            _ => false,
        }
    }

    fn bind(&mut self, lease: Lease) {
        self.state = State::Bound;
        self.failures = 0;
        self.wake = lease.lifetime.map(|lifetime| lifetime.renew);
        self.event = Some(Output::Configure(lease.clone()));
        self.lease = Some(lease);
    }

    fn end_lease(&mut self, reason: Ended) {
        if self.lease.take().is_some() {
            self.event = Some(Output::Deconfigure(reason));
        }
    }

    /// Back to the start after a refusal or a silence, the later the more of them there were.
    fn begin_again(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.state = State::Init;
        let wait = self.jittered(backoff(self.failures - 1));
        self.wake = Some(now + wait);
    }

    fn discover(&mut self, now: Instant) {
        self.state = State::Selecting;
        self.began = now;
        self.new_transaction();
        self.send_discover(now);
    }

    fn send_discover(&mut self, now: Instant) {
        self.secs = self.elapsed_secs(now);
        let mut message = self.blank(MessageType::Discover);
        self.push_requests(&mut message);
        self.message = Some(Output::Broadcast(message));
        self.retry_later(now);
    }

    fn reboot(&mut self, address: Ipv4Addr, now: Instant) {
        self.state = State::Rebooting { address };
        self.began = now;
        self.secs = 0;
        self.new_transaction();
        self.send_request(now);
    }

    /// The REQUEST of SELECTING and INIT-REBOOT (RFC 2131 §4.3.2): broadcast, address in option 50.
    fn send_request(&mut self, now: Instant) {
        let (address, server) = match self.state {
            State::Requesting { address, server } => (address, Some(server)),
            State::Rebooting { address } => (address, None),
            _ => return,
        };
        let mut message = self.blank(MessageType::Request);
        if let Some(server) = server {
            message.options.push_address(code::SERVER_ID, server);
        }
        message.options.push_address(code::REQUESTED_ADDRESS, address);
        self.push_requests(&mut message);
        self.message = Some(Output::Broadcast(message));
        self.retry_later(now);
    }

    /// Asks for more time: from T1 on the server, from T2 on everybody.
    fn extend(&mut self, now: Instant) {
        let Some(lease) = &self.lease else { return self.discover(now) };
        let (address, server) = (lease.address, lease.server);
        let Some(lifetime) = lease.lifetime else {
            self.wake = None;
            return;
        };
        let rebinding = now >= lifetime.rebind;
        if self.state == State::Bound {
            self.began = now;
            self.new_transaction();
        }
        self.state = if rebinding { State::Rebinding } else { State::Renewing };
        self.secs = self.elapsed_secs(now);
        let mut message = self.blank(MessageType::Request);
        message.ciaddr = address;
        self.push_requests(&mut message);
        self.message = Some(match rebinding {
            true => Output::Broadcast(message),
            false => Output::Unicast { message, server },
        });
        self.wake = Some(lifetime.next_try(now));
    }

    fn decline(&mut self, now: Instant) {
        let Some(lease) = &self.lease else { return };
        let (address, server) = (lease.address, lease.server);
        self.new_transaction();
        // RFC 2131 §4.4.4 and table 5: no ciaddr, no parameter request list.
        let mut message = self.bare(MessageType::Decline);
        message.options.push_address(code::REQUESTED_ADDRESS, address);
        message.options.push_address(code::SERVER_ID, server);
        self.message = Some(Output::Broadcast(message));
        self.end_lease(Ended::GivenUp);
        self.state = State::Init;
        self.failures = self.failures.saturating_add(1);
        let wait = self.jittered(backoff(self.failures - 1)).max(AFTER_DECLINE);
        self.wake = Some(now + wait);
    }

    fn release(&mut self) {
        if let Some(lease) = &self.lease {
            let (address, server) = (lease.address, lease.server);
            self.new_transaction();
            let mut message = self.bare(MessageType::Release);
            message.ciaddr = address;
            message.options.push_address(code::SERVER_ID, server);
            self.message = Some(Output::Unicast { message, server });
        } else {
            self.message = None;
        }
        self.end_lease(Ended::GivenUp);
        self.state = State::Stopped;
        self.wake = None;
    }

    fn new_transaction(&mut self) {
        // The upper half of splitmix64 is as random as the seed.
        self.xid = u32::try_from(self.next_random() >> 32).unwrap_or_default();
        self.tries = 0;
    }

    /// A message with type and client identifier only.
    fn bare(&self, message_type: MessageType) -> Message {
        let mut message = Message::request(self.config.mac, self.xid);
        message.options.push_message_type(message_type);
        if let Some(id) = &self.config.client_id {
            message.options.push(code::CLIENT_ID, id);
        }
        message
    }

    fn blank(&self, message_type: MessageType) -> Message {
        let mut message = self.bare(message_type);
        message.secs = self.secs;
        message.set_broadcast(self.config.broadcast);
        message
    }

    fn push_requests(&self, message: &mut Message) {
        message.options.push_u16(code::MAX_MESSAGE_SIZE, 1472);
        if let Some(class) = &self.config.vendor_class {
            message.options.push(code::VENDOR_CLASS, class);
        }
        if let Some(name) = &self.config.host_name {
            message.options.push(code::HOST_NAME, name);
        }
        message.options.push(code::PARAMETER_REQUEST_LIST, &self.config.parameter_request_list);
    }

    fn elapsed_secs(&self, now: Instant) -> u16 {
        u16::try_from(now.saturating_duration_since(self.began).as_secs()).unwrap_or(u16::MAX)
    }

    fn retry_later(&mut self, now: Instant) {
        let wait = self.jittered(backoff(self.tries));
        self.tries = self.tries.saturating_add(1);
        let expires = self.lease.as_ref().and_then(|lease| lease.lifetime).map(|lifetime| lifetime.expires);
        self.wake = Some(expires.map_or(now + wait, |expires| expires.min(now + wait)));
    }

    /// Up to a quarter more or less, so that boards powered on together do not stay together (RFC 2131 §4.1 asks for
    /// one second either way).
    fn jittered(&mut self, wait: Duration) -> Duration {
        let share = u32::try_from(self.next_random() >> 32).unwrap_or_default() % 512;
        wait * (768 + share) / 1024
    }

    /// splitmix64: small, and every seed is a good seed.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn backoff(tries: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << tries.min(6)).min(LAST_RETRY)
}

#[cfg(test)]
mod tests;
