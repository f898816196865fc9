//! The D-Bus broker of one machine: carries the messages of its services, and lets standard tools look in.
//!
//! Specification: D-Bus Specification 0.43, "Message Bus". The broker itself is the crate `busd`; this service gives it
//! its place in the machine: the socket, who may connect, readiness and the end.
//!
//! Not supported: activation of services, policy files. Every user of the machine may connect: all
//! users are services from one image.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use service::Context;

/// Carry messages between the services of this machine (D-Bus).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Listen on this socket, as D-Bus writes addresses.
    #[arg(long, value_name = "unix:path=FILE", required_unless_present = "machine")]
    listen: Option<String>,
    /// Listen on this machine's system bus.
    #[arg(long, conflicts_with = "listen")]
    machine: bool,
}

/// Serves until told to stop.
///
/// # Errors
/// When the socket cannot be listened on, or the broker fails.
pub async fn run(args: Args, context: Context) -> anyhow::Result<()> {
    let address = args.listen.as_deref().unwrap_or(bus::ADDRESS);
    let socket = socket_of(address)?;
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    remove_stale(&socket)?;
    let mut broker = busd::bus::Bus::for_address(Some(address))
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    // connect(2) on a socket asks for write permission; the broker authenticates each peer by its credentials.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))
        .with_context(|| format!("cannot open {} to the services", socket.display()))?;
    context.ready(format_args!("carrying messages at {}", socket.display()));
    let outcome = tokio::select! {
        outcome = broker.run() => outcome,
        // Dropping the accept in progress is safe: a client that is not in yet tries again.
        () = context.shutdown() => Ok(()),
    };
    let _ = std::fs::remove_file(&socket);
    outcome.context("the broker stopped")
}

/// The file of a `unix:path=` address.
fn socket_of(address: &str) -> anyhow::Result<PathBuf> {
    match address.strip_prefix("unix:path=") {
        Some(path) if path.starts_with('/') && !path.contains([',', ';', '%']) => Ok(PathBuf::from(path)),
        _ => bail!("--listen takes unix:path=/ABSOLUTE/FILE, not {address}"),
    }
}

/// A socket that a killed broker left behind is in the way of its successor; one that answers is not stale.
fn remove_stale(socket: &Path) -> anyhow::Result<()> {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        bail!("another broker serves {}", socket.display());
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the stale socket {}", socket.display()))
        }
        _ => Ok(()),
    }
}
