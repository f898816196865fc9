//! What an OFFER or ACK grants, read into types that make sense.

use crate::{Message, Options, Route, code};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// A lease: an address and what comes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length of its network; from the address class when the server named none.
    pub prefix: u8,
    /// Option 54: who grants it.
    pub server: Ipv4Addr,
    /// Routes to install: option 121, or else a default route to the first router of option 3 (RFC 3442).
    pub routes: Vec<Route>,
    /// Option 6.
    pub dns_servers: Vec<Ipv4Addr>,
    /// Option 42.
    pub ntp_servers: Vec<Ipv4Addr>,
    /// Option 12: the name the server gives us.
    pub host_name: Option<String>,
    /// Option 15.
    pub domain_name: Option<String>,
    /// Option 119.
    pub domain_search: Vec<String>,
    /// Option 26, octets.
    pub mtu: Option<u16>,
    /// When it is to be extended and when it ends; none: never.
    pub lifetime: Option<Lifetime>,
    /// Everything the server sent.
    pub options: Options,
}

/// The three moments of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// T1: ask the server that granted it.
    pub renew: Instant,
    /// T2: ask any server.
    pub rebind: Instant,
    /// The address may no longer be used.
    pub expires: Instant,
}

impl Lease {
    /// The lease in a message; none when it lacks what no lease can be without, or grants an address no host can have.
    pub(super) fn read(message: &Message, now: Instant) -> Option<Self> {
        let options = &message.options;
        let address = message.yiaddr;
        let [first, ..] = address.octets();
        if first == 0 || first >= 224 || address.is_loopback() {
            return None;
        }
        let mut routes = options.classless_routes();
        if routes.is_empty() {
            let default = |router| Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, router };
            routes.extend(options.routers().first().copied().map(default));
        }
        Some(Self {
            address,
            prefix: options.prefix().filter(|p| (1..=32).contains(p)).unwrap_or(classful_prefix(first)),
            server: options.server_id()?,
            routes,
            dns_servers: options.dns_servers(),
            ntp_servers: options.ntp_servers(),
            host_name: options.host_name().map(str::to_owned),
            domain_name: options.domain_name().map(str::to_owned),
            domain_search: options.domain_search(),
            mtu: options.interface_mtu(),
            lifetime: Lifetime::read(options, now)?,
            options: options.clone(),
        })
    }
}

impl Lifetime {
    /// The outer none: no usable lease time at all; the inner: for ever.
    fn read(options: &Options, now: Instant) -> Option<Option<Self>> {
        let seconds = options.u32(code::LEASE_TIME)?;
        if seconds == u32::MAX {
            return Some(None);
        }
        if seconds == 0 {
            return None;
        }
        let lease = Duration::from_secs(seconds.into());
        let given = |time: Option<u32>| time.map(|t| Duration::from_secs(t.into()));
        // RFC 2131 §4.4.5: 0.5 and 0.875 of the lease, unless the server's own times are in order.
        let (renew, rebind) = match (given(options.renewal_time()), given(options.rebinding_time())) {
            (Some(t1), Some(t2)) if !t1.is_zero() && t1 < t2 && t2 < lease => (t1, t2),
            _ => (lease / 2, lease * 7 / 8),
        };
        let at = |time| now.checked_add(time);
        Some(match (at(renew), at(rebind), at(lease)) {
            (Some(renew), Some(rebind), Some(expires)) => Some(Self { renew, rebind, expires }),
            _ => None,
        })
    }

    /// RFC 2131 §4.4.5: wait half of what is left until T2, then half of what is left until the end, at least 60 s; a
    /// lease too short for that gets some tries all the same.
    pub(super) fn next_try(&self, now: Instant) -> Instant {
        let until = if now < self.rebind { self.rebind } else { self.expires };
        let left = until.saturating_duration_since(now);
        let whole = self.expires.saturating_duration_since(self.renew);
        let least = (whole / 16).clamp(Duration::from_secs(1), Duration::from_secs(60));
        now + (left / 2).max(least).min(left)
    }
}

/// RFC 791 §3.2: what the first octet says when nobody says anything else.
fn classful_prefix(first: u8) -> u8 {
    match first {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}
