//! Connections to back ends: made, kept for the next request, given up.
//!
//! A kept connection is used newest first, so that after a burst the surplus grows old and is closed. Limits:
//! [`KEPT_PER_BACKEND_MAX`], [`KEPT_MAX`]; what does not fit is closed.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::proxy::RequestBody;

/// One connection to a back end, ready for a request.
pub(crate) type Sender = http1::SendRequest<RequestBody>;

/// The connections that wait for their next request.
#[derive(Debug, Default)]
pub(crate) struct Upstream {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_address: HashMap<SocketAddr, Vec<(Sender, Instant)>>,
    count: usize,
}

impl Upstream {
    /// A kept connection that is still open, as far as is known here.
    pub(crate) fn take(&self, address: SocketAddr) -> Option<Sender> {
        let mut kept = self.lock();
        loop {
            let (sender, since) = kept.by_address.get_mut(&address)?.pop()?;
            kept.count -= 1;
            if !sender.is_closed() && since.elapsed() < KEPT_FOR {
                return Some(sender);
            }
        }
    }

    /// Keeps a connection for the next request as soon as it is able to take one.
    pub(crate) fn put_back(self: &Arc<Self>, address: SocketAddr, mut sender: Sender) {
        if sender.is_ready() {
            self.keep(address, sender);
            return;
        }
        if sender.is_closed() {
            return;
        }
        // The answer came before the whole request was taken, or its last byte has not been accounted for yet.
        let upstream = self.clone();
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(SETTLE, sender.ready()).await {
                upstream.keep(address, sender);
            }
        });
    }

    /// Closes what is kept for a back end: it has just closed one of them.
    pub(crate) fn forget(&self, address: SocketAddr) {
        let mut kept = self.lock();
        let gone = kept.by_address.remove(&address).map_or(0, |senders| senders.len());
        kept.count -= gone;
    }

    /// Closes what has waited for too long or belongs to a back end that has left.
    pub(crate) fn sweep(&self, is_member: impl Fn(&SocketAddr) -> bool) {
        let mut kept = self.lock();
        kept.by_address.retain(|address, senders| {
            senders.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < KEPT_FOR);
            !senders.is_empty() && is_member(address)
        });
        kept.count = kept.by_address.values().map(Vec::len).sum();
    }

    fn keep(&self, address: SocketAddr, sender: Sender) {
        let mut kept = self.lock();
        if kept.count >= KEPT_MAX {
            return;
        }
        let senders = kept.by_address.entry(address).or_default();
        if senders.len() < KEPT_PER_BACKEND_MAX {
            senders.push((sender, Instant::now()));
            kept.count += 1;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        // Nothing in here panics half-way; a poisoned lock would still hold a sound table.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects and speaks HTTP/1.1. The task that drives the connection ends with the connection.
///
/// # Errors
/// Those of connect(2), or `TimedOut` after [`CONNECT_TIME_OUT`].
pub(crate) async fn connect(address: SocketAddr) -> io::Result<Sender> {
    let stream = connect_tcp(address).await?;
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_MAX)
        .max_header_size(HEADER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%address, %error, "connection to a back end ended early");
        }
    });
    Ok(sender)
}

/// As [`connect`], without a protocol; also what a probe does.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_TIME_OUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    // A node that lost its power says nothing. Bytes it does not confirm, and probes while it is silent, find that out.
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_AFTER);
    socket.set_tcp_keepalive(&probes)?;
    Ok(stream)
}

/// A board on the same switch answers within a millisecond; one lost SYN is sent again after one second.
const CONNECT_TIME_OUT: Duration = Duration::from_secs(1);
/// Shorter than the web server of the nodes keeps one (30 s), so that seldom both ends act at once.
const KEPT_FOR: Duration = Duration::from_secs(15);
/// How often [`Upstream::sweep`] is worth calling.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(5);
const KEPT_PER_BACKEND_MAX: usize = 64;
const KEPT_MAX: usize = 512;
/// For the end of a message to be seen by both tasks of a connection.
const SETTLE: Duration = Duration::from_secs(1);
/// On one switch a confirmation takes a millisecond; a back end that reads none of an upload for this long is no better.
const DEAD_AFTER: Duration = Duration::from_secs(5);
const PROBE_AFTER: Duration = Duration::from_secs(2);
/// Of a back end's answer; hyper fails a larger head.
const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Per connection and direction; more buys no speed on a gigabit link.
pub(crate) const BUFFER_MAX: usize = 64 * 1024;
