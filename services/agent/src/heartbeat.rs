//! Heartbeats: every two seconds, at once when the machine becomes ready, and one last at the end.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use api::Heartbeat;
use config::Machine;
use http::Method;
use service::Context;

use crate::client::{Client, ClientError};
use crate::facts;

/// How often the service table is looked at while the machine is not ready, so that "ready" is told when it is so.
const STARTING_INTERVAL: Duration = Duration::from_millis(100);

/// A beat that is not answered by then is as good as lost; the next one is due.
const BEAT_TIME_OUT: Duration = Duration::from_secs(api::HEARTBEAT_INTERVAL_S);

/// The last words at a shutdown must not hold it up.
const GOODBYE_TIME_OUT: Duration = Duration::from_millis(500);

/// Beats until the process is asked to stop.
pub async fn beat(head: SocketAddr, machine: Machine, own_address: Option<Ipv4Addr>, context: &Context) {
    let mut client = Client::new(head);
    let mut reach = Reach::default();
    let interval = Duration::from_secs(api::HEARTBEAT_INTERVAL_S);
    let mut wait = phase(&machine.serial, interval).min(STARTING_INTERVAL);
    let mut told_ready = false;
    let mut last_sent: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // A beat that is not sent is replaced by the goodbye.
            () = context.shutdown() => break,
        }
        let beat = facts::heartbeat(&machine, own_address).await;
        let due = last_sent.is_none_or(|sent| sent.elapsed() + STARTING_INTERVAL / 2 >= interval);
        if due || beat.ready != told_ready {
            let ready = beat.ready;
            let outcome = send(&mut client, &beat, BEAT_TIME_OUT).await;
            if reach.note(&outcome, head, context) {
                told_ready = ready;
                last_sent = Some(tokio::time::Instant::now());
            }
        }
        let since_sent = last_sent.map_or(interval, |sent| sent.elapsed());
        wait = match (told_ready, last_sent) {
            (true, Some(_)) => interval.saturating_sub(since_sent).max(STARTING_INTERVAL),
            // Not ready, or the head is away: look again soon.
            _ => STARTING_INTERVAL.max(if reach.failures > 5 {
                Duration::from_secs(1)
            } else {
                STARTING_INTERVAL
            }),
        };
    }
    let goodbye = Heartbeat { stopping: true, ready: false, ..facts::heartbeat(&machine, own_address).await };
    let _ = send(&mut client, &goodbye, GOODBYE_TIME_OUT).await;
}

async fn send(client: &mut Client, beat: &Heartbeat, limit: Duration) -> Result<(), ClientError> {
    let body = serde_json::to_vec(beat).unwrap_or_default();
    client.send(Method::POST, "/api/v1/heartbeat", body, limit).await.map(|_| ())
}

/// Whether the head hears us; a change is said once.
#[derive(Default)]
struct Reach {
    failures: u32,
}

impl Reach {
    fn note(&mut self, outcome: &Result<(), ClientError>, head: SocketAddr, context: &Context) -> bool {
        match outcome {
            Ok(()) => {
                if self.failures > 0 {
                    tracing::info!(%head, attempt = self.failures, "the head hears us again");
                    context.status(format_args!("reporting to {head}"));
                }
                self.failures = 0;
            }
            Err(error) => {
                self.failures += 1;
                // The head's own services start in parallel: the first misses are usual.
                if self.failures == 5 {
                    let error = format!("{:#}", error_chain(error));
                    tracing::warn!(%head, %error, "the head does not hear us; trying on");
                    context.status(format_args!("{head} does not answer"));
                }
            }
        }
        outcome.is_ok()
    }
}

fn error_chain(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Machines that were powered together beat at different moments, each always at its own.
fn phase(serial: &str, interval: Duration) -> Duration {
    let number = serial.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    interval * (number % 1000) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_beat_at_different_moments_within_one_interval() {
        let interval = Duration::from_secs(2);
        let phases: std::collections::BTreeSet<_> =
            (0..100).map(|n| phase(&format!("100000{n:02x}"), interval)).collect();
        assert!(phases.len() > 50 && phases.iter().all(|phase| *phase < interval), "{phases:?}");
    }
}
