//! Where the back ends come from: the command line, or the cluster state over the bus.
//!
//! The bus is a convenience here, not a need: while it or the cluster service is away, the last known back ends stay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bus::ClusterProxy;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::balancer::Balancer;
use crate::control::Control;
use crate::driver::Entrance;
use crate::pool::Backend;

/// Back ends that never change, named by their addresses.
pub(crate) fn fixed(addresses: &[SocketAddr]) -> watch::Receiver<Vec<Backend>> {
    let backend = |&address: &SocketAddr| Backend { name: address.to_string(), address };
    watch::channel(addresses.iter().map(backend).collect()).1
}

/// Back ends as the cluster state reports them, from now on and for ever. The task ends with its receiver.
pub(crate) fn from_bus(
    bus: &'static str,
    balancer: Arc<Balancer>,
    entrance: Arc<Entrance>,
) -> watch::Receiver<Vec<Backend>> {
    let (sender, receiver) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut wait = BACK_OFF.0;
        while !sender.is_closed() {
            let mut heard = false;
            if let Err(error) = follow(bus, &sender, &balancer, &entrance, &mut heard).await {
                tracing::debug!("no news of the nodes: {error:#}");
            }
            wait = if heard { BACK_OFF.0 } else { (wait * 2).min(BACK_OFF.1) };
            sleep(wait).await;
        }
    });
    receiver
}

/// One connection to the bus, to its end.
async fn follow(
    bus: &str,
    sender: &watch::Sender<Vec<Backend>>,
    balancer: &Arc<Balancer>,
    entrance: &Arc<Entrance>,
    heard: &mut bool,
) -> anyhow::Result<()> {
    let control = Control::new(balancer.clone(), entrance.clone());
    let connection = bus::builder(bus, "load-balancer")?.serve_at(Control::PATH, control).build().await?;
    let cluster = ClusterProxy::new(&connection).await?;
    // Changes first, then the state, so that nothing falls between the two.
    let mut changes = cluster.receive_backends_changed().await?;
    let mut owners = cluster.inner().receive_owner_changed().await?;
    if let Ok(backends) = cluster.backends().await {
        *heard = true;
        publish(sender, &backends);
    }
    loop {
        tokio::select! {
            () = sender.closed() => return Ok(()),
            // Streams keep what they have received; losing a turn loses nothing.
            change = changes.next() => {
                let change = change.context("the bus closed the connection")?;
                *heard = true;
                publish(sender, change.args()?.backends());
            }
            owner = owners.next() => {
                // The cluster service is new or gone. A new one may have said nothing before this was told.
                if owner.context("the bus closed the connection")?.is_some()
                    && let Ok(backends) = cluster.backends().await
                {
                    *heard = true;
                    publish(sender, &backends);
                }
            }
        }
    }
}

/// Takes over what can be understood.
fn publish(sender: &watch::Sender<Vec<Backend>>, reported: &[bus::Backend]) {
    let backends: Vec<Backend> = reported.iter().filter_map(parse).collect();
    sender.send_if_modified(|known| {
        let changed = *known != backends;
        *known = backends;
        changed
    });
}

fn parse(reported: &bus::Backend) -> Option<Backend> {
    match reported.address.parse() {
        Ok(address) => Some(Backend { name: reported.name.clone(), address }),
        Err(_) => {
            tracing::warn!(node = reported.name, address = reported.address, "left out: not an address");
            None
        }
    }
}

/// Attempts to reach the bus are this far apart, doubling from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

#[cfg(test)]
mod tests;
