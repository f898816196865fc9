//! Drivers for the devices of this machine: a module is loaded for each that is there and each that appears.
//!
//! The initramfs carries what it takes to reach the root; this service does the rest with the root's larger set: a
//! USB adapter plugged in for the uplink, sensors, the watchdog. It holds `CAP_SYS_MODULE` and nothing else.
//!
//! Sources: the kernel's uevents (lib/kobject_uevent.c) and `modalias` files; which module answers to them is
//! depmod's table ([`modules`]).
//! Not supported: device nodes (devtmpfs makes them), names and permissions by rule, firmware.
//!
//! One task. Bounds: a module is tried once, an alias looked up once ([`modules::Modules`]); when the kernel drops
//! announcements because there were too many, sysfs is looked through again.
//!
//! To watch it: `bramble logs devices`.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::Context as _;
use modules::{Modules, Report, Uevents};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Settings of `bramble devices`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take everything from this machine; the flags below are its defaults.
    #[arg(long)]
    machine: bool,
    /// Folder with `lib/modules/`.
    #[arg(long, value_name = "FOLDER", default_value = "/", conflicts_with = "machine")]
    root: PathBuf,
    /// Where sysfs is mounted.
    #[arg(long, value_name = "FOLDER", default_value = "/sys", conflicts_with = "machine")]
    sysfs: PathBuf,
}

/// Serves until the process is asked to stop.
///
/// # Errors
/// When there are no module tables, or the kernel's announcements cannot be heard.
pub async fn run(args: Args, ctx: service::Context) -> anyhow::Result<()> {
    // Listening begins before looking, so that nothing falls between the two.
    let uevents = awaitable(Uevents::open().context("cannot listen for devices")?)?;
    let mut modules = Modules::load_from(&args.root)?;
    let found = modules.coldplug(&args.sysfs);
    ctx.ready(format_args!("{} modules loaded at start", found.loaded.len()));
    tell(&found);
    loop {
        let mut ready = tokio::select! {
            // Readiness is a state, not an event: losing it here finds it again.
            ready = uevents.readable() => ready.context("cannot wait for devices")?,
            () = ctx.shutdown() => return Ok(()),
        };
        while let Some(report) = next(uevents.get_ref(), &mut modules, &args)? {
            tell(&report);
        }
        ready.clear_ready();
    }
}

/// Handles one announcement; none when there are no more.
fn next(uevents: &Uevents, modules: &mut Modules, args: &Args) -> anyhow::Result<Option<Report>> {
    match uevents.next() {
        Ok(Some(event)) => {
            Ok(Some(event.new_modalias().map(|alias| modules.load_alias(alias)).unwrap_or_default()))
        }
        Ok(None) => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
            tracing::warn!("announcements of devices were lost; looking at all of them");
            Ok(Some(modules.coldplug(&args.sysfs)))
        }
        Err(error) => Err(error).context("cannot hear of devices"),
    }
}

fn tell(report: &Report) {
    for name in &report.loaded {
        tracing::info!(module = name, "loaded");
    }
    for error in &report.errors {
        tracing::warn!("{error}");
    }
}

/// tokio deprecates the safe call because a type may close its descriptor behind tokio's back; this one owns its
/// descriptor until it is dropped.
#[expect(deprecated, reason = "its successor is unsafe, and nothing here needs that")]
fn awaitable<T: AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_defaults_are_the_machines_own() {
        use clap::Parser;
        let args = Wrapper::parse_from(["devices", "--machine"]).args;
        assert_eq!((args.root, args.sysfs), (PathBuf::from("/"), PathBuf::from("/sys")));
        assert!(Wrapper::try_parse_from(["devices", "--machine", "--root", "/x"]).is_err());
    }

    #[test]
    fn a_root_without_modules_is_an_error_that_names_the_file() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let args = Args { machine: false, root: PathBuf::from("/nonexistent"), sysfs: PathBuf::from("/sys") };
        let (context, _stop) = service::Context::for_test("devices");
        let error = runtime.block_on(run(args, context)).expect_err("no tables there");
        assert!(format!("{error:#}").contains("/nonexistent/lib/modules/"), "{error:#}");
    }
}
