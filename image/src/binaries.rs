//! Builds the three programs of the image with cargo.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The programs of the image.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// PID 1.
    pub init: Vec<u8>,
    /// The root finder.
    pub netroot: Vec<u8>,
    /// Everything else.
    pub bramble: Vec<u8>,
}

/// Builds the programs of the workspace `repository` with the cargo profile `profile`.
///
/// # Errors
/// If cargo or the target's library is missing, or the code does not build; cargo itself has then said why.
pub fn build(repository: &Path, profile: &str) -> Result<Binaries> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .current_dir(repository)
        .args(["build", "--message-format=json-render-diagnostics", "--target", TARGET, "--profile", profile])
        .args(["-p", "init", "-p", "netroot", "-p", "bramble"])
        .args(["--config", &without_local_paths(repository)?])
        // They would replace the flags that .cargo/config.toml gives for the boards.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo; https://rustup.rs says how to install Rust")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut paths: [Option<PathBuf>; 3] = [None, None, None];
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what cargo says")?;
        // Messages of other kinds have other fields; only artifacts parse.
        if let Ok(Message { target, executable: Some(executable) }) = serde_json::from_str(&line)
            && let Some(at) = NAMES.iter().position(|name| *name == target.name)
        {
            paths[at] = Some(executable);
        }
    }
    if !child.wait().context("cannot wait for cargo")?.success() {
        bail!(
            "cargo could not build the programs of the image (its reasons are above); \
             if core or std is what it cannot find: rustup target add {TARGET}"
        );
    }
    let [init, netroot, bramble] = paths;
    Ok(Binaries {
        init: read(init, "init")?,
        netroot: read(netroot, "netroot")?,
        bramble: read(bramble, "bramble")?,
    })
}

/// The setting that keeps the folders of this machine out of the programs (they stand in the places of panics), so that
/// two checkouts build the same image. It adds to the flags in `.cargo/config.toml`.
fn without_local_paths(repository: &Path) -> Result<String> {
    let repository = repository.canonicalize().context("cannot find the repository")?;
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    // Of two that fit, rustc takes the last: a cargo home within the repository is still the cargo home.
    let flags = [(repository, "/bramble"), (cargo_home, "/cargo")]
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    // A JSON array of strings is a TOML one, too.
    Ok(format!("target.{TARGET}.rustflags={}", serde_json::to_string(&flags)?))
}

fn read(path: Option<PathBuf>, name: &str) -> Result<Vec<u8>> {
    let path = path.with_context(|| format!("cargo built no program {name}"))?;
    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

#[derive(Deserialize)]
struct Message {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

const NAMES: [&str; 3] = ["init", "netroot", "bramble"];
const TARGET: &str = "aarch64-unknown-linux-musl";
