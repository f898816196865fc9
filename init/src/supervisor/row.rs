//! One row: a service from its first start to its last stop.
//!
//! ```text
//!            +---------------- retry, request ------------------+
//!            v                                                  |
//! Waiting -> Launching -> Starting -> Ready ------ exit ----> BackOff / Failed
//!                            |  \       |                       ^
//!                    exit 0  |   \      | stop, restart         | failed before ready
//!                    (job)   v    +-----+--> Stopping ----------+
//!                          Done               |   |  SIGTERM, SIGKILL, stuck
//!                                  Stopped <--+   +--> Launching (restart)
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use manifest::{Readiness, Service};

use super::{Action, Moment, Report, RowId};

/// After SIGKILL a process is gone within milliseconds, or it waits in the kernel for a device that does not answer.
const KILL_LIMIT: Duration = Duration::from_millis(500);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(status) => write!(f, "exit status {status}"),
            Self::Signal(number) => write!(f, "signal {number}"),
        }
    }
}

/// An operator's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Run, now, whatever failed before.
    Start,
    /// Do not run until asked to.
    Stop,
    /// Stop, then run.
    Restart,
}

/// What people are told about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its process is being started.
    Starting,
    /// It works.
    Ready,
    /// Its job is done.
    Done,
    /// Its process has ended unasked.
    Exited(Outcome),
    /// There was no process to be had.
    NotSpawned,
    /// It closed its notify pipe without saying that it works.
    NeverReady,
    /// It took too long to say that it works.
    StartTimedOut,
    /// It failed too often and is tried rarely from now on.
    Failed,
    /// It was asked to stop.
    Stopping,
    /// It did not stop in time and is being killed.
    Killed,
    /// Not even that ends it, for now.
    Stuck,
    /// It does not run, as asked.
    Stopped,
}

/// What to do once the process that is being stopped has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Fail,
    Launch,
    Stay,
}

/// How hard it is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Force {
    Asked { until: Moment },
    Killed { until: Moment },
    Stuck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Launching { stop: Option<Next> },
    Starting { pid: i32, until: Option<Moment> },
    Ready { pid: i32 },
    Stopping { pid: i32, next: Next, force: Force },
    BackOff { until: Moment },
    Failed { until: Moment },
    Done,
    Stopped,
}

/// A row and its history.
#[derive(Debug)]
pub struct Row {
    id: RowId,
    service: &'static Service,
    after: Vec<RowId>,
    phase: Phase,
    since: Moment,
    launches: u32,
    /// True once those that wait for it need not wait any longer.
    settled: bool,
    /// At most `back_off.limit` times.
    failures: VecDeque<Moment>,
    given_up: bool,
}

type Actions = VecDeque<Action>;

impl Row {
    pub(super) fn new(id: RowId, service: &'static Service, after: Vec<RowId>) -> Self {
        Self {
            id,
            service,
            after,
            phase: Phase::Waiting,
            since: Moment::ZERO,
            launches: 0,
            settled: false,
            failures: VecDeque::new(),
            given_up: false,
        }
    }

    /// Which row it is.
    pub fn id(&self) -> RowId {
        self.id
    }

    /// Its line in the manifest.
    pub fn service(&self) -> &'static Service {
        self.service
    }

    /// The rows of this machine it starts after.
    pub fn after(&self) -> &[RowId] {
        &self.after
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<i32> {
        match self.phase {
            Phase::Starting { pid, .. } | Phase::Ready { pid } | Phase::Stopping { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// The word for its state in `bramble services`.
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Waiting => "waiting",
            Phase::Launching { .. } | Phase::Starting { .. } => "starting",
            Phase::Ready { .. } => "ready",
            Phase::Stopping { force: Force::Stuck, .. } => "stuck",
            Phase::Stopping { .. } => "stopping",
            Phase::BackOff { .. } => "back-off",
            Phase::Failed { .. } => "failed",
            Phase::Done => "done",
            Phase::Stopped => "stopped",
        }
    }

    /// Since when it is in that state.
    pub fn since(&self) -> Moment {
        self.since
    }

    /// How often it was started after the first time.
    pub fn restarts(&self) -> u32 {
        self.launches.saturating_sub(1)
    }

    /// True while it works.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// True while it has a process, or is about to.
    pub(super) fn is_up(&self) -> bool {
        self.pid().is_some() || matches!(self.phase, Phase::Launching { .. })
    }

    /// True while its process cannot even be killed.
    pub(super) fn is_stuck(&self) -> bool {
        matches!(self.phase, Phase::Stopping { force: Force::Stuck, .. })
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.phase {
            Phase::Starting { until, .. } => until,
            Phase::Stopping { force: Force::Asked { until } | Force::Killed { until }, .. }
            | Phase::BackOff { until }
            | Phase::Failed { until } => Some(until),
            _ => None,
        }
    }

    pub(super) fn start_if_waiting(&mut self, now: Moment, actions: &mut Actions) {
        if self.phase == Phase::Waiting {
            self.launch(now, actions);
        }
    }

    pub(super) fn spawned(&mut self, pid: i32, now: Moment, actions: &mut Actions) {
        let Phase::Launching { stop } = self.phase else { return };
        let until = self.service.start_timeout.map(|limit| now.saturating_add(limit));
        self.enter(Phase::Starting { pid, until }, now);
        if let Some(next) = stop {
            self.begin_stop(pid, next, now, actions);
        }
    }

    pub(super) fn spawn_failed(&mut self, restart: bool, now: Moment, actions: &mut Actions) {
        let Phase::Launching { stop } = self.phase else { return };
        self.report(Change::NotSpawned, actions);
        self.gone(stop.unwrap_or(Next::Fail), restart, now, actions);
    }

    pub(super) fn ready(&mut self, now: Moment, actions: &mut Actions) {
        let Phase::Starting { pid, .. } = self.phase else { return };
        if self.service.readiness == Readiness::Notify {
            self.settled = true;
            self.given_up = false;
            self.enter(Phase::Ready { pid }, now);
            self.report(Change::Ready, actions);
        }
    }

    /// A pipe closed before READY: it will never say so. A job has nothing to say.
    pub(super) fn notify_closed(&mut self, now: Moment, actions: &mut Actions) {
        let Phase::Starting { pid, .. } = self.phase else { return };
        if self.service.readiness == Readiness::Notify {
            self.report(Change::NeverReady, actions);
            self.begin_stop(pid, Next::Fail, now, actions);
        }
    }

    pub(super) fn exited(&mut self, outcome: Outcome, restart: bool, now: Moment, actions: &mut Actions) {
        // Whatever it has started itself must not outlive it: the next instance wants its ports and files.
        actions.push_back(Action::Kill(self.id));
        match self.phase {
            Phase::Starting { .. } if self.is_job_done(outcome) => {
                self.settled = true;
                self.given_up = false;
                self.enter(Phase::Done, now);
                self.report(Change::Done, actions);
            }
            Phase::Stopping { next, .. } => self.gone(next, restart, now, actions),
            _ => {
                self.report(Change::Exited(outcome), actions);
                self.gone(Next::Fail, restart, now, actions);
            }
        }
    }

    pub(super) fn wish(&mut self, wish: Wish, now: Moment, actions: &mut Actions) {
        let next = if wish == Wish::Stop { Next::Stay } else { Next::Launch };
        match &mut self.phase {
            Phase::Launching { stop } => *stop = (wish != Wish::Start).then_some(next),
            Phase::Starting { .. } | Phase::Ready { .. } if wish == Wish::Start => {}
            Phase::Stopping { next: planned, .. } => *planned = next,
            Phase::Starting { pid, .. } | Phase::Ready { pid } => {
                let pid = *pid;
                self.begin_stop(pid, next, now, actions);
            }
            Phase::Waiting | Phase::BackOff { .. } | Phase::Failed { .. } | Phase::Done | Phase::Stopped => {
                self.gone(next, true, now, actions);
            }
        }
        if wish != Wish::Stop {
            self.failures.clear();
            self.given_up = false;
        }
    }

    /// For a shutdown: asks it to stop, once, and it stays down.
    pub(super) fn stop_for_good(&mut self, now: Moment, actions: &mut Actions) {
        match &mut self.phase {
            Phase::Launching { stop } => *stop = Some(Next::Stay),
            Phase::Stopping { next, .. } => *next = Next::Stay,
            Phase::Starting { pid, .. } | Phase::Ready { pid } => {
                let pid = *pid;
                self.begin_stop(pid, Next::Stay, now, actions);
            }
            Phase::Waiting | Phase::BackOff { .. } | Phase::Failed { .. } => self.enter(Phase::Stopped, now),
            Phase::Done | Phase::Stopped => {}
        }
    }

    /// For a shutdown that has run out of patience.
    pub(super) fn kill_for_good(&mut self, now: Moment, actions: &mut Actions) {
        self.stop_for_good(now, actions);
        if let Phase::Stopping { pid, force: Force::Asked { .. }, .. } = self.phase {
            self.kill(pid, Next::Stay, now, actions);
        }
    }

    pub(super) fn expire(&mut self, restart: bool, now: Moment, actions: &mut Actions) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        match self.phase {
            Phase::Starting { pid, .. } => {
                self.report(Change::StartTimedOut, actions);
                self.begin_stop(pid, Next::Fail, now, actions);
            }
            Phase::Stopping { pid, next, force: Force::Asked { .. } } => self.kill(pid, next, now, actions),
            Phase::Stopping { pid, next, force: Force::Killed { .. } } => {
                self.enter(Phase::Stopping { pid, next, force: Force::Stuck }, now);
                self.report(Change::Stuck, actions);
            }
            Phase::BackOff { .. } | Phase::Failed { .. } if restart => self.launch(now, actions),
            Phase::BackOff { .. } | Phase::Failed { .. } => self.enter(Phase::Stopped, now),
            _ => {}
        }
    }

    fn launch(&mut self, now: Moment, actions: &mut Actions) {
        self.launches = self.launches.saturating_add(1);
        self.enter(Phase::Launching { stop: None }, now);
        self.report(Change::Starting, actions);
        actions.push_back(Action::Spawn(self.id));
    }

    fn begin_stop(&mut self, pid: i32, next: Next, now: Moment, actions: &mut Actions) {
        let until = now.saturating_add(self.service.stop_timeout);
        self.enter(Phase::Stopping { pid, next, force: Force::Asked { until } }, now);
        if next != Next::Fail {
            self.report(Change::Stopping, actions);
        }
        actions.push_back(Action::Terminate { row: self.id, pid });
    }

    fn kill(&mut self, pid: i32, next: Next, now: Moment, actions: &mut Actions) {
        let until = now.saturating_add(KILL_LIMIT);
        self.enter(Phase::Stopping { pid, next, force: Force::Killed { until } }, now);
        self.report(Change::Killed, actions);
        actions.push_back(Action::Kill(self.id));
    }

    /// It has no process (any more).
    fn gone(&mut self, next: Next, restart: bool, now: Moment, actions: &mut Actions) {
        match next {
            // Waiting, not Launching: at boot a restart does not overtake those it starts after.
            Next::Launch if restart => self.enter(Phase::Waiting, now),
            Next::Fail if restart => self.fail(now, actions),
            Next::Launch | Next::Fail | Next::Stay => {
                self.settled = true;
                self.enter(Phase::Stopped, now);
                self.report(Change::Stopped, actions);
            }
        }
    }

    fn fail(&mut self, now: Moment, actions: &mut Actions) {
        let back_off = &self.service.back_off;
        self.failures.retain(|failure| now.saturating_sub(*failure) < back_off.window);
        if self.failures.len() >= back_off.limit.into() {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        let count = u32::try_from(self.failures.len()).unwrap_or(u32::MAX);
        if self.given_up || count >= back_off.limit.into() {
            self.given_up = true;
            self.settled = true;
            self.enter(Phase::Failed { until: now.saturating_add(back_off.retry) }, now);
            self.report(Change::Failed, actions);
        } else {
            let factor = 2_u32.saturating_pow(count.saturating_sub(1));
            let wait = back_off.initial.saturating_mul(factor).min(back_off.max);
            self.enter(Phase::BackOff { until: now.saturating_add(wait) }, now);
        }
    }

    fn is_job_done(&self, outcome: Outcome) -> bool {
        self.service.readiness == Readiness::Exit && outcome == Outcome::Exit(0)
    }

    fn enter(&mut self, phase: Phase, now: Moment) {
        self.phase = phase;
        self.since = now;
    }

    fn report(&self, change: Change, actions: &mut Actions) {
        actions.push_back(Action::Report(Report::Row { row: self.id, change }));
    }
}
