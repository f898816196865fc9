//! The head's network: the cluster's interface, the uplinks, and what may pass between them.
//!
//! The interface of the cluster gets the head's address. Every other Ethernet interface is an uplink: it gets a lease by DHCP and
//! keeps it. Packets from the cluster leave under the uplink's address; from an uplink only what is published is let
//! in. The rules are one table, replaced as a whole through netlink; no `nft` is needed.
//!
//! Specifications: rtnetlink(7), packet(7), include/uapi/linux/netfilter/nf_tables.h; RFC 2131 in `protocols/dhcp`.
//! Not supported: IPv6 beyond what the kernel does by itself, VLANs, wireless, address conflict detection, an MTU from the
//! lease, moving the cluster when an uplink has its network (that is detected, reported, and the uplink not used).
//!
//! Shows itself on the machine's bus like every service; needs nothing from it.
//!
//! Tasks: [`driver`] decides and owns the cluster's interface and the rules; one [`uplink`] task per uplink; rtnetlink's two
//! connections. All end with the process; what they set up stays in the kernel.
//! To watch it: `bramble services` shows interfaces and leases; `bramble network --print-plan` the rules.

mod driver;
mod firewall;
mod kernel;
mod links;
mod nft;
mod packet;
mod resolver;
mod uplink;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use config::{Config, Interface};

use driver::Settings;
use links::Wanted;
pub use nft::{BadInterfaceName, InterfaceName};

/// Set up interfaces, leases, NAT and the packet filter of the head.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take everything from this machine's configuration, and find the interfaces.
    #[arg(long, conflicts_with_all = ["cluster_interface", "address", "uplink", "resolver"],
          required_unless_present_all = ["cluster_interface", "address"])]
    machine: bool,
    /// Interface that leads to the cluster.
    #[arg(long, value_name = "IF", requires = "address")]
    cluster_interface: Option<InterfaceName>,
    /// Address of this host on the cluster's network.
    #[arg(long, value_name = "IP/PREFIX", value_parser = parse_address, requires = "cluster_interface")]
    address: Option<(Ipv4Addr, u8)>,
    /// Interface that leads away from the cluster; may be given up to four times.
    #[arg(long, value_name = "IF")]
    uplink: Vec<InterfaceName>,
    /// File to keep up to date with what resolv.conf should say.
    #[arg(long = "resolv-conf", value_name = "FILE")]
    resolver: Option<PathBuf>,
    /// Print the packet filter's rules as nft(8) would list them, and change nothing.
    #[arg(long, conflicts_with = "machine")]
    print_plan: bool,
}

/// Sets the network up and looks after it until the process is asked to stop.
///
/// # Errors
/// When settings are missing or the kernel refuses what the head cannot be without.
pub async fn run(args: Args, ctx: service::Context) -> anyhow::Result<()> {
    if args.print_plan
        && let (Some(cluster), Some((address, prefix))) = (&args.cluster_interface, args.address)
    {
        let mut uplinks = args.uplink.clone();
        uplinks.sort();
        print!("{}", firewall::table(cluster, nft::Network::of(address, prefix), &uplinks));
        return Ok(());
    }
    let on_bus = args.machine.then(|| bus::Reporter::start("network"));
    let outcome = driver::run(settings(args)?, ctx).await;
    drop(on_bus);
    outcome
}

fn settings(args: Args) -> anyhow::Result<Settings> {
    if let (Some(cluster), Some((address, prefix))) = (args.cluster_interface, args.address) {
        return Ok(Settings {
            cluster: Wanted::Named(vec![cluster]),
            uplinks: Wanted::Named(args.uplink),
            address,
            prefix,
            resolver: args.resolver,
            host_name: None,
        });
    }
    let config = Config::load()?;
    Ok(Settings {
        cluster: wanted(&config.cluster.interface)?,
        uplinks: wanted(&config.uplink.interface)?,
        address: config.cluster.address,
        prefix: config.cluster.prefix,
        resolver: Some(PathBuf::from(RESOLVER_PATH)),
        host_name: Some(HOST_NAME.to_owned()),
    })
}

fn wanted(interface: &Interface) -> Result<Wanted, BadInterfaceName> {
    Ok(match interface {
        Interface::Automatic => Wanted::Automatic,
        Interface::Named(name) => Wanted::Named(vec![name.parse()?]),
    })
}

/// `10.77.0.1/16`: a host's address and the length of its network's prefix.
fn parse_address(text: &str) -> Result<(Ipv4Addr, u8), &'static str> {
    const RULE: &str = "must be an IPv4 address with its prefix length, such as 10.77.0.1/16";
    let (address, prefix) = text.split_once('/').ok_or(RULE)?;
    let (address, prefix) = (address.parse().map_err(|_| RULE)?, prefix.parse().map_err(|_| RULE)?);
    if (1..=30).contains(&prefix) { Ok((address, prefix)) } else { Err(RULE) }
}

/// Where the machine's resolvers look (`/etc/resolv.conf` points there).
const RESOLVER_PATH: &str = "/run/bramble/network/resolv.conf";
/// What an uplink's DHCP server may put into its DNS.
const HOST_NAME: &str = "bramble";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_prefix_that_leaves_room_for_hosts() {
        assert_eq!(parse_address("10.77.0.1/16"), Ok((Ipv4Addr::new(10, 77, 0, 1), 16)));
        for text in ["10.77.0.1", "10.77.0.1/", "10.77.0.1/0", "10.77.0.1/31", "10.77.0/16", "::1/64"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
