//! `./bramble bench boot`: the figures of a boot beside their limits and aims, with the machine and the date.

mod figures;
mod kernel;

use std::process::Command;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use tests::repository;

/// Benchmarks.
#[derive(Debug, Parser)]
#[command(name = "bramble bench", bin_name = "./bramble bench")]
struct CommandLine {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Times, sizes and memory of a boot, on a virtual cluster.
    Boot {
        /// Also find the smallest machines that boot and serve, which takes some minutes.
        #[arg(long)]
        memory: bool,
        /// How often to boot a bare kernel; the median counts.
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
        runs: u8,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// One line of the table.
struct Figure {
    what: &'static str,
    unit: &'static str,
    value: f64,
    /// None: only told.
    limit_and_aim: Option<(f64, f64)>,
}

fn main() -> Result<()> {
    let Bench::Boot { memory, runs, json } = CommandLine::parse().bench;
    let report: Value =
        serde_json::from_slice(&std::fs::read(repository().join("out/image.json"))?).context("image.json")?;
    let facts = facts(&report)?;
    let mut figures = Vec::new();
    kernel_figures(&mut figures, usize::from(runs))?;
    cluster_figures(&mut figures)?;
    image_figures(&mut figures, &report)?;
    if memory {
        memory_figures(&mut figures);
    }
    if json {
        print_json(&facts, &figures)
    } else {
        print_table(&facts, &figures)
    }
    Ok(())
}

fn kernel_figures(figures: &mut Vec<Figure>, runs: usize) -> Result<()> {
    let folder = repository().join("out/bench-kernel");
    std::fs::create_dir_all(&folder)?;
    let start = kernel::start_to_init(&folder, runs)?;
    figures.push(told("kernel start to PID 1", "s", start.bramble_s));
    figures.push(told("the same with a trivial init", "s", start.trivial_s));
    figures.push(judged("... as a multiple of it", "x", start.bramble_s / start.trivial_s, 1.5, 1.1));
    Ok(())
}

fn cluster_figures(figures: &mut Vec<Figure>) -> Result<()> {
    let (times, memory) = figures::boot()?;
    figures.extend([
        judged("head: power to all services ready", "s", times.head_s, 10.0, 5.0),
        judged("node: power to ready, head up", "s", times.one_node_s, 10.0, 5.0),
        told("three nodes at once: the fastest", "s", times.fastest_of_three_s),
        told("three nodes at once: the slowest", "s", times.slowest_of_three_s),
        judged("userland's memory (PSS), head", "MiB", memory.head_kib as f64 / 1024.0, 40.0, 24.0),
        judged("userland's memory (PSS), node", "MiB", memory.node_kib as f64 / 1024.0, 16.0, 8.0),
    ]);
    Ok(())
}

fn image_figures(figures: &mut Vec<Figure>, report: &Value) -> Result<()> {
    let all = |list: &str| report[list].as_array().cloned().unwrap_or_default();
    let bytes_of = |artefact: &Value| artefact["bytes"].as_f64().unwrap_or(0.0);
    let sized = |list: &str, path: &str| {
        let found = all(list).into_iter().find(|artefact| artefact["path"] == path);
        found.map(|artefact| bytes_of(&artefact)).with_context(|| format!("{path} is not in image.json"))
    };
    let texts = sized("boot", "boot/config.txt")? + sized("boot", "boot/cmdline.txt")?;
    let is_dtb = |artefact: &&Value| artefact["path"].as_str().is_some_and(|path| path.ends_with(".dtb"));
    let dtb = all("boot").iter().filter(is_dtb).map(bytes_of).fold(0.0, f64::max);
    let initramfs = sized("artefacts", "initramfs.img")?;
    let stage1 = sized("artefacts", "vmlinuz")? + initramfs + dtb + texts;
    let root = sized("artefacts", "root.squashfs")?;
    figures.extend([
        judged("stage 1 over TFTP, without firmware", "MiB", stage1 / MIB, 17.0, 12.0),
        judged("initramfs", "MiB", initramfs / MIB, 3.0, 2.0),
        judged("root squashfs", "MiB", root / MIB, 24.0, 16.0),
    ]);
    Ok(())
}

fn memory_figures(figures: &mut Vec<Figure>) {
    let smallest = |option| figures::smallest_memory(option).map_or(f64::INFINITY, |memory| memory as f64);
    figures.push(judged(
        "smallest machine that serves, head",
        "MiB",
        smallest("--memory-head"),
        256.0,
        128.0,
    ));
    figures.push(judged("smallest machine that boots, node", "MiB", smallest("--memory-node"), 192.0, 96.0));
}

fn told(what: &'static str, unit: &'static str, value: f64) -> Figure {
    Figure { what, unit, value, limit_and_aim: None }
}

fn judged(what: &'static str, unit: &'static str, value: f64, limit: f64, aim: f64) -> Figure {
    Figure { what, unit, value, limit_and_aim: Some((limit, aim)) }
}

impl Figure {
    fn verdict(&self) -> &'static str {
        match self.limit_and_aim {
            None => "",
            Some((_, aim)) if self.value <= aim => "aim reached",
            Some((limit, _)) if self.value <= limit => "within the limit",
            Some(_) => "MISSED",
        }
    }
}

/// Where and when, since a figure means nothing without.
fn facts(report: &Value) -> Result<Vec<(&'static str, String)>> {
    let cpu = field("/proc/cpuinfo", "model name");
    let cores = std::thread::available_parallelism()?.get();
    let memory = field("/proc/meminfo", "MemTotal");
    Ok(vec![
        ("date", said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?),
        ("machine", format!("{cpu}, {cores} cores, {memory} of memory")),
        ("kernel", said("uname", &["-sr"])?),
        ("qemu", said("qemu-system-aarch64", &["--version"])?),
        ("image", report["image_id"].as_str().unwrap_or("?").to_owned()),
        ("its kernel", report["kernel_release"].as_str().unwrap_or("?").to_owned()),
    ])
}

/// The first `key : value` of a file below /proc.
fn field(file: &str, key: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_once(':')).map_or("?", |(_, value)| value.trim()).to_owned()
}

/// The first line a program says.
fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().context(program.to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("?").to_owned())
}

fn print_table(facts: &[(&'static str, String)], figures: &[Figure]) {
    for (name, fact) in facts {
        println!("{name:<11} {fact}");
    }
    println!("\n{:<38} {:>9}      {:>8} {:>8}", "what", "measured", "at most", "aim");
    for figure in figures {
        let Figure { what, unit, value, limit_and_aim } = figure;
        let (limit, aim) =
            limit_and_aim.map_or_else(Default::default, |(limit, aim)| (limit.to_string(), aim.to_string()));
        let line = format!("{what:<38} {value:>9.2} {unit:<4} {limit:>8} {aim:>8}  {}", figure.verdict());
        println!("{}", line.trim_end());
    }
}

fn print_json(facts: &[(&'static str, String)], figures: &[Figure]) {
    let figures: Vec<Value> = figures
        .iter()
        .map(|figure| {
            let (limit, aim) = figure.limit_and_aim.unzip();
            let Figure { what, unit, value, .. } = figure;
            json!({"what": what, "unit": unit, "value": value, "limit": limit, "aim": aim, "verdict": figure.verdict()})
        })
        .collect();
    let facts: serde_json::Map<_, _> =
        facts.iter().map(|(name, fact)| ((*name).to_owned(), json!(fact))).collect();
    println!("{}", json!({"machine": facts, "figures": figures}));
}

const MIB: f64 = 1024.0 * 1024.0;
