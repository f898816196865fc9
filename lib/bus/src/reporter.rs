//! Reports to the cluster state service, without ever making the reporting service wait.
//!
//! One task per reporter: it takes events from a bounded queue, keeps a connection to the bus, and sends in batches.
//! When the queue is full the newest event is dropped and counted; the count is reported once there is room again. Events
//! wait in the queue while the bus or the cluster service is away. The end of the connection is noticed at once, so that a
//! service with nothing to report shows itself on a broker that was restarted, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use zbus::{Connection, MessageStream};

use crate::event::boottime_us;
use crate::{ADDRESS, ClusterProxy, Event, connect_to};

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
        Self::start_at(ADDRESS, source)
    }

    fn start_at(address: &'static str, source: &'static str) -> Self {
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        tokio::spawn(deliver(address, source, events, dropped.clone()));
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
async fn deliver(
    address: &'static str,
    source: &'static str,
    mut events: mpsc::Receiver<Event>,
    dropped: Arc<AtomicU64>,
) {
    let mut batch = Vec::new();
    let mut wait = BACK_OFF.0;
    loop {
        if let Ok(connection) = connect_to(address, source).await
            && let Ok(cluster) = ClusterProxy::new(&connection).await
        {
            let ended = tokio::select! {
                // What a call in progress carries is still in `batch`, and is sent again.
                () = end_of(&connection) => Ended::Broker,
                ended = send_all(source, &cluster, &mut events, &mut batch, &dropped) => ended,
            };
            match ended {
                Ended::Service => return,
                Ended::Cluster { delivered: 0 } => {}
                Ended::Cluster { .. } | Ended::Broker => wait = BACK_OFF.0,
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACK_OFF.1);
        if events.is_closed() && events.is_empty() {
            return;
        }
    }
}

/// Why a connection is given up.
enum Ended {
    Service,
    Broker,
    Cluster { delivered: usize },
}

/// Waits until the broker is gone. The messages in between are none of ours, but have to be taken off their queue.
async fn end_of(connection: &Connection) {
    let mut messages = MessageStream::from(connection);
    while let Some(Ok(_)) = messages.next().await {}
}

/// Sends until the service ends or the cluster service does not answer. What was not acknowledged stays in `batch`.
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
            return Ended::Cluster { delivered };
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
        let reporter = Reporter::start_at("unix:path=/nonexistent", "test");
        for _ in 0..QUEUE_MAX + 10 {
            reporter.report(Event::new("discover"));
        }
        assert_eq!(reporter.dropped.load(Ordering::Relaxed), 10);
        Reporter::disconnected().report(Event::new("discover"));
    }

    /// A broker in a process of its own, so that its end is that of all its connections: this test program again,
    /// running the one test below.
    struct Broker(std::process::Child);

    const BROKER_ADDRESS: &str = "BRAMBLE_TEST_BUS";

    #[test]
    fn broker_process() {
        // Run as a test like any other, there is nothing to do.
        let Ok(address) = std::env::var(BROKER_ADDRESS) else { return };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let mut broker = busd::bus::Bus::for_address(Some(&address)).await.expect("the broker listens");
            let _ = broker.run().await;
        });
    }

    impl Broker {
        fn start(address: &str) -> Self {
            let mut command =
                std::process::Command::new(std::env::current_exe().expect("a program has a path"));
            command.args(["--exact", "reporter::tests::broker_process"]).env(BROKER_ADDRESS, address);
            Self(command.stdout(std::process::Stdio::null()).spawn().expect("the broker starts"))
        }
    }

    impl Drop for Broker {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Waits until the service `web` is on the bus.
    async fn web_appears(address: &str) {
        let appears = async {
            loop {
                if let Ok(looker_on) = connect_to(address, "looker-on").await
                    && let Ok(bus) = zbus::fdo::DBusProxy::new(&looker_on).await
                    && let Ok(names) = bus.list_names().await
                    && names.iter().any(|name| name.as_str() == "org.bramble.Web")
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), appears).await.expect("web is on the bus");
    }

    #[tokio::test]
    async fn an_idle_service_shows_itself_again_when_the_broker_was_killed_and_restarted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("bus");
        let address: &'static str = format!("unix:path={}", socket.display()).leak();
        let _reporter = Reporter::start_at(address, "web");
        for _ in 0..2 {
            let broker = Broker::start(address);
            web_appears(address).await;
            drop(broker);
            std::fs::remove_file(&socket).expect("a killed broker leaves its socket behind");
        }
    }
}
