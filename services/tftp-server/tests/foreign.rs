//! Clients that others wrote. A test whose tool is missing says "skipped: needs X" and passes.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Fetches `name` from the server into `target`, and says whether the client was content.
type Client = fn(server: SocketAddr, name: &str, target: &Path) -> Command;

fn tftp_hpa(server: SocketAddr, name: &str, target: &Path) -> Command {
    let mut command = Command::new("tftp");
    command.args(["-m", "binary", &server.ip().to_string(), &server.port().to_string(), "-c", "get", name]);
    command.arg(target);
    command
}

fn atftp(server: SocketAddr, name: &str, target: &Path) -> Command {
    let mut command = Command::new("atftp");
    command.args(["--get", "--option", "blksize 1468", "--option", "tsize 0", "--option", "windowsize 8"]);
    command.args(["--remote-file", name, "--local-file"]).arg(target);
    command.args([server.ip().to_string(), server.port().to_string()]);
    command
}

fn curl(server: SocketAddr, name: &str, target: &Path) -> Command {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--fail", "--max-time", "20", "--tftp-blksize", "1428", "--output"])
        .arg(target);
    command.arg(format!("tftp://{server}/{name}"));
    command
}

fn busybox(server: SocketAddr, name: &str, target: &Path) -> Command {
    let mut command = Command::new("busybox");
    command.args(["tftp", "-g", "-b", "1400", "-r", name, "-l"]).arg(target);
    command.args([server.ip().to_string(), server.port().to_string()]);
    command
}

fn fetches_all_lengths(tool: &str, client: Client) {
    if Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        eprintln!("skipped: needs {tool}");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("received");
    let server = support::serve(root.path(), &[]);
    for length in [1usize, 511, 512, 513, 1428, 1468, 3_000_000] {
        let content: Vec<u8> = (0..length).map(|index| (index * 31 / 7) as u8).collect();
        std::fs::write(root.path().join("kernel"), &content).unwrap();
        let _ = std::fs::remove_file(&target);
        let output = client(server, "kernel", &target).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{tool}, {length} bytes: {output:?}");
        assert!(std::fs::read(&target).unwrap() == content, "{tool}, {length} bytes");
    }
    let _ = std::fs::remove_file(&target);
    let output = client(server, "missing", &target).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat().to_ascii_lowercase();
    let complained = !output.status.success() || said.windows(9).any(|word| word == b"not found");
    assert!(complained && std::fs::metadata(&target).map_or(0, |file| file.len()) == 0, "{tool}");
}

#[test]
fn tftp_hpa_fetches_files_of_all_lengths() {
    fetches_all_lengths("tftp", tftp_hpa);
}

#[test]
fn atftp_fetches_files_of_all_lengths_with_a_window() {
    fetches_all_lengths("atftp", atftp);
}

#[test]
fn curl_fetches_files_of_all_lengths() {
    fetches_all_lengths("curl", curl);
}

#[test]
fn busybox_fetches_files_of_all_lengths() {
    fetches_all_lengths("busybox", busybox);
}
