//! What is measured on a virtual cluster: times from power to ready, userland's memory, the smallest machines.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{Cluster, Options, get};

/// Seconds from power to ready.
pub struct Times {
    /// The head, with nothing else running.
    pub head_s: f64,
    /// A node, with the head up and the other nodes off.
    pub one_node_s: f64,
    /// Three nodes powered at once: the slowest.
    pub slowest_of_three_s: f64,
    /// The fastest of the same three: far from the slowest when one starves.
    pub fastest_of_three_s: f64,
}

/// Sum of PSS of all processes, KiB.
pub struct Memory {
    /// Of the head.
    pub head_kib: u64,
    /// Of a node.
    pub node_kib: u64,
}

/// Boots a cluster, and its nodes again.
pub fn boot() -> Result<(Times, Memory)> {
    let cluster = up(Vec::new())?;
    let head_s = ready_s(&cluster, "head")?;
    let memory = Memory { head_kib: pss(&cluster, "head")?, node_kib: pss(&cluster, "node-1")? };
    let one = power_up(&cluster, &NODES[..1])?;
    let three = power_up(&cluster, &NODES)?;
    let times = Times {
        head_s,
        one_node_s: one.iter().copied().fold(0.0, f64::max),
        slowest_of_three_s: three.iter().copied().fold(0.0, f64::max),
        fastest_of_three_s: three.iter().copied().fold(f64::INFINITY, f64::min),
    };
    Ok((times, memory))
}

/// The smallest of [`MEMORIES`] with which a cluster of a head and a node becomes ready and serves, or `None`.
/// `option` says whose memory is tried; the other machine has its usual one.
pub fn smallest_memory(option: &str) -> Option<u64> {
    // More memory never stops a machine from booting, so halving the list is enough.
    let (mut low, mut high) = (0, MEMORIES.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let memory = MEMORIES[middle];
        let serves = serves(option, memory);
        eprintln!("bench: {option} {memory}: {}", if serves { "serves" } else { "does not serve" });
        if serves { high = middle } else { low = middle + 1 }
    }
    MEMORIES.get(low).copied()
}

fn serves(option: &str, memory: u64) -> bool {
    let words = ["--wait", "60", option].map(str::to_owned);
    let Ok(cluster) = up(words.into_iter().chain([memory.to_string()]).collect()) else { return false };
    get(cluster.http, "/", None, Duration::from_secs(10)).is_ok_and(|answer| answer.status == 200)
}

fn up(arguments: Vec<String>) -> Result<Cluster> {
    let nodes = if arguments.is_empty() { 3 } else { 1 };
    Cluster::up(Options { name: "bench", nodes, config: "", arguments })
}

/// Switches all nodes off, these on at once, and gives how long each took.
fn power_up(cluster: &Cluster, nodes: &[&str]) -> Result<Vec<f64>> {
    for node in NODES {
        // One that is off already is as it should be.
        let _ = cluster.run(&["power", "off", node]);
    }
    let begun = Instant::now();
    for node in nodes {
        cluster.run(&["power", "on", node])?;
    }
    ensure!(begun.elapsed() < Duration::from_secs(1), "this machine is too busy to measure anything");
    let wait = |node: &&str| cluster.wait(node, READY_LIMIT, |cluster| ready_s(cluster, node));
    nodes.iter().map(wait).collect()
}

/// From power or reset to ready, as the virtual cluster saw it.
fn ready_s(cluster: &Cluster, name: &str) -> Result<f64> {
    let status: Value = serde_json::from_str(&cluster.run(&["status", "--json"])?)?;
    let machines = status["machines"].as_array().context("no machines")?;
    let machine = machines.iter().find(|machine| machine["name"] == name).context("no such machine")?;
    machine["ready_s"].as_f64().with_context(|| format!("{name} is {}", machine["state"]))
}

fn pss(cluster: &Cluster, name: &str) -> Result<u64> {
    let text = cluster.order(name, "check", r#"{"check":"memory"}"#)?;
    let total = text.lines().find_map(|line| line.strip_prefix("pss_total_kib "));
    total.and_then(|number| number.parse().ok()).with_context(|| text.clone())
}

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// MiB; a machine that needs more than the last misses the limit.
const MEMORIES: [u64; 6] = [96, 112, 128, 160, 192, 256];

/// Ten times what is aimed at, for a machine that is busy with other things.
const READY_LIMIT: Duration = Duration::from_secs(100);
