//! The words of `/run/init.sock`: one request line, one answer, end of stream (ARCHITECTURE.md, "Contracts between
//! parts").
//!
//! Anybody may ask (`services`, `logs NAME`); only root and the user of `agent`, which carries the head's commands,
//! may command.

use std::fmt::Write;

use crate::supervisor::{Ending, Moment, Row, Wish};

/// The longest request, in bytes, line end included.
pub const REQUEST_MAX: usize = 128;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// A line per row.
    Services,
    /// The ring of a row, or of `init`.
    Logs(&'a str),
    /// Start, stop or restart a row.
    Wish(Wish, &'a str),
    /// Send a signal to a row's process.
    Signal(&'a str, i32),
    /// End the machine.
    Shutdown(Ending),
}

/// Why a request was refused; the text is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not one of the requests.
    Unknown,
    /// The sender is neither root nor the agent.
    NotPermitted,
    /// No row of that name on this machine.
    NoSuchService,
    /// The row has no process.
    NotRunning,
    /// The kernel refused the signal.
    NoSignal,
    /// The machine is going down.
    ShuttingDown,
    /// Stopping netroot would take the root away.
    KeepsTheRoot,
}

impl Error {
    /// The answer.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unknown => {
                "error: unknown request; there are: services, logs NAME, start NAME, stop NAME, restart NAME, \
                 signal NAME NUMBER, reboot, poweroff\n"
            }
            Self::NotPermitted => "error: not permitted\n",
            Self::NoSuchService => "error: no such service on this machine\n",
            Self::NotRunning => "error: not running\n",
            Self::NoSignal => "error: the kernel refuses this signal\n",
            Self::ShuttingDown => "error: the machine is going down\n",
            Self::KeepsTheRoot => "error: it keeps the root of this machine\n",
        }
    }
}

impl<'a> Request<'a> {
    /// Reads a request line (without its end).
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(line: &'a [u8]) -> Result<Self, Error> {
        let line = std::str::from_utf8(line).map_err(|_| Error::Unknown)?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        Ok(match *words {
            ["services"] => Self::Services,
            ["logs", name] => Self::Logs(name),
            ["start", name] => Self::Wish(Wish::Start, name),
            ["stop", name] => Self::Wish(Wish::Stop, name),
            ["restart", name] => Self::Wish(Wish::Restart, name),
            ["signal", name, number] => match number.parse() {
                Ok(number @ 1..=31) => Self::Signal(name, number),
                _ => return Err(Error::Unknown),
            },
            ["reboot"] => Self::Shutdown(Ending::Reboot),
            ["poweroff"] => Self::Shutdown(Ending::PowerOff),
            _ => return Err(Error::Unknown),
        })
    }

    /// Does it change anything?
    pub fn is_command(self) -> bool {
        !matches!(self, Self::Services | Self::Logs(_))
    }
}

/// Whether a sender of this user may send it.
pub fn may_send(request: Request<'_>, user: u32) -> bool {
    !request.is_command() || user == manifest::ROOT.0 || user == manifest::AGENT_USER.0
}

/// One line of the answer to `services`. `pid` is 0 without a process, `memory_bytes` is the cgroup's
/// `memory.current`: page cache the row brought in included.
pub fn describe(row: &Row, memory_bytes: u64, status: &str, answer: &mut String) {
    let since: Moment = row.since();
    // Writing to a String cannot fail.
    let _ = writeln!(
        answer,
        "name={}\tstate={}\tpid={}\trestarts={}\tsince_us={}\tmemory_bytes={memory_bytes}\tstatus={status}",
        row.service().name,
        row.state(),
        row.pid().unwrap_or_default(),
        row.restarts(),
        since.as_micros(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_request_is_understood() {
        let table: &[(&[u8], Request<'_>)] = &[
            (b"services", Request::Services),
            (b"logs web", Request::Logs("web")),
            (b"start web\r", Request::Wish(Wish::Start, "web")),
            (b"stop web", Request::Wish(Wish::Stop, "web")),
            (b"restart  web", Request::Wish(Wish::Restart, "web")),
            (b"signal web 9", Request::Signal("web", 9)),
            (b"reboot", Request::Shutdown(Ending::Reboot)),
            (b"poweroff", Request::Shutdown(Ending::PowerOff)),
        ];
        for (line, request) in table {
            assert_eq!(Request::parse(line), Ok(*request));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            "",
            "service",
            "logs",
            "logs a b",
            "signal web",
            "signal web 0",
            "signal web 32",
            "signal web -9",
        ] {
            assert_eq!(Request::parse(line.as_bytes()), Err(Error::Unknown), "{line}");
        }
        assert_eq!(Request::parse(b"logs \xff"), Err(Error::Unknown));
    }

    #[test]
    fn only_root_and_the_agent_may_command_but_anybody_may_ask() {
        for user in [1, 100, 108, 65_534] {
            assert!(may_send(Request::Services, user) && may_send(Request::Logs("web"), user));
            assert!(!may_send(Request::Shutdown(Ending::Reboot), user));
            assert!(
                !may_send(Request::Signal("web", 9), user)
                    && !may_send(Request::Wish(Wish::Stop, "web"), user)
            );
        }
        for user in [0, manifest::AGENT_USER.0] {
            assert!(may_send(Request::Shutdown(Ending::Reboot), user));
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_fail_in_any_other_way(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&line);
        }
    }
}
