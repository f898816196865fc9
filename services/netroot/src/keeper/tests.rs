//! The keeper against a simulated server and kernel, on a clock that jumps to the next thing to happen.

use super::*;

const SIZE: u64 = 16 << 20;

/// A server that is up during some spans of time, and a kernel that may refuse.
struct World {
    keeper: Keeper,
    now: Instant,
    began: Instant,
    up: Vec<(u64, u64, u64)>,
    kernel_refuses: u32,
    attached: Option<u64>,
    dials: Vec<u64>,
    news: Vec<(u64, News)>,
    open: i32,
}

impl World {
    /// `up`: from and to in ms, and the size exported.
    fn new(up: &[(u64, u64, u64)]) -> Self {
        let now = Instant::now();
        let keeper = Keeper::new(now);
        let (dials, news) = (Vec::new(), Vec::new());
        Self {
            keeper,
            now,
            began: now,
            up: up.to_vec(),
            kernel_refuses: 0,
            attached: None,
            dials,
            news,
            open: 0,
        }
    }

    fn ms(&self) -> u64 {
        u64::try_from((self.now - self.began).as_millis()).expect("short")
    }

    fn server(&self) -> Option<(u64, u64)> {
        let now = self.ms();
        self.up.iter().find(|(from, to, _)| (*from..*to).contains(&now)).map(|(_, to, size)| (*to, *size))
    }

    fn drain(&mut self) {
        for step in 0.. {
            assert!(step < 20, "the keeper spins without time passing");
            let Some(output) = self.keeper.transmit() else { return };
            match output {
                Output::Dial => {
                    self.dials.push(self.ms());
                    let size = self.server().map(|(_, size)| size);
                    self.open += i32::from(size.is_some());
                    self.keeper.receive(Input::Dialled(size), self.now);
                }
                Output::HandOver => {
                    let taken = self.kernel_refuses == 0;
                    self.kernel_refuses = self.kernel_refuses.saturating_sub(1);
                    self.attached = if taken { self.server().map(|(to, _)| to) } else { None };
                    self.keeper.receive(Input::HandedOver(taken), self.now);
                }
                Output::HangUp => self.open -= 1,
                Output::Say(news) => self.news.push((self.ms(), news)),
            }
        }
    }

    /// Runs until `end` in ms, jumping from one event to the next.
    fn run(&mut self, end: u64) {
        self.drain();
        while self.ms() < end {
            let lost = self.attached.map(|to| self.began + Duration::from_millis(to));
            let stop = self.began + Duration::from_millis(end);
            let next = [lost, self.keeper.deadline()].into_iter().flatten().min().unwrap_or(stop).min(stop);
            self.now = next.max(self.now);
            if lost == Some(self.now) {
                self.attached = None;
                self.open -= 1;
                self.keeper.receive(Input::Lost, self.now);
            }
            self.keeper.expire(self.now);
            self.drain();
        }
    }
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for_with_a_bounded_pace() {
    let mut world = World::new(&[(60_000, 100_000, SIZE)]);
    world.keeper.receive(Input::Start, world.now);
    world.run(70_000);
    assert_eq!(world.dials[..6], [0, 100, 300, 700, 1200, 1700]);
    assert!(world.dials.len() < 130, "at most two a second: {}", world.dials.len());
    assert!(world.attached.is_some());
    assert!(matches!(world.news.as_slice(), [(_, News::Up { .. })]), "{:?}", world.news);
}

#[test]
fn a_killed_server_is_dialled_at_once_and_is_attached_again_within_half_a_second_of_its_return() {
    for outage in [50, 150, 1_000, 4_321, 30_000, 3_600_000] {
        let mut world = World::new(&[(0, 10_000, SIZE), (10_000 + outage, u64::MAX >> 1, SIZE)]);
        world.keeper.receive(Input::Start, world.now);
        world.run(10_000 + outage + 500);
        assert!(world.attached.is_some(), "outage of {outage} ms");
        assert!(world.dials.contains(&10_000), "dialled in the instant of the loss");
        let Some((at, News::Up { after, .. })) = world.news.last() else { panic!("{:?}", world.news) };
        assert_eq!(u64::try_from(after.as_millis()).expect("short"), at - 10_000);
    }
}

#[test]
fn another_size_under_the_same_name_is_never_handed_over_and_the_right_one_is_taken_later() {
    let mut world = World::new(&[(0, 10_000, SIZE), (10_000, 20_000, SIZE / 2), (20_000, 60_000, SIZE)]);
    world.keeper.receive(Input::Start, world.now);
    world.run(19_999);
    assert_eq!(world.attached, None);
    assert_eq!(world.open, 0, "useless connections are closed");
    assert!(world.news.iter().any(|(_, news)| matches!(news, News::WrongSize { expected: SIZE, .. })));
    world.run(22_000);
    assert!(world.attached.is_some());
}

#[test]
fn a_server_that_accepts_and_drops_is_not_dialled_in_a_tight_loop() {
    let flapping: Vec<_> = (0..100_000).map(|n| (n * 20, n * 20 + 10, SIZE)).collect();
    let mut world = World::new(&flapping);
    world.keeper.receive(Input::Start, world.now);
    world.run(60_000);
    assert!(world.dials.len() <= 126, "{} dials in a minute", world.dials.len());
}

#[test]
fn a_refusal_of_the_kernel_is_tried_again_and_the_connection_closed() {
    let mut world = World::new(&[(0, 100_000, SIZE)]);
    world.kernel_refuses = 3;
    world.keeper.receive(Input::Start, world.now);
    world.run(5_000);
    assert_eq!(world.dials, [0, 100, 300, 700]);
    assert_eq!(world.open, 1);
    assert!(world.attached.is_some());
}

#[test]
fn late_news_changes_nothing() {
    let now = Instant::now();
    let mut keeper = Keeper::adopted(SIZE, now);
    keeper.receive(Input::Start, now);
    keeper.receive(Input::Dialled(None), now);
    keeper.receive(Input::HandedOver(true), now);
    keeper.expire(now + Duration::from_secs(100));
    assert_eq!((keeper.transmit(), keeper.deadline()), (None, None));
    keeper.receive(Input::Dialled(Some(SIZE)), now);
    assert_eq!(keeper.transmit(), Some(Output::HangUp));
}

#[test]
fn an_export_that_holds_no_root_is_forgotten_with_its_size() {
    let mut world = World::new(&[(0, 100_000, SIZE)]);
    world.keeper.receive(Input::Start, world.now);
    world.run(1_000);
    world.up = vec![(0, 100_000, SIZE * 2)];
    world.open -= 1;
    world.attached = None;
    world.keeper.receive(Input::Rejected, world.now);
    world.run(3_000);
    assert!(world.attached.is_some(), "another size is fine as long as nothing was mounted");
}
