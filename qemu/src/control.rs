//! How other commands talk to a supervisor: `control.sock` in the run directory.
//!
//! A connection is one request and its answers, each a line of JSON:
//!
//! ```text
//! {"command":"status"}                                         -> {"status":{...}}
//! {"command":"order","machine":"node-1","order":"cycle"}       -> {"done":"power cut"}
//!     orders: on off cycle button link-down link-up
//! {"command":"down"}                                           -> {"progress":"node-1 ..."} ... {"done":"..."}
//! anything that is refused                                     -> {"error":"..."}
//! ```
//! The run directory belongs to its user alone (mode 0700), and so does the socket. Requests are at most 4 KiB and must
//! come within 5 s; more than 16 connections at a time wait in the listener's backlog.

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::cluster::{Cluster, Status};
use crate::lines::read_line;
use crate::machine::Order;
use crate::run_dir::RunDir;

/// The longest request is some 80 bytes.
const REQUEST_LIMIT_BYTES: u64 = 4096;

/// A status of 250 machines is about 100 KiB.
const REPLY_LIMIT_BYTES: u64 = 4 << 20;

/// Requests come from programs, at once.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Connections served at the same time.
const CONNECTIONS: usize = 16;

/// Lines of progress waiting for a reader: two for each of the most machines there can be.
const PROGRESS_QUEUE: usize = 512;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// How is everything?
    Status,
    /// Shut all machines down and end.
    Down,
    /// Do something with one machine.
    Order {
        /// Its name.
        machine: String,
        /// What.
        order: Order,
    },
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To `status`.
    Status(Status),
    /// More lines follow.
    Progress(String),
    /// It is done; the last line.
    Done(String),
    /// It is not; the last line.
    Error(String),
}

/// Somebody wants the cluster to end, and to hear how it goes: progress, then one last line.
pub type DownRequest = mpsc::Sender<Reply>;

/// Why a supervisor could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody is there.
    #[error("no cluster is running in {0}")]
    NotRunning(String),
    /// The conversation broke.
    #[error("talking to the supervisor: {0}")]
    Connection(#[from] io::Error),
    /// The supervisor is of another version.
    #[error("the supervisor's answer is not understood: {0}")]
    Answer(#[from] serde_json::Error),
}

/// Opens the control socket and serves it until the runtime ends. `down` gets a message per `down` request.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(cluster: Arc<Cluster>, down: mpsc::Sender<DownRequest>) -> io::Result<tokio::task::AbortHandle> {
    let listener = UnixListener::bind(cluster.run_dir().socket("control.sock"))?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let acceptor = tokio::spawn(async move {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else { return };
            // A weak hold: a visitor must not keep the cluster alive.
            let (cluster, down) = (Arc::downgrade(&cluster), down.clone());
            tokio::spawn(async move {
                // An error means that whoever asked has gone: nobody is left to tell.
                let _: io::Result<()> = converse(stream, cluster, down).await;
                drop(slot);
            });
        }
    });
    Ok(acceptor.abort_handle())
}

/// One connection: a request and its answers.
async fn converse(
    stream: UnixStream,
    cluster: Weak<Cluster>,
    down: mpsc::Sender<DownRequest>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    let going_down = || Reply::Error("the cluster is going down".into());
    let request = match timeout(REQUEST_LIMIT, read_line(&mut reader, REQUEST_LIMIT_BYTES)).await {
        Ok(Ok(Some(line))) => serde_json::from_str(&line).map_err(|error| error.to_string()),
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no request came".to_owned()),
    };
    let reply = match request {
        Ok(Request::Down) => {
            let (progress, mut lines) = mpsc::channel(PROGRESS_QUEUE);
            match down.send(progress).await {
                Ok(()) => {
                    while let Some(line) = lines.recv().await {
                        send(&mut write, &line).await?;
                    }
                    return Ok(());
                }
                Err(_) => going_down(),
            }
        }
        Ok(request) => match cluster.upgrade() {
            Some(cluster) => answer(&cluster, request).await,
            None => going_down(),
        },
        Err(error) => Reply::Error(error),
    };
    send(&mut write, &reply).await
}

async fn answer(cluster: &Cluster, request: Request) -> Reply {
    let Request::Order { machine, order } = request else { return Reply::Status(cluster.status()) };
    let Some(found) = cluster.machine(&machine) else {
        let names: Vec<_> = cluster.machines().iter().map(|machine| machine.hardware.name.as_str()).collect();
        return Reply::Error(format!("there is no machine {machine:?}; there are {}", names.join(", ")));
    };
    match found.order(order).await {
        Ok(text) => Reply::Done(text),
        Err(error) => Reply::Error(error.to_string()),
    }
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    write.write_all(line.as_bytes()).await
}

/// Asks a supervisor. `progress` gets the lines on the way; the result is the last one.
///
/// # Errors
/// When nobody is there, or the conversation breaks.
pub async fn ask(
    run_dir: &Path,
    request: &Request,
    mut progress: impl FnMut(String),
) -> Result<Reply, ControlError> {
    let not_running = || ControlError::NotRunning(run_dir.display().to_string());
    let directory = RunDir::open(run_dir).map_err(|_| not_running())?;
    let stream = UnixStream::connect(directory.socket("control.sock")).await.map_err(|_| not_running())?;
    let (read, mut write) = stream.into_split();
    let line = format!("{}\n", serde_json::to_string(request)?);
    write.write_all(line.as_bytes()).await?;
    let mut reader = BufReader::new(read);
    while let Some(line) = read_line(&mut reader, REPLY_LIMIT_BYTES).await? {
        match serde_json::from_str(&line)? {
            Reply::Progress(text) => progress(text),
            reply => return Ok(reply),
        }
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
}
