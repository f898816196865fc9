//! Foreign programs: finding them, running them, and saying in one line what to do when that fails.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The path of the program `name`. Also looks where Debian keeps administration tools, which is
/// not on an ordinary user's `PATH`.
///
/// # Errors
/// If it is nowhere; names the Debian package to install.
pub fn find(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is missing: apt install {package}"))
}

/// Runs `command` to its end with its output captured.
///
/// # Errors
/// If it cannot be started or fails: the message holds the last lines it said.
pub fn run(command: &mut Command, purpose: &str) -> Result<()> {
    output(command, purpose).map(drop)
}

/// Like [`run`], and returns what the program wrote to standard output.
///
/// # Errors
/// As [`run`], and if the output is not UTF-8.
pub fn output(command: &mut Command, purpose: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name} to {purpose}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} could not {purpose}: {}", last_lines(&said));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name}: the output is not UTF-8"))
}

/// The end of what a program said, on one line: three lines hold the cause, more bury it.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(3);
    lines.get(from..).unwrap_or_default().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_reported_with_its_package() {
        let error = find("no-such-program", "some-package").unwrap_err().to_string();
        assert_eq!(error, "no-such-program is missing: apt install some-package");
    }

    #[test]
    fn a_failing_program_is_quoted_on_one_line() {
        let mut command = Command::new("sh");
        command.args(["-c", "for word in one two three four; do echo $word >&2; done; exit 3"]);
        let error = run(&mut command, "fail").unwrap_err().to_string();
        assert_eq!(error, "sh could not fail: two; three; four");
    }
}
