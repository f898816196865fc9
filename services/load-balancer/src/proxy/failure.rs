//! What can go wrong with one request, who is to blame, and what the client is told.

use std::io;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;

use super::body::ResponseBody;
use super::head::{Refusal, X_REQUEST_ID};
use crate::pool::Fault;

/// Why there is no answer to pass on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("no node is ready")]
    NoBackend,
    #[error("the node could not be connected to")]
    Connect(#[source] io::Error),
    #[error("the node closed the connection before it answered")]
    Ended(#[source] hyper::Error),
    #[error("the node's answer is not proper HTTP")]
    Garbage(#[source] hyper::Error),
    #[error("the node changed the protocol without being asked")]
    Unasked,
    #[error("the node left the cluster before it answered")]
    Left,
    #[error("the node did not answer in time")]
    Silent,
    #[error("the body of the request did not arrive")]
    Client,
}

impl Failure {
    /// What the failure says about the back end, if it is to blame.
    pub(crate) fn fault(&self) -> Option<Fault> {
        match self {
            Self::Connect(_) => Some(Fault::Unreachable),
            Self::Ended(_) | Self::Garbage(_) | Self::Unasked | Self::Silent => Some(Fault::Broken),
            Self::Refused(_) | Self::NoBackend | Self::Left | Self::Client => None,
        }
    }

    /// Whether another back end might do better. After [`Failure::Silent`] the client has waited for long enough.
    pub(crate) fn is_worth_another_try(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Ended(_) | Self::Left)
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::NoBackend => StatusCode::SERVICE_UNAVAILABLE,
            Self::Connect(_) | Self::Ended(_) | Self::Garbage(_) | Self::Unasked | Self::Left => {
                StatusCode::BAD_GATEWAY
            }
            Self::Silent => StatusCode::GATEWAY_TIMEOUT,
            Self::Client => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// The answer in plain words.
    pub(crate) fn response(&self, id: &str) -> Response<ResponseBody> {
        let status = self.status();
        let text = format!("{status}: {self}\nrequest {id}\n");
        let mut response = Response::new(ResponseBody::Own(Full::new(Bytes::from(text))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(id) = HeaderValue::from_str(id) {
            headers.insert(X_REQUEST_ID, id);
        }
        match self {
            Self::Refused(Refusal::Method) => {
                let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH");
                headers.insert(ALLOW, methods);
            }
            // What follows on the connection may be the body of this request: it is not looked at.
            Self::Refused(_) | Self::Client => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}
