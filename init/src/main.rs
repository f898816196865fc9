//! PID 1, and nothing but PID 1: early mounts, modules, watchdog, supervision, reaping, shutdown.
//!
//! The boot is told in [`boot`], top to bottom. Decisions are in [`supervisor`], which is pure; [`driver`] is the one
//! loop around it; `edge` does what is decided. The table of services is `lib/manifest`.
//!
//! - **Not supported**: being anything but PID 1; re-execution (PID 1 lives in RAM for ever, see `edge::root`); a
//!   shell, run levels, sockets opened on behalf of services.
//! - **Signals**: SIGTERM, SIGINT (Ctrl-Alt-Del) restart the machine; SIGUSR1, SIGUSR2, SIGPWR switch it off. So does
//!   the power button. The kernel keeps all others from PID 1.
//! - **A root that is not found** is searched for ever (by netroot): a node waits for its head however long that is
//!   off, and restarting it would only ask the network for its kernel over and over.
//! - **Errors** are said and lived with; each says what the machine goes on without. The one exception is a bug: see
//!   `edge::last_words`.
//! - **Memory**: at most 2 MiB resident; see `log` for the bounds of what is kept.
//! - **To watch it**: `bramble services`, `bramble logs init`, and lines `init: ...` in the kernel's log.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

mod driver;
mod edge;
mod log;
mod report;
mod request;
mod station;
mod supervisor;

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};

use driver::Driver;
use edge::kmsg::Kmsg;
use edge::{boot, clock, last_words, power};
use supervisor::{Ending, Moment};

fn main() -> ExitCode {
    let started = clock::now();
    if std::process::id() != 1 {
        eprintln!("init: this is PID 1 of a Bramble machine; it has nothing to do elsewhere");
        return ExitCode::FAILURE;
    }
    last_words::install();
    umask(Mode::from_bits_truncate(0o022));
    let kmsg = boot::mount_kernel_file_systems();
    kmsg.say(6, &format!("init: started {}", report::seconds(started)));
    let machine = boot::machine_role(&kmsg);
    power::catch_ctrl_alt_del();
    boot::load_modules(&kmsg);
    boot::bring_loopback_up(&kmsg);
    match signals().and_then(|signals| Driver::new(kmsg, signals, machine, started)) {
        Ok(driver) => driver.run(),
        Err(error) => give_up(error, started),
    }
}

/// The signals PID 1 listens to, blocked from now on and read from a descriptor.
fn signals() -> Result<SignalFd, Errno> {
    let wanted =
        [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGPWR];
    let mut set = SigSet::empty();
    wanted.into_iter().for_each(|signal| set.add(signal));
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Without a pipe or a descriptor, at a time when nobody else has any, there is no machine. It may be better after a
/// restart; not at once, so that a person can read why.
fn give_up(error: Errno, started: Moment) -> ! {
    let kmsg = Kmsg::open();
    kmsg.say(2, &format!("init: cannot supervise: {error}; restart in 10 s ({})", report::seconds(started)));
    sleep(Duration::from_secs(10));
    power::finish(Ending::Reboot, &kmsg)
}
