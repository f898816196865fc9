//! The one task that owns the state and its database.
//!
//! Everybody else holds a [`Handle`]: requests come through a bounded channel, answers leave by one-shot channels, changes
//! leave on a broadcast (for people) and a watch (for the load balancer). Ends when every handle is gone or the process is
//! asked to stop; before that it writes what is not written yet. At most one transaction is under way, on a blocking
//! thread, so a slow card delays neither heartbeats nor readers; records that change meanwhile go into the next one.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use api::Heartbeat;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::state::{Effect, NODES_MAX, Node, Phase, State};
use crate::store::{Store, StoreError};

/// Requests that may wait. Beyond it the sender waits: heartbeats then come late, and none is lost.
const REQUESTS_MAX: usize = 1024;

/// Changes that a slow reader may lag behind before it is cut off and must ask for everything again.
const CHANGES_MAX: usize = 1024;

/// Time is looked at this often for those who have been silent.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(250);

/// Records are written at most this often, so that a boot storm is a few transactions.
const WRITE_INTERVAL: Duration = Duration::from_millis(500);

/// A machine's way of finding others in requests.
#[derive(Clone, Debug)]
pub struct Found {
    /// `node-1`.
    pub name: String,
    /// True when it sends heartbeats.
    pub alive: bool,
}

enum Request {
    Observe(Vec<bus::Event>),
    Heartbeat(Box<Heartbeat>),
    Nodes(oneshot::Sender<Vec<api::Node>>),
    Node(String, oneshot::Sender<Option<api::Node>>),
    Find(Search, oneshot::Sender<Option<Found>>),
}

enum Search {
    Name(String),
    Address(Ipv4Addr),
}

/// Access to the state, cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    changes: broadcast::Sender<Arc<api::Node>>,
    backends: watch::Receiver<Vec<bus::Backend>>,
}

impl Handle {
    /// Tells what services have seen.
    pub async fn observe(&self, events: Vec<bus::Event>) {
        let _ = self.requests.send(Request::Observe(events)).await;
    }

    /// Tells what a machine says of itself.
    pub async fn heartbeat(&self, beat: Heartbeat) {
        let _ = self.requests.send(Request::Heartbeat(Box::new(beat))).await;
    }

    /// All machines: the head first, then nodes by address, then those without one.
    pub async fn nodes(&self) -> Vec<api::Node> {
        self.ask(Request::Nodes).await.unwrap_or_default()
    }

    /// The machine of this name.
    pub async fn node(&self, name: &str) -> Option<api::Node> {
        self.ask(|answer| Request::Node(name.to_owned(), answer)).await.flatten()
    }

    /// The machine of this name, as far as orders need it.
    pub async fn find_name(&self, name: &str) -> Option<Found> {
        self.ask(|answer| Request::Find(Search::Name(name.to_owned()), answer)).await.flatten()
    }

    /// The machine that has this address.
    pub async fn find_address(&self, address: Ipv4Addr) -> Option<Found> {
        self.ask(|answer| Request::Find(Search::Address(address), answer)).await.flatten()
    }

    /// Machines as they change.
    pub fn changes(&self) -> broadcast::Receiver<Arc<api::Node>> {
        self.changes.subscribe()
    }

    /// The nodes that may be given requests, as they change.
    pub fn backends(&self) -> watch::Receiver<Vec<bus::Backend>> {
        self.backends.clone()
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// Starts the task. It ends, with everything written, once `stopping` completes; await the handle for that.
pub fn start(
    state: State,
    store: Store,
    stopping: impl Future<Output = ()> + Send + 'static,
) -> (Handle, tokio::task::JoinHandle<()>) {
    let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
    let (changes, _) = broadcast::channel(CHANGES_MAX);
    let (backends_out, backends) = watch::channel(Vec::new());
    let handle = Handle { requests, changes: changes.clone(), backends };
    let owner = Owner {
        state,
        store: Arc::new(store),
        changes,
        backends: backends_out,
        unwritten: BTreeSet::new(),
        refused_told: 0,
    };
    (handle, tokio::spawn(owner.run(inbox, stopping)))
}

struct Owner {
    state: State,
    store: Arc<Store>,
    changes: broadcast::Sender<Arc<api::Node>>,
    backends: watch::Sender<Vec<bus::Backend>>,
    /// MACs of records that are newer than the database.
    unwritten: BTreeSet<String>,
    refused_told: u64,
}

type Transaction = tokio::task::JoinHandle<(Vec<String>, Result<(), StoreError>)>;

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>, stopping: impl Future<Output = ()>) {
        let mut expiry = tokio::time::interval(EXPIRY_INTERVAL);
        let mut writing = tokio::time::interval(WRITE_INTERVAL);
        writing.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut transaction: Option<Transaction> = None;
        tokio::pin!(stopping);
        loop {
            // Every arm below is cancel-safe: a request, a tick or a finished transaction not taken now is
            // taken at the next turn.
            tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => self.serve(request),
                    None => break,
                },
                _ = expiry.tick() => {
                    let effects = self.state.expire(bus::event::boottime_us());
                    self.apply(effects);
                    self.tell_refused();
                }
                _ = writing.tick(), if transaction.is_none() && !self.unwritten.is_empty() => {
                    transaction = Some(self.write());
                }
                outcome = async { transaction.as_mut().expect("guarded by the condition").await },
                    if transaction.is_some() => {
                    transaction = None;
                    self.written(outcome);
                }
                () = &mut stopping => break,
            }
        }
        if let Some(transaction) = transaction {
            self.written(transaction.await);
        }
        if !self.unwritten.is_empty() {
            let outcome = self.write().await;
            self.written(outcome);
        }
    }

    /// A full table is said once for every growth of the number of boards turned away.
    fn tell_refused(&mut self) {
        let refused = self.state.refused();
        if refused > self.refused_told {
            self.refused_told = refused;
            tracing::error!(
                refused,
                known = NODES_MAX,
                "the table of boards is full; new boards are turned away"
            );
        }
    }

    fn serve(&mut self, request: Request) {
        let now_us = bus::event::boottime_us();
        match request {
            Request::Observe(events) => {
                for event in &events {
                    let effects = self.state.observe(event, now_us);
                    self.apply(effects);
                }
            }
            Request::Heartbeat(beat) => {
                let effects = self.state.heartbeat(*beat, now_us);
                self.apply(effects);
            }
            // An asker who has gone away needs no answer.
            Request::Nodes(answer) => {
                let mut nodes: Vec<_> = self.state.nodes().collect();
                nodes.sort_by_key(|node| {
                    let record = &node.record;
                    (!record.head, record.address.is_none(), record.address, record.mac.clone())
                });
                let _ = answer.send(nodes.into_iter().map(|node| self.view(node, now_us)).collect());
            }
            Request::Node(name, answer) => {
                let _ = answer.send(self.state.node_named(&name).map(|node| self.view(node, now_us)));
            }
            Request::Find(search, answer) => {
                let node = match search {
                    Search::Name(name) => self.state.node_named(&name),
                    Search::Address(address) => self.state.node_at(address),
                };
                let _ = answer.send(node.map(|node| Found {
                    name: self.state.name(node),
                    alive: matches!(node.phase, Phase::Starting | Phase::Ready | Phase::Stopping),
                }));
            }
        }
    }

    fn apply(&mut self, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        let now_us = bus::event::boottime_us();
        let mut backends_changed = false;
        for effect in effects {
            match effect {
                Effect::Backends => backends_changed = true,
                Effect::Keep(mac) => {
                    self.unwritten.insert(mac);
                }
                Effect::Changed(mac) => {
                    if self.changes.receiver_count() > 0
                        && let Some(node) = self.state.node(&mac)
                    {
                        let _ = self.changes.send(Arc::new(self.view(node, now_us)));
                    }
                }
            }
        }
        if backends_changed {
            self.publish_backends();
        }
    }

    fn publish_backends(&self) {
        let backends: Vec<_> = self
            .state
            .ready_nodes()
            .into_iter()
            .map(|(name, address)| bus::Backend { name, address: format!("{address}:80") })
            .collect();
        self.backends.send_if_modified(|current| {
            let changed = *current != backends;
            if changed {
                *current = backends;
            }
            changed
        });
    }

    fn write(&mut self) -> Transaction {
        let macs: Vec<String> = std::mem::take(&mut self.unwritten).into_iter().collect();
        let records: Vec<_> =
            macs.iter().filter_map(|mac| self.state.node(mac)).map(|node| node.record.clone()).collect();
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || (macs, store.keep(&records)))
    }

    fn written(&mut self, outcome: Result<(Vec<String>, Result<(), StoreError>), tokio::task::JoinError>) {
        match outcome {
            Ok((_, Ok(()))) => {}
            Ok((macs, Err(error))) => {
                tracing::error!(error = %error, "the cluster's state could not be written; trying again");
                self.unwritten.extend(macs);
            }
            Err(error) => tracing::error!(%error, "writing the cluster's state failed"),
        }
    }

    fn view(&self, node: &Node, now_us: u64) -> api::Node {
        let record = &node.record;
        let mut view = api::Node {
            name: self.state.name(node),
            role: if record.head { "head" } else { "node" }.to_owned(),
            serial: record.serial.clone(),
            mac: record.mac.clone(),
            address: record.address.map(|address| address.to_string()).unwrap_or_default(),
            state: node.phase.as_str().to_owned(),
            state_since_s: seconds(now_us.saturating_sub(node.since_us)),
            model: record.model.clone(),
            boots: record.boots,
            timeline: node.boot.steps().to_vec(),
            ..api::Node::default()
        };
        if let Some((beat, at_us)) = &node.heartbeat {
            view.image.clone_from(&beat.image);
            view.root.clone_from(&beat.root);
            view.kernel.clone_from(&beat.kernel);
            view.uptime_s = seconds(beat.now_us.saturating_add(now_us.saturating_sub(*at_us)));
            view.health = beat.health.clone();
            view.services.clone_from(&beat.services);
        }
        view.detail = detail(node, &view);
        view
    }
}

/// Why a machine is in its state, for people.
fn detail(node: &Node, view: &api::Node) -> String {
    let last = view.timeline.last();
    match node.phase {
        Phase::Booting => last.map(|step| format!("{} {}", step.step, step.detail)).unwrap_or_default(),
        Phase::Stalled => {
            let place = last.map_or("its first sign", |step| step.step.as_str());
            format!("no sign for two minutes after {place}")
        }
        Phase::Starting => {
            let waiting: Vec<_> = view
                .services
                .iter()
                .filter(|service| service.state != "ready" && service.state != "done")
                .map(|service| service.name.as_str())
                .collect();
            format!("waiting for {}", waiting.join(", "))
        }
        Phase::Lost => "no heartbeat".to_owned(),
        Phase::Unknown => "not seen since the head started".to_owned(),
        Phase::Ready | Phase::Stopping => String::new(),
    }
}

/// Microseconds as seconds with the precision that people read.
fn seconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_millis() as f64 / 1000.0
}
