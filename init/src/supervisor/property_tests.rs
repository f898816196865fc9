//! Random events in random order, stale and absurd ones included, against what must always hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::table;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// The world answers an outstanding spawn: with a process or, one time in four, without.
    Spawn {
        fails: bool,
    },
    Ready(usize),
    Close(usize),
    Exit {
        row: usize,
        outcome: Outcome,
    },
    Stray(i32),
    Root {
        entered: bool,
    },
    Synced,
    Released,
    Wish(usize, Wish),
    Shutdown(Ending),
    Pass(u64),
    /// The clock jumps back.
    Back(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let row = 0..8_usize;
    let outcome =
        prop_oneof![Just(Outcome::Exit(0)), (1..3).prop_map(Outcome::Exit), Just(Outcome::Signal(9))];
    let wish = prop_oneof![Just(Wish::Start), Just(Wish::Stop), Just(Wish::Restart)];
    prop_oneof![
        8 => (0..4).prop_map(|dice| Step::Spawn { fails: dice == 0 }),
        8 => row.clone().prop_map(Step::Ready),
        2 => row.clone().prop_map(Step::Close),
        6 => (row.clone(), outcome).prop_map(|(row, outcome)| Step::Exit { row, outcome }),
        1 => (-5..2000).prop_map(Step::Stray),
        3 => any::<bool>().prop_map(|entered| Step::Root { entered }),
        1 => Just(Step::Synced),
        1 => Just(Step::Released),
        2 => (row, wish).prop_map(|(row, wish)| Step::Wish(row, wish)),
        1 => prop_oneof![Just(Ending::Reboot), Just(Ending::PowerOff)].prop_map(Step::Shutdown),
        6 => (0..70_000_u64).prop_map(Step::Pass),
        1 => (0..10_000_u64).prop_map(Step::Back),
    ]
}

/// What the kernel would know.
struct World {
    supervisor: Supervisor,
    now: Moment,
    pending: Vec<RowId>,
    processes: BTreeMap<RowId, i32>,
    next_pid: i32,
    shutting_down: bool,
    finished: bool,
}

impl World {
    fn new() -> Self {
        Self {
            supervisor: Supervisor::new(table(), MachineRole::Node),
            now: Moment::from_secs(20),
            pending: Vec::new(),
            processes: BTreeMap::new(),
            next_pid: 3000,
            shutting_down: false,
            finished: false,
        }
    }

    fn id(&self, row: usize) -> RowId {
        RowId(row)
    }

    fn event(&mut self, event: Event) {
        self.supervisor.receive(event, self.now);
        self.check();
    }

    fn check(&mut self) {
        while let Some(action) = self.supervisor.transmit() {
            assert!(!self.finished, "nothing happens after the end: {action:?}");
            match action {
                Action::Spawn(row) => {
                    assert!(!self.shutting_down, "nothing starts during a shutdown");
                    assert!(!self.pending.contains(&row), "asked for twice");
                    assert!(!self.processes.contains_key(&row), "two instances of {row:?}");
                    assert!(row.0 < self.supervisor.rows().len());
                    assert_ne!(self.supervisor.rows()[row.0].service().name, "head-only");
                    self.pending.push(row);
                }
                Action::Terminate { row, pid } => {
                    assert_eq!(self.processes.get(&row), Some(&pid), "SIGTERM to somebody else's process");
                }
                Action::Finish(_) => self.finished = true,
                _ => {}
            }
        }
        if self.finished {
            return;
        }
        for row in self.supervisor.rows() {
            assert_eq!(row.pid(), self.processes.get(&row.id()).copied(), "{}", row.service().name);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Spawn { fails } => {
                if let Some(row) = self.pending.pop() {
                    if fails {
                        self.event(Event::SpawnFailed { row });
                    } else {
                        self.next_pid += 1;
                        self.processes.insert(row, self.next_pid);
                        self.event(Event::Spawned { row, pid: self.next_pid });
                    }
                }
            }
            Step::Ready(row) => self.event(Event::Ready { row: self.id(row) }),
            Step::Close(row) => self.event(Event::NotifyClosed { row: self.id(row) }),
            Step::Exit { row, outcome } => {
                if let Some(pid) = self.processes.remove(&self.id(row)) {
                    self.event(Event::Exited { pid, outcome });
                }
            }
            Step::Stray(pid) => self.event(Event::Exited { pid, outcome: Outcome::Exit(0) }),
            Step::Root { entered: true } => self.event(Event::RootEntered),
            Step::Root { entered: false } => self.event(Event::RootRefused),
            Step::Synced => self.event(Event::Synced),
            Step::Released => self.event(Event::RootReleased),
            Step::Wish(row, wish) => {
                let answer = self.supervisor.request(self.id(row), wish, self.now);
                assert_eq!(answer == Err(Refusal::ShuttingDown), self.shutting_down);
                self.check();
            }
            Step::Shutdown(ending) => {
                self.shutting_down = true;
                self.event(Event::Shutdown(ending));
            }
            Step::Pass(milliseconds) => self.pass(Duration::from_millis(milliseconds)),
            Step::Back(milliseconds) => {
                self.now = self.now.saturating_sub(Duration::from_millis(milliseconds));
            }
        }
    }

    /// One wake-up, late for everything that was due in between.
    fn pass(&mut self, duration: Duration) {
        self.now += duration;
        self.supervisor.expire(self.now);
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_hold_and_a_shutdown_ends_in_time(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new();
        world.event(Event::Boot);
        for step in steps {
            world.take(step);
        }
        // From here on nobody answers any more: no process dies, no helper comes back.
        let begin = world.now;
        let due = Patience::of(MachineRole::Node).total();
        world.take(Step::Shutdown(Ending::Reboot));
        while let Some(deadline) = world.supervisor.deadline().filter(|_| !world.finished) {
            // A clock that jumped back before must not count against the shutdown.
            world.now = world.now.max(deadline);
            world.supervisor.expire(world.now);
            world.check();
            prop_assert!(world.now - begin <= due + Duration::from_secs(10));
        }
        prop_assert!(world.finished);
    }

    #[test]
    fn a_machine_whose_services_work_becomes_ready_whatever_went_before(
        steps in prop::collection::vec(step().prop_filter("stays up", |step| !matches!(step, Step::Shutdown(_) | Step::Wish(..))), 0..80),
    ) {
        let mut world = World::new();
        world.event(Event::Boot);
        for step in steps {
            world.take(step);
        }
        // Now every process starts, says READY or does its job, and dies when told to.
        for _ in 0..400 {
            let up: Vec<_> = world.supervisor.rows().iter().map(|row| (row.id().0, row.state())).collect();
            if up.iter().all(|(_, state)| matches!(*state, "ready" | "done")) {
                return Ok(());
            }
            for (row, state) in up {
                match state {
                    "starting" => {
                        world.take(Step::Spawn { fails: false });
                        world.take(Step::Ready(row));
                        if world.supervisor.rows()[row].service().name == "job" {
                            world.take(Step::Exit { row, outcome: Outcome::Exit(0) });
                        }
                    }
                    "stopping" | "stuck" => world.take(Step::Exit { row, outcome: Outcome::Signal(15) }),
                    _ => {}
                }
            }
            world.take(Step::Root { entered: true });
            let next = world.supervisor.deadline();
            world.now = world.now.max(next.unwrap_or_default());
            world.pass(Duration::ZERO);
        }
        prop_assert!(false, "{:?}", world.supervisor.rows().iter().map(Row::state).collect::<Vec<_>>());
    }
}
