//! Reports to the cluster state service, without ever making the reporting service wait.
//!
//! One task per reporter: it takes events from a bounded queue, keeps a connection to the bus, and sends in batches.
//! When the queue is full the newest event is dropped and counted; the count is reported once there is room again. Events
//! wait in the queue while the bus or the cluster service is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::event::boottime_us;
use crate::{ClusterProxy, Event, connect};

/// Enough for a rack of 256 boards that all ask for 16 files while the cluster service restarts.
const QUEUE_MAX: usize = 4096;

/// Attempts to reach the bus are this far apart, doubling from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A handle on the queue. Cheap to clone; dropping the last one ends the task once the queue is empty.
#[derive(Clone, Debug)]
pub struct Reporter {
    queue: Option<mpsc::Sender<Event>>,
    dropped: Arc<AtomicU64>,
}

impl Reporter {
    /// More events than this do not travel in one call.
    pub const BATCH_MAX: usize = 256;

    /// Starts the task of the service `source`, which then also shows itself on the bus. Needs a tokio runtime.
    pub fn start(source: &'static str) -> Self {
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        tokio::spawn(deliver(source, events, dropped.clone()));
        Self { queue: Some(queue), dropped }
    }

    /// A reporter for a service that init started, else one that goes nowhere.
    pub fn start_if(supervised: bool, source: &'static str) -> Self {
        if supervised { Self::start(source) } else { Self::disconnected() }
    }

    /// A reporter that goes nowhere, for a service that runs alone.
    pub fn disconnected() -> Self {
        Self { queue: None, dropped: Arc::default() }
    }

    /// Hands an event over. Never waits.
    pub fn report(&self, mut event: Event) {
        let Some(queue) = &self.queue else { return };
        if event.at_us == 0 {
            event.at_us = boottime_us();
        }
        if queue.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Owns the connection. Ends when every handle is gone.
async fn deliver(source: &'static str, mut events: mpsc::Receiver<Event>, dropped: Arc<AtomicU64>) {
    let mut batch = Vec::new();
    let mut wait = BACK_OFF.0;
    loop {
        if let Ok(connection) = connect(source).await
            && let Ok(cluster) = ClusterProxy::new(&connection).await
        {
            let deliveries = send_all(source, &cluster, &mut events, &mut batch, &dropped).await;
            match deliveries {
                Ended::Service => return,
                Ended::Connection { delivered: 0 } => {}
                Ended::Connection { .. } => wait = BACK_OFF.0,
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACK_OFF.1);
        if events.is_closed() && events.is_empty() {
            return;
        }
    }
}

enum Ended {
    Service,
    Connection { delivered: usize },
}

/// Sends until the connection or the service ends. What was not acknowledged stays in `batch`.
async fn send_all(
    source: &str,
    cluster: &ClusterProxy<'_>,
    events: &mut mpsc::Receiver<Event>,
    batch: &mut Vec<Event>,
    dropped: &AtomicU64,
) -> Ended {
    let mut delivered = 0;
    loop {
        if batch.is_empty() && events.recv_many(batch, Reporter::BATCH_MAX).await == 0 {
            return Ended::Service;
        }
        let missed = dropped.swap(0, Ordering::Relaxed);
        if missed > 0 {
            tracing::warn!(missed, "reports dropped: the cluster service was away for too long");
        }
        if let Err(error) = cluster.report(source, batch).await {
            tracing::debug!(%error, "report not delivered; will try again");
            return Ended::Connection { delivered };
        }
        delivered += batch.len();
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reporting_without_a_bus_never_waits_and_never_grows() {
        let reporter = Reporter::start("test");
        for _ in 0..QUEUE_MAX + 10 {
            reporter.report(Event::new("discover"));
        }
        assert_eq!(reporter.dropped.load(Ordering::Relaxed), 10);
        Reporter::disconnected().report(Event::new("discover"));
    }
}
