//! From the kernel's start to PID 1: Bramble's initramfs against the same kernel with a PID 1 that does nothing.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tests::repository;

/// Medians.
pub struct Start {
    /// Seconds on the kernel's clock until Bramble's PID 1 began.
    pub bramble_s: f64,
    /// The same for the PID 1 that does nothing.
    pub trivial_s: f64,
}

/// Boots each `runs` times, in turns, so that a busy minute of this machine meets both.
pub fn start_to_init(folder: &Path, runs: usize) -> Result<Start> {
    let image = repository().join("out");
    let trivial = folder.join("trivial.img");
    std::fs::write(&trivial, archive(&build_trivial_init(folder)?))?;
    let (mut brambles, mut trivials) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        brambles.push(boot(&image.join("vmlinuz"), &image.join("initramfs.img"))?);
        trivials.push(boot(&image.join("vmlinuz"), &trivial)?);
    }
    Ok(Start { bramble_s: median(brambles), trivial_s: median(trivials) })
}

fn build_trivial_init(folder: &Path) -> Result<Vec<u8>> {
    let program = folder.join("trivial-init");
    let status = Command::new("rustc")
        .args(["--edition=2024", "--target=aarch64-unknown-linux-musl", "-Clinker=rust-lld"])
        .args(["-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols", "-Crelocation-model=static", "-o"])
        .arg(&program)
        .arg(repository().join("tests/src/bin/bench/trivial_init.rs"))
        .status()
        .context("rustc")?;
    ensure!(status.success(), "the trivial init cannot be built");
    Ok(std::fs::read(program)?)
}

/// A cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst) with nothing but `/init`.
fn archive(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in [("init", 0o100_755, init), ("TRAILER!!!", 0, &[])] {
        let fields = [1, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend_from_slice(b"070701");
        fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08x}").as_bytes()));
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// One boot until PID 1 says when it began. Without devices: what is compared is the kernel, the archive and the PID 1.
fn boot(kernel: &Path, initramfs: &Path) -> Result<f64> {
    let mut qemu = Command::new("qemu-system-aarch64")
        .args(["-machine", "virt,dtb-randomness=off", "-cpu", "cortex-a72", "-m", "256M", "-nodefaults"])
        .args(["-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .args(["-append", "console=ttyAMA0 panic=-1 loglevel=7 bramble.role=node"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("qemu-system-aarch64")?;
    let console = qemu.stdout.take().context("the console")?;
    let (found, seconds) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(console).split(b'\n').map_while(Result::ok);
        for line in lines {
            if let Some(seconds) = began(&String::from_utf8_lossy(&line)) {
                let _ = found.send(seconds);
            }
        }
    });
    let seconds = seconds.recv_timeout(BOOT_LIMIT);
    qemu.kill()?;
    qemu.wait()?;
    let _ = reader.join();
    match seconds {
        Ok(seconds) => Ok(seconds),
        Err(_) => bail!("PID 1 of {} did not begin within {} s", initramfs.display(), BOOT_LIMIT.as_secs()),
    }
}

/// `init: started 1.234 s`, or `trivial init: Instant { tv_sec: 1, tv_nsec: 234000000 }`.
fn began(line: &str) -> Option<f64> {
    if let Some((_, text)) = line.split_once("trivial init: ") {
        let number = |key: &str| {
            let digits = text.split_once(key)?.1;
            digits.split(|c: char| !c.is_ascii_digit()).next()?.parse::<f64>().ok()
        };
        return Some(number("tv_sec: ")? + number("tv_nsec: ")? / 1e9);
    }
    line.split_once("init: started ")?.1.split(' ').next()?.parse().ok()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Ten times what a boot takes on two emulating cores.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
