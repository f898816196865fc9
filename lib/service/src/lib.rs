//! What every Bramble service shares: logging, readiness, shutdown and the single-threaded runtime it runs on.
//!
//! A service is `pub struct Args` and `pub async fn run(args: Args, ctx: Context) -> anyhow::Result<()>`; [`main`]
//! turns the two into a process. Under init the process talks through two inherited pipes: standard error
//! carries log lines with sd-daemon(3) priorities, and the descriptor named by `BRAMBLE_NOTIFY_FD` carries
//! `READY` and `STATUS` lines (ARCHITECTURE.md, "Contracts between parts"). Run alone on any Linux host
//! the same calls print human-readable lines instead.
//!
//! Not supported: more than one service in one process; reloading by SIGHUP.

mod log;
mod notify;

use std::fmt::Display;
use std::future::Future;
use std::process::ExitCode;

use tokio::sync::watch;

pub use log::Format;

/// What a running service may ask of the process it lives in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    name: &'static str,
    notify: notify::Notify,
    stopping: watch::Receiver<bool>,
}

impl Context {
    /// The name of the service, as in the manifest.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// True when init started the process, false when a person did.
    pub fn is_supervised(&self) -> bool {
        self.notify.is_supervised()
    }

    /// Says that the service does its work from now on, and in a few words what that is.
    ///
    /// Call it once, after every socket is bound and every file is open.
    pub fn ready(&self, status: impl Display) {
        self.notify.ready(self.name, &status.to_string());
    }

    /// Replaces the few words that `bramble services` shows for this service.
    pub fn status(&self, status: impl Display) {
        self.notify.status(&status.to_string());
    }

    /// Completes when the process has been asked to stop (SIGTERM or SIGINT). Cancel-safe; may be awaited by many.
    pub async fn shutdown(&self) {
        let mut stopping = self.stopping.clone();
        // An error means the sender is gone, which happens only while the process is ending anyway.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// A context for tests: not supervised, stopped by sending `true`.
    pub fn for_test(name: &'static str) -> (Self, watch::Sender<bool>) {
        let (stop, stopping) = watch::channel(false);
        (Self { name, notify: notify::Notify::standalone(), stopping }, stop)
    }
}

/// Runs one service to its end on a single-threaded runtime and turns the outcome into an exit code.
///
/// An error is printed as one line with its causes; restart and giving up belong to init.
pub fn main<F, Fut>(name: &'static str, run: F) -> ExitCode
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let notify = notify::Notify::from_environment();
    log::start(if notify.is_supervised() { Format::Supervised } else { Format::Terminal });
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(watch_signals(stop));
        run(Context { name, notify, stopping }).await
    });
    // A blocking thread that hangs in the kernel (a dead disk) must not hold the exit up.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Turns the first SIGTERM or SIGINT into the stop flag; a second one ends the process at once.
async fn watch_signals(stop: watch::Sender<bool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("cannot listen for signals; only SIGKILL will stop this process");
        return;
    };
    for attempt in 1.. {
        tokio::select! {
            // Losing a signal that arrives in the same instant is harmless: both mean the same.
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if attempt > 1 {
            std::process::exit(130);
        }
        let _ = stop.send(true);
    }
}
