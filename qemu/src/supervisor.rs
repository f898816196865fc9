//! Bringing a cluster up, keeping it until somebody wants it to end, and taking it down.
//!
//! In the foreground the supervisor is the command itself. Detached it is the same command in a session of its own, whose
//! starter follows it over the control socket until all machines are ready. Either way nothing is left running when it
//! ends, however it ends.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, Settings, StartError, Status};
use crate::control::{self, ControlError, DownRequest, Reply, Request};
use crate::display::{Display, table};
use crate::run_dir::RunDir;

/// Between two looks at the machines on their way up.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// After its machines are off, a supervisor has only files to remove.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Why `up` did not end well.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A machine will never be ready.
    #[error("{name}: {reason}; its console is in {console}")]
    Stuck {
        /// Which machine.
        name: String,
        /// Why.
        reason: String,
        /// Where to read on.
        console: String,
    },
    /// Some machines took too long.
    #[error("not ready after {seconds} s: {machines}; their consoles are in {run_dir}/NAME/console.log")]
    NotReady {
        /// The limit.
        seconds: u64,
        /// Which, and what they said last.
        machines: String,
        /// Where to read on.
        run_dir: String,
    },
    /// Sockets, signals, processes.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The detached supervisor ended; its last words.
    #[error("{0}")]
    Supervisor(String),
    /// The detached supervisor cannot be asked.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Not every machine switched itself off.
    #[error("not every machine shut down by itself; the consoles say more")]
    CutOff,
    /// Interrupted on the way up.
    #[error("interrupted before all machines were ready")]
    Interrupted,
}

/// SIGINT, SIGTERM and SIGHUP: all mean "end".
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    /// Safe to lose in a `select!`.
    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> UpError {
    move |source| UpError::System { what, source }
}

/// Runs a cluster until Ctrl-C, SIGTERM or a `down` request, and shuts it down.
///
/// # Errors
/// When it does not come up within `limit`; all machines are off then.
pub async fn supervise(settings: Settings, limit: Duration) -> Result<(), UpError> {
    let mut interrupts = Interrupts::new().map_err(system("signal handlers"))?;
    let cluster = Arc::new(Cluster::start(settings).await?);
    for remark in cluster.remarks() {
        eprintln!("note: {remark}");
    }
    // Two `down` requests at once are both answered; a third waits for a place.
    let (down, mut downs) = mpsc::channel(2);
    let control = control::serve(cluster.clone(), down).map_err(system("control socket"))?;

    let outcome = tokio::select! {
        outcome = come_up(&cluster, limit) => outcome.map(|()| None),
        // The machines are going to be shut down, so the display may end anywhere.
        () = interrupts.next() => Err(UpError::Interrupted),
        Some(request) = downs.recv() => Ok(Some(request)),
    };
    let outcome = match outcome {
        Ok(None) => {
            print!("{}", table(&cluster.status()));
            tokio::select! {
                () = interrupts.next() => Ok(None),
                Some(request) = downs.recv() => Ok(Some(request)),
            }
        }
        other => other,
    };
    control.abort();
    let (mut request, mut result) = match outcome {
        Ok(request) => (request, Ok(())),
        Err(error) => (None, Err(error)),
    };
    if matches!(result, Ok(()) | Err(UpError::Interrupted)) {
        eprintln!("shutting down (Ctrl-C again pulls the cords)");
        let is_clean = tokio::select! {
            is_clean = cluster.shut_down(|line| tell(request.as_ref(), line)) => is_clean,
            () = interrupts.next() => {
                tell(request.as_ref(), "interrupted: pulling all cords".into());
                false
            }
        };
        if !is_clean && result.is_ok() {
            result = Err(UpError::CutOff);
        }
    }
    end(cluster).await;
    // The others that wait for their turn hear the same.
    while let Some(request) = request.take().or_else(|| downs.try_recv().ok()) {
        let last = match &result {
            Ok(()) => Reply::Done("all machines are off".into()),
            Err(error) => Reply::Error(error.to_string()),
        };
        // A reader that has gone misses it.
        let _ = request.try_send(last);
    }
    drop(downs);
    // Lets the tasks that answer `down` write their last line before the runtime ends.
    sleep(LOOK_INTERVAL).await;
    result
}

fn tell(request: Option<&DownRequest>, line: String) {
    eprintln!("{line}");
    if let Some(request) = request {
        // A reader that has gone, or is slow, misses lines and nothing else.
        let _ = request.try_send(Reply::Progress(line));
    }
}

/// Ends the cluster once the last visitor of the control socket has let go of it.
async fn end(mut cluster: Arc<Cluster>) {
    let deadline = Instant::now() + END_LIMIT;
    loop {
        match Arc::try_unwrap(cluster) {
            Ok(cluster) => return cluster.end().await,
            // A visitor's order is being carried out. If it never ends the machines end with this process.
            Err(_) if Instant::now() > deadline => return,
            Err(held) => cluster = held,
        }
        sleep(LOOK_INTERVAL / 10).await;
    }
}

/// Shows the machines coming up until all are ready.
async fn come_up(cluster: &Cluster, limit: Duration) -> Result<(), UpError> {
    let mut display = Display::new();
    let deadline = Instant::now() + limit;
    let outcome = loop {
        let status = cluster.status();
        display.show(&status);
        if status.is_ready() {
            break Ok(());
        }
        if let Some(error) = hopeless(&status, deadline, limit, cluster.run_dir().path()) {
            break Err(error);
        }
        sleep(LOOK_INTERVAL).await;
    };
    display.finish();
    outcome
}

fn hopeless(status: &Status, deadline: Instant, limit: Duration, run_dir: &Path) -> Option<UpError> {
    if let Some(machine) = status.stuck() {
        return Some(UpError::Stuck {
            name: machine.name.clone(),
            reason: machine.detail.clone(),
            console: run_dir.join(&machine.name).join("console.log").display().to_string(),
        });
    }
    if Instant::now() < deadline {
        return None;
    }
    let late = status.machines.iter().filter(|machine| machine.state != "ready");
    let machines: Vec<_> =
        late.map(|machine| format!("{} ({}, {:?})", machine.name, machine.state, machine.detail)).collect();
    Some(UpError::NotReady {
        seconds: limit.as_secs(),
        machines: machines.join(", "),
        run_dir: run_dir.display().to_string(),
    })
}

/// Starts a supervisor in the background by running this program again with `arguments`, and returns when all machines
/// are ready.
///
/// # Errors
/// When the cluster does not come up; nothing is left running then.
pub async fn detach(run_dir: &Path, arguments: &[String]) -> Result<(), UpError> {
    let mut interrupts = Interrupts::new().map_err(system("signal handlers"))?;
    let directory = RunDir::create(run_dir).map_err(system("run directory"))?;
    if directory.is_locked() {
        // The same words as a supervisor's own.
        directory.lock().map_err(StartError::from)?;
    }
    let log_path = directory.path().join("supervisor.log");
    let log = File::create(&log_path).map_err(system("supervisor.log"))?;
    let program = std::env::current_exe().map_err(system("finding this program"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(system("supervisor.log"))?)
        .stderr(log)
        .spawn()
        .map_err(system("starting the supervisor"))?;

    let outcome = tokio::select! {
        outcome = follow(run_dir, &log_path, &mut child) => outcome,
        // The supervisor goes on by itself; it is asked to end below.
        () = interrupts.next() => Err(UpError::Interrupted),
    };
    if matches!(outcome, Err(UpError::Interrupted)) {
        control::ask(run_dir, &Request::Down, |line| eprintln!("{line}")).await?;
    }
    print!("{}", table(&outcome?));
    Ok(())
}

async fn follow(run_dir: &Path, log: &Path, child: &mut Child) -> Result<Status, UpError> {
    let mut display = Display::new();
    let outcome = loop {
        if child.try_wait().map_err(system("waiting for the supervisor"))?.is_some() {
            break Err(UpError::Supervisor(last_error(log)));
        }
        // Until the supervisor has its socket, and when it ends, nobody answers; the child's end decides.
        if let Ok(Reply::Status(status)) = control::ask(run_dir, &Request::Status, |_| {}).await {
            display.show(&status);
            if status.is_ready() {
                break Ok(status);
            }
        }
        sleep(LOOK_INTERVAL).await;
    };
    display.finish();
    outcome
}

/// The reason in the log of a supervisor that has ended.
fn last_error(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let line =
        text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("the supervisor ended without a word");
    line.trim_start_matches("error: ").to_owned()
}
