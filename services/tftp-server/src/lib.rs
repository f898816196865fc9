//! The TFTP server that boards boot from.
//!
//! As `--machine` it serves each board a folder of its own that exists nowhere ([`tree::NodeTree`]): files of the head's
//! boot partition, with `config.txt` and `cmdline.txt` made for that board. Otherwise it serves a folder, read-only.
//!
//! | file | what |
//! |---|---|
//! | [`listener`] | port 69: takes requests, keeps the table of running transfers |
//! | [`exchange`] | one transfer on its own port |
//! | [`tree`] | name -> content, and what no name may reach |
//! | [`content`] | files in memory, read once for all boards |
//!
//! Specifications: those of the crate `tftp`. Not supported: writing, `netascii`, names relative to a client's address.
//!
//! Tasks: the listener, and one per transfer, which ends by its last acknowledgement, an error, or silence. All are
//! dropped at shutdown: boards repeat their requests, so a restart costs them two seconds. Names are looked up by
//! at most [`tree::LOOKUPS`] threads, for a card may be slow.
//!
//! At its limits: with [`Args`]' number of transfers running, or their memory used up by files in use, a request is
//! dropped and counted, so that the board asks again.
//!
//! To watch it: `BRAMBLE_LOG=debug` shows each request; the head's timeline shows each file.

pub mod content;
pub mod exchange;
pub mod listener;
pub mod tree;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;

use listener::Listener;
use tree::{Folder, NodeTree, Tree};

/// Settings of `bramble tftp-server`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Serve this cluster's boards: files of /boot, settings made for each board.
    #[arg(long, conflicts_with_all = ["listen", "root"], required_unless_present = "root")]
    machine: bool,
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:69")]
    listen: SocketAddr,
    /// Folder to serve; nothing outside it can be reached.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Transfers at the same time; further requests wait for the client's next try.
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    transfers: u32,
    /// Memory for files in MiB; a larger file cannot be served.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    memory: u32,
}

/// Serves until the process is asked to stop.
///
/// # Errors
/// When the folder or the machine's facts cannot be read, or the address cannot be listened on.
pub async fn run(args: Args, ctx: service::Context) -> anyhow::Result<()> {
    let (tree, address) = match (&args.root, args.machine) {
        (Some(root), false) => {
            let folder = Folder::open(root).with_context(|| format!("cannot open {}", root.display()))?;
            (Tree::Folder(folder), args.listen)
        }
        _ => machine_tree()?,
    };
    let reporter = match args.machine {
        true => bus::Reporter::start("tftp-server"),
        false => bus::Reporter::disconnected(),
    };
    let listener = Listener::bind(address, tree, &args, reporter)
        .with_context(|| format!("cannot listen on {address}"))?;
    ctx.ready(format_args!("{} on {}", listener.tree_name(), listener.local_address()));
    tokio::select! {
        // Either ends the process, so nothing is lost by dropping the other.
        () = ctx.shutdown() => Ok(()),
        result = listener.serve() => result.context("the socket failed"),
    }
}

/// What this machine serves, and where.
fn machine_tree() -> anyhow::Result<(Tree, SocketAddr)> {
    let machine = config::Machine::load()?;
    let config = config::Config::load()?;
    let server = config.cluster.address;
    let boot = PathBuf::from(BOOT);
    let tree = NodeTree::new(&boot, &machine.image, server, config.log.level.as_str())
        .with_context(|| format!("cannot serve {BOOT}"))?;
    Ok((Tree::Nodes(tree), SocketAddr::new(IpAddr::V4(server), tftp::PORT)))
}

/// Where `storage` mounts the card's boot partition.
const BOOT: &str = "/boot";
