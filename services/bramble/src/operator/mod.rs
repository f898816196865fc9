//! The operator's commands: ask and order a running cluster through its head's API.
//!
//! On a machine of the cluster `services` and `logs` without a node name ask its own init instead.

mod bus;
mod client;
mod show;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use http::Method;

use client::Client;

/// Where the head's API is.
#[derive(Debug, clap::Args)]
pub struct Head {
    /// The head's API; default: $BRAMBLE_HEAD, else http://localhost:8081.
    #[arg(long, value_name = "URL", global = true)]
    head: Option<String>,
    /// Token of bramble.toml for orders and logs; default: $BRAMBLE_TOKEN.
    #[arg(long, value_name = "TOKEN", global = true)]
    token: Option<String>,
}

/// What an operator can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the machines of the cluster.
    Nodes {
        #[command(flatten)]
        head: Head,
        /// Print the API's JSON.
        #[arg(long)]
        json: bool,
        /// Show the steps of each boot.
        #[arg(long, conflicts_with = "json")]
        timeline: bool,
    },
    /// List the services of a machine: state, restarts, memory.
    Services {
        /// The machine; default: this one.
        node: Option<String>,
        #[command(flatten)]
        head: Head,
    },
    /// Print the kept output of a service.
    Logs {
        /// The service, `init` for init itself.
        service: String,
        /// The machine; default: this one.
        #[arg(long)]
        node: Option<String>,
        #[command(flatten)]
        head: Head,
    },
    /// Have a machine do something: start, stop, restart or signal a service; reboot; poweroff.
    Order {
        /// The machine.
        node: String,
        /// `start SERVICE`, `stop SERVICE`, `restart SERVICE`, `signal SERVICE NUMBER`, `reboot` or `poweroff`.
        #[arg(required = true, num_args = 1..=3)]
        words: Vec<String>,
        #[command(flatten)]
        head: Head,
    },
    /// Have a machine try something out.
    Check {
        /// The machine.
        node: String,
        /// What to try.
        #[command(subcommand)]
        check: Check,
        #[command(flatten)]
        head: Head,
    },
    /// Make the D-Bus of a machine reachable at a local socket, for busctl or gdbus.
    Bus {
        /// The machine.
        node: String,
        /// The local socket.
        #[arg(long, value_name = "FILE")]
        listen: std::path::PathBuf,
        #[command(flatten)]
        head: Head,
    },
}

/// What a machine can try out.
#[derive(Debug, Subcommand)]
pub enum Check {
    /// What `/` is mounted from.
    RootInfo,
    /// Read the root's device past every cache.
    RootRead {
        /// How much.
        #[arg(long, default_value_t = 16)]
        mebibytes: u64,
        /// Milliseconds between two reads of 256 KiB.
        #[arg(long, default_value_t = 0)]
        pause_ms: u64,
    },
    /// Write a file to `/` and read it back.
    RootWrite,
    /// Whether the file that root-write writes is there.
    RootWritten,
    /// Fetch a page by plain HTTP.
    Fetch {
        /// `http://IP[:PORT]/…`
        url: String,
    },
    /// Memory of every process, as PSS.
    Memory,
}

/// Runs one command to its end.
pub fn main(command: Command) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(command)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bramble: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Nodes { head, json, timeline } => {
            let text = client(head)?.get("/api/v1/nodes").await?;
            if json {
                println!("{text}");
                return Ok(());
            }
            let nodes: Vec<api::Node> =
                serde_json::from_str(&text).context("the head's answer is not the API's")?;
            print!("{}", if timeline { show::timelines(&nodes) } else { show::nodes(&nodes) });
        }
        Command::Services { node: None, .. } => print!("{}", show::services(&local("services")?)),
        Command::Services { node: Some(node), head } => {
            let text = client(head)?.get(&format!("/api/v1/nodes/{}/services", name(&node)?)).await?;
            print!("{}", show::services(&text));
        }
        Command::Logs { service, node: None, .. } => {
            print!("{}", show::logs(&local(&format!("logs {}", name(&service)?))?));
        }
        Command::Logs { service, node: Some(node), head } => {
            let path = format!("/api/v1/nodes/{}/logs/{}", name(&node)?, name(&service)?);
            print!("{}", show::logs(&client(head)?.get(&path).await?));
        }
        Command::Order { node, words, head } => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let path = match words.as_slice() {
                [verb @ ("reboot" | "poweroff")] => (*verb).to_owned(),
                [verb @ ("start" | "stop" | "restart"), service] => {
                    format!("services/{}/{verb}", name(service)?)
                }
                ["signal", service, number] => {
                    format!("services/{}/signal/{}", name(service)?, name(number)?)
                }
                _ => bail!("no such order; see bramble order --help"),
            };
            print!("{}", client(head)?.post(&format!("/api/v1/nodes/{}/{path}", name(&node)?), None).await?);
        }
        Command::Check { node, check, head } => {
            let check = serde_json::to_string(&api::Check::from(check))?;
            print!(
                "{}",
                client(head)?.post(&format!("/api/v1/nodes/{}/check", name(&node)?), Some(check)).await?
            );
        }
        Command::Bus { node, listen, head } => bus::serve(client(head)?, name(&node)?, &listen).await?,
    }
    Ok(())
}

fn client(head: Head) -> anyhow::Result<Client> {
    let from_environment = |key: &str| std::env::var(key).ok().filter(|value| !value.is_empty());
    let url = head.head.or_else(|| from_environment("BRAMBLE_HEAD"));
    let url = url.unwrap_or_else(|| "http://localhost:8081".to_owned());
    Client::new(&url, head.token.or_else(|| from_environment("BRAMBLE_TOKEN")))
}

/// A word that becomes a part of a path.
fn name(text: &str) -> anyhow::Result<&str> {
    let legal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if legal { Ok(text) } else { bail!("{text:?} is no name: letters, digits and dashes only") }
}

/// Asks the init of this machine.
fn local(request: &str) -> anyhow::Result<String> {
    use std::io::{Read, Write};
    const SOCKET: &str = "/run/init.sock";
    let mut stream = std::os::unix::net::UnixStream::connect(SOCKET).with_context(|| {
        format!("no init of ours answers at {SOCKET}; name a machine to ask its head instead")
    })?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.strip_prefix("error: ") {
        Some(reason) => bail!("{}", reason.trim_end()),
        None => Ok(answer),
    }
}

impl From<Check> for api::Check {
    fn from(check: Check) -> Self {
        match check {
            Check::RootInfo => Self::RootInfo,
            Check::RootRead { mebibytes, pause_ms } => Self::RootRead { mebibytes, pause_ms },
            Check::RootWrite => Self::RootWrite,
            Check::RootWritten => Self::RootWritten,
            Check::Fetch { url } => Self::Fetch { url },
            Check::Memory => Self::Memory,
        }
    }
}

impl Client {
    async fn get(&self, path: &str) -> anyhow::Result<String> {
        self.send(Method::GET, path, String::new()).await
    }

    async fn post(&self, path: &str, body: Option<String>) -> anyhow::Result<String> {
        self.send(Method::POST, path, body.unwrap_or_default()).await
    }
}
