//! netroot finds the root of this machine, mounts it, and keeps it.
//!
//! It lives in the initramfs and is started by init as the first row of the table. On a node it brings links
//! up, gets a lease, attaches the image from the head as a network block device, mounts squashfs and an
//! overlay at `/sysroot`, and says READY; then it stays for the life of the machine, keeps the lease, and connects
//! the device anew whenever the head went away. On the head it mounts a partition of the card instead. What it
//! waits for it says; nothing is fatal.
//!
//! The same binary is `/sbin/modprobe` of the initramfs: the kernel asks for code it lacks by that name, there until
//! the switch of root.
//!
//! Specifications: ARCHITECTURE.md ("Life of a boot", "Contracts between parts"), RFC 2131 (through `dhcp`), the NBD
//! protocol (through `nbd`), drivers/block/nbd.c, rtnetlink(7).
//!
//! Not supported: IPv6, Wi-Fi, iSCSI, root in RAM, more than one connection to the server, TLS.
//!
//! To watch it: `bramble logs netroot`, `bramble services`, the console.

mod card;
mod cmdline;
mod device;
mod facts;
mod head;
mod hotplug;
mod keeper;
mod lease;
mod link;
mod netlink;
mod network;
mod node;
mod report;
mod root;
mod session;

use std::error::Error;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cmdline::{Cmdline, Root};
use crate::report::{Level, Reporter};

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    if Path::new(&program).file_name().is_some_and(|name| name == "modprobe") {
        return modules::modprobe(args);
    }
    let text = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let cmdline = match Cmdline::parse(&text) {
        Ok(cmdline) => cmdline,
        Err(error) => {
            Reporter::from_environment(false).log(Level::Error, format_args!("netroot: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let report = Rc::new(Reporter::from_environment(cmdline.debug));
    match serve(cmdline, &report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report.log(Level::Error, format_args!("netroot: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Mounting is the only blocking work and needs little stack; locked memory is not to be wasted on it.
const MOUNT_STACK_BYTES: usize = 128 * 1024;

fn serve(cmdline: Cmdline, report: &Rc<Reporter>) -> std::io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(1).thread_stack_size(MOUNT_STACK_BYTES);
    let runtime = builder.build()?;
    let tasks = tokio::task::LocalSet::new();
    let report = Rc::clone(report);
    let outcome = tasks.block_on(&runtime, async {
        let stop = Stop(signal(SignalKind::terminate())?);
        match cmdline.root {
            Root::Nbd(server) => node::run(cmdline, server, report, stop).await,
            Root::Card { disk, partition } => head::run(cmdline, disk, partition, report, stop).await,
        }
    });
    // A mount that hangs in the kernel must not hold the exit up.
    runtime.shutdown_background();
    outcome
}

/// SIGTERM: init is done with the root.
#[derive(Debug)]
pub(crate) struct Stop(Signal);

impl Stop {
    /// Completes when it has been asked for. Cancel-safe.
    pub(crate) async fn requested(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Makes a descriptor one that can be waited for.
///
/// tokio deprecates the safe call because a type may close its descriptor behind tokio's back; the types here own
/// theirs until they are dropped.
#[expect(deprecated, reason = "its successor is unsafe, and nothing here needs that")]
pub(crate) fn awaitable<T: AsRawFd>(descriptor: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// An error and what caused it, in one line.
pub(crate) fn with_source(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
