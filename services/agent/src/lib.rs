//! The agent of one machine: tells the head how the machine is, and carries out what the head asks.
//!
//! Two tasks share nothing but the facts of the machine: [`heartbeat`] posts every two seconds, [`orders`] keeps one question open
//! at the head and runs what comes back. Each has its own connection. Nobody can connect to an agent: it trusts its head,
//! which it has its root from, and nobody else.
//!
//! Not supported yet: TLS towards the head.

mod checks;
mod client;
mod facts;
mod heartbeat;
mod init_socket;
mod orders;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use config::{Machine, Role};
use service::Context;

/// The head's API listens here.
const API_PORT: u16 = 8081;

/// Tell the head how this machine is, and carry out its orders.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the head's API.
    #[arg(long, value_name = "IP:PORT", required_unless_present = "machine")]
    head: Option<SocketAddr>,
    /// Serial number to go by, 8 hex digits.
    #[arg(long, value_name = "SERIAL", requires = "head")]
    serial: Option<String>,
    /// Take everything from this machine's facts.
    #[arg(long, conflicts_with_all = ["head", "serial"])]
    machine: bool,
}

/// Works until told to stop, then says goodbye.
///
/// # Errors
/// When the facts of this machine are not there.
pub async fn run(args: Args, context: Context) -> anyhow::Result<()> {
    let (head, machine) = match args.head {
        Some(head) => (head, facts::of_any_host(args.serial.as_deref())),
        None => {
            let machine = Machine::load()?;
            let server = match machine.role {
                Role::Head => Ipv4Addr::LOCALHOST,
                Role::Node => machine.server.unwrap_or(Ipv4Addr::UNSPECIFIED),
            };
            (SocketAddr::V4(SocketAddrV4::new(server, API_PORT)), machine)
        }
    };
    // The head's own agent speaks over the loopback, but stands for the head's address on the cluster's network.
    let own_address = match machine.role {
        Role::Head => Some(config::Config::load().unwrap_or_default().cluster.address),
        Role::Node => machine.address,
    };
    // Kept for as long as the agent runs: it shows the agent on the bus.
    let _presence = bus::Reporter::start_if(context.is_supervised(), "agent");
    let orders = tokio::spawn(orders::serve(head, machine.clone()));
    context.ready(format_args!("reporting to {head}"));
    heartbeat::beat(head, machine, own_address, &context).await;
    orders.abort();
    Ok(())
}
