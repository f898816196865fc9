//! Drivers for devices that appear while there is no root yet: a USB adapter, a card.
//!
//! One task, ended when the root is there: then the `devices` service takes over with the root's larger set.

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

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
    let began = Instant::now();
    tell(&modules.coldplug(Path::new("/sys")), &report);
    report.log(Level::Debug, format_args!("looked at all devices in {} ms", began.elapsed().as_millis()));
    loop {
        let Ok(mut ready) = uevents.readable().await else { return };
        loop {
            match uevents.get_ref().next() {
                Ok(Some(event)) => {
                    if let Some(modalias) = event.new_modalias() {
                        tell(&modules.load_alias(modalias), &report);
                    }
                }
                Ok(None) => break,
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    tell(&modules.coldplug(Path::new("/sys")), &report);
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

/// What modules did, as log lines.
fn tell(done: &Report, report: &Reporter) {
    if !done.loaded.is_empty() {
        report.log(Level::Debug, format_args!("loaded {}", done.loaded.join(", ")));
    }
    for error in &done.errors {
        report.log(Level::Warning, error);
    }
}
