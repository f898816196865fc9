//! The operator's orders: logs, services, signals, power, checks.

use std::sync::Arc;
use std::time::Duration;

use api::Action;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;

use super::respond::{Refusal, Response, body, text};
use super::{Shared, no_such_node, tunnel};
use crate::orders::Failure;

/// An order that a machine has not carried out by then is given up.
const ORDER_TIME_OUT: Duration = Duration::from_secs(10);

/// Checks read whole devices over slow networks.
const CHECK_TIME_OUT: Duration = Duration::from_secs(600);

/// Lets the request pass if it carries the token of `bramble.toml`.
pub fn authorise(request: &Request<Incoming>, token: Option<&str>) -> Result<(), Refusal> {
    let Some(token) = token else {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "orders are switched off: set [api] token in bramble.toml on the head's card and restart the head",
        ));
    };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
        .unwrap_or_default();
    if equal(given, token.as_bytes()) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "send the token of bramble.toml: Authorization: Bearer TOKEN"))
}

/// Compares in a time that tells nothing about where the two differ.
fn equal(given: &[u8], token: &[u8]) -> bool {
    given.len() == token.len() && given.iter().zip(token).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// Gives one order to one machine and waits for its result.
pub async fn order(
    request: Request<Incoming>,
    name: &str,
    verb: &[&str],
    shared: &Arc<Shared>,
) -> Result<Response, Refusal> {
    let found = shared.state.find_name(name).await.ok_or_else(|| no_such_node(name))?;
    if !found.alive {
        let reason = format!("{name} sends no heartbeats, so it cannot be given orders");
        return Err(Refusal::new(StatusCode::CONFLICT, reason));
    }
    if (request.method(), verb) == (&Method::GET, &["bus"]) {
        return tunnel::from_operator(request, &found.name, shared).await;
    }
    let action = action(request, verb).await?;
    let limit = if matches!(action, Action::Check { .. }) { CHECK_TIME_OUT } else { ORDER_TIME_OUT };
    let outcome = shared.orders.give(&found.name, action, limit).await.map_err(|failure| match failure {
        Failure::Full => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("{name} has too many orders waiting"))
        }
        Failure::TimedOut => Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("{name} gave no result within {} s", limit.as_secs()),
        ),
    })?;
    Ok(text(if outcome.ok { StatusCode::OK } else { StatusCode::BAD_GATEWAY }, outcome.text))
}

/// What a request asks for.
async fn action(request: Request<Incoming>, verb: &[&str]) -> Result<Action, Refusal> {
    let method = request.method().clone();
    Ok(match (method, verb) {
        (Method::GET, ["services"]) => Action::Services,
        (Method::GET, ["logs", service]) => Action::Logs { service: service_name(service)? },
        (Method::POST, ["services", service, "signal", signal]) => {
            let number = signal.parse().ok().filter(|number| (1..=31).contains(number));
            let signal = number
                .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "a signal is a number from 1 to 31"))?;
            Action::Signal { service: service_name(service)?, signal }
        }
        (Method::POST, ["services", service, verb @ ("start" | "stop" | "restart")]) => {
            Action::Service { service: service_name(service)?, verb: (*verb).to_owned() }
        }
        (Method::POST, ["reboot"]) => Action::Reboot,
        (Method::POST, ["poweroff"]) => Action::PowerOff,
        (Method::POST, ["check"]) => Action::Check { check: body(request).await? },
        _ => {
            return Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "known orders: GET services, GET logs/SERVICE, GET bus; POST services/SERVICE/start|stop|restart, \
                 services/SERVICE/signal/NUMBER, reboot, poweroff, check",
            ));
        }
    })
}

/// Names of services are lower-case words with dashes; nothing else may reach init's socket.
fn service_name(text: &str) -> Result<String, Refusal> {
    let legal = (1..=32).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if legal {
        Ok(text.to_owned())
    } else {
        Err(Refusal::new(StatusCode::BAD_REQUEST, "that is no service's name"))
    }
}
