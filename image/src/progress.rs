//! Says on the screen what the builder is doing: one line per step, the running one animated on a terminal.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The line of the running step.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    since: Instant,
    name: &'static str,
}

impl Progress {
    /// Animated if standard error is a terminal, plain lines otherwise.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, since: Instant::now(), name: "" }
    }

    /// Begins the step `name`, described by `what`.
    pub fn begin(&mut self, name: &'static str, what: &str) {
        self.name = name;
        self.since = Instant::now();
        if let Some(bar) = &self.bar {
            bar.reset_elapsed();
            bar.set_message(format!("{name:<10} {what}"));
            bar.enable_steady_tick(Duration::from_millis(120));
        }
    }

    /// Ends the step; `result` says what came out of it.
    pub fn done(&self, result: &str) {
        let line = format!("{:<10} {result} ({:.1} s)", self.name, self.since.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => {
                bar.disable_steady_tick();
                bar.println(format!("  {line}"));
            }
            None => eprintln!("  {line}"),
        }
    }

    /// Changes the text of the running step, if it is animated.
    pub fn say(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{:<10} {what}", self.name));
        }
    }

    /// Takes the animation away while another program writes to the terminal.
    pub fn suspend<T>(&self, run: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => {
                bar.disable_steady_tick();
                bar.suspend(run)
            }
            None => run(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
