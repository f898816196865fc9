//! The NBD server that nodes have their root from.
//!
//! As `--machine` it exports the image this machine runs from, read-only, under its image id; otherwise what `--export` names.
//!
//! | file | what |
//! |---|---|
//! | [`listener`] | accepts clients and spreads them over threads |
//! | [`connection`] | one client: handshake, then requests in and replies out |
//! | [`inbox`] | bytes -> requests and pieces of payload |
//! | [`outbox`] | replies -> bytes, without a copy where a range lies in a file |
//! | [`exports`] | what is served |
//!
//! Specification: that of the crate `nbd`.
//!
//! **Threads and tasks.** One thread per core (at most [`listener::THREADS`]) runs the connections given to it, each
//! one task; a connection never moves, so it needs no lock. A read whose pages are in memory is answered on the spot by
//! sendfile(2): the payload is never copied and never in this process. One whose pages are not first goes to a
//! blocking thread that brings them in, and is overtaken by others meanwhile. Writes, flushes and the like are for those
//! threads too.
//!
//! **Memory.** A client costs its task and its socket, a writing one [`inbox::PIECE`] besides. A client with
//! [`connection::IN_FLIGHT`] unanswered requests, or one that does not read its replies, is no longer read from; nobody
//! else notices.
//!
//! Nothing outlives the process: clients attach again after a restart, and a write is in the page cache before it is
//! answered, so that even SIGKILL loses none.
//!
//! To watch it: `BRAMBLE_LOG=debug` shows who attaches and detaches; `nbdinfo nbd://ADDRESS` lists the exports.

pub mod connection;
pub mod exports;
pub mod inbox;
pub mod listener;
pub mod outbox;

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;

use exports::{Definition, Exports};
use listener::Listener;

/// Settings of `bramble nbd-server`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Export the image this machine runs from.
    #[arg(long, conflicts_with_all = ["listen", "export"], required_unless_present = "export")]
    machine: bool,
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:10809")]
    listen: SocketAddr,
    /// A file or block device, and the name clients ask for; read-only unless `rw` is said. Repeatable; the first one
    /// is also what clients get that ask for no name.
    #[arg(long, value_name = "NAME=PATH[,ro|rw]")]
    export: Vec<Definition>,
}

/// Serves until the process is asked to stop.
///
/// # Errors
/// When an export cannot be opened, or the address cannot be listened on.
pub async fn run(args: Args, ctx: service::Context) -> anyhow::Result<()> {
    let (exports, address, reporter) = if args.machine {
        let config = config::Config::load()?;
        let address = SocketAddr::new(IpAddr::V4(config.cluster.address), nbd::PORT);
        (exports::of_machine(&config::Machine::load()?)?, address, bus::Reporter::start("nbd-server"))
    } else {
        (Exports::open(&args.export)?, args.listen, bus::Reporter::disconnected())
    };
    let summary = exports.summary();
    let listener =
        Listener::bind(address, exports, reporter).with_context(|| format!("cannot listen on {address}"))?;
    ctx.ready(format_args!("{summary} on {}", listener.local_address()));
    tokio::select! {
        // Either ends the process; clients attach again.
        () = ctx.shutdown() => Ok(()),
        result = listener.serve() => result.context("the socket failed"),
    }
}
