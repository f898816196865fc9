//! Tunnels from an operator to the bus of a machine, so that standard D-Bus tools can look at it.
//!
//! The operator asks with `Upgrade: bramble-bus`; the machine's agent is given a number and calls back with it; then bytes are
//! passed both ways until one side ends, at most [`LIFE_MAX`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::sync::oneshot;

use super::agents::machine_address;
use super::respond::{Refusal, Response, empty};
use super::{Shared, no_such_node};

/// The protocol's name in the `Upgrade` header.
const PROTOCOL: &str = "bramble-bus";

/// Tunnels that wait for their agent at a time.
const WAITING_MAX: usize = 16;

/// An agent that has not called back by then will not.
const CALL_BACK_TIME_OUT: Duration = Duration::from_secs(10);

/// Nobody looks at a bus for longer in one go.
const LIFE_MAX: Duration = Duration::from_secs(3600);

/// Tunnels that wait for their agent, by number.
#[derive(Debug, Default)]
pub struct Tunnels {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<OnUpgrade>>>,
}

impl Tunnels {
    fn open(&self) -> Option<(u64, oneshot::Receiver<OnUpgrade>)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, waiter| !waiter.is_closed());
        if waiting.len() >= WAITING_MAX {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (called, call) = oneshot::channel();
        waiting.insert(number, called);
        Some((number, call))
    }

    fn take(&self, number: u64) -> Option<oneshot::Sender<OnUpgrade>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }
}

/// The operator's end.
pub async fn from_operator(
    mut request: Request<Incoming>,
    name: &str,
    shared: &Arc<Shared>,
) -> Result<Response, Refusal> {
    wants_tunnel(&request)?;
    let (number, call) = shared.tunnels.open().ok_or_else(|| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many tunnels are being opened; try again later")
    })?;
    let order = shared.orders.give(name, api::Action::Tunnel { tunnel: number }, CALL_BACK_TIME_OUT);
    let agent = tokio::time::timeout(CALL_BACK_TIME_OUT, async {
        tokio::select! {
            // The agent calls first and reports afterwards; a report of failure comes instead of a call.
            biased;
            agent = call => agent.map_err(|_| no_such_node(name)),
            outcome = order => Err(match outcome {
                Ok(outcome) => Refusal::new(StatusCode::BAD_GATEWAY, format!("{name}: {}", outcome.text)),
                Err(_) => Refusal::new(StatusCode::GATEWAY_TIMEOUT, format!("{name} does not take orders")),
            }),
        }
    });
    let agent = agent
        .await
        .map_err(|_| Refusal::new(StatusCode::GATEWAY_TIMEOUT, format!("{name} did not open its bus")))??;
    let operator = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let joined = tokio::time::timeout(LIFE_MAX, async {
            let (operator, agent) = (operator.await?, agent.await?);
            let (mut operator, mut agent) = (TokioIo::new(operator), TokioIo::new(agent));
            // An end of either side ends the tunnel; bytes under way are passed on first.
            let _ = copy_bidirectional(&mut operator, &mut agent).await;
            Ok::<_, hyper::Error>(())
        });
        if let Ok(Err(error)) = joined.await {
            tracing::debug!(%error, "tunnel not opened");
        }
    });
    Ok(switching())
}

/// The agent's end.
pub fn from_agent(
    mut request: Request<Incoming>,
    peer: SocketAddr,
    number: &str,
    shared: &Shared,
) -> Result<Response, Refusal> {
    machine_address(peer, shared)?;
    wants_tunnel(&request)?;
    let waiter = number.parse().ok().and_then(|number| shared.tunnels.take(number));
    let gone = || Refusal::new(StatusCode::GONE, "nobody waits for this tunnel");
    waiter.ok_or_else(gone)?.send(hyper::upgrade::on(&mut request)).map_err(|_| gone())?;
    Ok(switching())
}

fn wants_tunnel(request: &Request<Incoming>) -> Result<(), Refusal> {
    let wanted = request.headers().get(header::UPGRADE).is_some_and(|value| value == PROTOCOL);
    if wanted {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "ask with Connection: upgrade and Upgrade: bramble-bus"))
}

fn switching() -> Response {
    let mut response = empty();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}
