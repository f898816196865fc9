//! The cluster's state: which machines there are, what each is doing, how each boot went; for services over D-Bus, for
//! people and programs over HTTP (`/api/v1` and a dashboard).
//!
//! Tasks: the owner of the state and database ([`owner`]), the HTTP server with a task per connection ([`http`]), the
//! D-Bus interface ([`bus_interface`]). The first ends last, with everything written.
//!
//! Not supported yet: desired settings, TLS between machines. The clock is the head's `CLOCK_BOOTTIME`; wall-clock time
//! plays no part, since boards have none.

mod bus_interface;
mod http;
mod orders;
mod owner;
mod state;
mod store;
mod timeline;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use service::Context;

/// Keep the state of the cluster, and serve the API and the dashboard.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Serve HTTP here.
    #[arg(long, value_name = "IP:PORT", required_unless_present = "machine")]
    listen: Option<SocketAddr>,
    /// Keep the database in this file; it is made if it is not there.
    #[arg(long, value_name = "FILE", required_unless_present = "machine")]
    state: Option<PathBuf>,
    /// Take the cluster's network and the API's token from this bramble.toml.
    #[arg(long, value_name = "FILE", conflicts_with = "machine")]
    config: Option<PathBuf>,
    /// Take all settings from this machine's configuration.
    #[arg(long, conflicts_with_all = ["listen", "state"])]
    machine: bool,
}

/// Serves until told to stop.
///
/// # Errors
/// When the address or the database cannot be used, or the configuration is wrong.
pub async fn run(args: Args, context: Context) -> anyhow::Result<()> {
    let config = match (&args.config, args.machine) {
        (Some(file), _) => config::Config::load_from(file)?,
        (None, true) => config::Config::load()?,
        (None, false) => config::Config::default(),
    };
    let listen = args.listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 8081)));
    let path = args.state.unwrap_or_else(|| PathBuf::from("/data/cluster/state.redb"));

    let (store, replaced) = store::Store::open_or_replace(&path)
        .with_context(|| format!("cannot keep state in {}", path.display()))?;
    if let Some(reason) = replaced {
        tracing::error!(
            reason = format!("{:#}", anyhow::Error::from(reason)),
            "the database was put aside as *.unusable"
        );
    }
    let (records, unreadable) = store.records()?;
    if unreadable > 0 {
        tracing::error!(unreadable, "records of the database cannot be read");
    }
    let known = records.len();
    let state = state::State::new(config.cluster.clone(), records, bus::event::boottime_us());

    let listener =
        tokio::net::TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let stopping = context.clone();
    let (state, owner) = owner::start(state, store, async move { stopping.shutdown().await });
    let shared =
        http::Shared::new(state.clone(), orders::Orders::default(), config.api.token, config.cluster);
    let address = listener.local_addr()?;
    if context.is_supervised() {
        tokio::spawn(bus_interface::serve(state));
    }
    context.ready(format_args!("serving http://{address}/, {known} machines known"));
    tokio::select! {
        // Neither loses anything: connections are answered as long as the process lives.
        () = http::serve(listener, shared) => {}
        () = context.shutdown() => {}
    }
    owner.await.context("the owner of the state failed")
}
