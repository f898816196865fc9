use std::collections::BTreeSet;

use manifest::{BackOff, Capabilities, Limits, ROOT, Readiness, Role};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn ms(milliseconds: u64) -> Moment {
    Duration::from_millis(milliseconds)
}

/// netroot; a and b after nothing; c after both; job, a oneshot; d after the job; and one row of the other role.
pub(super) fn table() -> &'static [Service] {
    const LIMITS: Limits = Limits { memory_max: None, tasks_max: 8, files_max: 64, oom_score_adjust: 0 };
    const BACK_OFF: BackOff = BackOff {
        initial: ms_const(100),
        max: ms_const(300),
        limit: 4,
        window: ms_const(60_000),
        retry: ms_const(30_000),
    };
    const fn ms_const(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }
    const ROW: Service = Service {
        name: "netroot",
        role: Role::Both,
        stage: Stage::Root,
        after: &[],
        user: ROOT,
        capabilities: Capabilities::NONE,
        readiness: Readiness::Notify,
        back_off: BACK_OFF,
        start_timeout: Some(ms_const(5_000)),
        stop_timeout: ms_const(2_000),
        limits: LIMITS,
        directories: &[],
    };
    const TABLE: &[Service] = &[
        Service { stage: Stage::Initramfs, start_timeout: None, ..ROW },
        Service { name: "a", ..ROW },
        Service { name: "b", ..ROW },
        Service { name: "c", after: &["a", "b"], ..ROW },
        Service { name: "job", readiness: Readiness::Exit, ..ROW },
        Service { name: "d", after: &["job", "head-only"], ..ROW },
        Service { name: "head-only", role: Role::Head, ..ROW },
    ];
    TABLE
}

/// A supervisor, its clock, and a world in which every process can be started.
struct Bench {
    supervisor: Supervisor,
    now: Moment,
    next_pid: i32,
    log: Vec<String>,
}

impl Bench {
    fn boot() -> Self {
        let supervisor = Supervisor::new(table(), MachineRole::Node);
        let mut bench = Self { supervisor, now: SECOND, next_pid: 100, log: Vec::new() };
        bench.event(Event::Boot);
        bench
    }

    /// Booted up to the root, with a, b and job being started.
    fn with_root() -> Self {
        let mut bench = Self::boot();
        bench.ready("netroot");
        bench.event(Event::RootEntered);
        bench.log.clear();
        bench
    }

    /// Everything ready or done.
    fn running() -> Self {
        let mut bench = Self::with_root();
        bench.ready("a");
        bench.ready("b");
        bench.exit("job", Outcome::Exit(0));
        bench.ready("c");
        bench.ready("d");
        assert!(["a", "b", "c", "d"].iter().all(|name| bench.state(name) == "ready"));
        bench.log.clear();
        bench
    }

    fn event(&mut self, event: Event) {
        self.supervisor.receive(event, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.supervisor.transmit() {
            let name = |id: RowId| self.supervisor.rows()[id.0].service().name;
            let line = match action {
                Action::Spawn(row) => format!("spawn {}", name(row)),
                Action::Terminate { row, .. } => format!("terminate {}", name(row)),
                Action::Kill(row) => format!("kill {}", name(row)),
                Action::Report(Report::Row { row, change }) => format!("{} {change:?}", name(row)),
                other => format!("{other:?}"),
            };
            self.log.push(line);
            if let Action::Spawn(row) = action {
                self.next_pid += 1;
                self.supervisor.receive(Event::Spawned { row, pid: self.next_pid }, self.now);
            }
        }
    }

    /// Lets time pass, stopping at every deadline on the way, as the driver does.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(deadline) = self.supervisor.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.supervisor.expire(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn row(&self, name: &str) -> &Row {
        self.supervisor.rows().iter().find(|row| row.service().name == name).expect("a row of that name")
    }

    fn state(&self, name: &str) -> &'static str {
        self.row(name).state()
    }

    fn ready(&mut self, name: &str) {
        self.event(Event::Ready { row: self.row(name).id() });
    }

    fn exit(&mut self, name: &str, outcome: Outcome) {
        let pid = self.row(name).pid().expect("it has a process");
        self.event(Event::Exited { pid, outcome });
    }

    fn wish(&mut self, name: &str, wish: Wish) -> Result<(), Refusal> {
        let answer = self.supervisor.request(self.row(name).id(), wish, self.now);
        self.drain();
        answer
    }

    fn log(&mut self) -> Vec<String> {
        let told = |line: &String| ["spawn", "terminate", "kill "].iter().any(|verb| line.starts_with(verb));
        std::mem::take(&mut self.log).into_iter().filter(told).collect()
    }
}

#[test]
fn nothing_but_netroot_starts_before_there_is_a_root() {
    let mut bench = Bench::boot();
    assert_eq!(bench.log(), ["spawn netroot"]);
    bench.pass(3600 * SECOND);
    assert_eq!(bench.log(), Vec::<String>::new(), "a root may take as long as it likes");
    bench.ready("netroot");
    assert_eq!(bench.log.last().map(String::as_str), Some("EnterRoot"));
    bench.event(Event::RootEntered);
    assert_eq!(bench.log(), ["spawn a", "spawn b", "spawn job"]);
}

#[test]
fn a_root_that_cannot_be_entered_is_tried_again() {
    let mut bench = Bench::boot();
    bench.ready("netroot");
    bench.event(Event::RootRefused);
    bench.log.clear();
    bench.pass(SECOND);
    assert_eq!(bench.log, ["EnterRoot"]);
}

#[test]
fn a_root_is_not_entered_while_its_keeper_is_dead() {
    let mut bench = Bench::boot();
    bench.ready("netroot");
    bench.event(Event::RootRefused);
    bench.exit("netroot", Outcome::Signal(9));
    bench.log.clear();
    bench.pass(SECOND);
    assert!(!bench.log.contains(&"EnterRoot".to_owned()));
    bench.ready("netroot");
    assert_eq!(bench.log.last().map(String::as_str), Some("EnterRoot"));
}

#[test]
fn a_row_starts_when_all_it_waits_for_are_ready() {
    let mut bench = Bench::with_root();
    bench.ready("a");
    assert_eq!(bench.state("c"), "waiting");
    bench.ready("b");
    assert_eq!(bench.log(), ["spawn c"]);
}

#[test]
fn a_job_releases_those_behind_it_by_exiting_with_success() {
    let mut bench = Bench::with_root();
    bench.event(Event::NotifyClosed { row: bench.row("job").id() });
    bench.ready("job");
    assert_eq!(bench.state("job"), "starting", "a job has nothing to say through its pipe");
    bench.exit("job", Outcome::Exit(0));
    assert_eq!((bench.state("job"), bench.state("d")), ("done", "starting"));
}

#[test]
fn a_job_that_fails_is_run_again() {
    let mut bench = Bench::with_root();
    bench.exit("job", Outcome::Exit(1));
    assert_eq!((bench.state("job"), bench.state("d")), ("back-off", "waiting"));
    bench.pass(ms(100));
    assert_eq!(bench.state("job"), "starting");
}

#[test]
fn rows_of_another_role_do_not_exist_and_are_not_waited_for() {
    let bench = Bench::running();
    assert!(bench.supervisor.rows().iter().all(|row| row.service().name != "head-only"));
}

#[test]
fn a_pipe_closed_before_ready_is_a_failure() {
    let mut bench = Bench::with_root();
    bench.event(Event::NotifyClosed { row: bench.row("a").id() });
    assert_eq!(bench.log(), ["terminate a"]);
    bench.exit("a", Outcome::Signal(15));
    assert_eq!(bench.state("a"), "back-off");
}

#[test]
fn a_pipe_closed_after_ready_means_nothing() {
    let mut bench = Bench::running();
    bench.event(Event::NotifyClosed { row: bench.row("a").id() });
    assert_eq!((bench.state("a"), bench.log().len()), ("ready", 0));
}

#[test]
fn a_row_that_is_never_ready_is_stopped_killed_and_started_again() {
    let mut bench = Bench::with_root();
    bench.ready("b");
    bench.exit("job", Outcome::Exit(0));
    bench.ready("d");
    bench.log.clear();
    bench.pass(ms(5_000));
    assert_eq!(bench.log(), ["terminate a"]);
    bench.pass(ms(2_000));
    assert_eq!(bench.log(), ["kill a"]);
    bench.exit("a", Outcome::Signal(9));
    bench.pass(ms(100));
    assert_eq!(bench.log(), ["kill a", "spawn a"]);
}

#[test]
fn waits_between_restarts_double_up_to_the_longest_and_then_the_row_has_failed() {
    let mut bench = Bench::running();
    for wait in [100, 200, 300] {
        bench.exit("a", Outcome::Signal(11));
        assert_eq!(bench.state("a"), "back-off");
        bench.pass(ms(wait - 1));
        assert_eq!(bench.state("a"), "back-off");
        bench.pass(ms(1));
        assert_eq!(bench.state("a"), "starting");
    }
    bench.exit("a", Outcome::Exit(1));
    assert_eq!(bench.state("a"), "failed");
    assert_eq!(bench.row("a").restarts(), 3);
}

#[test]
fn a_failed_row_is_tried_rarely_until_it_is_ready_again() {
    let mut bench = Bench::running();
    for _ in 0..3 {
        bench.exit("a", Outcome::Exit(1));
        bench.pass(ms(300));
    }
    bench.exit("a", Outcome::Exit(1));
    bench.pass(ms(30_000));
    assert_eq!(bench.state("a"), "starting");
    bench.exit("a", Outcome::Exit(1));
    assert_eq!(bench.state("a"), "failed", "one more failure is enough");
    bench.pass(ms(30_000));
    bench.ready("a");
    bench.pass(ms(60_000));
    bench.exit("a", Outcome::Exit(1));
    assert_eq!(bench.state("a"), "back-off", "it has been an ordinary row again");
}

#[test]
fn those_behind_a_failed_row_start_without_it() {
    let mut bench = Bench::with_root();
    bench.ready("b");
    for _ in 0..4 {
        assert_eq!(bench.state("c"), "waiting");
        bench.exit("a", Outcome::Exit(1));
        bench.pass(ms(300));
    }
    assert_eq!((bench.state("a"), bench.state("c")), ("failed", "starting"));
}

#[test]
fn failures_long_ago_are_forgotten() {
    let mut bench = Bench::running();
    for _ in 0..20 {
        bench.exit("a", Outcome::Exit(1));
        bench.pass(ms(100));
        assert_eq!(bench.state("a"), "starting");
        bench.ready("a");
        bench.pass(ms(60_000));
    }
}

#[test]
fn a_row_that_dies_takes_nobody_with_it() {
    let mut bench = Bench::running();
    bench.exit("a", Outcome::Signal(9));
    assert_eq!(bench.state("c"), "ready");
    bench.exit("netroot", Outcome::Signal(9));
    assert_eq!(bench.state("c"), "ready");
    bench.pass(ms(100));
    assert_eq!(bench.log(), ["kill a", "kill netroot", "spawn netroot", "spawn a"]);
}

#[test]
fn a_row_without_a_process_to_be_had_is_tried_again() {
    let mut supervisor = Supervisor::new(table(), MachineRole::Node);
    supervisor.receive(Event::Boot, SECOND);
    let row = supervisor.rows()[0].id();
    supervisor.receive(Event::SpawnFailed { row }, SECOND);
    assert_eq!(supervisor.rows()[0].state(), "back-off");
    supervisor.expire(SECOND + ms(100));
    assert_eq!(supervisor.rows()[0].state(), "starting");
}

#[test]
fn unknown_pids_are_reaped_in_silence() {
    let mut bench = Bench::running();
    bench.event(Event::Exited { pid: 99_999, outcome: Outcome::Exit(0) });
    assert_eq!(bench.log.len(), 0);
}

#[test]
fn a_restart_is_one_stop_and_one_start() {
    let mut bench = Bench::running();
    bench.wish("a", Wish::Restart).expect("not shutting down");
    bench.wish("a", Wish::Restart).expect("not shutting down");
    assert_eq!((bench.log(), bench.state("a")), (vec!["terminate a".to_owned()], "stopping"));
    bench.exit("a", Outcome::Exit(0));
    assert_eq!(bench.log(), ["kill a", "spawn a"]);
    bench.ready("a");
    assert_eq!(bench.row("a").restarts(), 1);
}

#[test]
fn a_stopped_row_stays_stopped_until_it_is_started() {
    let mut bench = Bench::running();
    bench.wish("a", Wish::Stop).expect("not shutting down");
    bench.exit("a", Outcome::Exit(0));
    bench.pass(3600 * SECOND);
    assert_eq!(bench.state("a"), "stopped");
    bench.wish("a", Wish::Start).expect("not shutting down");
    assert_eq!(bench.state("a"), "starting");
}

#[test]
fn requests_change_what_happens_after_a_stop_under_way() {
    let mut bench = Bench::running();
    bench.wish("a", Wish::Stop).expect("not shutting down");
    bench.wish("a", Wish::Start).expect("not shutting down");
    bench.exit("a", Outcome::Exit(0));
    assert_eq!(bench.state("a"), "starting");
    bench.wish("a", Wish::Restart).expect("not shutting down");
    bench.wish("a", Wish::Stop).expect("not shutting down");
    bench.exit("a", Outcome::Exit(0));
    assert_eq!(bench.state("a"), "stopped");
}

#[test]
fn a_row_stopped_at_boot_does_not_hold_up_those_behind_it() {
    let mut bench = Bench::with_root();
    bench.ready("b");
    bench.wish("a", Wish::Stop).expect("not shutting down");
    bench.exit("a", Outcome::Exit(0));
    assert_eq!(bench.state("c"), "starting");
}

#[test]
fn a_request_to_start_gives_a_failed_row_all_its_tries_again() {
    let mut bench = Bench::running();
    for _ in 0..4 {
        bench.exit("a", Outcome::Exit(1));
        bench.pass(ms(300));
    }
    assert_eq!(bench.state("a"), "failed");
    bench.wish("a", Wish::Start).expect("not shutting down");
    bench.exit("a", Outcome::Exit(1));
    assert_eq!(bench.state("a"), "back-off");
}

#[test]
fn a_finished_job_can_be_run_again_by_request() {
    let mut bench = Bench::running();
    bench.wish("job", Wish::Restart).expect("not shutting down");
    assert_eq!(bench.state("job"), "starting");
}

#[test]
fn the_keeper_of_the_root_may_be_restarted_but_not_stopped() {
    let mut bench = Bench::running();
    assert_eq!(bench.wish("netroot", Wish::Stop), Err(Refusal::KeepsTheRoot));
    bench.wish("netroot", Wish::Restart).expect("allowed");
    bench.exit("netroot", Outcome::Exit(0));
    assert_eq!(bench.log(), ["terminate netroot", "kill netroot", "spawn netroot"]);
    bench.ready("netroot");
    assert!(!bench.log.contains(&"EnterRoot".to_owned()), "the root is entered once");
}

#[test]
fn a_process_that_cannot_be_killed_is_waited_for_and_not_doubled() {
    let mut bench = Bench::running();
    bench.wish("a", Wish::Restart).expect("not shutting down");
    bench.pass(3600 * SECOND);
    assert_eq!((bench.log(), bench.state("a")), (vec!["terminate a".into(), "kill a".into()], "stuck"));
    bench.exit("a", Outcome::Signal(9));
    assert_eq!(bench.state("a"), "starting");
}

#[test]
fn shutdown_stops_rows_in_reverse_and_the_keeper_after_the_root_is_released() {
    let mut bench = Bench::running();
    bench.event(Event::Shutdown(Ending::PowerOff));
    assert_eq!(bench.log(), ["terminate d", "terminate c"]);
    bench.exit("c", Outcome::Exit(0));
    assert_eq!(bench.log(), ["kill c", "terminate b", "terminate a"]);
    bench.exit("a", Outcome::Exit(0));
    bench.exit("b", Outcome::Exit(0));
    bench.log.clear();
    bench.exit("d", Outcome::Exit(0));
    assert_eq!(bench.log, ["kill d", "d Stopped", "Report(RowsStopped { stuck: 0 })", "Sync"]);
    bench.log.clear();
    bench.event(Event::Synced);
    assert_eq!(bench.log, ["ReleaseRoot"]);
    bench.log.clear();
    bench.event(Event::RootReleased);
    assert_eq!(bench.log(), ["terminate netroot"]);
    bench.exit("netroot", Outcome::Exit(0));
    assert_eq!(bench.log.last().map(String::as_str), Some("Finish(PowerOff)"));
    assert_eq!(bench.supervisor.deadline(), None);
}

#[test]
fn shutdown_during_the_search_for_a_root_is_as_orderly() {
    let mut bench = Bench::boot();
    bench.event(Event::Shutdown(Ending::Reboot));
    bench.event(Event::Synced);
    bench.event(Event::RootReleased);
    assert_eq!(bench.state("netroot"), "stopping");
    bench.exit("netroot", Outcome::Signal(15));
    assert_eq!(bench.log.last().map(String::as_str), Some("Finish(Reboot)"));
}

#[test]
fn shutdown_while_rows_are_starting_starts_no_more() {
    let mut bench = Bench::with_root();
    bench.exit("a", Outcome::Exit(1));
    bench.event(Event::Shutdown(Ending::Reboot));
    bench.log.clear();
    bench.ready("b");
    bench.exit("job", Outcome::Exit(0));
    bench.pass(ms(1_000));
    assert!(!bench.log().iter().any(|line| line.starts_with("spawn")));
    assert_eq!(bench.state("c"), "stopped");
}

#[test]
fn shutdown_ends_in_its_total_time_when_nothing_answers() {
    for machine in [MachineRole::Node, MachineRole::Head] {
        let mut bench = Bench::running();
        bench.supervisor.patience = Patience::of(machine);
        bench.event(Event::Shutdown(Ending::Reboot));
        bench.pass(Patience::of(machine).total());
        assert_eq!(bench.log.last().map(String::as_str), Some("Finish(Reboot)"), "{machine:?}");
    }
    assert!(Patience::of(MachineRole::Node).total() <= 10 * SECOND);
}

#[test]
fn a_stuck_row_does_not_hold_up_the_stop_of_those_it_started_after() {
    let mut bench = Bench::running();
    bench.event(Event::Shutdown(Ending::Reboot));
    bench.exit("d", Outcome::Exit(0));
    bench.log.clear();
    bench.pass(ms(2_500));
    assert_eq!(bench.log(), ["kill c", "terminate b", "terminate a"]);
}

#[test]
fn the_first_request_to_end_wins() {
    let mut bench = Bench::boot();
    bench.event(Event::Shutdown(Ending::Reboot));
    bench.event(Event::Shutdown(Ending::PowerOff));
    assert_eq!(bench.wish("netroot", Wish::Restart), Err(Refusal::ShuttingDown));
    bench.pass(60 * SECOND);
    let ends: BTreeSet<_> = bench.log.iter().filter(|line| line.starts_with("Finish")).collect();
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), ["Finish(Reboot)"]);
}

#[test]
fn answers_that_come_too_late_change_nothing() {
    let mut bench = Bench::running();
    bench.event(Event::Synced);
    bench.event(Event::RootReleased);
    bench.event(Event::RootEntered);
    bench.event(Event::RootRefused);
    assert_eq!(bench.log.len(), 0);
}

#[test]
fn a_clock_that_goes_back_only_delays() {
    let mut bench = Bench::running();
    bench.exit("a", Outcome::Exit(1));
    bench.now = Moment::ZERO;
    bench.supervisor.expire(bench.now);
    assert_eq!(bench.state("a"), "back-off");
    bench.pass(2 * SECOND);
    assert_eq!(bench.state("a"), "starting");
}

#[test]
fn a_clock_at_its_end_does_not_overflow() {
    let mut bench = Bench::running();
    bench.now = Moment::MAX;
    bench.exit("a", Outcome::Exit(1));
    bench.supervisor.expire(bench.now);
    bench.event(Event::Shutdown(Ending::Reboot));
    bench.supervisor.expire(bench.now);
}
