//! The dashboard, and the stream of changes that keeps it live.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::broadcast::error::RecvError;

use super::respond::{Refusal, Response, refuse, whole};
use crate::owner::Handle;

const PAGE: &str = include_str!("dashboard.html");

/// Streams that may be open at a time; a page whose stream is refused polls instead.
const STREAMS_MAX: usize = 64;

/// A comment is sent when nothing else was, so that both ends notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

static STREAMS: AtomicUsize = AtomicUsize::new(0);

/// The page. Everything it needs is in it.
pub fn dashboard() -> Response {
    let mut response = whole(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    );
    response
}

/// `GET /api/v1/events`: server-sent events, one `node` event with the machine as JSON for each change. A reader that lags
/// too far behind gets a `lagged` event and the end; it then asks for everything again.
pub fn events(state: &Handle) -> Response {
    let Some(place) = Place::take() else {
        let reason = "too many streams are open; poll /api/v1/nodes instead";
        return refuse(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason));
    };
    let changes = state.changes();
    let frames = stream::unfold(Some((changes, place)), |source| async move {
        let (mut changes, place) = source?;
        // Dropping recv() at the time-out loses no change.
        let text = match tokio::time::timeout(KEEP_ALIVE, changes.recv()).await {
            Err(_) => ": nothing new\n\n".to_owned(),
            Ok(Ok(node)) => {
                format!("event: node\ndata: {}\n\n", serde_json::to_string(&*node).unwrap_or_default())
            }
            Ok(Err(RecvError::Lagged(_))) => {
                return Some((frame("event: lagged\ndata: {}\n\n".to_owned()), None));
            }
            Ok(Err(RecvError::Closed)) => return None,
        };
        Some((frame(text), Some((changes, place))))
    });
    let mut response = http::Response::new(StreamBody::new(frames).boxed());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn frame(text: String) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from(text)))
}

/// One of [`STREAMS_MAX`] places, given back when dropped.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let taken = STREAMS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            (open < STREAMS_MAX).then_some(open + 1)
        });
        taken.is_ok().then_some(Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        STREAMS.fetch_sub(1, Ordering::Relaxed);
    }
}
