//! What `up` shows: a line per machine, rewritten in place on a terminal, and printed when it changes elsewhere.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cluster::{MachineStatus, Status};

/// The machines on their way up.
#[derive(Debug)]
pub struct Display {
    bars: Option<MultiProgress>,
    lines: Vec<(ProgressBar, String)>,
    started: Instant,
}

impl Display {
    /// Begins with nothing shown.
    pub fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { bars: is_terminal.then(MultiProgress::new), lines: Vec::new(), started: Instant::now() }
    }

    /// Shows how things are now.
    pub fn show(&mut self, status: &Status) {
        for (index, machine) in status.machines.iter().enumerate() {
            if self.lines.len() <= index {
                let bar = self
                    .bars
                    .as_ref()
                    .map_or_else(ProgressBar::hidden, |bars| bars.add(ProgressBar::no_length()));
                bar.set_style(style());
                bar.set_prefix(format!("{:<8}", machine.name));
                // Every machine begins without power, which is not worth a line of a log.
                self.lines.push((bar, "off".to_owned()));
            }
            let Some((bar, before)) = self.lines.get_mut(index) else { continue };
            let detail = if machine.state == "ready" { "" } else { machine.detail.as_str() };
            bar.set_message(format!("{:<9} {detail}", machine.state));
            bar.tick();
            // Without a terminal only what a log should keep: the states, not each block fetched.
            if self.bars.is_none() && *before != machine.state {
                machine.state.clone_into(before);
                let seconds = self.started.elapsed().as_secs_f64();
                eprintln!("{seconds:5.1} s  {:<8} {:<9} {detail}", machine.name, machine.state);
            }
        }
    }

    /// Takes the lines off the terminal.
    pub fn finish(self) {
        if let Some(bars) = self.bars {
            // Fails only when the terminal is gone.
            let _ = bars.clear();
        }
    }
}

impl Default for Display {
    fn default() -> Self {
        Self::new()
    }
}

fn style() -> ProgressStyle {
    // wide_msg cuts a long console line to the terminal's width.
    ProgressStyle::with_template("{prefix} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// The table that `up` ends with, and that `status` prints.
pub fn table(status: &Status) -> String {
    let mut text = String::new();
    for machine in &status.machines {
        let seconds = machine.ready_s.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s"));
        text.push_str(&format!("{:<8} {:<9} {seconds:>7}   ", machine.name, machine.state));
        text.push_str(&facts(machine, status));
        text.push('\n');
    }
    text
}

fn facts(machine: &MachineStatus, status: &Status) -> String {
    if matches!(machine.state.as_str(), "off" | "firmware" | "failed") {
        return machine.detail.clone();
    }
    let mut facts = Vec::new();
    if machine.name == "head" {
        facts.push(format!(
            "http://localhost:{}   (dashboard http://localhost:{})",
            status.http, status.dashboard
        ));
    } else {
        facts.push(machine.address.clone().unwrap_or_else(|| "no address".into()));
    }
    if let Some(root) = &machine.root {
        facts.push(format!("root {root}"));
    }
    if let Some(image) = &machine.image {
        facts.push(format!("image {}", image.chars().take(12).collect::<String>()));
    }
    if !machine.is_linked {
        facts.push("link down".into());
    }
    if let Some(name) = &machine.head_calls_it {
        facts.push(format!("the head calls it {name}"));
    }
    facts.join("   ")
}
