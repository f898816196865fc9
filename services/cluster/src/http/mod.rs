//! HTTP: the API, the dashboard, and the agents' side.
//!
//! One task per connection, at most [`CONNECTIONS_MAX`] at a time; a further one waits to be accepted. Header time, header
//! size, body size and idle time are limited. A request that is refused gets JSON `{"error": "…"}`.

mod agents;
mod operator;
mod page;
mod respond;
mod tunnel;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::orders::Orders;
use crate::owner::Handle;
use respond::{Refusal, Response, refuse};

/// Each costs some 20 KiB; 10,000 agents keep one connection each.
pub const CONNECTIONS_MAX: usize = 12_000;

/// A client that sends its headers more slowly is not one of ours.
const HEADER_TIME_OUT: Duration = Duration::from_secs(10);

/// Enough for any browser's headers.
const HEADERS_MAX_BYTES: usize = 16 * 1024;

/// What every request may use.
pub struct Shared {
    /// The machines.
    pub state: Handle,
    /// Orders on their way.
    pub orders: Orders,
    /// The password for orders and logs.
    pub token: Option<String>,
    /// The cluster's network, where agents are.
    pub cluster: config::Cluster,
    /// Tunnels to machines' buses.
    pub tunnels: tunnel::Tunnels,
}

impl Shared {
    /// What requests may use, with nothing under way.
    pub fn new(state: Handle, orders: Orders, token: Option<String>, cluster: config::Cluster) -> Arc<Self> {
        Arc::new(Self { state, orders, token, cluster, tunnels: tunnel::Tunnels::default() })
    }
}

/// Accepts for as long as it is polled; connections end by themselves.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or memory: wait for a connection to end rather than spin.
                tracing::debug!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(request, peer, shared).await) }
            });
            let outcome = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME_OUT)
                .max_buf_size(HEADERS_MAX_BYTES)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if let Err(error) = outcome {
                tracing::debug!(%peer, %error, "connection ended");
            }
        });
    }
}

/// Decides what a request is, and answers it.
async fn answer(request: Request<Incoming>, peer: SocketAddr, shared: Arc<Shared>) -> Response {
    let outcome = match host_is_ours(&request) {
        Ok(()) => route(request, peer, shared).await,
        Err(refusal) => Err(refusal),
    };
    outcome.unwrap_or_else(refuse)
}

async fn route(
    request: Request<Incoming>,
    peer: SocketAddr,
    shared: Arc<Shared>,
) -> Result<Response, Refusal> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let method = request.method().clone();
    match (&method, parts.as_slice()) {
        (&Method::GET, [""]) => Ok(page::dashboard()),
        (&Method::GET, ["healthz"]) => Ok(respond::text(StatusCode::OK, "ok\n")),
        (_, ["api", "v1", rest @ ..]) => match (&method, rest) {
            (&Method::GET, ["version"]) => Ok(respond::json(&Version { version: env!("CARGO_PKG_VERSION") })),
            (&Method::GET, ["nodes"]) => Ok(respond::json(&shared.state.nodes().await)),
            (&Method::GET, ["nodes", name]) => {
                let node = shared.state.node(name).await.ok_or_else(|| no_such_node(name))?;
                Ok(respond::json(&node))
            }
            (&Method::GET, ["events"]) => Ok(page::events(&shared.state)),
            (&Method::POST, ["heartbeat"]) => agents::heartbeat(request, peer, &shared).await,
            (&Method::GET, ["orders"]) => agents::orders(peer, &shared).await,
            (&Method::POST, ["results"]) => agents::results(request, peer, &shared).await,
            (&Method::POST, ["tunnel", id]) => tunnel::from_agent(request, peer, id, &shared),
            (_, ["nodes", name, verb @ ..]) if !verb.is_empty() => {
                operator::authorise(&request, shared.token.as_deref())?;
                operator::order(request, name, verb, &shared).await
            }
            (_, ["version" | "nodes" | "events" | "heartbeat" | "orders" | "results" | "tunnel", ..]) => {
                Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take that method"))
            }
            _ => Err(not_found(&path)),
        },
        (&Method::GET | &Method::POST, _) => Err(not_found(&path)),
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take that method")),
    }
}

#[derive(serde::Serialize)]
struct Version {
    version: &'static str,
}

fn not_found(path: &str) -> Refusal {
    let path: String = path.chars().take(200).collect();
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!("there is nothing at {path}; the API begins at /api/v1/nodes"),
    )
}

fn no_such_node(name: &str) -> Refusal {
    let name: String = name.chars().take(64).collect();
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no machine named {name}; see /api/v1/nodes"))
}

/// A page elsewhere can make a browser ask us under its own name (DNS rebinding); names that are not ours are
/// refused. Addresses are always ours.
fn host_is_ours(request: &Request<Incoming>) -> Result<(), Refusal> {
    let host = request.headers().get(http::header::HOST).and_then(|value| value.to_str().ok()).unwrap_or("");
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let known = ["localhost", "bramble", "bramble.local", "head"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known));
    if literal || known {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "use the head's address, bramble.local or localhost"))
}
