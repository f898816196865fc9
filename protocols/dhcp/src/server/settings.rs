//! What the server is told, parsed into types that cannot be wrong.

use crate::Message;
use std::{net::Ipv4Addr, time::Duration};

/// Addresses in one pool at most: a /16, four times the largest cluster anybody plans. It bounds the table of bindings.
pub const MAX_POOL: u32 = 65_536;
/// Name servers told to clients at most: resolvers use three.
const MAX_SERVERS: usize = 3;

/// Why a subnet makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A network with hosts has 1 to 30 bits.
    #[error("a prefix of {0} bits leaves no room for hosts (1 to 30 do)")]
    Prefix(u8),
    /// An end of the pool is not an address of a host on the network.
    #[error("{address} is no host address of {network}/{prefix}")]
    Outside {
        /// Which end.
        address: Ipv4Addr,
        /// The network.
        network: Ipv4Addr,
        /// Its prefix length.
        prefix: u8,
    },
    /// First after last.
    #[error("a pool from {first} to {last} is empty")]
    Empty {
        /// First address.
        first: Ipv4Addr,
        /// Last address.
        last: Ipv4Addr,
    },
    /// More than [`MAX_POOL`].
    #[error("a pool may hold {MAX_POOL} addresses, not {0}")]
    TooLarge(u32),
    /// Two pools share addresses.
    #[error("networks {0} and {1} overlap")]
    Overlap(Ipv4Addr, Ipv4Addr),
}

/// A network and the addresses given out on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: u32,
    prefix: u8,
    pub(super) first: Ipv4Addr,
    pub(super) last: Ipv4Addr,
    /// The default route of its hosts: the server on its own link, behind a relay agent the agent.
    pub(super) router: Option<Ipv4Addr>,
}

impl Subnet {
    /// The network that `address` is on, giving out `first` to `last`.
    ///
    /// # Errors
    /// When there is no such network or pool.
    pub fn new(
        address: Ipv4Addr,
        prefix: u8,
        first: Ipv4Addr,
        last: Ipv4Addr,
    ) -> Result<Self, SettingsError> {
        if !(1..=30).contains(&prefix) {
            return Err(SettingsError::Prefix(prefix));
        }
        let network = u32::from(address) & mask(prefix);
        let subnet = Self { network, prefix, first, last, router: None };
        for address in [first, last] {
            if !subnet.contains(address)
                || address == Ipv4Addr::from(network)
                || address == subnet.broadcast()
            {
                return Err(SettingsError::Outside { address, network: network.into(), prefix });
            }
        }
        if first > last {
            return Err(SettingsError::Empty { first, last });
        }
        match u32::from(last) - u32::from(first) + 1 {
            size if size > MAX_POOL => Err(SettingsError::TooLarge(size)),
            _ => Ok(subnet),
        }
    }

    /// Whether the address is on this network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.network
    }

    /// Option 1.
    pub fn mask(&self) -> Ipv4Addr {
        mask(self.prefix).into()
    }

    /// Option 28.
    pub fn broadcast(&self) -> Ipv4Addr {
        (self.network | !mask(self.prefix)).into()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// Where boards boot from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The TFTP server.
    pub tftp: Ipv4Addr,
    /// What UEFI loads: a path on the TFTP server, or a URL. A Pi asks for files of its own choice.
    pub file: Option<String>,
}

/// What the server is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our address on the link: option 54, and the source of every answer.
    pub(super) server: Ipv4Addr,
    /// How long a client may use its address without asking again.
    pub lease_time: Duration,
    /// Whether nobody else gives out addresses here: then a client with a wrong address is told so, and one with a free
    /// address we do not remember may keep it.
    pub authoritative: bool,
    /// None: leases only.
    pub boot: Option<Boot>,
    /// Option 6, see [`Input::DnsServers`](super::Input::DnsServers).
    pub(super) dns_servers: Vec<Ipv4Addr>,
    /// Option 42.
    pub ntp_servers: Vec<Ipv4Addr>,
    /// Option 12 is this and the address's number in the pool of the link, from 1.
    pub host_name_prefix: Option<String>,
    /// The link's own first.
    pub(super) subnets: Vec<Subnet>,
}

impl Settings {
    /// A server at `server` for hosts on its link, which route through it.
    pub fn new(server: Ipv4Addr, link: Subnet, lease_time: Duration) -> Self {
        Self {
            server,
            lease_time,
            authoritative: false,
            boot: None,
            dns_servers: Vec::new(),
            ntp_servers: Vec::new(),
            host_name_prefix: None,
            subnets: vec![Subnet { router: Some(server), ..link }],
        }
    }

    /// Adds a network behind relay agents.
    ///
    /// # Errors
    /// When it overlaps one that is there already.
    pub fn add_relayed(&mut self, subnet: Subnet) -> Result<(), SettingsError> {
        if let Some(other) =
            self.subnets.iter().find(|s| s.contains(subnet.first) || subnet.contains(s.first))
        {
            return Err(SettingsError::Overlap(other.network.into(), subnet.network.into()));
        }
        self.subnets.push(subnet);
        Ok(())
    }

    pub(super) fn set_dns_servers(&mut self, servers: &[Ipv4Addr]) {
        self.dns_servers = servers.iter().copied().take(MAX_SERVERS).collect();
    }

    pub(super) fn subnets(&self) -> &[Subnet] {
        &self.subnets
    }

    /// Addresses in the pools that nobody may get.
    pub(super) fn reserved(&self) -> Vec<Ipv4Addr> {
        let tftp = self.boot.as_ref().map(|boot| boot.tftp);
        std::iter::once(self.server).chain(tftp).collect()
    }

    /// The network a client is on: the relay agent's, or the one of the address it has, or the link. None: behind a
    /// relay agent we know nothing of, or not to be answered before its relay agent has shown itself.
    pub(super) fn subnet_of(&mut self, message: &Message) -> Option<usize> {
        let (giaddr, ciaddr) = (message.giaddr, message.ciaddr);
        if giaddr.is_unspecified() {
            let index = self.subnets.iter().position(|s| s.contains(ciaddr)).unwrap_or(0);
            return self.subnets.get(index)?.router.map(|_| index);
        }
        let index = self.subnets.iter().position(|s| s.contains(giaddr))?;
        // A client that renews does so without its relay agent, but needs its router all the same.
        self.subnets.get_mut(index)?.router.get_or_insert(giaddr);
        Some(index)
    }

    pub(super) fn lease_seconds(&self) -> u32 {
        u32::try_from(self.lease_time.as_secs()).unwrap_or(u32::MAX).clamp(1, u32::MAX - 1)
    }

    pub(super) fn host_name(&self, address: Ipv4Addr) -> Option<String> {
        let link = self.subnets.first().filter(|link| (link.first..=link.last).contains(&address))?;
        let number = u32::from(address) - u32::from(link.first) + 1;
        self.host_name_prefix.as_ref().map(|prefix| format!("{prefix}{number}"))
    }
}
