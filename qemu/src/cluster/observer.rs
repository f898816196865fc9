//! Who is ready: our own knowledge of each machine, and the word of the head about the systems that run on them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::Node;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::head_api;
use crate::machine::command_line::Colons;
use crate::machine::{Machine, Order, State};

/// One machine in a status answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// `head`, `node-1`, ...
    pub name: String,
    /// `ready`, or what it is doing: our own word, or the head's while a system runs.
    pub state: String,
    /// In words.
    pub detail: String,
    /// From power or reset to ready.
    pub ready_s: Option<f64>,
    /// On the cluster network.
    pub address: Option<String>,
    /// `nbd` or `card`.
    pub root: Option<String>,
    /// The image's sha256.
    pub image: Option<String>,
    /// On the cluster network.
    pub mac: String,
    /// 8 hex digits.
    pub serial: String,
    /// Whether the cluster cable is whole.
    pub is_linked: bool,
    /// As the head named the board, when that is not `name`.
    pub head_calls_it: Option<String>,
    /// Will not become ready by itself.
    pub is_stuck: bool,
}

/// A whole cluster in a status answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The supervisor's.
    pub pid: u32,
    /// Port of 127.0.0.1 for what the cluster serves.
    pub http: u16,
    /// Port of 127.0.0.1 for dashboard and API.
    pub dashboard: u16,
    /// Head first.
    pub machines: Vec<MachineStatus>,
}

impl Status {
    /// Whether every machine is ready.
    pub fn is_ready(&self) -> bool {
        self.machines.iter().all(|machine| machine.state == "ready")
    }

    /// A machine that will not become ready.
    pub fn stuck(&self) -> Option<&MachineStatus> {
        self.machines.iter().find(|machine| machine.is_stuck)
    }
}

/// The task that gives power and asks the head. Ends with this handle.
#[derive(Debug)]
pub(super) struct Observer {
    observed: Arc<Mutex<Observed>>,
    task: AbortHandle,
}

impl Observer {
    pub(super) fn start(machines: Arc<Vec<Machine>>, dashboard: u16) -> Self {
        let observed = Arc::new(Mutex::new(Observed::default()));
        let task = tokio::spawn(observe(machines, observed.clone(), dashboard)).abort_handle();
        Self { observed, task }
    }

    pub(super) fn look(&self, machines: &[Machine]) -> Vec<MachineStatus> {
        let observed = lock(&self.observed);
        machines.iter().map(|machine| observed.status(machine)).collect()
    }

    pub(super) fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(observed: &Mutex<Observed>) -> MutexGuard<'_, Observed> {
    observed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the head says, and since when.
#[derive(Debug, Default)]
struct Observed {
    nodes: Vec<Node>,
    /// Whether the head answered the last time it was asked.
    answers: bool,
    /// By machine name: which boot became ready, and how long that took.
    ready: HashMap<String, (u64, Duration)>,
}

impl Observed {
    fn node(&self, machine: &Machine) -> Option<&Node> {
        let mac = Colons(machine.hardware.mac).to_string();
        let is_head = machine.hardware.has_card;
        self.nodes.iter().find(|node| node.mac.eq_ignore_ascii_case(&mac) || (is_head && node.role == "head"))
    }

    /// Whether the machine's present boot is ready. The head's word may be about the boot before; it says how old it is.
    fn is_ready(&self, machine: &Machine) -> bool {
        let snapshot = machine.snapshot();
        let (State::Running, Some(started), Some(node)) =
            (snapshot.state, snapshot.started, self.node(machine))
        else {
            return false;
        };
        node.state == "ready" && node.state_since_s <= started.elapsed().as_secs_f64()
    }

    fn note(&mut self, machines: &[Machine]) {
        for machine in machines.iter().filter(|machine| self.is_ready(machine)).collect::<Vec<_>>() {
            let snapshot = machine.snapshot();
            let known =
                self.ready.get(&machine.hardware.name).is_some_and(|(boot, _)| *boot == snapshot.boots);
            if let Some(started) = snapshot.started
                && !known
            {
                self.ready.insert(machine.hardware.name.clone(), (snapshot.boots, started.elapsed()));
            }
        }
    }

    fn status(&self, machine: &Machine) -> MachineStatus {
        let snapshot = machine.snapshot();
        let node = self.node(machine);
        let hardware = &machine.hardware;
        let is_running = snapshot.state == State::Running;
        let state = match (snapshot.state, node) {
            (State::Off, _) => "off",
            (State::Firmware, _) => "firmware",
            (State::Failed, _) => "failed",
            (State::Running, _) if self.is_ready(machine) => "ready",
            (State::Running, Some(node)) if !node.state.is_empty() && !hardware.has_card => {
                node.state.as_str()
            }
            (State::Running, _) => "starting",
        };
        let ready = self.ready.get(&hardware.name).filter(|(boot, _)| *boot == snapshot.boots && is_running);
        let detail = if is_running { machine.console.last_line() } else { snapshot.detail };
        MachineStatus {
            name: hardware.name.clone(),
            state: state.to_owned(),
            detail,
            ready_s: ready.map(|(_, duration)| duration.as_secs_f64()),
            address: node.and_then(|node| known(&node.address)),
            root: node.and_then(|node| known(&node.root)),
            image: node.and_then(|node| known(&node.image)).or(snapshot.image),
            mac: Colons(hardware.mac).to_string(),
            serial: format!("{:08x}", hardware.serial),
            is_linked: snapshot.is_linked,
            head_calls_it: node.map(|node| node.name.clone()).filter(|name| *name != hardware.name),
            is_stuck: snapshot.state == State::Failed && hardware.has_card,
        }
    }
}

/// The API writes what is not known yet as an empty text.
fn known(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Between two questions to the head while something is starting.
pub(super) const POLL_BUSY: Duration = Duration::from_millis(150);

/// Between two questions when all is well: seldom enough not to be seen in a guest's processor time.
const POLL_IDLE: Duration = Duration::from_secs(1);

/// A head that is still starting swallows questions, even after it has answered one, for its network is not settled;
/// the next one shall not wait long for that.
const STARTING_ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// A busy head is slow under emulation.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long the next node waits for the one before to be known to the head.
const TURN_LIMIT: Duration = Duration::from_secs(5);

/// Gives power to the head, and to each node in turn, and keeps asking the head how they are.
async fn observe(machines: Arc<Vec<Machine>>, observed: Arc<Mutex<Observed>>, dashboard: u16) {
    let mut waiting = machines.iter();
    let mut current: Option<(&Machine, Instant)> = None;
    loop {
        let may_go_on = current.is_none_or(|(machine, since)| {
            let observed = lock(&observed);
            match machine.hardware.has_card {
                true => observed.is_ready(machine),
                false => observed.node(machine).is_some() || since.elapsed() > TURN_LIMIT,
            }
        });
        if may_go_on && let Some(machine) = waiting.next() {
            // An error means that the cluster is ending, and so is this task.
            let _ = machine.order(Order::On).await;
            current = Some((machine, Instant::now()));
        }
        let is_head_up = {
            let observed = lock(&observed);
            observed.answers
                && machines.iter().any(|machine| machine.hardware.has_card && observed.is_ready(machine))
        };
        let limit = if is_head_up { ANSWER_LIMIT } else { STARTING_ANSWER_LIMIT };
        let answer = timeout(limit, head_api::nodes(dashboard)).await;
        let all_ready = {
            let mut observed = lock(&observed);
            observed.answers = matches!(answer, Ok(Ok(_)));
            if let Ok(Ok(nodes)) = answer {
                observed.nodes = nodes;
            }
            observed.note(&machines);
            machines.iter().all(|machine| observed.is_ready(machine))
        };
        sleep(if all_ready { POLL_IDLE } else { POLL_BUSY }).await;
    }
}
