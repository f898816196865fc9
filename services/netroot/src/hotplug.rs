//! Drivers for devices that appear while there is no root yet: a USB adapter, a card.
//!
//! One task, ended when the root is there: then the `devices` service takes over with the root's larger set.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use modules::{Modules, Report, Uevents};
use nix::errno::Errno;
use tokio::sync::Notify;

use crate::report::{Level, Reporter};

/// Loads `first` (names and parameters), then modules for all devices there are and for those that come. `changed`
/// is notified when the first are loaded and after each burst of announcements, for whoever waits for a device.
pub async fn watch(first: &[(&str, &str)], changed: Rc<Notify>, report: Rc<Reporter>) {
    let mut modules = match Modules::load_from(Path::new("/")) {
        Ok(modules) => modules,
        Err(error) => {
            report.log(Level::Error, format_args!("no kernel modules: {error}"));
            return changed.notify_one();
        }
    };
    for (name, parameters) in first {
        tell(&modules.load(name, parameters), &report);
    }
    changed.notify_one();
    // Listening begins before looking, so that nothing falls between the two.
    let uevents = match Uevents::open().and_then(crate::awaitable) {
        Ok(uevents) => uevents,
        Err(error) => return report.log(Level::Error, format_args!("cannot hear of new devices: {error}")),
    };
    let look = tokio::time::sleep(LOOK_AFTER);
    tokio::pin!(look);
    let mut looked = false;
    loop {
        let mut ready = tokio::select! {
            // Readiness is a state, not an event: losing it here finds it again.
            Ok(ready) = uevents.readable() => ready,
            () = &mut look, if !looked => {
                looked = true;
                look_at_all(&mut modules, &report);
                changed.notify_one();
                continue;
            }
            else => return,
        };
        loop {
            match uevents.get_ref().next() {
                Ok(Some(event)) => {
                    if let Some(modalias) = event.new_modalias() {
                        tell(&modules.load_alias(modalias), &report);
                    }
                }
                Ok(None) => break,
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    look_at_all(&mut modules, &report);
                }
                Err(error) => {
                    return report.log(Level::Error, format_args!("cannot hear of new devices: {error}"));
                }
            }
        }
        ready.clear_ready();
        changed.notify_one();
    }
}

/// init has looked at all devices just before it started this process. One that appeared in between would be
/// missed, so they are looked at again, but not while lease and root are quicker without.
const LOOK_AFTER: Duration = Duration::from_millis(500);

fn look_at_all(modules: &mut Modules, report: &Reporter) {
    let began = Instant::now();
    tell(&modules.coldplug(Path::new("/sys")), report);
    report.log(Level::Debug, format_args!("looked at all devices in {} ms", began.elapsed().as_millis()));
}

/// What modules did, as log lines.
fn tell(done: &Report, report: &Reporter) {
    if !done.loaded.is_empty() {
        report.log(Level::Debug, format_args!("loaded {}", done.loaded.join(", ")));
    }
    for error in &done.errors {
        report.log(Level::Warning, error);
    }
}
