//! The supervisor: a pure machine from events and the time to actions. It knows no process, file or clock.
//!
//! Driven like every machine of the project: [`Supervisor::receive`] what happened, [`Supervisor::expire`] when
//! [`Supervisor::deadline`] has come, then drain [`Supervisor::transmit`]. Time is the duration since kernel start.
//!
//! One [`Row`] looks after one service; this module decides when rows may start, and takes the machine up and down:
//!
//! ```text
//! FindingRoot -> EnteringRoot -> Running -> StoppingRows -> KillingRows -> Syncing
//!      netroot      ^    |  refused: once more a second later                  |
//!      ready        +----+                 Finished <- StoppingKeeper <- ReleasingRoot
//! ```
//!
//! A shutdown may be asked for in any state and goes through every phase from `StoppingRows` on; each has a time
//! limit ([`Patience`]), so it ends whatever the services, the file systems and the network root do. The first request
//! wins: later ones change nothing.
//!
//! Not supported: taking services down because one they wait for has died (they wait for it once, at boot), and
//! rows that are started on demand.

mod patience;
#[cfg(test)]
mod property_tests;
mod row;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use manifest::{MachineRole, Service, Stage};

pub use patience::Patience;
pub use row::{Change, Outcome, Row, Wish};

/// A time since kernel start.
pub type Moment = Duration;

/// A root that netroot reports but that cannot be entered is tried again this much later.
const ROOT_RETRY: Duration = Duration::from_secs(1);

/// A row of this machine: only the supervisor makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowId(usize);

impl RowId {
    /// Position among this machine's rows, from 0.
    pub fn index(self) -> usize {
        self.0
    }
}

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It starts again.
    Reboot,
    /// It switches itself off.
    PowerOff,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// PID 1 is ready to supervise.
    Boot,
    /// The process asked for by [`Action::Spawn`] exists.
    Spawned { row: RowId, pid: i32 },
    /// There was no process or memory for it.
    SpawnFailed { row: RowId },
    /// The row's notify pipe said `READY`.
    Ready { row: RowId },
    /// The row's notify pipe was closed.
    NotifyClosed { row: RowId },
    /// A process has ended, any process: orphans end here too.
    Exited { pid: i32, outcome: Outcome },
    /// [`Action::EnterRoot`] worked: `/` is the root.
    RootEntered,
    /// [`Action::EnterRoot`] did not work.
    RootRefused,
    /// [`Action::Sync`] came to an end.
    Synced,
    /// [`Action::ReleaseRoot`] came to an end.
    RootReleased,
    /// The machine is to end.
    Shutdown(Ending),
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the row's program; answer with `Spawned` or `SpawnFailed`.
    Spawn(RowId),
    /// Send SIGTERM to the process.
    Terminate { row: RowId, pid: i32 },
    /// Send SIGKILL to all of the row's cgroup.
    Kill(RowId),
    /// Make `/sysroot` the `/` of PID 1; answer with `RootEntered` or `RootRefused`.
    EnterRoot,
    /// Write out what is not on its disk yet, beside PID 1; answer with `Synced`.
    Sync,
    /// Leave the root and unmount all of it, beside PID 1; answer with `RootReleased`.
    ReleaseRoot,
    /// The end.
    Finish(Ending),
    /// Tell people.
    Report(Report),
}

/// What people are told, once per change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A row changed.
    Row { row: RowId, change: Change },
    /// A shutdown has begun.
    Stopping(Ending),
    /// All rows but the keeper of the root have stopped; so many could not be stopped.
    RowsStopped { stuck: usize },
    /// No file system is in use any more, or, if `late`, that took too long.
    RootReleased { late: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    FindingRoot,
    EnteringRoot,
    RetryingRoot { until: Moment },
    Running,
    StoppingRows { until: Moment, ending: Ending },
    KillingRows { until: Moment, ending: Ending },
    Syncing { until: Moment, ending: Ending },
    ReleasingRoot { until: Moment, ending: Ending },
    StoppingKeeper { until: Moment, ending: Ending },
    Finished,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The machine is going down.
    ShuttingDown,
    /// The root would be lost.
    KeepsTheRoot,
}

/// The machine.
pub struct Supervisor {
    rows: Vec<Row>,
    system: System,
    patience: Patience,
    actions: VecDeque<Action>,
}

impl Supervisor {
    /// For a machine of this role, with the rows of `table` that run on it.
    pub fn new(table: &'static [Service], machine: MachineRole) -> Self {
        let services: Vec<_> = table.iter().filter(|service| service.role.runs_on(machine)).collect();
        let place = |name: &&str| services.iter().position(|service| service.name == *name).map(RowId);
        let rows = services.iter().enumerate().map(|(index, service)| {
            let after = service.after.iter().filter_map(place).collect();
            Row::new(RowId(index), service, after)
        });
        Self {
            rows: rows.collect(),
            system: System::FindingRoot,
            patience: Patience::of(machine),
            actions: VecDeque::new(),
        }
    }

    /// This machine's rows in table order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// True from the first request to end the machine.
    pub fn is_shutting_down(&self) -> bool {
        !matches!(
            self.system,
            System::FindingRoot | System::EnteringRoot | System::RetryingRoot { .. } | System::Running
        )
    }

    /// Takes in what happened. Events that fit nothing (a pid nobody knows, READY said twice) change nothing.
    pub fn receive(&mut self, event: Event, now: Moment) {
        if self.system == System::Finished {
            return;
        }
        let restart = !self.is_shutting_down();
        let actions = &mut self.actions;
        match event {
            Event::Boot => {}
            Event::Spawned { row, pid } => {
                if let Some(row) = self.rows.get_mut(row.0) {
                    row.spawned(pid, now, actions);
                }
            }
            Event::SpawnFailed { row } => {
                if let Some(row) = self.rows.get_mut(row.0) {
                    row.spawn_failed(restart, now, actions);
                }
            }
            Event::Ready { row } => {
                if let Some(row) = self.rows.get_mut(row.0) {
                    row.ready(now, actions);
                }
            }
            Event::NotifyClosed { row } => {
                if let Some(row) = self.rows.get_mut(row.0) {
                    row.notify_closed(now, actions);
                }
            }
            Event::Exited { pid, outcome } => {
                if let Some(row) = self.rows.iter_mut().find(|row| row.pid() == Some(pid)) {
                    row.exited(outcome, restart, now, actions);
                }
            }
            Event::RootEntered if self.system == System::EnteringRoot => self.system = System::Running,
            Event::RootRefused if self.system == System::EnteringRoot => {
                self.system = System::RetryingRoot { until: now.saturating_add(ROOT_RETRY) };
            }
            Event::Synced => self.synced(now),
            Event::RootReleased => self.root_released(false, now),
            Event::Shutdown(ending) => self.shutdown(ending, now),
            Event::RootEntered | Event::RootRefused => {}
        }
        self.settle(now);
    }

    /// Takes an operator's request about one row.
    ///
    /// # Errors
    /// While the machine goes down, and to stop the row that keeps the root.
    pub fn request(&mut self, row: RowId, wish: Wish, now: Moment) -> Result<(), Refusal> {
        if self.is_shutting_down() {
            return Err(Refusal::ShuttingDown);
        }
        let Some(row) = self.rows.get_mut(row.0) else { return Ok(()) };
        if wish == Wish::Stop && row.service().stage == Stage::Initramfs {
            return Err(Refusal::KeepsTheRoot);
        }
        row.wish(wish, now, &mut self.actions);
        self.settle(now);
        Ok(())
    }

    /// Does what was promised for a time that has come.
    pub fn expire(&mut self, now: Moment) {
        if self.system == System::Finished {
            return;
        }
        let restart = !self.is_shutting_down();
        for row in &mut self.rows {
            row.expire(restart, now, &mut self.actions);
        }
        match self.system {
            System::RetryingRoot { until } if until <= now => self.system = System::FindingRoot,
            System::StoppingRows { until, ending } if until <= now => self.kill_rows(ending, now),
            System::KillingRows { until, ending } if until <= now => self.rows_stopped(ending, now),
            System::Syncing { until, .. } if until <= now => self.synced(now),
            System::ReleasingRoot { until, .. } if until <= now => self.root_released(true, now),
            System::StoppingKeeper { until, ending } if until <= now => self.finish(ending),
            _ => {}
        }
        self.settle(now);
    }

    /// When [`Self::expire`] is to be called next.
    pub fn deadline(&self) -> Option<Moment> {
        let system = match self.system {
            System::RetryingRoot { until }
            | System::StoppingRows { until, .. }
            | System::KillingRows { until, .. }
            | System::Syncing { until, .. }
            | System::ReleasingRoot { until, .. }
            | System::StoppingKeeper { until, .. } => Some(until),
            System::FindingRoot | System::EnteringRoot | System::Running | System::Finished => None,
        };
        match self.system {
            System::Finished => None,
            _ => self.rows.iter().filter_map(Row::deadline).chain(system).min(),
        }
    }

    /// The next thing to do; drain it after every call of the others.
    pub fn transmit(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Lets everything happen that nothing stands in the way of any more.
    fn settle(&mut self, now: Moment) {
        match self.system {
            System::FindingRoot => {
                self.start_rows(Stage::Initramfs, now);
                if self.rows.iter().filter(|row| is_keeper(row)).all(Row::is_ready) {
                    self.system = System::EnteringRoot;
                    self.actions.push_back(Action::EnterRoot);
                }
            }
            System::EnteringRoot | System::RetryingRoot { .. } => self.start_rows(Stage::Initramfs, now),
            System::Running => {
                self.start_rows(Stage::Initramfs, now);
                self.start_rows(Stage::Root, now);
            }
            System::StoppingRows { ending, .. } => self.stop_rows(ending, now),
            System::KillingRows { ending, .. } if self.is_down(Stage::Root) => self.rows_stopped(ending, now),
            System::StoppingKeeper { ending, .. } if self.is_down(Stage::Initramfs) => self.finish(ending),
            _ => {}
        }
    }

    /// Starts the rows whose predecessors have settled.
    fn start_rows(&mut self, stage: Stage, now: Moment) {
        let settled: Vec<bool> = self.rows.iter().map(Row::is_settled).collect();
        for row in self.rows.iter_mut().filter(|row| row.service().stage == stage) {
            if row.after().iter().all(|earlier| settled.get(earlier.0).copied().unwrap_or(true)) {
                row.start_if_waiting(now, &mut self.actions);
            }
        }
    }

    fn shutdown(&mut self, ending: Ending, now: Moment) {
        if self.is_shutting_down() {
            return;
        }
        self.actions.push_back(Action::Report(Report::Stopping(ending)));
        self.system = System::StoppingRows { until: now.saturating_add(self.patience.stop), ending };
    }

    /// Stops every row that no running row was started after: the reverse of the boot, as parallel as it was.
    fn stop_rows(&mut self, ending: Ending, now: Moment) {
        if self.is_down(Stage::Root) {
            return self.rows_stopped(ending, now);
        }
        let up = self.rows.iter().filter(|row| row.is_up() && !row.is_stuck());
        let needed: Vec<RowId> = up.flat_map(|row| row.after().iter().copied()).collect();
        let rows = self.rows.iter_mut().enumerate().rev().filter(|(_, row)| !is_keeper(row));
        for (_, row) in rows.filter(|(index, _)| !needed.contains(&RowId(*index))) {
            row.stop_for_good(now, &mut self.actions);
        }
        if self.is_down(Stage::Root) {
            self.rows_stopped(ending, now);
        }
    }

    fn kill_rows(&mut self, ending: Ending, now: Moment) {
        for row in self.rows.iter_mut().filter(|row| !is_keeper(row)) {
            row.kill_for_good(now, &mut self.actions);
        }
        self.system = System::KillingRows { until: now.saturating_add(self.patience.kill), ending };
    }

    fn rows_stopped(&mut self, ending: Ending, now: Moment) {
        let stuck = self.rows.iter().filter(|row| !is_keeper(row) && row.is_up()).count();
        self.actions.push_back(Action::Report(Report::RowsStopped { stuck }));
        self.actions.push_back(Action::Sync);
        self.system = System::Syncing { until: now.saturating_add(self.patience.sync), ending };
    }

    fn synced(&mut self, now: Moment) {
        if let System::Syncing { ending, .. } = self.system {
            self.actions.push_back(Action::ReleaseRoot);
            self.system = System::ReleasingRoot { until: now.saturating_add(self.patience.release), ending };
        }
    }

    fn root_released(&mut self, late: bool, now: Moment) {
        let System::ReleasingRoot { ending, .. } = self.system else { return };
        self.actions.push_back(Action::Report(Report::RootReleased { late }));
        for row in self.rows.iter_mut().filter(|row| is_keeper(row)) {
            row.stop_for_good(now, &mut self.actions);
        }
        self.system = System::StoppingKeeper { until: now.saturating_add(self.patience.keeper), ending };
    }

    fn finish(&mut self, ending: Ending) {
        self.system = System::Finished;
        self.actions.push_back(Action::Finish(ending));
    }

    /// True when no row of the stage runs, or none that can be stopped.
    fn is_down(&self, stage: Stage) -> bool {
        let mut rows = self.rows.iter().filter(|row| row.service().stage == stage);
        rows.all(|row| !row.is_up() || row.is_stuck())
    }
}

fn is_keeper(row: &Row) -> bool {
    row.service().stage == Stage::Initramfs
}
