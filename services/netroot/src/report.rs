//! Telling init and people: readiness, status, log lines, and what the machine waits for.
//!
//! Lines go to standard error with an sd-daemon(3) priority; init keeps them and copies errors to the console.
//! A wait is reported once when it begins or changes, and, as it lasts, as an error now and then: somebody
//! in front of a board that does not come up must see why.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{Duration, Instant};

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A person must act, or must be told why nothing happens.
    Error = 3,
    /// We coped.
    Warning = 4,
    /// State changed.
    Info = 6,
    /// Only with `bramble.log=debug`.
    Debug = 7,
}

/// The way out of this process. One per process; single-threaded.
#[derive(Debug)]
pub struct Reporter {
    pipe: Option<File>,
    debug: bool,
    wait: RefCell<Option<Wait>>,
}

#[derive(Debug)]
struct Wait {
    what: String,
    obstacle: String,
    since: Instant,
    say_next: Instant,
}

/// Most waits of a good boot are over before this.
const FIRST_REMINDER: Duration = Duration::from_secs(4);
const NEXT_REMINDER: Duration = Duration::from_secs(10);

impl Reporter {
    /// Finds the pipe that init left open (ARCHITECTURE.md, "Readiness"). A second description is opened
    /// through /proc, which needs no claim on a bare number; the pipe ends with the process either way.
    pub fn from_environment(debug: bool) -> Self {
        let number = std::env::var("BRAMBLE_NOTIFY_FD").ok().and_then(|text| text.parse::<u32>().ok());
        let open = |number| OpenOptions::new().write(true).open(format!("/proc/self/fd/{number}")).ok();
        Self { pipe: number.and_then(open), debug, wait: RefCell::new(None) }
    }

    /// One line in the log.
    pub fn log(&self, level: Level, text: impl Display) {
        if level != Level::Debug || self.debug {
            let _ = writeln!(std::io::stderr(), "<{}>{text}", level as u8);
        }
    }

    /// The root is there; what it is on.
    pub fn ready(&self, status: impl Display) {
        self.done_waiting();
        self.log(Level::Info, &status);
        self.notify(&format!("STATUS {status}\nREADY\n"));
    }

    /// Replaces the status text.
    pub fn status(&self, status: impl Display) {
        self.notify(&format!("STATUS {status}\n"));
    }

    /// Says what the machine waits for from now on.
    pub fn waiting_for(&self, what: &str, now: Instant) {
        let mut wait = self.wait.borrow_mut();
        if wait.as_ref().is_some_and(|wait| wait.what == what) {
            return;
        }
        self.log(Level::Info, format_args!("waiting for {what}"));
        self.status(format_args!("waiting for {what}"));
        let (what, obstacle) = (what.to_owned(), String::new());
        *wait = Some(Wait { what, obstacle, since: now, say_next: now + FIRST_REMINDER });
    }

    /// Says what stands in the way: once, and again when the wait is brought to mind.
    pub fn obstacle(&self, text: &str) {
        let mut wait = self.wait.borrow_mut();
        match wait.as_mut() {
            Some(wait) if wait.obstacle == text => return,
            Some(wait) => text.clone_into(&mut wait.obstacle),
            None => {}
        }
        self.log(Level::Warning, text);
    }

    /// The wait is over.
    pub fn done_waiting(&self) {
        *self.wait.borrow_mut() = None;
    }

    /// Reminds of the wait when it is due; the moment to call again.
    pub fn remind(&self, now: Instant) -> Option<Instant> {
        let mut wait = self.wait.borrow_mut();
        let wait = wait.as_mut()?;
        if now >= wait.say_next {
            let seconds = now.saturating_duration_since(wait.since).as_secs();
            let Wait { what, obstacle, .. } = &*wait;
            let why = if obstacle.is_empty() { "" } else { ": " };
            self.log(Level::Error, format_args!("still waiting for {what} ({seconds} s){why}{obstacle}"));
            wait.say_next = now + NEXT_REMINDER;
        }
        Some(wait.say_next)
    }

    fn notify(&self, lines: &str) {
        if let Some(mut pipe) = self.pipe.as_ref() {
            // init not listening is no reason to lose the root.
            let _ = pipe.write_all(lines.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_brought_to_mind_after_four_seconds_and_then_every_ten() {
        let reporter = Reporter::from_environment(false);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(reporter.remind(start), None);
        reporter.waiting_for("a link", start);
        assert_eq!(reporter.remind(at(1)), Some(at(4)));
        assert_eq!(reporter.remind(at(4)), Some(at(14)));
        reporter.waiting_for("a link", at(5));
        assert_eq!(reporter.remind(at(6)), Some(at(14)), "the same wait goes on");
        reporter.waiting_for("a lease", at(7));
        assert_eq!(reporter.remind(at(8)), Some(at(11)));
        reporter.done_waiting();
        assert_eq!(reporter.remind(at(60)), None);
    }
}
