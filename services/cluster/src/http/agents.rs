//! The agents' side of the API: heartbeats, questions for orders, results.
//!
//! Only machines of the cluster's network and the head itself may use it, and each speaks for itself alone: a heartbeat
//! counts only from the address it names. (The cluster's network is trusted as far as its switch is; mutual TLS
//! is not there yet.)

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::Shared;
use super::respond::{Refusal, Response, body, empty, json};
use crate::owner::Found;

/// Takes a heartbeat in.
pub async fn heartbeat(
    request: Request<Incoming>,
    peer: SocketAddr,
    shared: &Shared,
) -> Result<Response, Refusal> {
    let sender = machine_address(peer, shared)?;
    let beat: api::Heartbeat = body(request).await?;
    if beat.address.parse() != Ok(sender) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, format!("this heartbeat is not of {sender}")));
    }
    shared.state.heartbeat(beat).await;
    Ok(empty())
}

/// Answers with the next order for the machine that asks, or with nothing after a while.
pub async fn orders(peer: SocketAddr, shared: &Shared) -> Result<Response, Refusal> {
    let machine = machine(peer, shared).await?;
    let wait = Duration::from_secs(api::ORDERS_WAIT_S);
    match tokio::time::timeout(wait, shared.orders.next(&machine.name)).await {
        Ok(order) => Ok(json(&order)),
        Err(_) => Ok(empty()),
    }
}

/// Takes the result of an order in.
pub async fn results(
    request: Request<Incoming>,
    peer: SocketAddr,
    shared: &Shared,
) -> Result<Response, Refusal> {
    let machine = machine(peer, shared).await?;
    let outcome: api::Outcome = body(request).await?;
    if !shared.orders.finish(&machine.name, outcome) {
        return Err(Refusal::new(StatusCode::GONE, "nobody waits for this result any more"));
    }
    Ok(empty())
}

/// The machine at the other end.
async fn machine(peer: SocketAddr, shared: &Shared) -> Result<Found, Refusal> {
    let address = machine_address(peer, shared)?;
    let found = shared.state.find_address(address).await;
    found
        .ok_or_else(|| Refusal::new(StatusCode::FORBIDDEN, format!("{address} has not sent a heartbeat yet")))
}

/// The cluster address of the machine at the other end; the head speaks from the loopback.
pub fn machine_address(peer: SocketAddr, shared: &Shared) -> Result<Ipv4Addr, Refusal> {
    match peer.ip() {
        IpAddr::V4(address) if address.is_loopback() => Ok(shared.cluster.address),
        IpAddr::V4(address) if shared.cluster.contains(address) => Ok(address),
        _ => Err(Refusal::new(StatusCode::FORBIDDEN, "only machines of the cluster's network may use this")),
    }
}
