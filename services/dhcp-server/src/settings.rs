//! Settings, from flags or from the machine, resolved into what the server takes.

use anyhow::Context as _;
use dhcp::server::{Boot, MAX_POOL, Settings, Subnet};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Settings of `bramble dhcp-server`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take everything from this machine's configuration.
    #[arg(long, conflicts_with_all = ["interface", "address", "pool", "relay", "leases", "lease_time", "tftp", "boot_file"])]
    machine: bool,
    /// Interface to serve.
    #[arg(long, value_name = "IF", required_unless_present = "machine")]
    interface: Option<String>,
    /// Own address on it, and its network's prefix length.
    #[arg(long, value_name = "IP/PREFIX", value_parser = parse_network, required_unless_present = "machine")]
    address: Option<(Ipv4Addr, u8)>,
    /// Addresses to give out.
    #[arg(long, value_name = "FIRST-LAST", value_parser = parse_range, required_unless_present = "machine")]
    pool: Option<(Ipv4Addr, Ipv4Addr)>,
    /// A network behind relay agents and the addresses to give out there; may be repeated.
    #[arg(long, value_name = "NET/PREFIX=FIRST-LAST", value_parser = parse_relay)]
    relay: Vec<Subnet>,
    /// Journal of who has which address; made if absent.
    #[arg(long, value_name = "FILE", required_unless_present = "machine")]
    leases: Option<PathBuf>,
    /// Seconds a client may use its address without asking again, 10 to 604800.
    #[arg(long, value_name = "S", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(10..=604_800))]
    lease_time: u32,
    /// TFTP server that boards boot from; without it they get a lease and no boot.
    #[arg(long, value_name = "IP")]
    tftp: Option<Ipv4Addr>,
    /// What UEFI loads: a file of the TFTP server, or a URL. A Pi chooses its files itself.
    #[arg(long, value_name = "NAME", requires = "tftp")]
    boot_file: Option<String>,
}

/// What the service needs to start.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// None: the one that has the address.
    pub(crate) interface: Option<String>,
    pub(crate) server: Ipv4Addr,
    /// For people: "10.77.0.11-10.77.255.254".
    pub(crate) pool: String,
    pub(crate) leases: PathBuf,
    /// Whether this is Bramble's own head, with a bus.
    pub(crate) machine: bool,
    /// Where the name servers to tell clients are listed.
    pub(crate) resolvers: Option<&'static Path>,
    pub(crate) dhcp: Settings,
}

/// What the head itself asks, its nodes can ask through its NAT.
const RESOLVERS: &str = "/etc/resolv.conf";
/// On the data partition (`manifest`).
const LEASES: &str = "/data/dhcp/leases";

impl Args {
    pub(crate) fn resolve(self) -> anyhow::Result<Resolved> {
        if self.machine {
            let config = config::Config::load().context("no configuration")?;
            return of_machine(&config);
        }
        let needed = "clap requires it without --machine";
        let (server, prefix) = self.address.context(needed)?;
        let (first, last) = self.pool.context(needed)?;
        let link = Subnet::new(server, prefix, first, last).context("--pool")?;
        let mut dhcp = Settings::new(server, link, Duration::from_secs(self.lease_time.into()));
        for subnet in self.relay {
            dhcp.add_relayed(subnet).context("--relay")?;
        }
        dhcp.boot = self.tftp.map(|tftp| Boot { tftp, file: self.boot_file });
        Ok(Resolved {
            interface: self.interface,
            server,
            pool: format!("{first}-{last}"),
            leases: self.leases.context(needed)?,
            machine: false,
            resolvers: None,
            dhcp,
        })
    }
}

fn of_machine(config: &config::Config) -> anyhow::Result<Resolved> {
    let cluster = &config.cluster;
    let first = cluster.first_node;
    // A larger network is served as far as the table of bindings reaches.
    let reach = Ipv4Addr::from(u32::from(first).saturating_add(MAX_POOL - 1));
    let last = cluster.last_node.min(reach);
    let link = Subnet::new(cluster.address, cluster.prefix, first, last).context("the cluster's nodes")?;
    let mut dhcp = Settings::new(cluster.address, link, cluster.lease_time);
    // The cluster's switch is ours alone.
    dhcp.authoritative = true;
    dhcp.boot = Some(Boot { tftp: cluster.address, file: None });
    // As config::Cluster::node_name says.
    dhcp.host_name_prefix = Some("node-".to_owned());
    let interface = match &cluster.interface {
        config::Interface::Automatic => None,
        config::Interface::Named(name) => Some(name.clone()),
    };
    Ok(Resolved {
        interface,
        server: cluster.address,
        pool: format!("{first}-{last}"),
        leases: LEASES.into(),
        machine: true,
        resolvers: Some(Path::new(RESOLVERS)),
        dhcp,
    })
}

fn parse_network(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let parsed = text
        .split_once('/')
        .and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)));
    parsed.ok_or_else(|| "expected IP/PREFIX, such as 10.77.0.1/16".to_owned())
}

fn parse_range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let parsed =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    parsed.ok_or_else(|| "expected FIRST-LAST, such as 10.77.0.11-10.77.0.99".to_owned())
}

fn parse_relay(text: &str) -> Result<Subnet, String> {
    let (network, range) = text
        .split_once('=')
        .ok_or("expected NET/PREFIX=FIRST-LAST, such as 10.78.0.0/24=10.78.0.10-10.78.0.99")?;
    let (address, prefix) = parse_network(network)?;
    let (first, last) = parse_range(range)?;
    Subnet::new(address, prefix, first, last).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn resolve(line: &str) -> Result<Resolved, String> {
        let words = std::iter::once("dhcp-server").chain(line.split_whitespace());
        let parsed = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        parsed.args.resolve().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_documented_command_line_is_understood() {
        let resolved = resolve(
            "--interface eth0 --address 10.77.0.1/16 --pool 10.77.0.11-10.77.0.99 --leases /tmp/leases \
             --relay 10.78.0.0/24=10.78.0.10-10.78.0.20 --lease-time 60 --tftp 10.77.0.1 --boot-file boot.efi",
        )
        .unwrap();
        assert_eq!(resolved.interface.as_deref(), Some("eth0"));
        assert_eq!(resolved.dhcp.lease_time, Duration::from_secs(60));
        let boot = Boot { tftp: Ipv4Addr::new(10, 77, 0, 1), file: Some("boot.efi".into()) };
        assert_eq!(resolved.dhcp.boot, Some(boot));
        assert!(!resolved.dhcp.authoritative, "a foreign network may have other servers");
    }

    #[test]
    fn a_wrong_command_line_is_refused_with_the_flag_and_the_reason() {
        let good = "--interface e --address 10.77.0.1/16 --leases l --pool";
        for (line, reason) in [
            ("", "--interface <IF>"),
            ("--machine --pool 10.0.0.1-10.0.0.2", "cannot be used with"),
            (&format!("{good} 10.77.0.11"), "expected FIRST-LAST"),
            (&format!("{good} 10.77.0.11-10.77.0.9"), "is empty"),
            (
                &format!("{good} 10.99.0.11-10.99.0.99"),
                "--pool: 10.99.0.11 is no host address of 10.77.0.0/16",
            ),
            (&format!("{good} 10.77.0.11-10.77.0.99 --lease-time 5"), "--lease-time"),
            (&format!("{good} 10.77.0.11-10.77.0.99 --boot-file x"), "--tftp"),
            (&format!("{good} 10.77.0.11-10.77.0.99 --relay 10.77.9.0/24=10.77.9.1-10.77.9.2"), "overlap"),
        ] {
            let error = resolve(line).map(|_| ()).unwrap_err();
            assert!(error.contains(reason), "{line:?}: {error}");
        }
    }

    #[test]
    fn the_default_configuration_serves_from_the_documented_pool() {
        let resolved = of_machine(&config::Config::default()).unwrap();
        assert_eq!(resolved.server, Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(resolved.pool, "10.77.0.11-10.77.255.254");
        assert!(resolved.dhcp.authoritative);
    }

    #[test]
    fn a_network_larger_than_the_table_is_served_as_far_as_it_reaches() {
        let config = config::Config::parse("[cluster]\naddress = \"10.0.0.1/8\"\n").unwrap();
        let resolved = of_machine(&config).unwrap();
        assert_eq!(resolved.pool, "10.0.0.11-10.1.0.10");
    }
}
