//! A machine whose root is on its own card.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::cmdline::Cmdline;
use crate::facts::{self, Found, Timeline};
use crate::report::{Level, Reporter};
use crate::{Stop, card, hotplug, root};

const MODULES: [(&str, &str); 2] = [("squashfs", ""), ("overlay", "")];
/// Announcements wake the search at once; this is for a partition table that is read after the disk is announced.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A card that gives errors may be better at the next try, or somebody changes it.
const MOUNT_AGAIN: Duration = Duration::from_secs(2);

/// Runs until SIGTERM.
///
/// # Errors
/// None at present: everything is waited for.
pub async fn run(
    cmdline: Cmdline,
    disk: u32,
    partition: u8,
    report: Rc<Reporter>,
    mut stop: Stop,
) -> io::Result<()> {
    let find_and_mount = async {
        if !root::is_mounted() {
            mount(&cmdline, disk, partition, &report).await;
        }
        report.ready(format_args!("root on partition {partition} of the card"));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = find_and_mount => {}
        () = stop.requested() => {}
    }
    if !root::is_mounted() {
        root::unmount();
    }
    Ok(())
}

async fn mount(cmdline: &Cmdline, disk: u32, partition: u8, report: &Rc<Reporter>) {
    let mut timeline = Timeline::from_environment();
    let changed = Rc::new(Notify::new());
    let (for_hotplug, hotplug_report) = (Rc::clone(&changed), Rc::clone(report));
    let hotplug = spawn_local(async move { hotplug::watch(&MODULES, for_hotplug, hotplug_report).await });
    let device = loop {
        if let Some(device) = card::find(Path::new("/sys"), Path::new("/dev"), disk, partition) {
            break device;
        }
        report.waiting_for(&format!("partition {partition} of disk {disk:08x}"), Instant::now());
        let _ = timeout(LOOK_AGAIN, changed.notified()).await;
        report.remind(Instant::now());
    };
    timeline.record("attached");
    loop {
        let on = device.clone();
        match tokio::task::spawn_blocking(move || root::mount_all(&on)).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => report.log(Level::Error, crate::with_source(&error)),
            Err(error) => report.log(Level::Error, error),
        }
        tokio::time::sleep(MOUNT_AGAIN).await;
    }
    timeline.record("root");
    hotplug.abort();
    if let Err(error) = facts::write(cmdline, &Found::Card { device }, &timeline) {
        report.log(Level::Error, format_args!("cannot write the machine's facts: {error}"));
    }
}
