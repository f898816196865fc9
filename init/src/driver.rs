//! The loop of PID 1: waits, takes in what happened, does what the supervisor says.
//!
//! One thread, one poll(2), one waitpid(2). Nothing in the loop waits for a file system that may be away: what could
//! is done by a child. Every source gets a bounded share of each pass, so none can keep the others, the watchdog
//! among them, from their turn.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use manifest::{MachineRole, TABLE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SIGTERM, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use sys::End;

use crate::edge::buttons::Buttons;
use crate::edge::cgroup::Cgroups;
use crate::edge::kmsg::{Kmsg, NOTICE};
use crate::edge::root::{self, Roots};
use crate::edge::socket::{Interest, Server};
use crate::edge::watchdog::Watchdog;
use crate::edge::{child, clock, power};
use crate::log::{Entry, Ring};
use crate::report;
use crate::request::{self, Error, Request};
use crate::station::{Notice, Station};
use crate::supervisor::{Action, Ending, Event, Moment, Outcome, Refusal, Report, RowId, Supervisor};

/// So many ended processes are taken note of in one pass; a fork bomb's orphans wait for the next.
const REAPED_MAX: usize = 64;

/// Where requests come in.
const SOCKET: &str = "/run/init.sock";

/// PID 1.
pub struct Driver {
    supervisor: Supervisor,
    stations: Vec<Station>,
    own_ring: Ring,
    kmsg: Kmsg,
    signals: SignalFd,
    server: Option<Server>,
    buttons: Buttons,
    watchdog: Watchdog,
    cgroups: Option<Cgroups>,
    roots: Roots,
    null: File,
    started: Moment,
    /// The helpers at work, and what their end means.
    helpers: Vec<(i32, Event)>,
    /// True if more processes have ended than one pass takes note of.
    unreaped: bool,
}

/// Something poll(2) waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Signals,
    Server,
    Devices,
    Button,
    Log(usize),
    Notify(usize),
}

impl Driver {
    /// Prepares to supervise. `started` is when PID 1 began.
    ///
    /// # Errors
    /// When the kernel has no descriptors or pipes to give, at a time when nobody else has any.
    pub fn new(kmsg: Kmsg, signals: SignalFd, machine: MachineRole, started: Moment) -> Result<Self, Errno> {
        // From here on the consoles tell what becomes ready; the kernel's own chatter stays out of sight.
        kmsg.show_notices();
        let supervisor = Supervisor::new(TABLE, machine);
        let stations =
            supervisor.rows().iter().map(|row| Station::new(row.service())).collect::<Result<_, _>>()?;
        let server = Server::bind(Path::new(SOCKET))
            .inspect_err(|error| kmsg.say(3, &format!("init: {SOCKET}: {error}; going on without")))
            .ok();
        let cgroups = Cgroups::open()
            .inspect_err(|error| kmsg.say(3, &format!("init: cgroups: {error}; going on without limits")))
            .ok();
        let null =
            File::open("/dev/null").map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        Ok(Self {
            supervisor,
            stations,
            own_ring: Ring::default(),
            kmsg,
            signals,
            server,
            buttons: Buttons::new(),
            watchdog: Watchdog::default(),
            cgroups,
            roots: Roots::new()?,
            null,
            started,
            helpers: Vec::new(),
            unreaped: false,
        })
    }

    /// Runs the machine to its end.
    pub fn run(mut self) -> ! {
        self.watchdog.look(&self.kmsg);
        self.event(Event::Boot);
        loop {
            for source in self.wait() {
                self.take(source);
            }
            self.reap();
            self.serve();
            self.supervisor.expire(clock::now());
            self.act();
            self.watchdog.pet(clock::now());
        }
    }

    /// Waits until something can be done, and says what.
    fn wait(&self) -> Vec<Source> {
        let timeout = self.timeout();
        let (sources, mut fds): (Vec<_>, Vec<_>) = self.interests().into_iter().unzip();
        match poll(&mut fds, timeout) {
            Ok(_) => {
                let ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
                sources.into_iter().zip(ready).filter(|(_, ready)| *ready).map(|(source, _)| source).collect()
            }
            Err(Errno::EINTR) => Vec::new(),
            Err(error) => {
                // Out of memory in the kernel: everything is looked at, slowly, until it is better.
                self.kmsg.say(3, &format!("init: poll: {error}; going on"));
                std::thread::sleep(std::time::Duration::from_secs(1));
                sources
            }
        }
    }

    fn interests(&self) -> Vec<(Source, PollFd<'_>)> {
        let readable = |source, fd| (source, PollFd::new(fd, PollFlags::POLLIN));
        let mut interests = vec![readable(Source::Signals, self.signals.as_fd())];
        interests.extend(self.buttons.watch().map(|fd| readable(Source::Devices, fd)));
        interests.extend(self.buttons.devices().map(|fd| readable(Source::Button, fd)));
        interests.extend(self.server.iter().flat_map(Server::interests).map(|interest| match interest {
            Interest::Read(fd) => readable(Source::Server, fd),
            Interest::Write(fd) => (Source::Server, PollFd::new(fd, PollFlags::POLLOUT)),
        }));
        for (index, station) in self.stations.iter().enumerate() {
            interests.push(readable(Source::Log(index), station.log()));
            interests.extend(station.notify().map(|fd: BorrowedFd<'_>| readable(Source::Notify(index), fd)));
        }
        interests
    }

    fn timeout(&self) -> PollTimeout {
        // The signal that announced them has been read already.
        if self.unreaped {
            return PollTimeout::ZERO;
        }
        let deadlines = [
            self.supervisor.deadline(),
            self.watchdog.deadline(),
            self.server.as_ref().and_then(Server::deadline),
        ];
        let Some(deadline) = deadlines.into_iter().flatten().min() else { return PollTimeout::NONE };
        // Rounded up: waking early would mean waking twice.
        let wait = deadline.saturating_sub(clock::now()).as_micros().div_ceil(1000);
        PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
    }

    fn take(&mut self, source: Source) {
        match source {
            Source::Signals => self.take_signals(),
            // Served in every pass, for its time-outs.
            Source::Server => {}
            Source::Devices => {
                self.buttons.look();
                self.watchdog.look(&self.kmsg);
            }
            Source::Button => {
                if self.buttons.pressed() {
                    self.say(NOTICE, "init: power button");
                    self.event(Event::Shutdown(Ending::PowerOff));
                }
            }
            Source::Log(index) => {
                if let Some(station) = self.stations.get_mut(index) {
                    station.read_log(&self.kmsg, clock::now());
                }
            }
            Source::Notify(index) => self.take_notice(index),
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            let ending = match signal {
                // SIGINT is Ctrl-Alt-Del.
                Some(Signal::SIGTERM | Signal::SIGINT) => Ending::Reboot,
                Some(Signal::SIGUSR1 | Signal::SIGUSR2 | Signal::SIGPWR) => Ending::PowerOff,
                // SIGCHLD: processes are reaped in every pass.
                _ => continue,
            };
            self.event(Event::Shutdown(ending));
        }
    }

    fn take_notice(&mut self, index: usize) {
        let Some((row, pid)) = self.supervisor.rows().get(index).map(|row| (row.id(), row.pid())) else {
            return;
        };
        match self.stations.get_mut(index).and_then(Station::read_notify) {
            Some(Notice::Ready) => self.event(Event::Ready { row }),
            Some(Notice::Closed) => {
                // A process that is ending closes its pipe a moment before it can be reaped, and the way it ended
                // says more than the pipe. It may have a successor by then, whose pipe is another.
                self.reap();
                if self.supervisor.rows().get(index).map(|row| row.pid()) == Some(pid) {
                    self.event(Event::NotifyClosed { row });
                }
            }
            None => {}
        }
    }

    fn reap(&mut self) {
        for _ in 0..REAPED_MAX {
            let (pid, outcome) = match sys::reap() {
                Ok(Some((pid, End::Exit(status)))) => (pid, Outcome::Exit(status)),
                Ok(Some((pid, End::Signal(number)))) => (pid, Outcome::Signal(number)),
                Ok(None) | Err(_) => {
                    self.unreaped = false;
                    return;
                }
            };
            if let Some(place) = self.helpers.iter().position(|(helper, _)| *helper == pid) {
                let (_, event) = self.helpers.swap_remove(place);
                self.event(event);
                continue;
            }
            let row = self.supervisor.rows().iter().find(|row| row.pid() == Some(pid)).map(|row| row.id());
            if let Some(station) = row.and_then(|row| self.stations.get_mut(row.index())) {
                station.ended(outcome, &self.kmsg, clock::now());
            }
            self.event(Event::Exited { pid, outcome });
        }
        self.unreaped = true;
    }

    fn serve(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        server.serve(clock::now(), |line, user| {
            self.answer(line, user).unwrap_or_else(|error| error.text().to_owned())
        });
        self.server = Some(server);
    }

    fn answer(&mut self, line: &[u8], user: u32) -> Result<String, Error> {
        let request = Request::parse(line)?;
        if !request::may_send(request, user) {
            return Err(Error::NotPermitted);
        }
        match request {
            Request::Services => {
                let mut answer = String::new();
                for (row, station) in self.supervisor.rows().iter().zip(&self.stations) {
                    request::describe(row, station.memory_bytes(), station.status(), &mut answer);
                }
                return Ok(answer);
            }
            Request::Logs("init") => return Ok(self.own_ring.print()),
            Request::Logs(name) => {
                let row = self.row(name)?;
                return Ok(self
                    .stations
                    .get(row.index())
                    .map(|station| station.ring().print())
                    .unwrap_or_default());
            }
            Request::Wish(wish, name) => {
                let row = self.row(name)?;
                self.supervisor.request(row, wish, clock::now()).map_err(|refusal| match refusal {
                    Refusal::ShuttingDown => Error::ShuttingDown,
                    Refusal::KeepsTheRoot => Error::KeepsTheRoot,
                })?;
                self.act();
            }
            Request::Signal(name, number) => {
                let row = self.row(name)?;
                let pid = self
                    .supervisor
                    .rows()
                    .get(row.index())
                    .and_then(|row| row.pid())
                    .ok_or(Error::NotRunning)?;
                let signal = Signal::try_from(number).map_err(|_| Error::NoSignal)?;
                kill(Pid::from_raw(pid), signal).map_err(|_| Error::NoSignal)?;
            }
            Request::Shutdown(ending) => self.event(Event::Shutdown(ending)),
        }
        Ok("ok\n".to_owned())
    }

    fn row(&self, name: &str) -> Result<RowId, Error> {
        let row = self.supervisor.rows().iter().find(|row| row.service().name == name);
        row.map(|row| row.id()).ok_or(Error::NoSuchService)
    }

    fn event(&mut self, event: Event) {
        self.supervisor.receive(event, clock::now());
        self.act();
    }

    /// Does all the supervisor wants done. Answers it gets on the way may make it want more.
    fn act(&mut self) {
        while let Some(action) = self.supervisor.transmit() {
            match action {
                Action::Spawn(row) => self.spawn(row),
                Action::Terminate { pid, .. } => {
                    // Our own child, not reaped yet: the number cannot be anybody else's.
                    let _ = kill(Pid::from_raw(pid), SIGTERM);
                }
                Action::Kill(row) => {
                    let pid = self.supervisor.rows().get(row.index()).and_then(|row| row.pid());
                    if let Some(station) = self.stations.get_mut(row.index()) {
                        station.kill(pid);
                    }
                }
                Action::EnterRoot => self.enter_root(),
                Action::Sync => self.beside(Event::Synced, nix::unistd::sync),
                Action::ReleaseRoot => self.release_root(),
                Action::Report(report) => self.report(report),
                Action::Finish(ending) => power::finish(ending, &self.kmsg),
            }
        }
    }

    fn spawn(&mut self, row: RowId) {
        let Some(station) = self.stations.get_mut(row.index()) else { return };
        let spawned =
            station.spawn(self.cgroups.as_ref(), self.null.as_fd(), self.roots.initramfs(), self.started);
        let event = match spawned {
            Ok(pid) => Event::Spawned { row, pid },
            Err(error) => {
                station.note(3, &format!("init: no process: {error}"), clock::now());
                Event::SpawnFailed { row }
            }
        };
        self.supervisor.receive(event, clock::now());
    }

    fn enter_root(&mut self) {
        let event = match self.roots.enter() {
            Ok(()) => {
                self.say(NOTICE, &format!("init: root entered {}", report::seconds(clock::now())));
                Event::RootEntered
            }
            Err(error) => {
                self.say(3, &format!("init: cannot enter /sysroot: {error}; trying again"));
                Event::RootRefused
            }
        };
        self.supervisor.receive(event, clock::now());
    }

    fn release_root(&mut self) {
        if let Err(error) = self.roots.leave() {
            self.say(3, &format!("init: cannot leave the root: {error}; going on"));
        }
        let kmsg = Kmsg::open();
        self.beside(Event::RootReleased, move || root::release(&kmsg));
    }

    /// Has a child do what may never come back; `event` is its end, or, without a child, comes at once.
    fn beside(&mut self, event: Event, work: impl FnOnce()) {
        match child::beside(work) {
            Ok(pid) => self.helpers.push((pid, event)),
            Err(error) => {
                self.say(3, &format!("init: no process: {error}; going on"));
                self.supervisor.receive(event, clock::now());
            }
        }
    }

    fn report(&mut self, report: Report) {
        let now = clock::now();
        let name = |row: RowId| self.supervisor.rows().get(row.index()).map_or("", |row| row.service().name);
        let line = report::line(report, name, now);
        if let Report::Row { row, .. } = report
            && let Some(station) = self.stations.get_mut(row.index())
        {
            station.note(line.priority, &line.text, now);
        }
        self.say(line.priority, &line.text);
    }

    /// Says something in the kernel's log and remembers it.
    fn say(&mut self, priority: u8, text: &str) {
        self.kmsg.say(priority, text);
        self.own_ring.push(Entry::new(priority, text), clock::now());
    }
}
