//! A connection after `101 Switching Protocols`: bytes both ways until either end is done.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::{Instant, sleep_until};

use super::Lease;
use crate::driver::Place;

/// Moves bytes until one side closes, fails, or both are silent for [`IDLE_MAX`]. Holds the client's place in the
/// connection limits and the claim on the back end as long as it lasts.
pub(crate) async fn run(client: OnUpgrade, backend: OnUpgrade, lease: Lease, place: Arc<Place>) {
    let outcome = relay(client, backend).await;
    if let Err(error) = outcome {
        tracing::debug!(%error, "tunnel ended early");
    }
    drop((lease, place));
}

async fn relay(client: OnUpgrade, backend: OnUpgrade) -> io::Result<()> {
    let (client, backend) = tokio::try_join!(client, backend)
        .map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?;
    let last = Arc::new(Mutex::new(Instant::now()));
    let mut client = Watched { io: TokioIo::new(client), last: last.clone() };
    let mut backend = Watched { io: TokioIo::new(backend), last: last.clone() };
    tokio::select! {
        outcome = copy_bidirectional(&mut client, &mut backend) => outcome.map(|_| ()),
        // The copy has nothing under way when this wins: no byte has come for an hour.
        () = silence(&last) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Completes when nothing has been read for [`IDLE_MAX`].
async fn silence(last: &Mutex<Instant>) {
    loop {
        let end = *last.lock().unwrap_or_else(PoisonError::into_inner) + IDLE_MAX;
        if end <= Instant::now() {
            return;
        }
        sleep_until(end).await;
    }
}

/// Notes when something was last read.
struct Watched<T> {
    io: T,
    last: Arc<Mutex<Instant>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Poll::Ready(outcome)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A WebSocket may be quiet for long; one that is quiet for an hour has lost its user.
const IDLE_MAX: Duration = Duration::from_secs(3600);
