//! The node's web server: a page that says which node answered.
//!
//! It is what the head's load balancer has behind it until a site is published, and the proof that a board is
//! up: name, serial number, address, image, kernel and time since start, as HTML for a browser and as plain text for curl.
//! `/healthz` answers 200 while the server serves. Every answer names the node in `X-Bramble-Node`.
//!
//! Shows itself on the machine's bus like every service.
//!
//! Specification: HTTP/1.1 (RFC 9110, RFC 9112) by hyper.
//! Not supported: files, TLS, HTTP/2; the load balancer in front has the latter two to itself.
//!
//! Tasks: one accepts ([`server::serve`]), one per connection; the accepting task ends them all at shutdown.
//! To watch it: `curl -i http://NODE/`; `BRAMBLE_LOG=debug` shows connections that end early.

mod identity;
mod page;
mod server;

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::TcpListener;

pub use identity::Identity;

/// Serve a page that says which node answered (HTTP).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take everything from this machine's facts, and listen on port 80.
    #[arg(long, conflicts_with_all = ["listen", "name"], required_unless_present = "listen")]
    machine: bool,
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Name to answer with; the host's name unless given.
    #[arg(long, value_name = "NAME", value_parser = identity::parse_name)]
    name: Option<String>,
}

/// Serves until the process is asked to stop.
///
/// # Errors
/// When the machine facts cannot be read or the address cannot be listened on.
pub async fn run(args: Args, ctx: service::Context) -> anyhow::Result<()> {
    let identity = if args.machine { Identity::of_machine()? } else { Identity::of_host(args.name) };
    let address = args.listen.unwrap_or(SocketAddr::from(([0, 0, 0, 0], PORT)));
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr().context("the listening socket has no address")?;
    ctx.ready(format_args!("{} on {address}", identity.name));
    let on_bus = args.machine.then(|| bus::Reporter::start("web"));
    server::serve(listener, identity, ctx.shutdown()).await;
    drop(on_bus);
    Ok(())
}

/// Where the load balancer expects the web server of a node.
const PORT: u16 = 80;
