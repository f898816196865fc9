//! A virtual cluster under test: started, asked, disturbed and shut down through the commands a user has.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::http;

/// Password of the clusters under test.
const TOKEN: &str = "only-for-the-tests-0123456789";

/// How a cluster under test is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its folder below `out/`, so that two test programs do not meet.
    pub name: &'static str,
    /// How many nodes.
    pub nodes: u8,
    /// What to put on the card as `bramble.toml`, besides the API's token.
    pub config: &'static str,
    /// More words for `up`.
    pub arguments: Vec<String>,
}

/// A running cluster. Dropping it shuts it down.
pub struct Cluster {
    run_dir: PathBuf,
    program: PathBuf,
    /// Port of 127.0.0.1 for what the cluster serves.
    pub http: u16,
    /// Port of 127.0.0.1 for dashboard and API.
    pub dashboard: u16,
    /// What `up` printed.
    pub printed: String,
}

impl Cluster {
    /// Starts a cluster and waits until every machine is ready.
    ///
    /// # Errors
    /// When `up` fails; its words are in the error.
    pub fn up(options: Options) -> Result<Self> {
        let root = repository();
        let program = match std::env::var_os("BRAMBLE_QEMU") {
            Some(program) => PathBuf::from(program),
            None => root.join("target/tool/qemu"),
        };
        if !program.exists() || !root.join("out/head.img").exists() {
            bail!("the image or {} is not built; run ./bramble test", program.display());
        }
        let run_dir = root.join("out").join(format!("test-{}", options.name));
        std::fs::create_dir_all(&run_dir)?;
        let config = run_dir.join("given-bramble.toml");
        std::fs::write(&config, format!("{}\n[api]\ntoken = \"{TOKEN}\"\n", options.config))?;
        let (http, dashboard) = (free_port()?, free_port()?);
        let mut cluster = Self { run_dir, program, http, dashboard, printed: String::new() };
        let mut words = vec!["up".to_owned(), "--detach".to_owned()];
        for (option, value) in [
            ("--nodes", options.nodes.to_string()),
            ("--image", root.join("out").display().to_string()),
            ("--config", config.display().to_string()),
            ("--http", http.to_string()),
            ("--dashboard", dashboard.to_string()),
        ] {
            words.extend([option.to_owned(), value]);
        }
        words.extend(options.arguments);
        let output = cluster.command(&words)?;
        cluster.printed = text(&output);
        if !output.status.success() {
            bail!("up failed:\n{}", cluster.printed);
        }
        Ok(cluster)
    }

    /// Runs a command of the virtual cluster and gives all it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let output = self.command(&words)?;
        if !output.status.success() {
            bail!("{words:?} failed:\n{}", text(&output));
        }
        Ok(text(&output))
    }

    /// The machines as the head tells.
    ///
    /// # Errors
    /// When the head does not answer.
    pub fn nodes(&self) -> Result<Vec<api::Node>> {
        let answer = http::get(self.dashboard, "/api/v1/nodes", None, Duration::from_secs(10))?;
        serde_json::from_str(&answer.body).with_context(|| answer.body.clone())
    }

    /// One machine as the head tells.
    ///
    /// # Errors
    /// When the head does not answer or does not know it.
    pub fn node(&self, name: &str) -> Result<api::Node> {
        self.nodes()?.into_iter().find(|node| node.name == name).with_context(|| format!("no {name}"))
    }

    /// Waits until something holds, asking every 100 ms.
    ///
    /// # Errors
    /// When it does not within `limit`; the last reason is in the error.
    pub fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            match probe(self) {
                Ok(value) => return Ok(value),
                Err(error) if begun.elapsed() > limit => {
                    return Err(error.context(format!("{what}: not within {} s", limit.as_secs())));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Waits until the head calls a machine ready, and gives it.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn wait_ready(&self, name: &str, limit: Duration) -> Result<api::Node> {
        self.wait(&format!("{name} ready"), limit, |cluster| {
            let node = cluster.node(name)?;
            if node.state == "ready" { Ok(node) } else { bail!("{name} is {} ({})", node.state, node.detail) }
        })
    }

    /// Gives an order, as an operator with the token.
    ///
    /// # Errors
    /// When it is not carried out.
    pub fn order(&self, name: &str, path: &str, body: &str) -> Result<String> {
        let path = format!("/api/v1/nodes/{name}/{path}");
        let answer = http::post(self.dashboard, &path, Some(TOKEN), body, Duration::from_secs(600))?;
        if answer.status != 200 {
            bail!("POST {path}: {} {}", answer.status, answer.body);
        }
        Ok(answer.body)
    }

    /// Asks for something that needs the token.
    ///
    /// # Errors
    /// When it is refused.
    pub fn ask(&self, name: &str, path: &str) -> Result<String> {
        let path = format!("/api/v1/nodes/{name}/{path}");
        let answer = http::get(self.dashboard, &path, Some(TOKEN), Duration::from_secs(20))?;
        if answer.status != 200 {
            bail!("GET {path}: {} {}", answer.status, answer.body);
        }
        Ok(answer.body)
    }

    /// The rows of a machine's service table: name, state, process, restarts.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn services(&self, name: &str) -> Result<Vec<(String, String, u32, u64)>> {
        let rows = self.ask(name, "services")?;
        Ok(rows
            .lines()
            .map(|line| {
                let field = |key: &str| {
                    let field = line.split('\t').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
                    field.unwrap_or("").to_owned()
                };
                let number = |key: &str| field(key).parse().unwrap_or(0);
                (field("name"), field("state"), u32::try_from(number("pid")).unwrap_or(0), number("restarts"))
            })
            .collect())
    }

    /// Everything a machine has printed on its console.
    ///
    /// # Errors
    /// When there is none.
    pub fn console(&self, name: &str) -> Result<String> {
        self.run(&["console", name])
    }

    /// The folder of everything of this run.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The token of this cluster's API.
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    /// Shuts all machines down and gives what was printed.
    ///
    /// # Errors
    /// When a machine had to be cut off.
    pub fn down(&self) -> Result<String> {
        self.run(&["down"])
    }

    fn command(&self, words: &[String]) -> Result<Output> {
        let (command, rest) = words.split_first().context("a command")?;
        Command::new(&self.program)
            .arg(command)
            .args(rest)
            .arg("--run-dir")
            .arg(&self.run_dir)
            .output()
            .with_context(|| format!("{} {words:?}", self.program.display()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.down();
    }
}

/// The repository's folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
