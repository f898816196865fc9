//! The DHCP server (RFC 2131 §4.3) as a clockless machine, made for boards that boot from it.
//!
//! ```text
//!   DISCOVER ──> bind (stored) ──> OFFER            Pi 3 boards take the address from here on
//!   REQUEST  ──> selecting:  54 is ours?  ── ACK / NAK
//!                init-reboot, renewing, rebinding: same address? ── ACK; another's: NAK; free: adopted, ACK
//!   RELEASE  ──> lease over, binding stays          DECLINE ──> address set aside, within limits
//!   INFORM   ──> settings only
//! ```
//!
//! An address is a function of the board ([`bindings`](self)): it is bound when first offered, because a Pi 3 boot ROM
//! uses an offered address without ever requesting it, and it stays bound. The driver hands in messages, calls
//! `expire` at `deadline`, and after each call drains `transmit`. [`Output::Store`] comes before the answer that
//! depends on it: that answer may leave only when the record is on stable storage.
//!
//! *Deviations*: the Ethernet address identifies a client even when it sends option 61, because the firmware of the same
//! board does not. Option 50 of a DISCOVER is ignored: numbers are given in order of first appearance. Options are sent
//! whether asked for or not.
//!
//! *Not supported*: BOOTP (ignored), proxy DHCP, address conflict detection by the server, rapid commit.

mod bindings;
mod class;
mod output;
mod reply;
mod settings;

pub use class::Class;
pub use output::{Counters, Output, Record, Reply, Sighting, To};
pub use reply::PI_VENDOR_OPTIONS;
pub use settings::{Boot, MAX_POOL, Settings, SettingsError, Subnet};

use crate::{MAX_OVER_ETHERNET, MacAddr, Message, MessageType, Op};
use bindings::Bindings;
use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// A Pi 3B ROM that is answered, and then served by TFTP, within about 2 s locks up; it asks again after 5 s.
const PI3_ROM_DELAY: Duration = Duration::from_millis(1500);
/// The frame after the OFFER that pushes it out of a Pi 3's Ethernet chip.
const WAKE_AFTER: Duration = Duration::from_millis(100);
/// Answers waiting to be due. A board whose answer is dropped asks again; 30 of them on one switch is the most seen.
const MAX_DELAYED: usize = 1024;
/// An offer nobody has to confirm may be given to somebody else after this, once no other address is left.
const OFFER_HOLD: Duration = Duration::from_secs(60);
/// The kernel must not ask a Pi for its Ethernet address while it boots: some stop answering. A boot takes less.
const PIN_TIME: Duration = Duration::from_secs(300);
/// An exhausted pool is said this often.
const EXHAUSTED_EVERY: Duration = Duration::from_secs(60);
/// RFC 2131 §2: every client takes 576 octets of IP datagram: less 20 and 8.
const IP_AND_UDP: u16 = 28;

/// What the driver tells the machine.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A message came in on port 67.
    Message(&'a Message),
    /// The name servers to tell clients from now on.
    DnsServers(&'a [Ipv4Addr]),
}

/// The machine.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    bindings: Bindings,
    ready: VecDeque<Output>,
    /// Not due yet; every delay is one of two constants, so each queue is in order.
    delayed: VecDeque<(Instant, (Reply, Sighting))>,
    wakes: VecDeque<(Instant, Ipv4Addr)>,
    pins: VecDeque<(Instant, Ipv4Addr)>,
    exhausted_said: Option<Instant>,
    counters: Counters,
}

impl Server {
    /// A server that knows of `records`, in the order they were stored. Those that fit no pool are forgotten.
    pub fn new(settings: Settings, records: impl IntoIterator<Item = Record>, now: Instant) -> Self {
        let reserved = settings.reserved();
        let bindings = Bindings::restore(settings.subnets(), reserved, records, now + settings.lease_time);
        Self {
            settings,
            bindings,
            ready: VecDeque::new(),
            delayed: VecDeque::new(),
            wakes: VecDeque::new(),
            pins: VecDeque::new(),
            exhausted_said: None,
            counters: Counters::default(),
        }
    }

    /// Every binding: what a compacted journal holds.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        self.bindings.records()
    }

    /// How many bindings there are.
    pub fn bound(&self) -> usize {
        self.bindings.len()
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// When to call [`expire`](Self::expire).
    pub fn deadline(&self) -> Option<Instant> {
        let delayed = self.delayed.front().map(|(due, _)| *due);
        let wake = self.wakes.front().map(|(due, _)| *due);
        let pin = self.pins.front().map(|(due, _)| *due);
        [delayed, wake, pin].into_iter().flatten().min()
    }

    /// What to do next; call until it answers none.
    pub fn transmit(&mut self) -> Option<Output> {
        self.ready.pop_front()
    }

    /// Does what is due at `now`.
    pub fn expire(&mut self, now: Instant) {
        while let Some(answer) = pop_due(&mut self.delayed, now) {
            self.send_delayed(answer, now);
        }
        while let Some(address) = pop_due(&mut self.wakes, now) {
            self.ready.push_back(Output::Wake(address));
        }
        while let Some(address) = pop_due(&mut self.pins, now) {
            self.unpin_or_wait(address, now);
        }
    }

    /// Takes in what happened.
    pub fn receive(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Message(message) => {
                if self.message_arrived(message, now).is_none() {
                    self.counters.ignored += 1;
                }
            }
            Input::DnsServers(servers) => self.settings.set_dns_servers(servers),
        }
    }

    /// None: nothing to do with us.
    fn message_arrived(&mut self, message: &Message, now: Instant) -> Option<()> {
        if message.op != Op::Request {
            return None;
        }
        let mac = message.mac()?;
        let subnet = self.settings.subnet_of(message)?;
        match message.message_type()? {
            MessageType::Discover => self.discover(message, mac, subnet, now),
            MessageType::Request => self.request(message, mac, subnet, now),
            MessageType::Decline => self.decline(message, mac, now),
            MessageType::Release => self.release(message, mac, now),
            MessageType::Inform => self.inform(message, mac, subnet),
            MessageType::Offer | MessageType::Ack | MessageType::Nak => None,
        }
    }

    fn discover(&mut self, message: &Message, mac: MacAddr, subnet: usize, now: Instant) -> Option<()> {
        let class = Class::of(message);
        self.seen(MessageType::Discover, message, mac, self.bindings.address_of(mac), class);
        if class == Class::Pi3Rom && self.delayed.iter().any(|(_, (_, waiting))| waiting.mac == mac) {
            return Some(());
        }
        let Ok((address, record)) = self.bindings.bind(subnet, mac, now) else {
            self.say_exhausted(mac, now);
            return Some(());
        };
        self.store(record);
        let hold = if class.is_pi() { self.settings.lease_time } else { OFFER_HOLD };
        let serial = class::serial(message, mac);
        let binding = self.bindings.get_mut(address)?;
        binding.ends = binding.ends.max(now + hold);
        binding.confirmed |= class.is_pi();
        binding.last = Some((message.xid, class));
        binding.serial = serial.or(binding.serial);
        if class.is_pi() {
            self.pin(Record { address, mac }, now);
        }
        let offer = self.lease(message, MessageType::Offer, address, class, subnet)?;
        match class {
            Class::Pi3Rom if self.delayed.len() >= MAX_DELAYED => self.counters.delayed_dropped += 1,
            Class::Pi3Rom => self.delayed.push_back((now + PI3_ROM_DELAY, offer)),
            Class::Pi3 => self.send_waking(offer, now),
            _ => self.send(offer),
        }
        Some(())
    }

    /// RFC 2131 §4.3.2 tells the four kinds of REQUEST by options 54 and 50 and by ciaddr.
    fn request(&mut self, message: &Message, mac: MacAddr, subnet: usize, now: Instant) -> Option<()> {
        let bound = self.bindings.address_of(mac);
        let server = message.options.server_id();
        if server.is_some_and(|server| server != self.settings.server) {
            self.chose_another(bound, message.xid, now);
            return None;
        }
        let asked = match message.ciaddr.is_unspecified() {
            true => message.options.requested_address()?,
            false => message.ciaddr,
        };
        let class = self.class_of_request(message, bound);
        let right = bound == Some(asked) && self.settings.subnets().get(subnet)?.contains(asked);
        if !right {
            // Selecting: it asks us, and not for what we offered. Otherwise it may be some other server's client.
            let authority = server.is_some() || self.settings.authoritative;
            if !authority {
                return None;
            }
            let adopted =
                self.settings.authoritative.then(|| self.bindings.adopt(subnet, mac, asked, now)).flatten();
            if adopted.is_none() {
                self.seen(MessageType::Request, message, mac, Some(asked), class);
                self.refuse(message, mac, class);
                return Some(());
            }
            self.store(adopted);
        }
        self.seen(MessageType::Request, message, mac, Some(asked), class);
        let ends = now + self.settings.lease_time;
        let binding = self.bindings.get_mut(asked)?;
        binding.ends = binding.ends.max(ends);
        binding.confirmed = true;
        let ack = self.lease(message, MessageType::Ack, asked, class, subnet)?;
        self.send(ack);
        Some(())
    }

    /// A Pi 4's REQUEST lacks option 60: the DISCOVER of the same transaction tells what it is.
    fn class_of_request(&self, message: &Message, bound: Option<Ipv4Addr>) -> Class {
        let shown = Class::of(message);
        let remembered =
            bound.and_then(|address| self.bindings.get(address)).and_then(|binding| binding.last);
        match remembered {
            Some((xid, class)) if shown == Class::Plain && xid == message.xid => class,
            _ => shown,
        }
    }

    /// The client took another server's offer: ours need not be held.
    fn chose_another(&mut self, bound: Option<Ipv4Addr>, xid: u32, now: Instant) {
        let Some(binding) = bound.and_then(|address| self.bindings.get_mut(address)) else { return };
        if !binding.confirmed && binding.last.is_some_and(|(offered, _)| offered == xid) {
            binding.ends = now;
        }
    }

    fn decline(&mut self, message: &Message, mac: MacAddr, now: Instant) -> Option<()> {
        let address = message.options.requested_address()?;
        if message.options.server_id().is_some_and(|server| server != self.settings.server) {
            return None;
        }
        self.seen(MessageType::Decline, message, mac, Some(address), Class::of(message));
        if self.bindings.decline(mac, address, now) {
            self.ready.push_back(Output::Unpin(address));
        } else {
            self.counters.declines_refused += 1;
        }
        Some(())
    }

    fn release(&mut self, message: &Message, mac: MacAddr, now: Instant) -> Option<()> {
        let address = message.ciaddr;
        let ours = message.options.server_id().is_none_or(|server| server == self.settings.server);
        if !ours || self.bindings.address_of(mac) != Some(address) {
            return None;
        }
        self.bindings.get_mut(address)?.ends = now;
        self.seen(MessageType::Release, message, mac, Some(address), Class::of(message));
        Some(())
    }

    fn inform(&mut self, message: &Message, mac: MacAddr, subnet: usize) -> Option<()> {
        // RFC 2131 §4.3.5: the answer goes to ciaddr. Nobody may have us send it beyond the networks we serve.
        let subnet = self.settings.subnets().get(subnet).filter(|subnet| subnet.contains(message.ciaddr))?;
        let answer = reply::inform(message, subnet, &self.settings);
        self.seen(MessageType::Inform, message, mac, Some(message.ciaddr), Class::Plain);
        self.ready.push_back(Output::Reply(Box::new(Reply {
            to: To::Client(message.ciaddr),
            limit: limit(message),
            message: answer,
        })));
        Some(())
    }

    fn refuse(&mut self, message: &Message, mac: MacAddr, class: Class) {
        let nak = reply::nak(message, &self.settings);
        // RFC 2131 §4.1: a NAK is broadcast whatever the client wishes, for it has no right to its address.
        let to = match message.giaddr.is_unspecified() {
            true => To::Broadcast,
            false => To::Relay(message.giaddr),
        };
        self.ready.push_back(Output::Reply(Box::new(Reply { message: nak, to, limit: limit(message) })));
        self.seen(MessageType::Nak, message, mac, None, class);
    }

    /// A lease granted or offered, and the report of it.
    fn lease(
        &self,
        request: &Message,
        kind: MessageType,
        address: Ipv4Addr,
        class: Class,
        subnet: usize,
    ) -> Option<(Reply, Sighting)> {
        let subnet = self.settings.subnets().get(subnet)?;
        let mac = request.mac()?;
        let message = reply::lease(request, kind, address, class, subnet, &self.settings);
        let to = if !request.giaddr.is_unspecified() {
            To::Relay(request.giaddr)
        } else if !message.ciaddr.is_unspecified() {
            To::Client(message.ciaddr)
        } else if request.wants_broadcast() {
            To::Broadcast
        } else {
            To::Station { address, mac }
        };
        let serial = self.bindings.get(address).and_then(|binding| binding.serial);
        let sighting = Sighting { kind, mac, address: Some(address), class, serial };
        Some((Reply { message, to, limit: limit(request) }, sighting))
    }

    fn send(&mut self, (reply, sighting): (Reply, Sighting)) {
        self.ready.push_back(Output::Reply(Box::new(reply)));
        self.ready.push_back(Output::Seen(sighting));
    }

    /// The address may have changed hands while the answer waited; if not, the lease runs from now.
    fn send_delayed(&mut self, answer: (Reply, Sighting), now: Instant) {
        let (reply, sighting) = &answer;
        let binding = self.bindings.get_mut(reply.message.yiaddr);
        if let Some(binding) = binding.filter(|binding| binding.mac == sighting.mac) {
            binding.ends = binding.ends.max(now + self.settings.lease_time);
            self.send_waking(answer, now);
        }
    }

    /// With a frame before and after it, for a chip that holds a frame back until the next one comes.
    fn send_waking(&mut self, answer: (Reply, Sighting), now: Instant) {
        let address = answer.0.message.yiaddr;
        self.ready.push_back(Output::Wake(address));
        self.send(answer);
        if self.wakes.len() < MAX_DELAYED {
            self.wakes.push_back((now + WAKE_AFTER, address));
        }
    }

    fn seen(
        &mut self,
        kind: MessageType,
        message: &Message,
        mac: MacAddr,
        address: Option<Ipv4Addr>,
        class: Class,
    ) {
        let known =
            address.and_then(|a| self.bindings.get(a)).filter(|b| b.mac == mac).and_then(|b| b.serial);
        let serial = class::serial(message, mac).or(known);
        self.ready.push_back(Output::Seen(Sighting { kind, mac, address, class, serial }));
    }

    fn store(&mut self, record: Option<Record>) {
        let Some(record) = record else { return };
        self.ready.push_back(Output::Store(record));
        // The kernel may still be told of a former owner.
        if self.pins.iter().any(|(_, pinned)| *pinned == record.address) {
            self.ready.push_back(Output::Unpin(record.address));
        }
    }

    fn pin(&mut self, record: Record, now: Instant) {
        let Some(binding) = self.bindings.get_mut(record.address) else { return };
        if binding.pinned_until.replace(now + PIN_TIME).is_none() {
            self.pins.push_back((now + PIN_TIME, record.address));
        }
        self.ready.push_back(Output::Pin(record));
    }

    fn unpin_or_wait(&mut self, address: Ipv4Addr, now: Instant) {
        let binding = self.bindings.get_mut(address);
        match binding.as_ref().and_then(|binding| binding.pinned_until) {
            Some(until) if until > now => {
                // The queue stays in order: nothing in it is due later than a pin set just now.
                let at = self.pins.partition_point(|(due, _)| *due <= until);
                self.pins.insert(at, (until, address));
            }
            _ => {
                if let Some(binding) = binding {
                    binding.pinned_until = None;
                }
                self.ready.push_back(Output::Unpin(address));
            }
        }
    }

    fn say_exhausted(&mut self, mac: MacAddr, now: Instant) {
        self.counters.exhausted += 1;
        if self.exhausted_said.is_none_or(|said| now.saturating_duration_since(said) >= EXHAUSTED_EVERY) {
            self.exhausted_said = Some(now);
            self.ready.push_back(Output::Exhausted(mac));
        }
    }
}

/// The head of a queue ordered by time, once its time has come.
fn pop_due<T>(queue: &mut VecDeque<(Instant, T)>, now: Instant) -> Option<T> {
    if queue.front()?.0 > now {
        return None;
    }
    queue.pop_front().map(|(_, item)| item)
}

/// What the client can take and a frame can carry; the relay agent takes option 82 out again before the client sees it.
fn limit(request: &Message) -> usize {
    let datagram = request.options.max_message_size().unwrap_or(576);
    let relayed = request.options.relay_agent().map_or(0, |information| 2 + information.len());
    (usize::from(datagram - IP_AND_UDP) + relayed).min(MAX_OVER_ETHERNET)
}

#[cfg(test)]
mod tests;
