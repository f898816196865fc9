//! Network links by rtnetlink: which there are, whether they carry, and giving them an address.
//!
//! Specification: rtnetlink(7), include/uapi/linux/{rtnetlink,if_link,if_addr}.h.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use dhcp::MacAddr;
use nix::sys::socket::SockProtocol;

use crate::netlink::{ACT, DUMP, Message, REPLACE, Request, Socket, attributes, u16_at, u32_at};

/// An Ethernet link as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Hardware address.
    pub mac: MacAddr,
    /// Administratively up.
    pub up: bool,
    /// Up and with a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
}

/// The multicast group that tells of links (`RTMGRP_LINK`).
pub const LINK_GROUP: u32 = 1;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFINFO_BYTES: usize = 16;
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;
const ARPHRD_ETHER: u16 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;

/// What a message of the link group says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A link is there, or has changed.
    Is(Link),
    /// A link is gone.
    Gone(u32),
}

impl Change {
    /// Takes a message apart; `None` when it is not about an Ethernet link.
    pub fn parse(message: Message<'_>) -> Option<Self> {
        match message.kind {
            RTM_NEWLINK => parse_link(message.payload).map(Self::Is),
            RTM_DELLINK => u32_at(message.payload, 4).map(Self::Gone),
            _ => None,
        }
    }
}

/// `struct ifinfomsg`: family u8, pad u8, type u16, index i32, flags u32, change u32.
fn parse_link(payload: &[u8]) -> Option<Link> {
    let (kind, index, flags) = (u16_at(payload, 2)?, u32_at(payload, 4)?, u32_at(payload, 8)?);
    let get =
        |wanted| attributes(payload, IFINFO_BYTES).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let name = std::str::from_utf8(get(IFLA_IFNAME)?).ok()?.trim_end_matches('\0');
    let mac = MacAddr(get(IFLA_ADDRESS)?.try_into().ok()?);
    let legal = kind == ARPHRD_ETHER && !name.is_empty() && !name.contains('/');
    legal.then(|| Link {
        index,
        name: name.to_owned(),
        mac,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
    })
}

/// A wired adapter: has a device behind it (bridges and tunnels have none) and no radio.
pub fn is_wired(name: &str) -> bool {
    let folder = Path::new("/sys/class/net").join(name);
    folder.join("device").exists() && !folder.join("wireless").exists() && !folder.join("phy80211").exists()
}

/// The acting half: a socket through which links are listed and changed.
#[derive(Debug)]
pub struct Links(Socket);

impl Links {
    /// Opens the socket.
    ///
    /// # Errors
    /// When the kernel has no rtnetlink.
    pub fn open() -> io::Result<Self> {
        Socket::ask(SockProtocol::NetlinkRoute).map(Self)
    }

    /// All Ethernet links.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn list(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.0.request(Request::new(RTM_GETLINK, DUMP, &[0; IFINFO_BYTES]))?;
        Ok(answers.iter().filter_map(|(_, payload)| parse_link(payload)).collect())
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.act(Request::new(RTM_NEWLINK, ACT, &link_header(index, IFF_UP, IFF_UP)))
    }

    /// Sets the largest packet a link carries.
    ///
    /// # Errors
    /// The kernel's refusal, for a size the adapter cannot do.
    pub fn set_mtu(&mut self, index: u32, bytes: u16) -> io::Result<()> {
        let request = Request::new(RTM_NEWLINK, ACT, &link_header(index, 0, 0));
        self.act(request.with(IFLA_MTU, &u32::from(bytes).to_ne_bytes()))
    }

    /// Gives a link an address with its network's prefix length.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        const IFA_BROADCAST: u16 = 4;
        let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let broadcast = Ipv4Addr::from_bits(address.to_bits() | host_bits);
        // struct ifaddrmsg: family, prefix, flags, scope, index.
        let fixed = [&[AF_INET, prefix, 0, 0], index.to_ne_bytes().as_slice()].concat();
        self.act(
            Request::new(RTM_NEWADDR, ACT | REPLACE, &fixed)
                .with(IFA_LOCAL, &address.octets())
                .with(IFA_ADDRESS, &address.octets())
                .with(IFA_BROADCAST, &broadcast.octets()),
        )
    }

    /// Routes a network (`0.0.0.0/0` for the rest of the world) through a router, or with the router
    /// `0.0.0.0` directly on the link.
    ///
    /// # Errors
    /// The kernel's refusal, as for a router that is not on the link.
    pub fn add_route(&mut self, index: u32, to: Ipv4Addr, prefix: u8, router: Ipv4Addr) -> io::Result<()> {
        const RTA_DST: u16 = 1;
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        const TABLE_MAIN: u8 = 254;
        const PROTOCOL_DHCP: u8 = 16;
        const SCOPE_LINK: u8 = 253;
        const TYPE_UNICAST: u8 = 1;
        let on_link = router.is_unspecified();
        let scope = if on_link { SCOPE_LINK } else { 0 };
        // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags u32.
        let fixed = [AF_INET, prefix, 0, 0, TABLE_MAIN, PROTOCOL_DHCP, scope, TYPE_UNICAST, 0, 0, 0, 0];
        let mut request =
            Request::new(RTM_NEWROUTE, ACT | REPLACE, &fixed).with(RTA_OIF, &index.to_ne_bytes());
        if prefix > 0 {
            request = request.with(RTA_DST, &to.octets());
        }
        if !on_link {
            request = request.with(RTA_GATEWAY, &router.octets());
        }
        self.act(request)
    }

    fn act(&mut self, request: Request) -> io::Result<()> {
        self.0.request(request).map(drop)
    }
}

const AF_INET: u8 = 2;

fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [0_u32, index, flags, change].into_iter().flat_map(u32::to_ne_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(kind: u16, flags: u32, name: &[u8], mac: &[u8]) -> Vec<u8> {
        let mut fixed = link_header(2, flags, 0);
        fixed.splice(2..4, kind.to_ne_bytes());
        let mut bytes = fixed;
        for (kind, value) in [(IFLA_IFNAME, name), (IFLA_ADDRESS, mac)] {
            bytes.extend(u16::try_from(4 + value.len()).expect("short").to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn an_ethernet_link_is_taken_apart() {
        let link =
            parse_link(&payload(1, IFF_UP | IFF_LOWER_UP, b"eth0\0", &[2, 0, 0, 0, 0, 1])).expect("a link");
        assert_eq!((link.name.as_str(), link.index, link.up, link.carrier), ("eth0", 2, true, true));
        assert_eq!(link.mac, MacAddr([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn links_of_other_kinds_and_broken_messages_are_left_alone() {
        assert_eq!(parse_link(&payload(772, 1, b"lo\0", &[0; 6])), None);
        assert_eq!(parse_link(&payload(1, 1, b"ib0\0", &[0; 20])), None);
        assert_eq!(parse_link(&payload(1, 1, b"../x\0", &[0; 6])), None);
        let whole = payload(1, 1, b"eth0\0", &[0; 6]);
        for length in 0..whole.len() - 2 {
            assert_eq!(parse_link(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn the_kernel_lists_links_and_refuses_nonsense() {
        let mut links = Links::open().expect("rtnetlink is there on every Linux");
        links.list().expect("anybody may list links");
        assert!(links.add_address(u32::MAX >> 1, Ipv4Addr::LOCALHOST, 8).is_err());
    }
}
