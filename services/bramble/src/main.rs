//! The one multi-call binary: every service of the board, and the operator's command line.
//!
//! On the board init starts `/bin/bramble <service> --machine`, and the kernel starts `/sbin/modprobe`, a link to this
//! program. On a workstation the same program runs any service alone, and talks to a head's API.

mod operator;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Turns Raspberry Pis into a cluster: every service of the image, and the operator's commands.
#[derive(Debug, Parser)]
#[command(name = "bramble", version, disable_help_subcommand = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(agent::Args),
    BusBroker(bus_broker::Args),
    Cluster(cluster::Args),
    Devices(devices::Args),
    DhcpServer(dhcp_server::Args),
    LoadBalancer(load_balancer::Args),
    NbdServer(nbd_server::Args),
    Network(network::Args),
    Storage(storage::Args),
    TftpServer(tftp_server::Args),
    Web(web::Args),
    #[command(flatten)]
    Operator(operator::Command),
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called_as = arguments.next().unwrap_or_default();
    if std::path::Path::new(&called_as).file_name().is_some_and(|name| name == "modprobe") {
        return modules::modprobe(arguments);
    }
    match CommandLine::parse().command {
        Command::Agent(args) => service::main("agent", |context| agent::run(args, context)),
        Command::BusBroker(args) => service::main("bus-broker", |context| bus_broker::run(args, context)),
        Command::Cluster(args) => service::main("cluster", |context| cluster::run(args, context)),
        Command::Devices(args) => service::main("devices", |context| devices::run(args, context)),
        Command::DhcpServer(args) => service::main("dhcp-server", |context| dhcp_server::run(args, context)),
        Command::LoadBalancer(args) => {
            service::main("load-balancer", |context| load_balancer::run(args, context))
        }
        Command::NbdServer(args) => service::main("nbd-server", |context| nbd_server::run(args, context)),
        Command::Network(args) => service::main("network", |context| network::run(args, context)),
        Command::Storage(args) => service::main("storage", |context| storage::run(args, context)),
        Command::TftpServer(args) => service::main("tftp-server", |context| tftp_server::run(args, context)),
        Command::Web(args) => service::main("web", |context| web::run(args, context)),
        Command::Operator(command) => operator::main(command),
    }
}
