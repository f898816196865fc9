//! A running virtual cluster: the switch, a head with a card, and nodes without.
//!
//! [`Cluster::start`] checks, builds everything without power, then gives power to the head; the nodes follow when the
//! head is ready, one after the other as each has its lease, so that the head's numbering agrees with ours. Tasks: one
//! per machine (see `machine`) and one observer, which asks the head who is ready. All end when the cluster is dropped.

mod observer;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::time::{Instant, sleep, timeout};

use crate::machine::command_line::{Forward, Hardware, Uplink};
use crate::machine::console::Console;
use crate::machine::{Machine, Order, State, Surroundings, card};
use crate::preflight::{self, PreflightError};
use crate::run_dir::{Lock, LockError, RunDir};
use crate::switch::{Capture, Switch};
pub use observer::{MachineStatus, Status};
use observer::{Observer, POLL_BUSY};

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
    /// A `bramble.toml` to put onto the head's card.
    pub config: Option<PathBuf>,
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
            config: None,
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
            capture: self.pcap,
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

/// What a cluster is made of before there is power: what machines share, the machines, and what is worth saying.
type Assembled = (Arc<Surroundings>, Vec<Machine>, Vec<String>);

/// A cluster. Dropping it pulls all cords.
#[derive(Debug)]
pub struct Cluster {
    machines: Arc<Vec<Machine>>,
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
                let observer = Observer::start(machines.clone(), settings.dashboard);
                Ok(Self { machines, observer, surroundings, settings, lock, remarks })
            }
            Err(error) => {
                lock.release();
                Err(error)
            }
        }
    }

    /// Checks, and builds everything without power.
    fn assemble(settings: &Settings, run_dir: RunDir, was_stale: bool) -> Result<Assembled, StartError> {
        preflight::check(settings)?;
        let mut remarks = Vec::new();
        if was_stale {
            remarks.push("the cluster before did not end in order; its remains are cleared away".to_owned());
        }
        remarks.extend(prepare_card(settings, &run_dir)?);
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
        Status {
            pid: std::process::id(),
            http: self.settings.http,
            dashboard: self.settings.dashboard,
            machines: self.observer.look(&self.machines),
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
    /// whichever does not switch itself off in time. `report` gets a line for each. False when a cord was pulled.
    pub async fn shut_down(&self, mut report: impl FnMut(String)) -> bool {
        self.observer.stop();
        let mut is_clean = true;
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
                if let Ok(Some((line, is_own_doing))) = line {
                    is_clean &= is_own_doing;
                    report(line);
                }
            }
        }
        is_clean
    }

    /// Pulls all cords, tidies the run directory up and gives it back.
    pub async fn end(self) {
        self.observer.stop();
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
        let _ = std::fs::remove_file(run_dir.path().join("control.sock"));
        self.lock.release();
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StartError + use<> {
    let path = path.to_owned();
    move |source| StartError::Files { path, source }
}

/// Presses a machine's button, waits, and says in a line how it went, and whether the machine did it by itself.
async fn shut_down(machine: &Machine) -> (String, bool) {
    let name = &machine.hardware.name;
    if machine.snapshot().state == State::Off {
        return (format!("{name}  was off"), true);
    }
    let pressed = Instant::now();
    let refused = machine.order(Order::Button).await.err();
    if refused.is_none() && timeout(SHUTDOWN_LIMIT, machine.reached(State::Off)).await.is_ok() {
        let (seconds, last) = (pressed.elapsed().as_secs_f64(), machine.console.last_line());
        return (format!("{name}  {} after {seconds:.1} s: {last}", machine.snapshot().detail), true);
    }
    let last = machine.console.last_line();
    let _ = machine.order(Order::Off).await;
    let line = match refused {
        Some(error) => format!("{name}  cord pulled: {error}"),
        None => format!("{name}  cord pulled after {} s; it said last: {last}", SHUTDOWN_LIMIT.as_secs()),
    };
    (line, false)
}

fn prepare_card(settings: &Settings, run_dir: &RunDir) -> Result<Option<String>, StartError> {
    let folder = run_dir.machine("head");
    let path = folder.join("card.img");
    std::fs::create_dir_all(&folder).map_err(at(&folder))?;
    let mut remark = None;
    if settings.keep_data && path.exists() {
        remark = card::is_outdated(&settings.image(), &path).then(|| {
            "the card kept from the run before holds an older image than the one built since".to_owned()
        });
    } else {
        card::create(&settings.image(), &path, settings.card_size_mib << 20).map_err(at(&path))?;
    }
    if let Some(config) = &settings.config {
        let content = std::fs::read(config).map_err(at(config))?;
        card::configure(&path, &content).map_err(at(&path))?;
    }
    Ok(remark)
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
