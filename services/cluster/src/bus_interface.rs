//! The cluster's state on D-Bus: `org.bramble.Cluster1`.

use std::time::Duration;

use zbus::object_server::SignalEmitter;

use crate::owner::Handle;

/// The object at `/org/bramble/Cluster`.
pub struct Interface {
    state: Handle,
}

#[zbus::interface(name = "org.bramble.Cluster1")]
impl Interface {
    async fn report(&self, source: String, events: Vec<bus::Event>) -> zbus::fdo::Result<()> {
        if events.len() > bus::Reporter::BATCH_MAX {
            return Err(zbus::fdo::Error::LimitsExceeded(format!("{} events from {source}", events.len())));
        }
        self.state.observe(events).await;
        Ok(())
    }

    async fn backends(&self) -> Vec<bus::Backend> {
        self.state.backends().borrow().clone()
    }

    #[zbus(signal)]
    async fn backends_changed(emitter: &SignalEmitter<'_>, backends: Vec<bus::Backend>) -> zbus::Result<()>;
}

/// Keeps the interface on the bus for as long as the process runs: connects, tells of changes, connects again.
pub async fn serve(state: Handle) {
    loop {
        if let Err(error) = serve_once(&state).await {
            tracing::debug!(%error, "no bus; trying again");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Ends when the bus does.
async fn serve_once(state: &Handle) -> zbus::Result<()> {
    let connection = bus::builder(bus::ADDRESS, "cluster")?
        .serve_at(bus::CLUSTER_PATH, Interface { state: state.clone() })
        .build()
        .await?;
    let emitter = SignalEmitter::new(&connection, bus::CLUSTER_PATH)?;
    let mut backends = state.backends();
    let mut alive = tokio::time::interval(Duration::from_secs(2));
    loop {
        tokio::select! {
            // Both arms can be dropped: the watch remembers what was seen, a missed tick comes again.
            changed = backends.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let now = backends.borrow_and_update().clone();
                Interface::backends_changed(&emitter, now).await?;
            }
            _ = alive.tick() => {
                // A broker that has gone away shows itself only when it is spoken to.
                zbus::fdo::DBusProxy::new(&connection).await?.get_id().await?;
            }
        }
    }
}
