//! The HTTP side: accepts connections, answers requests, keeps every limit.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, VARY};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::identity::Identity;
use crate::page::{self, Facts};

/// Serves until `shutdown` completes, then lets the answers under way be finished.
pub(crate) async fn serve(listener: TcpListener, identity: Identity, shutdown: impl Future<Output = ()>) {
    let identity = Arc::new(identity);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            // With every place taken, new connections wait in the kernel's backlog.
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            // Both halves of `accept` are cancel-safe: a place not used is given back by its drop.
            (place, accepted) = accept => match accepted {
                Ok((stream, peer)) => {
                    let connection = connection(stream, peer, identity.clone(), stopping.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors or memory, or a peer gone already: the next try must not spin.
                    tracing::debug!(%error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            // Only forgets what has ended.
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    drop(stop);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections did not end in time and are cut");
    }
}

/// One connection to its end; `stopping` closes when the server wants to end.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    identity: Arc<Identity>,
    mut stopping: watch::Receiver<()>,
) {
    // A peer that stops reading, or is gone without a word, is given up by the kernel.
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(WRITE_STALL));
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let answer = answer(&request, &identity);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        // The connection goes on below; hyper then closes it after the answer under way.
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}

/// Decides the answer to one request. The body of a request is never read.
fn answer(request: &Request<Incoming>, identity: &Identity) -> Response<Full<Bytes>> {
    let (status, content_type, body) = if !matches!(*request.method(), Method::GET | Method::HEAD) {
        (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are answered here\n".to_owned())
    } else {
        match request.uri().path() {
            "/" if wants_html(request.headers()) => {
                (StatusCode::OK, HTML, page::html(identity, &Facts::now()))
            }
            "/" => (StatusCode::OK, TEXT, page::text(identity, &Facts::now())),
            "/healthz" => (StatusCode::OK, TEXT, page::health(identity)),
            _ => (StatusCode::NOT_FOUND, TEXT, "there is only / and /healthz here\n".to_owned()),
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    // Another node may answer the next request: no cache may hide that.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    // `parse_name` admits only characters that a header value may hold.
    if let Ok(name) = HeaderValue::from_str(&identity.name) {
        headers.insert(NODE, name);
    }
    response
}

/// Browsers name text/html; curl and scripts send `*/*` or nothing.
fn wants_html(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| value.to_str().is_ok_and(|value| value.contains("text/html")))
}

const NODE: HeaderName = HeaderName::from_static("x-bramble-node");
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// At some 20 KiB each, all of them together stay within 5 MiB of a node's memory.
const CONNECTIONS_MAX: usize = 256;
/// A request head that does not fit is answered 431; 16 KiB is what common servers allow.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// For a whole request head, and with it for the time an idle connection is kept. Longer than the load
/// balancer keeps one, so that it is the balancer that closes.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const WRITE_STALL: Duration = Duration::from_secs(30);
/// Pages are made in memory: an answer under way needs only the time on the wire.
const DRAIN: Duration = Duration::from_secs(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
