//! The head's load balancer: an HTTP reverse proxy over the nodes that are ready.
//!
//! Requests go round the ready nodes; each is streamed to a node and its answer back, over connections that are kept.
//! A node that fails gets no requests until a probe reaches it; a request that failed before any of its answer was seen, and that may be
//! repeated, goes to another node. The back ends come from the cluster state over the bus, or from the command line.
//!
//! Specification: RFC 9110, RFC 9112 by hyper on both sides; RFC 7239 `Forwarded`.
//! Not supported: TLS, HTTP/2, stickiness, weights, caching, trailers, CONNECT, TRACE, upgrade to h2c.
//!
//! Layers: [`pool`] decides and knows no protocol; [`proxy`] handles one request; [`upstream`] keeps connections; [`driver`]
//! listens, probes and drains. Tasks: the driver; one per client connection, per back-end connection, per tunnel and per probe; one
//! follows the bus. All end with the process, clients after a drain.
//! To watch it: `busctl call org.bramble.LoadBalancer /org/bramble/LoadBalancer org.bramble.LoadBalancer1 Members`, and
//! `BRAMBLE_LOG=debug` for a line per request.

mod balancer;
mod control;
mod driver;
mod membership;
pub mod pool;
mod proxy;
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;

use balancer::{Balancer, Limits};
use driver::Entrance;

/// Share HTTP requests between the nodes that are ready.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Listen on port 80 and serve the nodes that the cluster state says are ready.
    #[arg(long, conflicts_with_all = ["http", "backend"], required_unless_present_all = ["http", "backend"])]
    machine: bool,
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
    /// Back ends to share the requests.
    #[arg(long, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    backend: Vec<SocketAddr>,
    /// Seconds that a back end may take from the end of a request to the start of its answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    response_timeout: u32,
    /// Seconds that may pass between two pieces of a body.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    idle_timeout: u32,
}

/// Serves until the process is asked to stop.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn run(args: Args, ctx: service::Context) -> anyhow::Result<()> {
    let limits = Limits {
        response: Duration::from_secs(args.response_timeout.into()),
        idle: Duration::from_secs(args.idle_timeout.into()),
    };
    let balancer = Arc::new(Balancer::new(limits));
    let entrance = Entrance::new(connections_max());
    let address = args.http.unwrap_or(SocketAddr::from(([0, 0, 0, 0], PORT)));
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr().context("the listening socket has no address")?;
    let members = if args.machine {
        membership::from_bus(bus::ADDRESS, balancer.clone(), entrance.clone())
    } else {
        membership::fixed(&args.backend)
    };
    ctx.ready(format_args!("http on {address}"));
    driver::run(listener, balancer, entrance, members, ctx).await;
    Ok(())
}

/// Every client may need a descriptor of its own and one to a back end; some are left for all else.
fn connections_max() -> u32 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    // The soft limit is low for programs that use select(2), which this one does not.
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let places = limit.saturating_sub(DESCRIPTORS_LEFT) / 2;
    u32::try_from(places).unwrap_or(u32::MAX).clamp(16, CONNECTIONS_MAX)
}

const PORT: u16 = 80;
/// At some 30 KiB each when busy, all of them together stay within 64 MiB of the head's memory.
const CONNECTIONS_MAX: u32 = 2048;
const DESCRIPTORS_LEFT: u64 = 64;
