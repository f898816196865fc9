//! One connection to the NBD server: dialled, shaken hands with, and ready for the kernel.
//!
//! Socket options are set before the kernel gets the socket, because afterwards nobody else uses it. They are what
//! finds a dead server: a request that is not acknowledged ends the connection by `TCP_USER_TIMEOUT`, an idle
//! or answered-by-nobody connection by keepalive, a rebooted server by its RST to either.

use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use nbd::client::{Attached, Handshake, HandshakeError};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// A connection with the export agreed on.
#[derive(Debug)]
pub struct Session {
    /// The socket; nothing of the transmission phase has been read from it.
    pub stream: TcpStream,
    /// What the server said about the export.
    pub export: Attached,
}

/// Why there is no session, by step.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No answer to the connection request.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// A socket option was refused.
    #[error("cannot prepare the socket")]
    Options(#[source] nix::Error),
    /// The connection ended or took too long within the handshake.
    #[error("connection lost during the handshake")]
    Transfer(#[source] io::Error),
    /// The server does not give us the export.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// On a local network the answer takes a millisecond; a SYN that was lost while the server boots would be repeated only
/// after a second, and a new try is as good.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Four small messages; ten seconds are for a server that has all boards of a chassis at its door.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Data without acknowledgement for so long means that the server is gone: 200 ms is the shortest retransmission
/// time, so five seconds hold four or five of them, and a switch that relearns its ports takes one or two.
const UNACKNOWLEDGED_LIMIT_MS: u32 = 5_000;
/// Idle seconds before a probe, seconds between probes, and how many go unanswered.
const KEEPALIVE: (u32, u32, u32) = (2, 1, 3);

/// Connects and asks for an export by name.
///
/// # Errors
/// By failed step; each is worth another try later.
pub async fn dial(server: SocketAddrV4, name: &str) -> Result<Session, DialError> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let connect = tokio::net::TcpStream::connect(server);
    let stream = timeout(CONNECT_LIMIT, connect).await.map_err(late).flatten().map_err(DialError::Connect)?;
    set_options(&stream).map_err(DialError::Options)?;
    let shake = shake_hands(stream, name);
    timeout(HANDSHAKE_LIMIT, shake).await.map_err(late).map_err(DialError::Transfer)?
}

async fn shake_hands(mut stream: tokio::net::TcpStream, name: &str) -> Result<Session, DialError> {
    let mut handshake = Handshake::new(name);
    let mut buffer = [0; 512];
    loop {
        while let Some(bytes) = handshake.transmit() {
            stream.write_all(&bytes).await.map_err(DialError::Transfer)?;
        }
        if let Some(export) = handshake.attached() {
            let stream = stream.into_std().map_err(DialError::Transfer)?;
            stream.set_nonblocking(false).map_err(DialError::Transfer)?;
            return Ok(Session { stream, export });
        }
        let wanted = handshake.wanted().min(buffer.len());
        let room = buffer.get_mut(..wanted).unwrap_or_default();
        let length = stream.read(room).await.map_err(DialError::Transfer)?;
        if length == 0 {
            return Err(DialError::Transfer(io::ErrorKind::UnexpectedEof.into()));
        }
        handshake.receive(room.get(..length).unwrap_or_default())?;
    }
}

fn set_options(stream: &tokio::net::TcpStream) -> nix::Result<()> {
    let (idle, interval, count) = KEEPALIVE;
    setsockopt(stream, sockopt::TcpNoDelay, &true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(stream, sockopt::TcpKeepCount, &count)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_LIMIT_MS)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    /// A server that plays a script: bytes to send, then bytes to wait for, and so on.
    fn server(script: Vec<(Vec<u8>, usize)>) -> SocketAddrV4 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let Ok(std::net::SocketAddr::V4(address)) = listener.local_addr() else { panic!("an IPv4 address") };
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for (bytes, wait) in script {
                let _ = stream.write_all(&bytes);
                let _ = stream.read_exact(&mut vec![0; wait]);
            }
        });
        address
    }

    fn greeting() -> Vec<u8> {
        [0x4e42_444d_4147_4943_u64.to_be_bytes(), 0x4948_4156_454F_5054_u64.to_be_bytes()]
            .concat()
            .into_iter()
            .chain([0, 3])
            .collect()
    }

    fn reply(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
        bytes.extend(
            [7, kind, u32::try_from(data.len()).expect("short")].into_iter().flat_map(u32::to_be_bytes),
        );
        bytes.extend(data);
        bytes
    }

    #[test]
    fn a_server_that_agrees_yields_a_blocking_socket_with_nothing_read_beyond_the_handshake() {
        let export = [[0, 0].as_slice(), &(1_u64 << 20).to_be_bytes(), &[0, 3]].concat();
        let answers = [reply(3, &export), reply(1, &[]), b"first reply".to_vec()].concat();
        let address = server(vec![(greeting(), 4 + 16 + 4 + 1 + 2), (answers, 1)]);
        let mut session = runtime().block_on(dial(address, "x")).expect("a session");
        assert_eq!(session.export.size, 1 << 20);
        let mut rest = [0; 11];
        session.stream.read_exact(&mut rest).expect("blocks until it is there");
        assert_eq!(&rest, b"first reply");
    }

    #[test]
    fn a_server_that_hangs_up_or_refuses_or_is_not_there_is_an_error_by_step() {
        let refusal = reply(1 << 31 | 6, b"no such export");
        let address = server(vec![(greeting(), 27), (refusal, 1)]);
        assert!(matches!(runtime().block_on(dial(address, "x")), Err(DialError::Handshake(_))));
        let address = server(vec![(greeting(), 27)]);
        assert!(matches!(runtime().block_on(dial(address, "x")), Err(DialError::Transfer(_))));
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let Ok(std::net::SocketAddr::V4(address)) = listener.local_addr() else { panic!("an IPv4 address") };
        drop(listener);
        assert!(matches!(runtime().block_on(dial(address, "x")), Err(DialError::Connect(_))));
    }
}
