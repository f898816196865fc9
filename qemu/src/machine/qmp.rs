//! The control connection to one QEMU (QEMU Machine Protocol, `docs/interop/qmp-spec.txt`).
//!
//! We listen and QEMU connects, so that there is no moment at which the socket is not there yet. One task reads, and ends
//! with the connection, which ends with QEMU; it answers with the reason of the last SHUTDOWN event.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::lines::read_line;

/// QEMU answers in microseconds unless the host is starved.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// No answer to a command used here comes near this.
const LINE_LIMIT_BYTES: u64 = 256 * 1024;

/// Commands are sent one at a time; late answers of given-up ones fit too.
const ANSWER_QUEUE: usize = 8;

/// A connection to a QEMU.
#[derive(Debug)]
pub struct Qmp {
    socket: OwnedWriteHalf,
    answers: mpsc::Receiver<Value>,
    reader: JoinHandle<Option<String>>,
    next_id: u64,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The connection broke: QEMU is ending.
    #[error("the connection to QEMU: {0}")]
    Connection(#[from] io::Error),
    /// QEMU did not answer.
    #[error("QEMU does not answer")]
    Silent,
    /// QEMU refused.
    #[error("QEMU refused `{command}`: {reason}")]
    Refused {
        /// What was asked.
        command: &'static str,
        /// QEMU's words.
        reason: String,
    },
}

impl Qmp {
    /// Negotiates on a connection that QEMU has just opened. `note` is told of events worth keeping.
    ///
    /// # Errors
    /// When QEMU does not speak as the protocol says.
    pub async fn start(
        socket: UnixStream,
        note: impl FnMut(String) + Send + 'static,
    ) -> Result<Self, QmpError> {
        let (read, write) = socket.into_split();
        let (sender, answers) = mpsc::channel(ANSWER_QUEUE);
        let reader = tokio::spawn(read_events(BufReader::new(read), sender, note));
        let mut qmp = Self { socket: write, answers, reader, next_id: 0 };
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    /// Carries out a command and gives its result.
    ///
    /// # Errors
    /// When QEMU refuses, is silent, or gone.
    pub async fn execute(&mut self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        self.next_id += 1;
        let mut request = json!({ "execute": command, "id": self.next_id });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        self.socket.write_all(format!("{request}\n").as_bytes()).await?;
        timeout(ANSWER_LIMIT, self.answer(command)).await.map_err(|_| QmpError::Silent)?
    }

    async fn answer(&mut self, command: &'static str) -> Result<Value, QmpError> {
        loop {
            let Some(mut answer) = self.answers.recv().await else {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            };
            if answer["id"].as_u64() != Some(self.next_id) {
                continue;
            }
            if let Some(reason) = answer["error"]["desc"].as_str() {
                return Err(QmpError::Refused { command, reason: reason.to_owned() });
            }
            return Ok(answer["return"].take());
        }
    }

    /// Waits for QEMU to close the connection, and gives the reason of its last SHUTDOWN event.
    pub async fn closed(self) -> Option<String> {
        drop(self.socket);
        timeout(ANSWER_LIMIT, self.reader).await.ok()?.ok()?
    }
}

async fn read_events(
    mut reader: BufReader<OwnedReadHalf>,
    answers: mpsc::Sender<Value>,
    mut note: impl FnMut(String),
) -> Option<String> {
    let mut reason = None;
    while let Ok(Some(line)) = read_line(&mut reader, LINE_LIMIT_BYTES).await {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        match message["event"].as_str() {
            Some("SHUTDOWN") => reason = message["data"]["reason"].as_str().map(str::to_owned),
            Some("WATCHDOG") => note(format!("the watchdog bit: {}", message["data"]["action"])),
            Some("GUEST_PANICKED") => note("the guest panicked".to_owned()),
            Some(_) => {}
            // The greeting has neither an id nor an event.
            None if message.get("id").is_some() => {
                let _ = answers.try_send(message);
            }
            None => {}
        }
    }
    reason
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncBufReadExt;

    use super::*;

    /// Answers each command with the next of the lines given.
    async fn scripted(socket: UnixStream, script: &'static [&'static str]) {
        let (read, mut write) = socket.into_split();
        let mut commands = BufReader::new(read).lines();
        write.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
        for line in script {
            commands.next_line().await.unwrap();
            write.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn events_between_answers_are_told_apart_and_the_last_reason_is_kept() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let script: &[&str] = &[
            "{\"return\": {}, \"id\": 1}",
            "{\"event\": \"WATCHDOG\", \"data\": {\"action\": \"reset\"}}\n{\"return\": 7, \"id\": 2}",
            "{\"id\": 3, \"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}}",
            "junk\n{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}",
        ];
        let peer = tokio::spawn(scripted(theirs, script));
        let (note, mut notes) = mpsc::unbounded_channel();
        let mut qmp = Qmp::start(ours, move |text| note.send(text).unwrap()).await.unwrap();
        assert_eq!(qmp.execute("first", Value::Null).await.unwrap(), 7);
        assert!(notes.recv().await.unwrap().contains("watchdog"));
        let refused = qmp.execute("second", json!({})).await.unwrap_err();
        assert!(matches!(&refused, QmpError::Refused { command: "second", .. }), "{refused}");
        assert!(matches!(qmp.execute("third", Value::Null).await, Err(QmpError::Connection(_))));
        peer.await.unwrap();
        assert_eq!(qmp.closed().await.as_deref(), Some("guest-reset"));
    }

    #[tokio::test]
    async fn a_peer_that_only_talks_is_cut_off_at_the_line_limit() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let start = tokio::spawn(Qmp::start(ours, |_| {}));
        let chunk = vec![b'x'; LINE_LIMIT_BYTES as usize + 1];
        // The reader hangs up somewhere in between.
        let _ = theirs.write_all(&chunk).await;
        drop(theirs);
        assert!(start.await.unwrap().is_err());
    }
}
