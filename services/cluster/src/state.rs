//! What the head knows of its machines: a pure state machine of observations, heartbeats and time.
//!
//! ```text
//!                 boot ROM's DISCOVER or a TFTP file
//!   unknown ─────────────────────────────────────────► booting ──(2 min without a sign)──► stalled
//!      │                                                  │  heartbeat, services not ready       │
//!      │                heartbeat                         ▼                                     │
//!      └─────────────────────────────────────────────► starting ◄─────────────────────────────┘
//!                                                         │  heartbeat, all services ready
//!                   3 heartbeats missed                   ▼
//!   lost ◄───────────────────────────────────────────── ready ──(last heartbeat of a shutdown)──► stopping
//! ```
//!
//! Every state leads back to `booting` when the board shows a new boot, and to `starting` or `ready` on a heartbeat.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use api::Heartbeat;
use config::Cluster;
use serde::{Deserialize, Serialize};

use crate::timeline::Boot;

/// Boards that are remembered. One more is refused and said so: the address range of a /16 is about as large.
pub const NODES_MAX: usize = 20_000;

/// A board that shows nothing for so long in mid-boot has stopped: the slowest step known, STP plus a boot
/// ROM's own retries, takes 105 s.
const STALLED_AFTER_US: u64 = 120_000_000;

/// A shutdown takes no longer; a machine that is silent after it is off.
const LOST_AFTER_US: u64 = (api::HEARTBEAT_INTERVAL_S * api::HEARTBEATS_MISSED_MAX) * 1_000_000;

/// What a machine is doing, as far as its head can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Phase {
    Unknown,
    Booting,
    Starting,
    Ready,
    Stalled,
    Stopping,
    Lost,
}

impl Phase {
    /// The word that people and the API see.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Unknown => "unknown",
            Phase::Booting => "booting",
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Stalled => "stalled",
            Phase::Stopping => "stopping",
            Phase::Lost => "lost",
        }
    }
}

/// What is kept of a machine over restarts of the head.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// 8 hex digits, empty while unknown.
    pub serial: String,
    /// Lower case with colons; the key of the record.
    pub mac: String,
    /// The machine's address on the cluster's network.
    pub address: Option<Ipv4Addr>,
    /// True for the head itself.
    pub head: bool,
    /// The board's model.
    pub model: String,
    /// Boots seen.
    pub boots: u64,
    /// The kernel's boot id of the boot that was heard of last; tells a node that ran on while its head was away
    /// from one that was started again.
    pub boot_id: String,
    /// The last boot that led to a ready machine.
    pub last_boot: Boot,
}

/// All that is known of a machine.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is kept.
    pub record: Record,
    /// What it is doing.
    pub phase: Phase,
    /// Since when, on the head's clock.
    pub since_us: u64,
    /// When it last showed itself in any way.
    pub seen_us: u64,
    /// Its last heartbeat and when that came.
    pub heartbeat: Option<(Heartbeat, u64)>,
    /// Its boot that is under way, or the last one.
    pub boot: Boot,
}

/// What a change asks of those who hold sockets and files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The machine with this MAC has changed in what people see.
    Changed(String),
    /// The record of this MAC must be kept.
    Keep(String),
    /// Which nodes may be given requests may have changed.
    Backends,
}

/// All machines of a cluster.
#[derive(Debug)]
pub struct State {
    settings: Cluster,
    nodes: HashMap<String, Node>,
    by_address: HashMap<Ipv4Addr, String>,
    refused: u64,
}

impl State {
    /// A cluster with the machines that were known before.
    pub fn new(settings: Cluster, records: impl IntoIterator<Item = Record>, now_us: u64) -> Self {
        let mut state = Self { settings, nodes: HashMap::new(), by_address: HashMap::new(), refused: 0 };
        for record in records.into_iter().take(NODES_MAX) {
            if let Some(address) = record.address {
                state.by_address.insert(address, record.mac.clone());
            }
            state.nodes.insert(record.mac.clone(), Node::new(record, now_us));
        }
        state
    }

    /// All machines, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The machine with this MAC.
    pub fn node(&self, mac: &str) -> Option<&Node> {
        self.nodes.get(mac)
    }

    /// The machine that has this address now.
    pub fn node_at(&self, address: Ipv4Addr) -> Option<&Node> {
        self.nodes.get(self.by_address.get(&address)?)
    }

    /// The machine of this name.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.values().find(|node| self.name(node) == name)
    }

    /// `head`, `node-7`, or `new-<mac>` for a board outside of the nodes' range.
    pub fn name(&self, node: &Node) -> String {
        if node.record.head {
            return "head".to_owned();
        }
        node.record
            .address
            .and_then(|address| self.settings.node_name(address))
            .unwrap_or_else(|| format!("new-{}", node.record.mac.replace(':', "")))
    }

    /// Boards turned away because the table is full.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Nodes whose services are all ready, by address.
    pub fn ready_nodes(&self) -> Vec<(String, Ipv4Addr)> {
        let mut ready: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.phase == Phase::Ready && !node.record.head)
            .filter_map(|node| Some((node.record.address?, self.name(node))))
            .collect();
        ready.sort();
        ready.into_iter().map(|(address, name)| (name, address)).collect()
    }

    /// Takes in what a service of the head has seen of a board.
    pub fn observe(&mut self, event: &bus::Event, now_us: u64) -> Vec<Effect> {
        let at_us = event.at_us.min(now_us);
        let address = event.ip.parse::<Ipv4Addr>().ok().filter(|ip| self.settings.contains(*ip));
        let Some(mac) = self.mac_of(event, address) else { return Vec::new() };
        let mut effects = Vec::new();
        let kind = event.kind.as_str();
        // The board's address is what it was acknowledged, or offered: a boot ROM may never ask again.
        if let (Some(address), "offer" | "ack") = (address, kind) {
            self.assign(&mac, address, &mut effects);
        }
        let Some(node) = self.nodes.get_mut(&mac) else { return effects };
        node.learn_serial(&event.serial, &mut effects);
        node.seen_us = node.seen_us.max(at_us);
        let from_firmware =
            matches!(kind, "discover" | "request" | "file" | "probe") && event.detail != "plain";
        let fresh_boot = match kind {
            "discover" => from_firmware && !node.boot.is_before_files(),
            "file" => node.boot.is_over() && node.phase != Phase::Booting,
            _ => false,
        };
        if fresh_boot || (from_firmware && node.phase == Phase::Unknown) {
            node.begin_boot(at_us.saturating_sub(event.duration_us), &mut effects);
        }
        if node.boot.add_observed(event, at_us) {
            effects.push(Effect::Changed(mac));
        }
        effects
    }

    /// Takes in a heartbeat that came from the machine itself.
    pub fn heartbeat(&mut self, beat: Heartbeat, now_us: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mac = beat.mac.clone();
        if !is_mac(&mac) || !self.admit(&mac, now_us) {
            return effects;
        }
        if let Ok(address) = beat.address.parse::<Ipv4Addr>()
            && self.settings.contains(address)
        {
            self.assign(&mac, address, &mut effects);
        }
        let Some(node) = self.nodes.get_mut(&mac) else { return effects };
        node.learn_serial(&beat.serial, &mut effects);
        let head = beat.role == "head";
        if node.record.head != head || node.record.model != beat.model {
            node.record.head = head;
            node.record.model.clone_from(&beat.model);
            effects.push(Effect::Keep(mac.clone()));
        }
        if node.record.boot_id != beat.boot_id {
            if node.boot.is_over() || node.phase == Phase::Unknown {
                // A boot that the head saw nothing of: the head itself, or the head was away.
                node.begin_boot(now_us.saturating_sub(beat.now_us), &mut effects);
            }
            node.record.boot_id.clone_from(&beat.boot_id);
            effects.push(Effect::Keep(mac.clone()));
        }
        if node.boot.add_told(&beat, now_us) {
            node.record.last_boot = node.boot.clone();
            effects.push(Effect::Keep(mac.clone()));
        }
        let phase = match (beat.stopping, beat.ready) {
            (true, _) => Phase::Stopping,
            (false, true) => Phase::Ready,
            (false, false) => Phase::Starting,
        };
        node.enter(phase, now_us, &mut effects);
        node.seen_us = now_us;
        node.heartbeat = Some((beat, now_us));
        effects.push(Effect::Changed(mac));
        effects
    }

    /// Finds out who has been silent for too long.
    pub fn expire(&mut self, now_us: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (mac, node) in &mut self.nodes {
            let silent_us = now_us.saturating_sub(node.seen_us);
            let next = match node.phase {
                Phase::Booting if silent_us > STALLED_AFTER_US => Phase::Stalled,
                Phase::Starting | Phase::Ready | Phase::Stopping if silent_us > LOST_AFTER_US => Phase::Lost,
                _ => continue,
            };
            node.enter(next, now_us, &mut effects);
            effects.push(Effect::Changed(mac.clone()));
        }
        effects
    }

    /// Which board an observation is of; a new one is admitted by its MAC only.
    fn mac_of(&mut self, event: &bus::Event, address: Option<Ipv4Addr>) -> Option<String> {
        if is_mac(&event.mac) {
            return self.admit(&event.mac, event.at_us).then(|| event.mac.clone());
        }
        self.by_address.get(&address?).cloned()
    }

    fn admit(&mut self, mac: &str, now_us: u64) -> bool {
        if self.nodes.contains_key(mac) {
            return true;
        }
        if self.nodes.len() >= NODES_MAX {
            self.refused += 1;
            return false;
        }
        let record = Record { mac: mac.to_owned(), ..Record::default() };
        self.nodes.insert(mac.to_owned(), Node::new(record, now_us));
        true
    }

    /// Gives an address to a machine, taking it from whoever had it.
    fn assign(&mut self, mac: &str, address: Ipv4Addr, effects: &mut Vec<Effect>) {
        let Some(node) = self.nodes.get_mut(mac) else { return };
        if node.record.address == Some(address) {
            return;
        }
        effects.push(Effect::Backends);
        let before = node.record.address.replace(address);
        if let Some(before) = before {
            self.by_address.remove(&before);
        }
        let other = self.by_address.insert(address, mac.to_owned()).filter(|other| other != mac);
        if let Some(other) = other.as_ref().and_then(|other| self.nodes.get_mut(other)) {
            other.record.address = None;
        }
        for mac in other.into_iter().chain([mac.to_owned()]) {
            effects.push(Effect::Keep(mac.clone()));
            effects.push(Effect::Changed(mac));
        }
    }
}

impl Node {
    fn new(record: Record, now_us: u64) -> Self {
        let boot = record.last_boot.clone();
        Self { record, phase: Phase::Unknown, since_us: now_us, seen_us: now_us, heartbeat: None, boot }
    }

    fn enter(&mut self, phase: Phase, now_us: u64, effects: &mut Vec<Effect>) {
        if self.phase != phase {
            if (self.phase == Phase::Ready) != (phase == Phase::Ready) {
                effects.push(Effect::Backends);
            }
            self.phase = phase;
            self.since_us = now_us;
        }
    }

    fn begin_boot(&mut self, start_us: u64, effects: &mut Vec<Effect>) {
        self.boot = Boot::starting_at(start_us);
        self.heartbeat = None;
        self.record.boots += 1;
        self.record.boot_id.clear();
        self.enter(Phase::Booting, start_us, effects);
        effects.push(Effect::Keep(self.record.mac.clone()));
        effects.push(Effect::Changed(self.record.mac.clone()));
    }

    fn learn_serial(&mut self, serial: &str, effects: &mut Vec<Effect>) {
        if is_serial(serial) && self.record.serial != serial {
            serial.clone_into(&mut self.record.serial);
            effects.push(Effect::Keep(self.record.mac.clone()));
        }
    }
}

/// `dc:a6:32:00:00:02`, lower case.
fn is_mac(text: &str) -> bool {
    text.len() == 17
        && text.bytes().enumerate().all(|(index, byte)| match index % 3 {
            2 => byte == b':',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// 8 hex digits, lower case.
fn is_serial(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
