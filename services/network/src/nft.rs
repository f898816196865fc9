//! An nftables table as a value: printed as nft(8) prints it, and encoded as the kernel takes it.
//!
//! Only what [`crate::firewall`] needs: one table of family `inet`, base chains, rules of a few matches that count and
//! then decide. Two tables are the same when their text is the same; golden tests compare that text, and a
//! test in a network namespace compares it with what `nft` says of the kernel's table.

mod encode;
mod socket;

use std::fmt;
use std::net::Ipv4Addr;

pub(crate) use socket::apply;

/// A table and all that is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) chains: Vec<Chain>,
}

/// A chain that the kernel runs at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) hook: Hook,
    pub(crate) policy: Policy,
    pub(crate) rules: Vec<Rule>,
}

/// Where a chain is run; each has one kind and one priority here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Input,
    Forward,
    Postrouting,
}

/// What becomes of a packet that no rule decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Accept,
    Drop,
}

/// Packets that fit all matches are counted, then judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) verdict: Verdict,
}

/// One condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    From(InterfaceName),
    To(InterfaceName),
    State(ConnectionState),
    Protocol(Protocol),
    TcpTo(u16),
    UdpFrom(u16),
    UdpTo(u16),
    Source(Network),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionState {
    Invalid,
    EstablishedOrRelated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Icmp,
    Icmpv6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Masquerade,
}

/// An interface's name: 1 to 15 printable ASCII characters that neither the kernel nor a rule's text gives a meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

/// The text is not a usable interface name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an interface name has 1 to 15 printable characters, none of them / : \" \\")]
pub struct BadInterfaceName;

impl std::str::FromStr for InterfaceName {
    type Err = BadInterfaceName;

    fn from_str(text: &str) -> Result<Self, BadInterfaceName> {
        let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '"' | '\\');
        if (1..=15).contains(&text.len()) && text.chars().all(legal) && text != "." && text != ".." {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadInterfaceName)
        }
    }
}

impl InterfaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An IPv4 network: an address with its host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: Ipv4Addr,
    prefix: u8,
}

impl Network {
    /// The network that `address` is in. Prefixes beyond 32 mean 32.
    pub(crate) fn of(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { address: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        Self::of(address, self.prefix) == *self
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let shorter = self.prefix.min(other.prefix);
        Self::of(self.address, shorter) == Self::of(other.address, shorter)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // nft leaves out a prefix that covers the whole address.
        match self.prefix {
            32 => write!(formatter, "{}", self.address),
            prefix => write!(formatter, "{}/{prefix}", self.address),
        }
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

impl Hook {
    fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Postrouting => "postrouting",
        }
    }

    /// Kind of the chain, and its priority as number and as nft names it.
    fn place(self) -> (&'static str, i32, &'static str) {
        match self {
            Self::Input | Self::Forward => ("filter", 0, "filter"),
            Self::Postrouting => ("nat", 100, "srcnat"),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "table inet {} {{", self.name)?;
        for (number, chain) in self.chains.iter().enumerate() {
            if number > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "{chain}")?;
        }
        writeln!(formatter, "}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, _, priority) = self.hook.place();
        let hook = self.hook.name();
        let policy = match self.policy {
            Policy::Accept => "accept",
            Policy::Drop => "drop",
        };
        writeln!(formatter, "\tchain {hook} {{")?;
        writeln!(formatter, "\t\ttype {kind} hook {hook} priority {priority}; policy {policy};")?;
        for rule in &self.rules {
            writeln!(formatter, "\t\t{rule}")?;
        }
        writeln!(formatter, "\t}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.matches {
            write!(formatter, "{one} ")?;
        }
        let verdict = match self.verdict {
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
            Verdict::Masquerade => "masquerade",
        };
        write!(formatter, "counter {verdict}")
    }
}

impl fmt::Display for Match {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(name) => write!(formatter, "iifname \"{name}\""),
            Self::To(name) => write!(formatter, "oifname \"{name}\""),
            Self::State(ConnectionState::Invalid) => formatter.write_str("ct state invalid"),
            Self::State(ConnectionState::EstablishedOrRelated) => {
                formatter.write_str("ct state established,related")
            }
            Self::Protocol(Protocol::Icmp) => formatter.write_str("meta l4proto icmp"),
            Self::Protocol(Protocol::Icmpv6) => formatter.write_str("meta l4proto ipv6-icmp"),
            Self::TcpTo(port) => write!(formatter, "tcp dport {port}"),
            Self::UdpFrom(port) => write!(formatter, "udp sport {port}"),
            Self::UdpTo(port) => write!(formatter, "udp dport {port}"),
            Self::Source(network) => write!(formatter, "ip saddr {network}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_change_a_rules_meaning_are_refused() {
        for name in ["", ".", "..", "a b", "a\"b", "a/b", "a:b", "sixteen-letters!", "é"] {
            assert_eq!(name.parse::<InterfaceName>(), Err(BadInterfaceName), "{name:?}");
        }
        assert!("fifteen-letters".parse::<InterfaceName>().is_ok());
    }

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        let network = |text: &str, prefix| Network::of(text.parse().expect("an address"), prefix);
        let cluster = network("10.77.0.1", 16);
        for (other, overlaps) in [
            (network("10.77.3.4", 24), true),
            (network("10.0.0.0", 8), true),
            (network("0.0.0.0", 0), true),
            (network("10.78.0.1", 16), false),
            (network("192.168.1.7", 24), false),
        ] {
            assert_eq!(cluster.overlaps(&other), overlaps, "{other}");
            assert_eq!(other.overlaps(&cluster), overlaps, "{other}");
        }
        assert_eq!(network("10.77.9.9", 32).to_string(), "10.77.9.9");
        assert_eq!(cluster.to_string(), "10.77.0.0/16");
    }
}
