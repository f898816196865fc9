//! `/run/init.sock`: connections, their limits and their time-outs. What is asked is understood in `request`.
//!
//! At most [`CONNECTIONS_MAX`] at a time, each for at most [`TIME_LIMIT`] from connection to the last byte answered,
//! each with a request of at most `REQUEST_MAX` bytes. One more and the oldest gives way: who asks at once is answered
//! at once, however many others only connect.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use crate::request::{Error, REQUEST_MAX};
use crate::supervisor::Moment;

/// The operator, the agent, and some that hang.
const CONNECTIONS_MAX: usize = 8;

/// Everything is in memory on both sides: who needs longer is not there any more.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The listener and its connections.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    user: u32,
    until: Moment,
    request: Vec<u8>,
    answer: Option<Answer>,
    closed: bool,
}

#[derive(Debug)]
struct Answer {
    bytes: Vec<u8>,
    sent: usize,
}

/// Which of the server's descriptors.
#[derive(Clone, Copy, Debug)]
pub enum Interest<'a> {
    /// Wait until it can be read.
    Read(BorrowedFd<'a>),
    /// Wait until it can be written.
    Write(BorrowedFd<'a>),
}

impl Server {
    /// Listens. Anybody may connect; who may command is decided per request.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path) -> std::io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        Ok(Self { listener, connections: Vec::new() })
    }

    /// What to wait for.
    pub fn interests(&self) -> impl Iterator<Item = Interest<'_>> {
        let listener =
            (self.connections.len() < CONNECTIONS_MAX).then(|| Interest::Read(self.listener.as_fd()));
        listener.into_iter().chain(self.connections.iter().map(|connection| {
            let stream = connection.stream.as_fd();
            if connection.answer.is_some() { Interest::Write(stream) } else { Interest::Read(stream) }
        }))
    }

    /// When the next connection runs out of time.
    pub fn deadline(&self) -> Option<Moment> {
        self.connections.iter().map(|connection| connection.until).min()
    }

    /// Does what can be done without waiting. `answer` gets the request line and the sender's user.
    pub fn serve(&mut self, now: Moment, mut answer: impl FnMut(&[u8], u32) -> String) {
        for _ in 0..CONNECTIONS_MAX {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if self.connections.len() >= CONNECTIONS_MAX {
                self.connections.remove(0);
            }
            self.connections.extend(Connection::new(stream, now));
        }
        for connection in &mut self.connections {
            connection.serve(&mut answer);
        }
        self.connections.retain(|connection| !connection.closed && connection.until > now);
    }
}

impl Connection {
    fn new(stream: UnixStream, now: Moment) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        let user = getsockopt(&stream, PeerCredentials).ok()?.uid();
        let until = now.saturating_add(TIME_LIMIT);
        Some(Self { stream, user, until, request: Vec::new(), answer: None, closed: false })
    }

    fn serve(&mut self, answer: &mut impl FnMut(&[u8], u32) -> String) {
        if self.answer.is_none() {
            self.read();
            let line = self.request.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let text = if line.len() < self.request.len() {
                answer(line, self.user)
            } else if self.request.len() >= REQUEST_MAX {
                Error::Unknown.text().to_owned()
            } else {
                return;
            };
            self.answer = Some(Answer { bytes: text.into_bytes(), sent: 0 });
        }
        self.write();
    }

    fn read(&mut self) {
        let mut bytes = [0; REQUEST_MAX];
        let room = REQUEST_MAX.saturating_sub(self.request.len());
        match self.stream.read(bytes.get_mut(..room).unwrap_or_default()) {
            Ok(0) => self.closed = true,
            Ok(count) => self.request.extend(bytes.iter().take(count)),
            Err(error) => self.closed = !is_patient(&error),
        }
    }

    fn write(&mut self) {
        let Some(Answer { bytes, sent }) = &mut self.answer else { return };
        while let Some(rest) = bytes.get(*sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(count) => *sent = sent.saturating_add(count),
                Err(error) if is_patient(&error) => return,
                Err(_) => break,
            }
        }
        self.closed = true;
    }
}

fn is_patient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        server: Server,
        folder: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { server: Server::bind(&folder.path().join("sock")).unwrap(), folder }
        }

        fn connect(&self) -> UnixStream {
            let stream = UnixStream::connect(self.folder.path().join("sock")).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        }

        /// One pass of the loop, in which every request is answered with itself and its sender.
        fn serve(&mut self, seconds: u64) {
            let echo = |line: &[u8], user| format!("{user} {}\n", String::from_utf8_lossy(line));
            self.server.serve(Moment::from_secs(seconds), echo);
        }
    }

    fn answer(stream: &mut UnixStream) -> Option<String> {
        let mut text = String::new();
        stream.read_to_string(&mut text).ok().map(|_| text)
    }

    #[test]
    fn a_request_in_pieces_gets_one_answer_and_the_end_of_the_stream() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        client.write_all(b"serv").unwrap();
        bench.serve(0);
        client.write_all(b"ices\nmore\n").unwrap();
        bench.serve(0);
        assert_eq!(answer(&mut client), Some(format!("{} services\n", nix::unistd::getuid())));
        assert!(bench.server.deadline().is_none());
    }

    #[test]
    fn a_request_without_end_is_refused() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        client.write_all(&[b'x'; REQUEST_MAX]).unwrap();
        bench.serve(0);
        assert!(answer(&mut client).unwrap().starts_with("error: "));
    }

    #[test]
    fn a_client_that_says_nothing_is_dropped_in_time() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        bench.serve(10);
        assert_eq!(bench.server.deadline(), Some(Moment::from_secs(12)));
        assert_eq!(answer(&mut client), None);
        bench.serve(12);
        assert_eq!(answer(&mut client), Some(String::new()));
    }

    #[test]
    fn idle_clients_do_not_keep_others_out() {
        let mut bench = Bench::new();
        let mut idle: Vec<_> = (0..30).map(|_| bench.connect()).collect();
        let mut client = bench.connect();
        client.write_all(b"services\n").unwrap();
        for _ in 0..4 {
            bench.serve(0);
            assert!(bench.server.connections.len() <= CONNECTIONS_MAX);
        }
        assert!(answer(&mut client).unwrap().ends_with("services\n"));
        assert_eq!(answer(&mut idle[0]), Some(String::new()), "the oldest gave way");
    }

    #[test]
    fn a_client_that_does_not_read_keeps_nobody_waiting() {
        let mut bench = Bench::new();
        let mut client = bench.connect();
        client.write_all(b"logs\n").unwrap();
        bench.server.serve(Moment::ZERO, |_, _| "x".repeat(4 << 20));
        assert_eq!(bench.server.connections.len(), 1);
        bench.serve(3);
        assert_eq!(bench.server.connections.len(), 0);
    }
}
