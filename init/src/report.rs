//! The words for what the supervisor reports: one line per change, in the form `init: <row> <state> <seconds> s`.

use crate::edge::kmsg::NOTICE;
use crate::supervisor::{Change, Ending, Moment, Report, RowId};

/// A line for the kernel's log and for the rings.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// 0 to 7; up to 3 reaches consoles, on the way down up to 5.
    pub priority: u8,
    /// Without line end.
    pub text: String,
}

/// The line for a report; `name` knows the rows.
pub fn line<'a>(report: Report, name: impl FnOnce(RowId) -> &'a str, now: Moment) -> Line {
    let time = seconds(now);
    let (priority, text) = match report {
        Report::Row { row, change } => {
            let (priority, words) = words(change);
            (priority, format!("init: {} {words} {time}", name(row)))
        }
        Report::Stopping(Ending::Reboot) => (NOTICE, format!("init: stopping, to restart {time}")),
        Report::Stopping(Ending::PowerOff) => (NOTICE, format!("init: stopping, to power off {time}")),
        Report::RowsStopped { stuck: 0 } => (NOTICE, format!("init: services stopped {time}")),
        Report::RowsStopped { stuck } => (3, format!("init: services stopped but {stuck} {time}")),
        Report::RootReleased { late: false } => (NOTICE, format!("init: root released {time}")),
        Report::RootReleased { late: true } => {
            (3, format!("init: root not released in time, going on {time}"))
        }
    };
    Line { priority, text }
}

fn words(change: Change) -> (u8, String) {
    let (priority, words) = match change {
        Change::Starting => (7, "starting"),
        Change::Ready => (5, "ready"),
        Change::Done => (5, "done"),
        Change::Exited(outcome) => return (4, format!("ended by itself: {outcome}")),
        Change::NotSpawned => (3, "not started: no process"),
        Change::NeverReady => (4, "not ready: notify pipe closed"),
        Change::StartTimedOut => (4, "not ready in time"),
        Change::Failed => (3, "failed, tried again later"),
        Change::Stopping => (6, "stopping"),
        Change::Killed => (4, "does not stop: killed"),
        Change::Stuck => (4, "cannot be killed"),
        Change::Stopped => (5, "stopped"),
    };
    (priority, words.to_owned())
}

/// A time since kernel start as it appears in every line.
pub fn seconds(now: Moment) -> String {
    format!("{}.{:03} s", now.as_secs(), now.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::{Outcome, Supervisor};
    use manifest::{MachineRole, TABLE};

    #[test]
    fn a_line_names_row_state_and_time() {
        let supervisor = Supervisor::new(TABLE, MachineRole::Head);
        let row = supervisor.rows()[0].id();
        let report = Report::Row { row, change: Change::Ready };
        let line = line(report, |_| "dhcp-server", Moment::from_micros(4_812_345));
        assert_eq!(line, Line { priority: 5, text: "init: dhcp-server ready 4.812 s".into() });
    }

    // Tests of the whole machine look for these words on its consoles after an orderly shutdown.
    #[test]
    fn no_line_holds_a_word_that_stands_for_trouble_in_the_kernel() {
        let supervisor = Supervisor::new(TABLE, MachineRole::Head);
        let row = supervisor.rows()[0].id();
        let changes = [
            Change::Starting,
            Change::Ready,
            Change::Done,
            Change::Exited(Outcome::Exit(1)),
            Change::Exited(Outcome::Signal(9)),
            Change::NotSpawned,
            Change::NeverReady,
            Change::StartTimedOut,
            Change::Failed,
            Change::Stopping,
            Change::Killed,
            Change::Stuck,
            Change::Stopped,
        ];
        let rows = changes.map(|change| Report::Row { row, change });
        let others = [
            Report::Stopping(Ending::Reboot),
            Report::Stopping(Ending::PowerOff),
            Report::RowsStopped { stuck: 0 },
            Report::RowsStopped { stuck: 2 },
            Report::RootReleased { late: false },
            Report::RootReleased { late: true },
        ];
        for report in rows.into_iter().chain(others) {
            let text = line(report, |_| "x", Moment::ZERO).text;
            assert!(!["panic", "BUG", "error -", "unmount"].iter().any(|word| text.contains(word)), "{text}");
        }
    }
}
