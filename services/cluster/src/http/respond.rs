//! Answers and refusals.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;

/// What goes out: whole or streamed.
pub type Response = http::Response<BoxBody<Bytes, Infallible>>;

/// Why a request is not carried out.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    reason: String,
}

impl Refusal {
    /// A refusal with its status and a reason for people.
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

/// The refusal as JSON.
pub fn refuse(refusal: Refusal) -> Response {
    #[derive(serde::Serialize)]
    struct Error {
        error: String,
    }
    let mut response = json(&Error { error: refusal.reason });
    *response.status_mut() = refusal.status;
    if refusal.status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// A value as JSON.
pub fn json(value: &impl serde::Serialize) -> Response {
    // Our own types have no map with keys that are not text, the only thing that could fail.
    let body = serde_json::to_vec(value).unwrap_or_default();
    whole(StatusCode::OK, "application/json", body)
}

/// Plain text.
pub fn text(status: StatusCode, text: impl Into<String>) -> Response {
    whole(status, "text/plain; charset=utf-8", text.into().into_bytes())
}

/// Nothing, successfully.
pub fn empty() -> Response {
    let mut response = text(StatusCode::NO_CONTENT, "");
    response.headers_mut().remove(header::CONTENT_TYPE);
    response
}

/// A body of one piece.
pub fn whole(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The body of a request, limited in size and time.
pub async fn body<T: serde::de::DeserializeOwned>(request: http::Request<Incoming>) -> Result<T, Refusal> {
    let read = Limited::new(request.into_body(), api::BODY_MAX_BYTES).collect();
    let body = tokio::time::timeout(std::time::Duration::from_secs(10), read)
        .await
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took more than 10 s"))?
        .map_err(|_| {
            let limit = api::BODY_MAX_BYTES;
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {limit} bytes"))
        })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("this is not the JSON expected here: {error}"))
    })
}
