//! Bodies on their way through: streamed, never collected, and never silent for longer than a limit.
//!
//! hyper asks for the next piece only when it has room for it, so a slow reader slows its writer down.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::Lease;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("no byte came for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// A body being received, with a limit on the time between two pieces.
#[derive(Debug)]
struct Timed {
    body: Incoming,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Timed {
    fn new(body: Incoming, limit: Duration) -> Self {
        Self { body, limit, timer: None, waiting: false }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + limit);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyError::Stalled(limit))))
    }
}

/// A client's body on its way to a back end.
#[derive(Debug)]
pub(crate) struct RequestBody(Option<(Timed, Arc<Upload>)>);

/// What the task that waits for the answer may know of the body.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    ended: AtomicBool,
    failed: AtomicBool,
}

impl Upload {
    /// The back end has all it needs in order to answer.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// The client stalled, went away or broke the rules.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

impl RequestBody {
    pub(crate) fn empty() -> Self {
        Self(None)
    }

    pub(crate) fn new(body: Incoming, limit: Duration) -> (Self, Arc<Upload>) {
        let upload = Arc::new(Upload::default());
        (Self(Some((Timed::new(body, limit), upload.clone()))), upload)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some((body, upload)) = &mut self.0 else { return Poll::Ready(None) };
        let frame = ready!(body.poll_frame(cx));
        upload.failed.store(matches!(frame, Some(Err(_))), Ordering::Relaxed);
        upload.ended.store(frame.is_none() || body.body.is_end_stream(), Ordering::Relaxed);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|(body, _)| body.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.body.size_hint())
    }
}

/// What a client gets.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// Words of this proxy.
    Own(Full<Bytes>),
    /// A back end's answer, and the claim on its connection.
    Relayed(Box<Relayed>),
}

#[derive(Debug)]
pub(crate) struct Relayed {
    body: Timed,
    lease: Lease,
}

impl ResponseBody {
    pub(crate) fn relay(body: Incoming, limit: Duration, mut lease: Lease) -> Self {
        if body.is_end_stream() {
            lease.completed();
        }
        Self::Relayed(Box::new(Relayed { body: Timed::new(body, limit), lease }))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let relayed = match &mut *self {
            Self::Own(body) => return Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Relayed(relayed) => relayed,
        };
        let frame = ready!(relayed.body.poll_frame(cx));
        match &frame {
            Some(Err(error)) => relayed.lease.broken(error),
            // hyper may not ask again after the last piece of a known length.
            Some(Ok(_)) if relayed.body.body.is_end_stream() => relayed.lease.completed(),
            Some(Ok(_)) => {}
            None => relayed.lease.completed(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Relayed(relayed) => relayed.body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Relayed(relayed) => relayed.body.body.size_hint(),
        }
    }
}
