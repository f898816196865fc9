//! A running virtual cluster: the switch, a head with a card, and nodes without.
//!
//! [`Cluster::start`] checks, builds everything without power, then gives power to the head; the nodes follow when the
//! head is ready, one after the other as each has its lease, so that the head's numbering agrees with ours. Tasks: one
//! per machine (see `machine`) and one observer, which asks the head who is ready. All end when the cluster is dropped.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::head_api::{self, Node};
use crate::machine::command_line::{Colons, Forward, Hardware, Uplink};
use crate::machine::console::Console;
use crate::machine::{Machine, Order, State, Surroundings, card};
use crate::preflight::{self, PreflightError};
use crate::run_dir::{Lock, LockError, RunDir};
use crate::switch::{Capture, Switch};

/// The most nodes one cluster has: the last byte of a MAC address numbers them, and 1 is the head's.
pub const MAX_NODES: u8 = 250;

/// How long a clean shutdown may take before the cord is pulled.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);

/// How a cluster is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder with `head.img`.
    pub image_dir: PathBuf,
    /// Folder for everything of the running cluster.
    pub run_dir: PathBuf,
    /// How many nodes.
    pub nodes: u8,
    /// The head's memory.
    pub memory_head_mib: u32,
    /// Each node's memory.
    pub memory_node_mib: u32,
    /// Each machine's cores.
    pub processors: u32,
    /// The head's card.
    pub card_size_mib: u64,
    /// Port of 127.0.0.1 that leads to the head's port 80.
    pub http: u16,
    /// Port of 127.0.0.1 that leads to the head's dashboard and API.
    pub dashboard: u16,
    /// Further ports that lead into the head.
    pub forwards: Vec<Forward>,
    /// Start from the card of the run before, and leave this run's.
    pub keep_data: bool,
    /// Capture every port of the switch.
    pub pcap: bool,
    /// The QEMU to use.
    pub qemu: PathBuf,
    /// Decides which frames lossy ports lose.
    pub seed: u64,
}

impl Settings {
    /// The smallest cluster in which three answers can differ.
    pub const NODES: u8 = 3;
    /// What the head is promised to run in.
    pub const MEMORY_HEAD_MIB: u32 = 256;
    /// What a node is promised to run in.
    pub const MEMORY_NODE_MIB: u32 = 192;
    /// The smallest card one can still buy is bigger; the file is sparse.
    pub const CARD_SIZE_MIB: u64 = 1024;
    /// For what the cluster serves.
    pub const HTTP: u16 = 8080;
    /// For dashboard and API.
    pub const DASHBOARD: u16 = 8081;

    /// The defaults, also of the command line.
    pub fn new(image_dir: PathBuf, run_dir: PathBuf) -> Self {
        Self {
            image_dir,
            run_dir,
            nodes: Self::NODES,
            memory_head_mib: Self::MEMORY_HEAD_MIB,
            memory_node_mib: Self::MEMORY_NODE_MIB,
            processors: 1,
            card_size_mib: Self::CARD_SIZE_MIB,
            http: Self::HTTP,
            dashboard: Self::DASHBOARD,
            forwards: Vec::new(),
            keep_data: false,
            pcap: false,
            qemu: "qemu-system-aarch64".into(),
            seed: 1,
        }
    }

    /// The SD image.
    pub fn image(&self) -> PathBuf {
        self.image_dir.join("head.img")
    }

    fn hardware(&self, number: u8) -> Hardware {
        let is_head = number == 0;
        let forwards =
            [Forward { host: self.http, guest: 80 }, Forward { host: self.dashboard, guest: 8081 }];
        let uplink = Uplink {
            mac: [0x52, 0x54, 0x00, 0x00, 0x00, 0x01],
            forwards: forwards.iter().chain(&self.forwards).copied().collect(),
        };
        Hardware {
            name: if is_head { "head".into() } else { format!("node-{number}") },
            // dc:a6:32 is how Pi 4 boards are numbered; the serial number is what identifies them.
            mac: [0xdc, 0xa6, 0x32, 0x00, 0x00, number + 1],
            serial: 0x1000_0000 + u32::from(number),
            memory_mib: if is_head { self.memory_head_mib } else { self.memory_node_mib },
            processors: self.processors,
            has_card: is_head,
            uplink: is_head.then_some(uplink),
        }
    }
}

/// Why a cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something is missing on this machine.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The run directory is taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// More nodes than can be numbered.
    #[error("{0} nodes are more than the {MAX_NODES} one virtual cluster has")]
    TooManyNodes(u8),
    /// The run directory cannot be filled.
    #[error("{path}: {source}")]
    Files {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

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

/// A cluster. Dropping it pulls all cords.
#[derive(Debug)]
pub struct Cluster {
    machines: Arc<Vec<Machine>>,
    observed: Arc<Mutex<Observed>>,
    observer: Observer,
    surroundings: Arc<Surroundings>,
    settings: Settings,
    lock: Lock,
    remarks: Vec<String>,
}

impl Cluster {
    /// Checks what is needed, takes the run directory and gives power to the head; returns at once.
    ///
    /// # Errors
    /// When the cluster cannot run here. Nothing is left running then.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        if settings.nodes > MAX_NODES {
            return Err(StartError::TooManyNodes(settings.nodes));
        }
        let run_dir = RunDir::create(&settings.run_dir).map_err(at(&settings.run_dir))?;
        // The lock before the other checks: "already running" is a better answer than "port in use".
        let lock = run_dir.lock()?;
        match Self::assemble(&settings, run_dir, lock.was_stale) {
            Ok((surroundings, machines, remarks)) => {
                let machines = Arc::new(machines);
                let observed = Arc::new(Mutex::new(Observed::default()));
                let observer = tokio::spawn(observe(machines.clone(), observed.clone(), settings.dashboard));
                let observer = Observer(observer.abort_handle());
                Ok(Self { machines, observed, observer, surroundings, settings, lock, remarks })
            }
            Err(error) => {
                lock.release();
                Err(error)
            }
        }
    }

    /// Checks, and builds everything without power.
    fn assemble(
        settings: &Settings,
        run_dir: RunDir,
        was_stale: bool,
    ) -> Result<(Arc<Surroundings>, Vec<Machine>, Vec<String>), StartError> {
        preflight::check(settings)?;
        let mut remarks = Vec::new();
        if was_stale {
            remarks.push("the cluster before did not end in order; its remains are cleared away".to_owned());
        }
        remarks.extend(prepare_card(settings, &run_dir).map_err(at(&run_dir.machine("head")))?);
        let switch = Switch::new(settings.seed);
        let surroundings = Arc::new(Surroundings { run_dir, qemu: settings.qemu.clone(), switch });
        let machines = (0..=settings.nodes).map(|number| {
            let hardware = settings.hardware(number);
            let folder = surroundings.run_dir.machine(&hardware.name);
            plug_in(settings, hardware, &surroundings).map_err(at(&folder))
        });
        let machines = machines.collect::<Result<Vec<_>, _>>()?;
        Ok((surroundings, machines, remarks))
    }

    /// What is worth saying about the start.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Where its files are.
    pub fn run_dir(&self) -> &RunDir {
        &self.surroundings.run_dir
    }

    /// Its network.
    pub fn switch(&self) -> &Switch {
        &self.surroundings.switch
    }

    /// Its machines, head first.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// A machine by name.
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.hardware.name == name)
    }

    /// How everything is now.
    pub fn status(&self) -> Status {
        let observed = lock(&self.observed);
        Status {
            pid: std::process::id(),
            http: self.settings.http,
            dashboard: self.settings.dashboard,
            machines: self.machines.iter().map(|machine| observed.status(machine)).collect(),
        }
    }

    /// Waits until all machines are ready. False when the time is over first.
    pub async fn ready_within(&self, limit: Duration) -> bool {
        let ready = async {
            while !self.status().is_ready() {
                sleep(POLL_BUSY).await;
            }
        };
        timeout(limit, ready).await.is_ok()
    }

    /// Shuts all machines down as an operator would: power buttons of the nodes, then the head's, and the cord of
    /// whichever does not switch itself off in time. `report` gets a line for each.
    pub async fn shut_down(&self, mut report: impl FnMut(String)) {
        self.observer.0.abort();
        let (head, nodes): (Vec<_>, Vec<_>) =
            self.machines.iter().partition(|machine| machine.hardware.has_card);
        for group in [nodes, head] {
            let mut ending = tokio::task::JoinSet::new();
            for machine in group {
                let machines = self.machines.clone();
                let name = machine.hardware.name.clone();
                ending.spawn(async move {
                    let machine = machines.iter().find(|machine| machine.hardware.name == name)?;
                    Some(shut_down(machine).await)
                });
            }
            while let Some(line) = ending.join_next().await {
                if let Ok(Some(line)) = line {
                    report(line);
                }
            }
        }
    }

    /// Pulls all cords, tidies the run directory up and gives it back.
    pub async fn end(self) {
        self.observer.0.abort();
        for machine in self.machines.iter() {
            // The only error is that the machine is gone.
            let _ = machine.order(Order::Off).await;
        }
        let run_dir = &self.surroundings.run_dir;
        for machine in self.machines.iter() {
            for file in ["kernel", "initramfs", "port.sock", "qmp.sock"] {
                // Not there when the machine never got that far.
                let _ = std::fs::remove_file(run_dir.machine(&machine.hardware.name).join(file));
            }
        }
        if !self.settings.keep_data {
            let _ = std::fs::remove_file(run_dir.machine("head").join("card.img"));
        }
        self.lock.release();
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StartError + use<> {
    let path = path.to_owned();
    move |source| StartError::Files { path, source }
}

/// Ends the task that asks the head, and with it the last hold on the machines.
#[derive(Debug)]
struct Observer(AbortHandle);

impl Drop for Observer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn lock(observed: &Mutex<Observed>) -> MutexGuard<'_, Observed> {
    observed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Presses a machine's button, waits, and says in a line how it went.
async fn shut_down(machine: &Machine) -> String {
    let name = &machine.hardware.name;
    if machine.snapshot().state == State::Off {
        return format!("{name}  was off");
    }
    let pressed = Instant::now();
    let refused = machine.order(Order::Button).await.err();
    if refused.is_none() && timeout(SHUTDOWN_LIMIT, machine.reached(State::Off)).await.is_ok() {
        let seconds = pressed.elapsed().as_secs_f64();
        return format!(
            "{name}  {} after {seconds:.1} s: {}",
            machine.snapshot().detail,
            machine.console.last_line()
        );
    }
    let last = machine.console.last_line();
    let _ = machine.order(Order::Off).await;
    match refused {
        Some(error) => format!("{name}  cord pulled: {error}"),
        None => format!("{name}  cord pulled after {} s; it said last: {last}", SHUTDOWN_LIMIT.as_secs()),
    }
}

fn prepare_card(settings: &Settings, run_dir: &RunDir) -> io::Result<Option<String>> {
    let folder = run_dir.machine("head");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("card.img");
    if settings.keep_data && path.exists() {
        let outdated = card::is_outdated(&settings.image(), &path);
        return Ok(outdated.then(|| {
            "the card kept from the run before holds an older image than the one built since".to_owned()
        }));
    }
    card::create(&settings.image(), &path, settings.card_size_mib << 20)?;
    Ok(None)
}

/// Gives a machine its folder, console and switch port.
fn plug_in(settings: &Settings, hardware: Hardware, surroundings: &Arc<Surroundings>) -> io::Result<Machine> {
    let Surroundings { run_dir, switch, .. } = &**surroundings;
    let folder = run_dir.machine(&hardware.name);
    std::fs::create_dir_all(&folder)?;
    let port = switch.add_port(&hardware.name);
    if settings.pcap {
        switch.set_capture(port, Some(Capture::create(&folder.join("port.pcap"))?));
    }
    let socket = run_dir.socket(&format!("{}/port.sock", hardware.name));
    let _ = std::fs::remove_file(&socket);
    switch.listen(port, UnixListener::bind(socket)?);
    let console = Console::create(&folder.join("console.log"))?;
    Ok(Machine::start(hardware, port, console, surroundings.clone()))
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
        self.nodes.iter().find(|node| node.mac.eq_ignore_ascii_case(&mac))
    }

    /// A head that has no row of its own is ready when it answers.
    fn is_ready(&self, machine: &Machine) -> bool {
        let is_running = machine.snapshot().state == State::Running;
        let without_row = self.answers && machine.hardware.has_card;
        is_running && self.node(machine).map_or(without_row, |node| node.state == "ready")
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
            address: node.and_then(|node| node.address.clone()),
            root: node.and_then(|node| node.root.clone()),
            image: node.and_then(|node| node.image.clone()).or(snapshot.image),
            mac: Colons(hardware.mac).to_string(),
            serial: format!("{:08x}", hardware.serial),
            is_linked: snapshot.is_linked,
            head_calls_it: node.map(|node| node.name.clone()).filter(|name| *name != hardware.name),
            is_stuck: snapshot.state == State::Failed && hardware.has_card,
        }
    }
}

/// Between two questions to the head while something is starting.
const POLL_BUSY: Duration = Duration::from_millis(150);

/// Between two questions when all is well: seldom enough not to be seen in a guest's processor time.
const POLL_IDLE: Duration = Duration::from_secs(1);

/// A head that is still starting swallows the question; the next one shall not wait long for that.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_millis(500);

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
        let answers = lock(&observed).answers;
        let limit = if answers { ANSWER_LIMIT } else { FIRST_ANSWER_LIMIT };
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
