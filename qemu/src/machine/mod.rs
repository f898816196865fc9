//! One machine of the virtual cluster: power, firmware, guest.
//!
//! ```text
//!          on                     files                  guest-reset, watchdog
//!   Off ---------> Firmware ------------------> Running --------------------> Firmware
//!    ^               |   ^                        |
//!    |               v   | pause (network)        |  guest-shutdown
//!    +------------ Failed (card: for good)        +--------------------------> Off
//!    off, or the cord, from everywhere
//! ```
//!
//! One task per machine owns all of it. It takes orders from a bounded queue, and publishes a [`Snapshot`]. It ends, and
//! takes QEMU with it, when the last [`Machine`] handle is dropped.

pub mod card;
pub mod command_line;
pub mod console;
pub mod guest;
pub mod qmp;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::firmware::{Board, BootFiles, Model, boot_from_card, boot_from_network};
use crate::run_dir::RunDir;
use crate::switch::{PortNumber, Switch};
use command_line::Hardware;
use console::Console;
use guest::{End, Guest};

/// Orders waiting for one machine. An operator gives one at a time; more wait at the sender.
const ORDER_QUEUE: usize = 8;

/// What a board does between two rounds of network boot: it shows the reason on its screen for a moment.
const NETWORK_BOOT_PAUSE: Duration = Duration::from_secs(2);

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No power.
    Off,
    /// The firmware (its model) is looking for something to start.
    Firmware,
    /// A system is running.
    Running,
    /// Powered, but nothing runs; the detail says why.
    Failed,
}

/// A machine as it is now.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What it is doing.
    pub state: State,
    /// In words: the firmware's progress, or why it is off or has failed.
    pub detail: String,
    /// When power came on, or the system asked for a reset.
    pub started: Option<Instant>,
    /// Counts powers-on and resets.
    pub boots: u64,
    /// The image named on the kernel's command line.
    pub image: Option<String>,
    /// Whether the cluster cable is whole.
    pub is_linked: bool,
}

/// What can be asked of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Give power.
    On,
    /// Pull the cord.
    Off,
    /// Pull the cord and give power again.
    Cycle,
    /// Press the power button: the system shuts down by itself.
    Button,
    /// Cut the cluster cable.
    LinkDown,
    /// Mend the cluster cable.
    LinkUp,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// QEMU did not do it.
    #[error(transparent)]
    Qmp(#[from] qmp::QmpError),
    /// The machine's task has ended.
    #[error("the cluster is going down")]
    Gone,
}

type Answer = Result<String, OrderError>;

/// A handle to a machine.
#[derive(Debug)]
pub struct Machine {
    /// What it is made of.
    pub hardware: Hardware,
    /// Its port of the cluster switch.
    pub port: PortNumber,
    /// What it says.
    pub console: Console,
    orders: mpsc::Sender<(Order, oneshot::Sender<Answer>)>,
    snapshot: watch::Receiver<Snapshot>,
}

/// What all machines of a cluster share.
#[derive(Debug)]
pub struct Surroundings {
    /// Where files and sockets are.
    pub run_dir: RunDir,
    /// The QEMU to start.
    pub qemu: PathBuf,
    /// The cluster network.
    pub switch: Switch,
}

impl Machine {
    /// Starts the machine's task, without power.
    pub fn start(
        hardware: Hardware,
        port: PortNumber,
        console: Console,
        surroundings: Arc<Surroundings>,
    ) -> Self {
        let (orders, queue) = mpsc::channel(ORDER_QUEUE);
        let (sender, snapshot) = watch::channel(Snapshot {
            state: State::Off,
            detail: "waiting for its turn".into(),
            started: None,
            boots: 0,
            image: None,
            is_linked: true,
        });
        let keeper = Keeper {
            hardware: hardware.clone(),
            port,
            console: console.clone(),
            surroundings,
            orders: queue,
            snapshot: sender,
        };
        tokio::spawn(keeper.run());
        Self { hardware, port, console, orders, snapshot }
    }

    /// The machine as it is now.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// Gives an order and waits for it to be carried out (a pressed button: to be pressed). The answer is for people.
    ///
    /// # Errors
    /// When it could not be carried out.
    pub async fn order(&self, order: Order) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.orders.send((order, answer)).await.map_err(|_| OrderError::Gone)?;
        answered.await.map_err(|_| OrderError::Gone)?
    }

    /// Waits until the machine is in a state.
    pub async fn reached(&self, state: State) {
        let mut snapshot = self.snapshot.clone();
        if snapshot.wait_for(|now| now.state == state).await.is_err() {
            // The task is gone, and power with it: no other state will come.
            std::future::pending::<()>().await;
        }
    }
}

/// Where the power is after a step of the machine's life.
enum Power {
    Off,
    On,
    /// On, with nothing running; a retry at the moment given.
    Stuck(Option<Instant>),
    /// Nobody holds the machine any more.
    Abandoned,
}

struct Keeper {
    hardware: Hardware,
    port: PortNumber,
    console: Console,
    surroundings: Arc<Surroundings>,
    orders: mpsc::Receiver<(Order, oneshot::Sender<Answer>)>,
    snapshot: watch::Sender<Snapshot>,
}

impl Keeper {
    async fn run(mut self) {
        let mut power = Power::Off;
        loop {
            power = match power {
                Power::Off => self.without_guest(State::Off, None).await,
                Power::Stuck(retry) => self.without_guest(State::Failed, retry).await,
                Power::On => self.boot().await,
                Power::Abandoned => return,
            };
        }
    }

    /// Off or stuck: nothing happens until an order, or the moment of a retry.
    async fn without_guest(&mut self, state: State, retry: Option<Instant>) -> Power {
        loop {
            let moment = async {
                match retry {
                    Some(retry) => sleep_until(retry).await,
                    None => std::future::pending().await,
                }
            };
            // Both arms are safe to lose: a queue's recv and a deadline.
            let request = tokio::select! {
                request = self.orders.recv() => request,
                () = moment => return Power::On,
            };
            let Some((order, answer)) = request else { return Power::Abandoned };
            if let Some(power) = self.obey_without_guest(order, answer, state) {
                return power;
            }
        }
    }

    fn obey_without_guest(
        &mut self,
        order: Order,
        answer: oneshot::Sender<Answer>,
        state: State,
    ) -> Option<Power> {
        let is_on = state != State::Off;
        let (text, next) = match order {
            Order::On if is_on => ("power is on already", None),
            Order::On | Order::Cycle => {
                self.begin("power on");
                ("power on", Some(Power::On))
            }
            Order::Off | Order::Button if !is_on => ("power is off already", None),
            Order::Off => ("power cut", Some(self.off("power cut"))),
            Order::Button => {
                ("no system is running; power cut", Some(self.off("switched off before a system ran")))
            }
            Order::LinkDown => (self.set_link(false), None),
            Order::LinkUp => (self.set_link(true), None),
        };
        // Whoever asked may have gone; the order holds all the same.
        let _ = answer.send(Ok(text.to_owned()));
        next
    }

    /// From power to the end of the guest.
    async fn boot(&mut self) -> Power {
        let files = match self.firmware().await {
            Ok(files) => files,
            Err(power) => return power,
        };
        let image = parameter(&files.command_line, "bramble.image=");
        self.console.note(&format!("firmware: starting the kernel: {}", files.command_line));
        self.update(|now| {
            now.detail = "starting".into();
            now.image = image;
        });
        let Surroundings { run_dir, qemu, .. } = &*self.surroundings;
        match Guest::start(qemu, run_dir, &self.hardware, files, &self.console).await {
            Ok(guest) => self.run_guest(guest).await,
            Err(error) => self.stuck(error.to_string(), None),
        }
    }

    /// Runs the firmware model, and answers orders meanwhile.
    async fn firmware(&mut self) -> Result<BootFiles, Power> {
        self.update(|now| {
            now.state = State::Firmware;
            now.detail = "firmware".into();
        });
        let work = fetch(
            self.hardware.clone(),
            self.port,
            self.surroundings.clone(),
            self.console.clone(),
            self.snapshot.clone(),
        );
        tokio::pin!(work);
        loop {
            // Losing the work is what pulling the cord means; losing recv is safe.
            tokio::select! {
                fetched = &mut work => {
                    let retry = (!self.hardware.has_card).then(|| Instant::now() + NETWORK_BOOT_PAUSE);
                    return fetched.map_err(|reason| self.stuck(reason, retry));
                }
                request = self.orders.recv() => {
                    let Some((order, answer)) = request else { return Err(Power::Abandoned) };
                    if let Some(power) = self.obey_without_guest(order, answer, State::Firmware) {
                        return Err(power);
                    }
                }
            }
        }
    }

    async fn run_guest(&mut self, mut guest: Guest) -> Power {
        if self.surroundings.switch.is_cut(self.port)
            && let Err(error) = guest.set_link(false).await
        {
            self.console.note(&error.to_string());
        }
        self.update(|now| {
            now.state = State::Running;
            now.detail = "kernel started".into();
        });
        loop {
            // Both are safe to lose: waiting for a child and a queue's recv.
            tokio::select! {
                status = guest.ended() => {
                    let folder = self.surroundings.run_dir.machine(&self.hardware.name);
                    return match guest.into_end(&folder, status).await {
                        End::PoweredOff => self.off("switched itself off"),
                        End::Reset => {
                            self.begin("reset");
                            Power::On
                        }
                        End::Failed(reason) => self.stuck(reason, None),
                    };
                }
                request = self.orders.recv() => {
                    let Some((order, answer)) = request else {
                        guest.kill().await;
                        return Power::Abandoned;
                    };
                    let result = match order {
                        Order::On => Ok("power is on already"),
                        Order::Button => guest.press_button().await.map(|()| "button pressed"),
                        Order::LinkDown => guest.set_link(false).await.map(|()| self.set_link(false)),
                        Order::LinkUp => guest.set_link(true).await.map(|()| self.set_link(true)),
                        Order::Off | Order::Cycle => {
                            guest.kill().await;
                            let power = self.off("power cut");
                            let power = if order == Order::Cycle { self.begin("power on"); Power::On } else { power };
                            let _ = answer.send(Ok("power cut".to_owned()));
                            return power;
                        }
                    };
                    let _ = answer.send(result.map(str::to_owned).map_err(OrderError::from));
                }
            }
        }
    }

    /// A new boot begins, by power or by reset.
    fn begin(&self, why: &str) {
        self.console.forget();
        self.console.note(why);
        self.update(|now| {
            now.started = Some(Instant::now());
            now.boots += 1;
            now.state = State::Firmware;
            why.clone_into(&mut now.detail);
        });
    }

    fn off(&self, why: &str) -> Power {
        self.console.note(why);
        self.surroundings.switch.unplug(self.port);
        self.update(|now| {
            now.state = State::Off;
            now.started = None;
            why.clone_into(&mut now.detail);
        });
        Power::Off
    }

    fn stuck(&self, reason: String, retry: Option<Instant>) -> Power {
        self.console.note(&reason);
        self.surroundings.switch.unplug(self.port);
        self.update(|now| {
            now.state = State::Failed;
            now.detail = reason;
        });
        Power::Stuck(retry)
    }

    fn set_link(&self, is_up: bool) -> &'static str {
        self.surroundings.switch.set_cut(self.port, !is_up);
        self.update(|now| now.is_linked = is_up);
        if is_up { "link up" } else { "link down" }
    }

    fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(change);
    }
}

/// Runs the firmware model: from the card where there is one, else from the network.
async fn fetch(
    hardware: Hardware,
    port: PortNumber,
    surroundings: Arc<Surroundings>,
    console: Console,
    snapshot: watch::Sender<Snapshot>,
) -> Result<BootFiles, String> {
    let board =
        Board { name: hardware.name.clone(), mac: hardware.mac, serial: hardware.serial, model: Model::Pi4 };
    if hardware.has_card {
        let card = surroundings.run_dir.machine(&hardware.name).join("card.img");
        // `-M virt` has no place where a guest could leave the one-shot tryboot flag of a Pi, so it is never set.
        let read = tokio::task::spawn_blocking(move || boot_from_card(&card, &board, false)).await;
        return match read {
            Ok(files) => files.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
    }
    let mut plug = surroundings.switch.plug(port);
    let mut progress = |progress: crate::firmware::Progress| {
        let text = progress.to_string();
        console.note(&format!("firmware: {text}"));
        snapshot.send_modify(|now| now.detail = text);
    };
    boot_from_network(&mut plug, &board, &mut progress).await.map_err(|error| error.to_string())
}

/// The value of a `name=` parameter of a kernel command line.
fn parameter(command_line: &str, name: &str) -> Option<String> {
    command_line.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned)
}
