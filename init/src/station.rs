//! What init holds for one row besides its state: pipes, ring, control group and status text.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::edge::cgroup::{Cgroup, Cgroups};
use crate::edge::child::{self, Child};
use crate::edge::kmsg::Kmsg;
use crate::log::{ConsoleBudget, Entry, LINE_MAX, Ring, Show, Splitter};
use crate::supervisor::{Moment, Outcome};
use manifest::Service;

/// The longest status text, in bytes.
const STATUS_MAX: usize = 160;

/// What is read from one pipe in one pass of the loop: a row that floods gets its share and no more.
const READ_MAX: usize = 4096;

/// The capacity of a pipe in reads: enough to empty that of a row which has ended.
const READS_TO_EMPTY: usize = 16;

/// Errors and worse go to the console.
const CONSOLE_PRIORITY: u8 = 3;

/// One row's belongings.
pub struct Station {
    service: &'static Service,
    log: File,
    /// Kept, so that the pipe outlives the row's processes and never ends.
    log_writer: OwnedFd,
    splitter: Splitter,
    ring: Ring,
    budget: ConsoleBudget,
    notify: Option<File>,
    notify_splitter: Splitter,
    cgroup: Option<Cgroup>,
    status: String,
}

/// What a row said through its notify pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// `READY`.
    Ready,
    /// End of the pipe.
    Closed,
}

impl Station {
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(service: &'static Service) -> Result<Self, Errno> {
        let (log, log_writer) = pipe2(OFlag::O_CLOEXEC)?;
        // Only our end: a service that writes to a full pipe waits, it does not lose its line.
        nix::fcntl::fcntl(&log, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            service,
            log: log.into(),
            log_writer,
            splitter: Splitter::new(LINE_MAX),
            ring: Ring::default(),
            budget: ConsoleBudget::default(),
            notify: None,
            notify_splitter: Splitter::new(STATUS_MAX.saturating_add("STATUS ".len())),
            cgroup: None,
            status: String::new(),
        })
    }

    /// Readable when the row has said something.
    pub fn log(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }

    /// Readable when the row has said something to init.
    pub fn notify(&self) -> Option<BorrowedFd<'_>> {
        self.notify.as_ref().map(AsFd::as_fd)
    }

    /// The words of the row about itself.
    pub fn status(&self) -> &str {
        &self.status
    }

    /// The last lines of the row.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Bytes in use by the row.
    pub fn memory_bytes(&self) -> u64 {
        self.cgroup.as_ref().map_or(0, Cgroup::memory_bytes)
    }

    /// Starts the row's program.
    ///
    /// # Errors
    /// When there is no process or descriptor for it.
    pub fn spawn(
        &mut self,
        cgroups: Option<&Cgroups>,
        null: BorrowedFd<'_>,
        initramfs: BorrowedFd<'_>,
        init_started: Moment,
    ) -> Result<i32, Errno> {
        if self.cgroup.is_none() {
            self.cgroup = cgroups.and_then(|all| all.group(self.service.name, &self.service.limits).ok());
        }
        let parent = child::Parent {
            null,
            log: self.log_writer.as_fd(),
            cgroup: self.cgroup.as_ref(),
            initramfs,
            init_started,
        };
        let Child { pid, notify } = child::spawn(self.service, &parent)?;
        self.notify = Some(notify.into());
        self.notify_splitter.flush(drop);
        self.status.clear();
        Ok(pid)
    }

    /// SIGKILL for all of the row; `pid` is its process, if it has one, for kernels without cgroups.
    pub fn kill(&mut self, pid: Option<i32>) {
        let killed = self.cgroup.as_mut().is_some_and(|cgroup| cgroup.kill().is_ok());
        if let Some(pid) = pid.filter(|_| !killed) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
    }

    /// The row's process has ended: reads its last lines and closes its notify pipe.
    pub fn ended(&mut self, outcome: Outcome, kmsg: &Kmsg, now: Moment) {
        for _ in 0..READS_TO_EMPTY {
            if !self.read_log(kmsg, now) {
                break;
            }
        }
        let Self { service, splitter, ring, budget, .. } = self;
        splitter.flush(|entry| keep(service.name, entry, ring, budget, kmsg, now));
        self.notify = None;
        self.status = outcome.to_string();
    }

    /// Reads a bounded amount of what the row has said; true if there was anything.
    pub fn read_log(&mut self, kmsg: &Kmsg, now: Moment) -> bool {
        let mut bytes = [0; READ_MAX];
        let count = self.log.read(&mut bytes).unwrap_or_default();
        let Self { service, splitter, ring, budget, .. } = self;
        splitter.feed(bytes.get(..count).unwrap_or_default(), |entry| {
            keep(service.name, entry, ring, budget, kmsg, now);
        });
        count > 0
    }

    /// Reads what the row has said to init: at most one notice a call, for there is one READY and one end.
    pub fn read_notify(&mut self) -> Option<Notice> {
        let mut bytes = [0; 512];
        let count = match self.notify.as_mut()?.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            Err(_) => 0,
        };
        if count == 0 {
            self.notify = None;
            return Some(Notice::Closed);
        }
        let (mut notice, status) = (None, &mut self.status);
        self.notify_splitter.feed(bytes.get(..count).unwrap_or_default(), |line| {
            if &*line.text == "READY" {
                notice = Some(Notice::Ready);
            } else if let Some(text) = line.text.strip_prefix("STATUS ") {
                text.clone_into(status);
            }
        });
        notice
    }

    /// Keeps one of init's own lines about the row.
    pub fn note(&mut self, priority: u8, text: &str, now: Moment) {
        self.ring.push(Entry::new(priority, text), now);
    }
}

fn keep(name: &str, entry: Entry, ring: &mut Ring, budget: &mut ConsoleBudget, kmsg: &Kmsg, now: Moment) {
    if entry.priority <= CONSOLE_PRIORITY
        && let Show::Yes { withheld } = budget.ask(now)
    {
        if withheld > 0 {
            kmsg.say(CONSOLE_PRIORITY, &format!("{name}: {withheld} more lines in its log"));
        }
        kmsg.say(entry.priority, &format!("{name}: {}", entry.text));
    }
    ring.push(entry, now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn station() -> Station {
        Station::new(manifest::TABLE.last().unwrap()).unwrap()
    }

    fn say(station: &Station, text: &str) {
        File::from(station.log_writer.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
    }

    /// A station whose row speaks through the returned pipe.
    fn with_notify() -> (Station, File) {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let mut station = station();
        station.notify = Some(reader.into());
        (station, writer.into())
    }

    #[test]
    fn the_last_words_of_a_process_are_kept_even_without_a_line_end() {
        let mut station = station();
        say(&station, &format!("<4>{}\nlast words", "x".repeat(60_000)));
        station.ended(Outcome::Signal(9), &Kmsg::silent(), Moment::from_secs(1));
        assert!(station.ring().print().ends_with("6 1000000 last words\n"));
        assert_eq!(station.status(), "signal 9");
    }

    #[test]
    fn a_flood_is_read_in_bounded_shares() {
        let mut station = station();
        say(&station, &"12345\n".repeat(5_000));
        assert!(station.read_log(&Kmsg::silent(), Moment::ZERO));
        assert!(station.ring().print().len() < 3 * READ_MAX);
        let reads = std::iter::repeat_with(|| station.read_log(&Kmsg::silent(), Moment::ZERO)).take(100);
        assert_eq!(reads.filter(|more| *more).count(), 30_000_usize.div_ceil(READ_MAX) - 1);
    }

    #[test]
    fn status_and_readiness_come_through_the_notify_pipe() {
        let (mut station, mut row) = with_notify();
        assert_eq!(station.read_notify(), None);
        row.write_all(b"STATUS serving\t3 files\nREADY\nREA").unwrap();
        assert_eq!(station.read_notify(), Some(Notice::Ready));
        assert_eq!(station.status(), "serving 3 files");
        row.write_all(b"DYNOT\nnoise\n\xff\n").unwrap();
        assert_eq!(station.read_notify(), None);
        drop(row);
        assert_eq!(station.read_notify(), Some(Notice::Closed));
        assert_eq!(station.read_notify(), None);
    }

    #[test]
    fn a_status_of_any_length_stays_short() {
        let (mut station, mut row) = with_notify();
        row.write_all(format!("STATUS {}\n", "s".repeat(400)).as_bytes()).unwrap();
        station.read_notify();
        assert!(station.status().len() <= STATUS_MAX + " [cut]".len());
    }
}
