//! Orders: one question is always open at the head; what comes back is carried out, and the result sent.
//!
//! Several orders may be under way at once, at most [`UNDER_WAY_MAX`]: a check may take minutes, and the next order must not
//! wait for it. At the limit the next question waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::{Action, Order, Outcome};
use bytes::Bytes;
use config::Machine;
use http::{Method, Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use crate::client::{Client, connect};
use crate::{checks, init_socket};

const UNDER_WAY_MAX: usize = 4;

/// After a failure the head is asked again this much later.
const RETRY: Duration = Duration::from_secs(1);

/// The head holds a question for 25 s; longer silence is a dead connection.
const QUESTION_TIME_OUT: Duration = Duration::from_secs(api::ORDERS_WAIT_S + 5);

const RESULT_TIME_OUT: Duration = Duration::from_secs(5);

/// The bus of this machine.
const BUS_SOCKET: &str = "/run/dbus/system_bus_socket";

/// Asks for orders for ever.
pub async fn serve(head: SocketAddr, machine: Machine) {
    let mut client = Client::new(head);
    let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let machine = Arc::new(machine);
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match client.send(Method::GET, "/api/v1/orders", Vec::new(), QUESTION_TIME_OUT).await {
            Ok((StatusCode::NO_CONTENT, _)) => {}
            Ok((_, body)) => match serde_json::from_slice::<Order>(&body) {
                Ok(order) => {
                    let machine = machine.clone();
                    tokio::spawn(async move {
                        carry_out(head, &machine, order).await;
                        drop(place);
                    });
                }
                Err(error) => tracing::warn!(%error, "an order that this version does not know"),
            },
            Err(error) => {
                tracing::debug!(%error, "no orders");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn carry_out(head: SocketAddr, machine: &Machine, order: Order) {
    tracing::info!(action = ?order.action, "order");
    // A machine that goes down cannot tell afterwards: it says so before.
    let before = matches!(order.action, Action::Reboot | Action::PowerOff);
    if before {
        report(head, Outcome { id: order.id, ok: true, text: "going down\n".to_owned() }).await;
    }
    let is_check = matches!(order.action, Action::Check { .. });
    let result = perform(head, machine, order.action).await;
    if is_check {
        tracing::info!(ok = result.is_ok(), "check finished");
    }
    if !before {
        let (ok, text) = match result {
            Ok(text) => (true, text),
            Err(reason) => (false, format!("{reason}\n")),
        };
        report(head, Outcome { id: order.id, ok, text }).await;
    } else if let Err(error) = result {
        tracing::error!(%error, "init refuses to go down");
    }
}

async fn perform(head: SocketAddr, machine: &Machine, action: Action) -> Result<String, String> {
    match action {
        Action::Services => init_socket::ask("services").await,
        Action::Logs { service } => init_socket::ask(&format!("logs {}", word(&service)?)).await,
        Action::Signal { service, signal } => {
            init_socket::ask(&format!("signal {} {signal}", word(&service)?)).await
        }
        Action::Service { service, verb } => match verb.as_str() {
            "start" | "stop" | "restart" => init_socket::ask(&format!("{verb} {}", word(&service)?)).await,
            _ => Err(format!("no such order: {}", word(&verb)?)),
        },
        Action::Reboot => init_socket::ask("reboot").await,
        Action::PowerOff => init_socket::ask("poweroff").await,
        Action::Check { check } => checks::run(check, machine).await,
        Action::Tunnel { tunnel } => open_tunnel(head, tunnel).await,
    }
}

/// init's requests are lines of words: nothing that could be two of them may pass.
fn word(text: &str) -> Result<&str, String> {
    let legal =
        !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if legal { Ok(text) } else { Err("that is no service's name".to_owned()) }
}

async fn report(head: SocketAddr, outcome: Outcome) {
    let body = serde_json::to_vec(&outcome).unwrap_or_default();
    // A connection of its own: the other one may be waiting for the next order.
    let sent = Client::new(head).send(Method::POST, "/api/v1/results", body, RESULT_TIME_OUT).await;
    if let Err(error) = sent {
        tracing::warn!(%error, "a result did not reach the head");
    }
}

/// Calls the head and joins the call to this machine's bus.
async fn open_tunnel(head: SocketAddr, tunnel: u64) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| format!("tunnel: {error}");
    let mut bus = UnixStream::connect(BUS_SOCKET).await.map_err(|error| failed(&error))?;
    let stream = connect(head).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::post(format!("/api/v1/tunnel/{tunnel}"))
        .header(header::HOST, head.to_string())
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "bramble-bus")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("tunnel: the head answered {}", response.status()));
    }
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(response).await {
            // Its end, whichever side ends it, is all there is to know.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut bus).await;
        }
    });
    Ok("tunnel open\n".to_owned())
}
