//! Neighbour entries for boards that boot: a Pi 3's ROM answers no ARP once it loads files, and a server that asks
//! in the middle of one stalls.
//!
//! One task, fed by a bounded queue, speaks rtnetlink; it ends with the [`Neighbours`] it belongs to. Entries are an aid:
//! without the right to make them (`CAP_NET_ADMIN`) the service does its work and says so once.

use dhcp::server::Record;
use rtnetlink::{Handle, packet_route::neighbour::NeighbourState};
use std::net::Ipv4Addr;
use tokio::sync::mpsc;

/// A rack of boards powered on at once; what does not fit is left to ARP.
const QUEUE_MAX: usize = 1024;
/// errno 2: there is no such entry to delete.
const ENOENT: i32 = 2;

#[derive(Debug)]
enum Change {
    Pin(Record),
    Unpin(Ipv4Addr),
}

/// A handle on the task.
#[derive(Debug)]
pub(crate) struct Neighbours {
    queue: Option<mpsc::Sender<Change>>,
}

impl Neighbours {
    /// Starts the task for the interface of this index.
    pub(crate) fn start(interface: u32) -> Self {
        match rtnetlink::new_connection() {
            Ok((connection, handle, _)) => {
                let (queue, changes) = mpsc::channel(QUEUE_MAX);
                tokio::spawn(connection);
                tokio::spawn(apply(handle, interface, changes));
                Self { queue: Some(queue) }
            }
            Err(error) => {
                tracing::warn!(%error, "no rtnetlink: boards must answer ARP while they boot");
                Self { queue: None }
            }
        }
    }

    /// Makes a permanent entry.
    pub(crate) fn pin(&self, record: Record) {
        self.push(Change::Pin(record));
    }

    /// Takes it away again.
    pub(crate) fn unpin(&self, address: Ipv4Addr) {
        self.push(Change::Unpin(address));
    }

    fn push(&self, change: Change) {
        if let Some(Err(error)) = self.queue.as_ref().map(|queue| queue.try_send(change)) {
            tracing::debug!(%error, "neighbour entry left out");
        }
    }
}

async fn apply(handle: Handle, interface: u32, mut changes: mpsc::Receiver<Change>) {
    let mut refusal_said = false;
    while let Some(change) = changes.recv().await {
        let Err(error) = apply_one(&handle, interface, &change).await else { continue };
        if !refusal_said {
            refusal_said = true;
            tracing::warn!(%error, "no neighbour entries: boards must answer ARP while they boot");
        }
    }
}

async fn apply_one(handle: &Handle, interface: u32, change: &Change) -> Result<(), rtnetlink::Error> {
    let neighbours = handle.neighbours();
    match change {
        Change::Pin(Record { address, mac }) => {
            let request = neighbours.add(interface, (*address).into()).link_layer_address(&mac.0);
            request.state(NeighbourState::Permanent).replace().execute().await
        }
        Change::Unpin(address) => {
            let message = neighbours.add(interface, (*address).into()).message_mut().clone();
            match neighbours.del(message).execute().await {
                Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -ENOENT => Ok(()),
                outcome => outcome,
            }
        }
    }
}
