//! What the machine wants done, as values.

use super::Class;
use crate::{MacAddr, Message, MessageType};
use std::net::Ipv4Addr;

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Put on stable storage, before any reply for this address leaves.
    Store(Record),
    /// Send.
    Reply(Box<Reply>),
    /// Ask by ARP who has the address: the frame matters, not the answer.
    Wake(Ipv4Addr),
    /// Tell the kernel for good where the address is.
    Pin(Record),
    /// Let the kernel find out again.
    Unpin(Ipv4Addr),
    /// Tell the cluster what was seen.
    Seen(Sighting),
    /// A board got no answer because every address is in use. Said at most once a minute.
    Exhausted(MacAddr),
}

/// A board has an address. Later records override earlier ones about the same address or the same board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The address.
    pub address: Ipv4Addr,
    /// Whose it is.
    pub mac: MacAddr,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The message.
    pub message: Message,
    /// Its receiver.
    pub to: To,
    /// Octets it may have at most.
    pub limit: usize,
}

/// Where an answer goes (RFC 2131 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// To the station `mac` at `address`, port 68, without ARP: it does not answer for that address yet.
    Station {
        /// IPv4 destination.
        address: Ipv4Addr,
        /// Ethernet destination.
        mac: MacAddr,
    },
    /// To 255.255.255.255 port 68, on the link.
    Broadcast,
    /// To a client that has this address, port 68, by the routes there are.
    Client(Ipv4Addr),
    /// To a relay agent, port 67.
    Relay(Ipv4Addr),
}

/// One message from or to a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// Which message.
    pub kind: MessageType,
    /// Which board.
    pub mac: MacAddr,
    /// Its address, once it has one.
    pub address: Option<Ipv4Addr>,
    /// Its class.
    pub class: Class,
    /// Its serial number, as far as option 97 tells.
    pub serial: Option<u32>,
}

/// What happened so far that is not worth a line each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages not for us: replies, BOOTP, other servers, other networks, unknown clients.
    pub ignored: u64,
    /// DISCOVERs without an answer because no address was left.
    pub exhausted: u64,
    /// DECLINEs not believed.
    pub declines_refused: u64,
    /// Delayed answers dropped because too many were waiting.
    pub delayed_dropped: u64,
}
