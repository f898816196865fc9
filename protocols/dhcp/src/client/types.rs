//! What goes into the machine and what comes out of it.

use super::Lease;
use crate::{MacAddr, Message, code};
use std::net::Ipv4Addr;

/// Who the client is and what it asks for.
#[derive(Debug, Clone)]
pub struct Config {
    /// The interface's Ethernet address.
    pub mac: MacAddr,
    /// Option 61; none: the server goes by the Ethernet address.
    pub client_id: Option<Vec<u8>>,
    /// Option 12.
    pub host_name: Option<String>,
    /// Option 60.
    pub vendor_class: Option<String>,
    /// Only take leases of this server (its option 54).
    pub server: Option<Ipv4Addr>,
    /// Ask for broadcast answers: for a driver without a packet socket.
    pub broadcast: bool,
    /// Option 55. RFC 3442: 121 stands before 3.
    pub parameter_request_list: Vec<u8>,
}

impl Config {
    /// A client that takes any server's lease and asks for what a host usually needs.
    pub fn new(mac: MacAddr) -> Self {
        Self {
            mac,
            client_id: None,
            host_name: None,
            vendor_class: None,
            server: None,
            broadcast: false,
            parameter_request_list: vec![
                code::SUBNET_MASK,
                code::CLASSLESS_ROUTES,
                code::ROUTERS,
                code::DNS_SERVERS,
                code::HOST_NAME,
                code::DOMAIN_NAME,
                code::INTERFACE_MTU,
                code::BROADCAST_ADDRESS,
                code::NTP_SERVERS,
                code::DOMAIN_SEARCH,
            ],
        }
    }
}

/// What the driver tells the machine.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A message came in on port 68.
    Message(&'a Message),
    /// The link was away and is back: ask whether the lease still holds here (INIT-REBOOT).
    Verify,
    /// Another station answers for the leased address: decline it and get another.
    Conflict,
    /// The address is no longer needed: give it back and fall silent.
    Release,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to 255.255.255.255 port 67, from port 68 of the message's `ciaddr`.
    Broadcast(Message),
    /// Send to port 67 of `server`, from port 68 of the message's `ciaddr`.
    Unicast {
        /// What to send.
        message: Message,
        /// Where to.
        server: Ipv4Addr,
    },
    /// Set the interface up accordingly. Comes with every ACK, so also when only the times changed.
    Configure(Lease),
    /// Take the address away again. A machine whose root hangs on the address may decide to keep it when the reason is
    /// [`Ended::Expired`]: the client goes on looking for a lease either way.
    Deconfigure(Ended),
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// No server extended it.
    Expired,
    /// A server said NAK.
    Refused,
    /// The driver said so: conflict or release.
    GivenUp,
}

/// Where the client stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waits before it begins (again).
    Init,
    /// DISCOVER is out.
    Selecting,
    /// An offer is taken, REQUEST is out.
    Requesting {
        /// What was offered.
        address: Ipv4Addr,
        /// By whom.
        server: Ipv4Addr,
    },
    /// Asks whether an address it had still holds.
    Rebooting {
        /// That address.
        address: Ipv4Addr,
    },
    /// Has a lease.
    Bound,
    /// T1 is over: asks its server.
    Renewing,
    /// T2 is over: asks any server.
    Rebinding,
    /// Released.
    Stopped,
}
