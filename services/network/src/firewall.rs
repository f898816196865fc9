//! Which packets pass the head: the policy, as a table of rules.
//!
//! Uplinks may reach what is published and get answers to what was asked; the cluster may reach the head and, through it and under
//! its address, whatever is beyond; interfaces that are neither get nothing.

use crate::nft::{
    Chain, ConnectionState, Hook, InterfaceName, Match, Network, Policy, Protocol, Rule, Table, Verdict,
};

/// Ports of the head that uplinks may reach: the load balancer and the dashboard (ARCHITECTURE.md).
const PUBLISHED_PORTS: [u16; 2] = [80, 8081];

/// All rules of the head.
pub(crate) fn table(cluster: &InterfaceName, network: Network, uplinks: &[InterfaceName]) -> Table {
    Table {
        name: "bramble",
        chains: vec![input(cluster, uplinks), forward(cluster, uplinks), nat(network, uplinks)],
    }
}

fn input(cluster: &InterfaceName, uplinks: &[InterfaceName]) -> Chain {
    let mut rules = vec![
        rule([Match::State(ConnectionState::EstablishedOrRelated)], Verdict::Accept),
        rule([Match::State(ConnectionState::Invalid)], Verdict::Drop),
        rule([Match::From(loopback())], Verdict::Accept),
        rule([Match::From(cluster.clone())], Verdict::Accept),
        // Path MTU discovery and neighbour discovery depend on them; the kernel limits what it answers.
        rule([Match::Protocol(Protocol::Icmp)], Verdict::Accept),
        rule([Match::Protocol(Protocol::Icmpv6)], Verdict::Accept),
    ];
    for uplink in uplinks {
        let from = || Match::From(uplink.clone());
        // A server may answer from another address than the one that was asked, which makes no connection.
        rules.push(rule([from(), Match::UdpFrom(67), Match::UdpTo(68)], Verdict::Accept));
        rules.extend(PUBLISHED_PORTS.map(|port| rule([from(), Match::TcpTo(port)], Verdict::Accept)));
    }
    Chain { hook: Hook::Input, policy: Policy::Drop, rules }
}

fn forward(cluster: &InterfaceName, uplinks: &[InterfaceName]) -> Chain {
    let mut rules = vec![
        rule([Match::State(ConnectionState::EstablishedOrRelated)], Verdict::Accept),
        // An unexpected packet would leave with its inner address: NAT does not touch it.
        rule([Match::State(ConnectionState::Invalid)], Verdict::Drop),
    ];
    rules.extend(
        uplinks
            .iter()
            .map(|uplink| rule([Match::From(cluster.clone()), Match::To(uplink.clone())], Verdict::Accept)),
    );
    Chain { hook: Hook::Forward, policy: Policy::Drop, rules }
}

fn nat(network: Network, uplinks: &[InterfaceName]) -> Chain {
    let masquerade = |uplink: &InterfaceName| {
        rule([Match::To(uplink.clone()), Match::Source(network)], Verdict::Masquerade)
    };
    let rules = uplinks.iter().map(masquerade).collect();
    Chain { hook: Hook::Postrouting, policy: Policy::Accept, rules }
}

fn rule<const N: usize>(matches: [Match; N], verdict: Verdict) -> Rule {
    Rule { matches: matches.into(), verdict }
}

fn loopback() -> InterfaceName {
    "lo".parse().expect("\"lo\" has two letters")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `BRAMBLE_BLESS=1 cargo test -p network` rewrites the golden files.
    fn assert_golden(name: &str, table: &Table) {
        let path = format!("{}/tests/golden/{name}.nft", env!("CARGO_MANIFEST_DIR"));
        let text = table.to_string();
        if std::env::var_os("BRAMBLE_BLESS").is_some() {
            std::fs::write(&path, &text).expect("the golden file can be written");
        }
        let golden = std::fs::read_to_string(&path).expect("the golden file is there");
        assert_eq!(text, golden, "{path}; BRAMBLE_BLESS=1 takes the new text over");
    }

    fn name(text: &str) -> InterfaceName {
        text.parse().expect("a legal name")
    }

    fn network() -> Network {
        Network::of([10, 77, 0, 1].into(), 16)
    }

    #[test]
    fn a_head_with_one_interface_has_no_nat_and_lets_nothing_through() {
        assert_golden("one-interface", &table(&name("eth0"), network(), &[]));
    }

    #[test]
    fn a_head_with_an_uplink_publishes_two_ports_and_masquerades() {
        assert_golden("one-uplink", &table(&name("eth0"), network(), &[name("eth1")]));
    }

    #[test]
    fn a_head_with_two_uplinks_treats_both_alike() {
        assert_golden(
            "two-uplinks",
            &table(&name("end0"), network(), &[name("eth1"), name("enxb827eb0a0b0c")]),
        );
    }
}
