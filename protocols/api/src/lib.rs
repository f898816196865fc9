//! The JSON of `/api/v1`: what agents tell their head, what the head asks of them, and what people read.
//!
//! Types only; HTTP lives in `services/cluster`, `services/agent` and the operator's commands. Fields may be added within
//! version 1; unknown fields are ignored, so that a head can serve nodes that still run the image before.
//!
//! Units are in the names: `_us` microseconds, `_s` seconds, `_bytes` bytes. Times of a machine count from its kernel's
//! start (`CLOCK_BOOTTIME`), since boards have no clock of their own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Time between two heartbeats of a node.
pub const HEARTBEAT_INTERVAL_S: u64 = 2;

/// A node is lost once this many heartbeats in a row did not come.
pub const HEARTBEATS_MISSED_MAX: u64 = 3;

/// How long the head holds an agent's question for orders open.
pub const ORDERS_WAIT_S: u64 = 25;

/// A heartbeat or a result is refused if it is larger.
pub const BODY_MAX_BYTES: usize = 1024 * 1024;

/// `POST /api/v1/heartbeat`: how a machine is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heartbeat {
    /// The board's serial number, 8 hex digits.
    pub serial: String,
    /// Ethernet address towards the cluster, lower case with colons.
    pub mac: String,
    /// IPv4 address on the cluster's network.
    pub address: String,
    /// `head` or `node`.
    pub role: String,
    /// Tells two boots apart: the kernel's random boot id.
    pub boot_id: String,
    /// The machine's own clock as it wrote this.
    pub now_us: u64,
    /// True once every service of the machine is ready.
    pub ready: bool,
    /// True when the machine is shutting down: the last heartbeat of this boot.
    pub stopping: bool,
    /// SHA-256 of the root image, 64 hex digits.
    pub image: String,
    /// `nbd` or `card`.
    pub root: String,
    /// The board's model.
    pub model: String,
    /// The kernel's release.
    pub kernel: String,
    /// The machine's own clock at each step of its boot, by step.
    pub events: BTreeMap<String, u64>,
    /// Memory in use.
    pub health: Health,
    /// The rows of the service table.
    pub services: Vec<Service>,
}

/// Figures of a machine's health; absent ones are unknown to its kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Memory of the machine.
    pub memory_total_bytes: u64,
    /// Memory that could be had.
    pub memory_available_bytes: u64,
    /// Processes that want to run, mean of one minute.
    pub load_1: f64,
    /// Use of the writable layer of the root, 0 to 100.
    pub overlay_used_percent: Option<f64>,
    /// Temperature of the processor in degrees Celsius.
    pub temperature_c: Option<f64>,
}

/// One service of a machine, as its init sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its name in the service table.
    pub name: String,
    /// `waiting starting ready stopping stopped failed done` or as init words it.
    pub state: String,
    /// Its process, 0 when there is none.
    pub pid: u32,
    /// How often it was started again.
    pub restarts: u64,
    /// When it came into this state, on the machine's own clock.
    pub since_us: u64,
    /// Memory of its control group.
    pub memory_bytes: u64,
    /// Its own words.
    pub status: String,
}

/// What the head asks of a machine. Answer to `GET /api/v1/orders?serial=…`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// To be given back with the result.
    pub id: u64,
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
}

/// What a machine can be asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Start, stop or restart one service.
    Service {
        /// Its name.
        service: String,
        /// `start`, `stop` or `restart`.
        verb: String,
    },
    /// Send a signal to one service.
    Signal {
        /// Its name.
        service: String,
        /// The signal's number, 1 to 31.
        signal: u8,
    },
    /// Give the kept output of one service.
    Logs {
        /// Its name.
        service: String,
    },
    /// Give the rows of the service table.
    Services,
    /// Shut down and start again.
    Reboot,
    /// Shut down and stay off.
    PowerOff,
    /// Try something out and tell how it went.
    Check {
        /// What to try.
        #[serde(flatten)]
        check: Check,
    },
    /// Open a tunnel to the machine's bus at `POST /api/v1/tunnel/ID`.
    Tunnel {
        /// The tunnel's number.
        tunnel: u64,
    },
}

/// What can be tried out on a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "check", rename_all = "kebab-case")]
pub enum Check {
    /// What `/` is mounted from.
    RootInfo,
    /// Read from the root's device past every cache.
    RootRead {
        /// How much, at most the whole device.
        mebibytes: u64,
        /// Wait this long between two reads of 256 KiB.
        #[serde(default)]
        pause_ms: u64,
    },
    /// Write a file to `/` and read it back.
    RootWrite,
    /// Whether the file that `RootWrite` writes is there.
    RootWritten,
    /// Fetch a page from somewhere by plain HTTP.
    Fetch {
        /// `http://IP[:PORT]/…`
        url: String,
    },
    /// Memory of every process, as PSS.
    Memory,
}

/// `POST /api/v1/results`: how an order went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The order's.
    pub id: u64,
    /// Whether it was carried out.
    pub ok: bool,
    /// What came of it, or why it was not.
    pub text: String,
}

/// An element of `GET /api/v1/nodes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// `head`, `node-1`, or `new-<mac>` for a board without an address.
    pub name: String,
    /// `head` or `node`.
    pub role: String,
    /// 8 hex digits, empty while unknown.
    pub serial: String,
    /// Lower case with colons.
    pub mac: String,
    /// IPv4 address.
    pub address: String,
    /// `booting`, `starting`, `ready`, `stalled`, `stopping`, `lost` or `unknown`.
    pub state: String,
    /// Why, in a few words.
    pub detail: String,
    /// How long it has been so.
    pub state_since_s: f64,
    /// SHA-256 of the root image.
    pub image: String,
    /// `nbd` or `card`.
    pub root: String,
    /// The board's model.
    pub model: String,
    /// The kernel's release.
    pub kernel: String,
    /// How long its kernel runs.
    pub uptime_s: f64,
    /// Boots seen of it.
    pub boots: u64,
    /// Figures of its last heartbeat.
    pub health: Health,
    /// Rows of its last heartbeat.
    pub services: Vec<Service>,
    /// Its last boot, step by step.
    pub timeline: Vec<Step>,
}

/// One step of a boot. Times count from the boot's first sign.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// `discover`, `offer`, `request`, `ack`, `file`, `missing`, `kernel`, `init`, `link`, `lease`, `attached`, `root`,
    /// `ready` …
    pub step: String,
    /// The file of a `file` or `missing` step, else other details.
    pub detail: String,
    /// When it was over.
    pub at_us: u64,
    /// How long it took, 0 for an instant.
    pub duration_us: u64,
    /// Payload bytes.
    pub bytes: u64,
}
