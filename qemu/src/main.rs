//! The workstation's commands around a virtual cluster. See the library for how it works.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use qemu::cluster::{Settings, Status};
use qemu::control::{self, ControlError, Reply, Request};
use qemu::display::table;
use qemu::machine::Order;
use qemu::machine::command_line::Forward;
use qemu::supervisor;

mod follow;

/// A virtual cluster of Raspberry Pis under QEMU.
#[derive(Debug, Parser)]
#[command(name = "bramble", bin_name = "./bramble")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a head and nodes, and keep them until Ctrl-C.
    Up(Up),
    /// Show the machines of the running cluster.
    Status {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Print a machine's console. Output only: there is no shell on the machines.
    Console {
        /// head, node-1, node-2, ...
        name: String,
        /// Go on printing what is said, until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Shut all machines down, nodes first.
    Down {
        #[command(flatten)]
        place: Place,
    },
    /// Switch a machine's power.
    Power {
        /// off and cycle pull the cord; button asks the system to shut down.
        action: PowerAction,
        /// head, node-1, node-2, ...
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Cut a machine's cluster cable, or mend it.
    Link {
        /// What to do with the cable.
        action: LinkAction,
        /// head, node-1, node-2, ...
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PowerAction {
    On,
    Off,
    Cycle,
    Button,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LinkAction {
    Down,
    Up,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Folder of the running cluster.
    #[arg(long, value_name = "DIR", default_value = "out/cluster")]
    run_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Up {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = Settings::NODES)]
    nodes: u8,
    /// Return when all machines are ready, and leave them running; `down` ends them.
    #[arg(long)]
    detach: bool,
    /// Folder with head.img.
    #[arg(long, value_name = "DIR", default_value = "out")]
    image: PathBuf,
    /// Port of 127.0.0.1 for what the cluster serves.
    #[arg(long, value_name = "PORT", default_value_t = Settings::HTTP)]
    http: u16,
    /// Port of 127.0.0.1 for dashboard and API.
    #[arg(long, value_name = "PORT", default_value_t = Settings::DASHBOARD)]
    dashboard: u16,
    /// Another port of 127.0.0.1 that leads to a TCP port of the head; may be repeated.
    #[arg(long, value_name = "HOST:GUEST")]
    forward: Vec<Forward>,
    /// The head's memory.
    #[arg(long, value_name = "MiB", default_value_t = Settings::MEMORY_HEAD_MIB)]
    memory_head: u32,
    /// Each node's memory.
    #[arg(long, value_name = "MiB", default_value_t = Settings::MEMORY_NODE_MIB)]
    memory_node: u32,
    /// Each machine's cores.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    smp: u32,
    /// Size of the head's card; the file is sparse.
    #[arg(long, value_name = "MiB", default_value_t = Settings::CARD_SIZE_MIB)]
    card_size: u64,
    /// Start with the card of the run before, and keep this run's.
    #[arg(long)]
    keep_data: bool,
    /// A bramble.toml to put onto the head's card.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write what each machine sends and receives to NAME/port.pcap in the run directory.
    #[arg(long)]
    pcap: bool,
    /// Give up when the machines are not ready by then.
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    wait: u64,
    /// Be the supervisor that --detach leaves running.
    #[arg(long, hide = true, conflicts_with = "detach")]
    supervise: bool,
    #[command(flatten)]
    place: Place,
}

impl Up {
    fn settings(&self) -> Settings {
        Settings {
            nodes: self.nodes,
            memory_head_mib: self.memory_head,
            memory_node_mib: self.memory_node,
            processors: self.smp,
            card_size_mib: self.card_size,
            http: self.http,
            dashboard: self.dashboard,
            forwards: self.forward.clone(),
            keep_data: self.keep_data,
            pcap: self.pcap,
            config: self.config.clone(),
            ..Settings::new(self.image.clone(), self.place.run_dir.clone())
        }
    }
}

fn main() -> ExitCode {
    let command = CommandLine::parse().command;
    let level = tracing_subscriber::EnvFilter::try_from_env("BRAMBLE_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
    // One thread: a frame goes from firmware model to QEMU without waking another, and QEMU's life hangs on the thread
    // that started it, which here is the one that lives longest.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(command)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(up) => self::up(up).await,
        Command::Status { json, place } => {
            let status = status(&place).await?;
            if json {
                println!("{}", serde_json::to_string_pretty(&status)?);
            } else {
                print!("{}", table(&status));
            }
            Ok(())
        }
        Command::Console { name, follow, place } => self::follow::print(&place.run_dir, &name, follow)
            .await
            .with_context(|| format!("console of {name}")),
        Command::Down { place } => down(&place).await,
        Command::Power { action, name, place } => {
            let order = match action {
                PowerAction::On => Order::On,
                PowerAction::Off => Order::Off,
                PowerAction::Cycle => Order::Cycle,
                PowerAction::Button => Order::Button,
            };
            self::order(&place, name, order).await
        }
        Command::Link { action, name, place } => {
            let order = match action {
                LinkAction::Down => Order::LinkDown,
                LinkAction::Up => Order::LinkUp,
            };
            self::order(&place, name, order).await
        }
    }
}

async fn up(up: Up) -> anyhow::Result<()> {
    if up.detach {
        // The same words again, so that no option can be forgotten here.
        let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--detach").collect();
        let arguments = [arguments, vec!["--supervise".to_owned()]].concat();
        return Ok(supervisor::detach(&up.place.run_dir, &arguments).await?);
    }
    if up.supervise {
        nix::unistd::setsid().context("a session of its own")?;
    }
    Ok(supervisor::supervise(up.settings(), Duration::from_secs(up.wait)).await?)
}

async fn status(place: &Place) -> anyhow::Result<Status> {
    match control::ask(&place.run_dir, &Request::Status, |_| {}).await? {
        Reply::Status(status) => Ok(status),
        other => bail!("the supervisor answers {other:?}"),
    }
}

async fn order(place: &Place, machine: String, order: Order) -> anyhow::Result<()> {
    let request = Request::Order { machine: machine.clone(), order };
    match control::ask(&place.run_dir, &request, |_| {}).await? {
        Reply::Done(text) => {
            println!("{machine}: {text}");
            Ok(())
        }
        Reply::Error(text) => bail!("{text}"),
        other => bail!("the supervisor answers {other:?}"),
    }
}

async fn down(place: &Place) -> anyhow::Result<()> {
    match control::ask(&place.run_dir, &Request::Down, |line| println!("{line}")).await {
        Ok(Reply::Done(text)) => {
            println!("{text}");
            Ok(())
        }
        Ok(Reply::Error(text)) => bail!("{text}"),
        Ok(other) => bail!("the supervisor answers {other:?}"),
        // What is wanted is so already.
        Err(error @ ControlError::NotRunning(_)) => {
            println!("{error}");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
