use super::*;
use proptest::prelude::*;

fn backend(number: u8) -> Backend {
    Backend { name: format!("node-{number}"), address: SocketAddr::from(([10, 77, 0, 10 + number], 80)) }
}

fn pool(count: u8) -> (Pool, Instant) {
    let mut pool = Pool::new(Settings::default());
    let now = Instant::now();
    pool.receive(Input::Members(&(1..=count).map(backend).collect::<Vec<_>>()), now);
    (pool, now)
}

/// The number of the node that gets the next request.
fn next(pool: &mut Pool) -> u8 {
    let pick = pool.pick(&[]).expect("there is a member");
    number(&pick)
}

fn number(pick: &Pick) -> u8 {
    match pick.address {
        SocketAddr::V4(address) => address.ip().octets()[3] - 10,
        SocketAddr::V6(_) => unreachable!("all members have IPv4 addresses"),
    }
}

fn id_of(pool: &Pool, number: u8) -> MemberId {
    pool.members.iter().find(|member| member.backend == backend(number)).expect("a member").id
}

fn outputs(pool: &mut Pool) -> Vec<Output> {
    std::iter::from_fn(|| pool.transmit()).collect()
}

#[test]
fn requests_go_round() {
    let (mut pool, _) = pool(3);
    let turns: Vec<u8> = (0..7).map(|_| next(&mut pool)).collect();
    assert_eq!(turns, [1, 2, 3, 1, 2, 3, 1]);
}

#[test]
fn a_pool_without_members_picks_nobody() {
    let (mut pool, now) = pool(0);
    assert_eq!(pool.pick(&[]), None);
    pool.expire(now);
    assert_eq!(pool.deadline(), None);
    assert_eq!(pool.transmit(), None);
}

#[test]
fn who_was_tried_is_not_picked_again() {
    let (mut pool, _) = pool(2);
    let first = pool.pick(&[]).expect("a member");
    let second = pool.pick(&[first.id]).expect("the other");
    assert_ne!(first, second);
    assert_eq!(pool.pick(&[first.id, second.id]), None);
}

#[test]
fn a_refused_connection_ejects_at_once_and_broken_answers_after_three() {
    let (mut pool, now) = pool(3);
    let (one, two) = (id_of(&pool, 1), id_of(&pool, 2));
    pool.receive(Input::Failed(one, Fault::Unreachable), now);
    assert_eq!(outputs(&mut pool), [Output::Ejected(backend(1))]);
    for _ in 0..2 {
        pool.receive(Input::Failed(two, Fault::Broken), now);
    }
    assert_eq!(pool.count(), (2, 3));
    pool.receive(Input::Failed(two, Fault::Broken), now);
    assert_eq!(outputs(&mut pool), [Output::Ejected(backend(2))]);
    assert_eq!((0..3).map(|_| next(&mut pool)).collect::<Vec<_>>(), [3, 3, 3]);
}

#[test]
fn an_answer_between_failures_starts_the_count_again() {
    let (mut pool, now) = pool(1);
    let one = id_of(&pool, 1);
    for _ in 0..10 {
        pool.receive(Input::Failed(one, Fault::Broken), now);
        pool.receive(Input::Failed(one, Fault::Broken), now);
        pool.receive(Input::Answered(one), now);
    }
    assert_eq!(pool.count(), (1, 1));
    assert_eq!(outputs(&mut pool), []);
}

#[test]
fn an_ejected_member_is_probed_when_its_time_is_up_and_comes_back() {
    let (mut pool, now) = pool(2);
    let one = id_of(&pool, 1);
    pool.receive(Input::Failed(one, Fault::Unreachable), now);
    let deadline = pool.deadline().expect("an ejection ends");
    assert_eq!(deadline, now + Duration::from_secs(1));
    outputs(&mut pool);
    pool.expire(deadline - Duration::from_nanos(1));
    assert_eq!(outputs(&mut pool), []);
    pool.expire(deadline);
    assert!(matches!(outputs(&mut pool)[..], [Output::Probe(ref pick)] if pick.id == one));
    assert_eq!(pool.deadline(), None, "a probe under way is not asked for again");
    pool.receive(Input::Probed(one, Reached::Yes), deadline);
    assert_eq!(outputs(&mut pool), [Output::Returned(backend(1))]);
    assert_eq!(pool.count(), (2, 2));
}

#[test]
fn each_failed_probe_doubles_the_wait_up_to_its_limit_and_an_answer_resets_it() {
    let (mut pool, mut now) = pool(1);
    let one = id_of(&pool, 1);
    pool.receive(Input::Failed(one, Fault::Unreachable), now);
    let mut waits = Vec::new();
    for _ in 0..40 {
        let deadline = pool.deadline().expect("an ejection ends");
        waits.push((deadline - now).as_secs());
        now = deadline;
        pool.expire(now);
        pool.receive(Input::Probed(one, Reached::No), now);
    }
    assert_eq!(waits[..7], [1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(waits[39], 30);
    pool.receive(Input::Answered(one), now);
    pool.receive(Input::Failed(one, Fault::Unreachable), now);
    assert_eq!(pool.deadline(), Some(now + Duration::from_secs(1)));
}

#[test]
fn a_member_that_only_accepts_connections_is_ejected_for_longer_each_time() {
    let (mut pool, mut now) = pool(1);
    let one = id_of(&pool, 1);
    let mut waits = Vec::new();
    for _ in 0..3 {
        for _ in 0..3 {
            pool.receive(Input::Failed(one, Fault::Broken), now);
        }
        let deadline = pool.deadline().expect("an ejection ends");
        waits.push((deadline - now).as_secs());
        now = deadline;
        pool.expire(now);
        pool.receive(Input::Probed(one, Reached::Yes), now);
    }
    assert_eq!(waits, [1, 2, 4]);
}

#[test]
fn when_nobody_is_ready_ejection_is_ignored() {
    let (mut pool, now) = pool(2);
    for number in [1, 2] {
        let id = id_of(&pool, number);
        pool.receive(Input::Failed(id, Fault::Unreachable), now);
    }
    assert_eq!(pool.count(), (0, 2));
    let pick = pool.pick(&[]).expect("one more try");
    pool.receive(Input::Answered(pick.id), now);
    assert_eq!(pool.count(), (1, 2));
    assert_eq!((next(&mut pool), next(&mut pool)), (number(&pick), number(&pick)));
}

#[test]
fn members_that_stay_keep_figures_and_state_and_new_ones_are_ready() {
    let (mut pool, now) = pool(3);
    let two = id_of(&pool, 2);
    pool.receive(Input::Failed(two, Fault::Unreachable), now);
    let renamed = Backend { name: "other".into(), ..backend(2) };
    pool.receive(Input::Members(&[renamed.clone(), backend(4), backend(4)]), now);
    let states: Vec<_> = pool.members().map(|member| (member.backend, member.state)).collect();
    assert_eq!(states, [(renamed, "ejected"), (backend(4), "ready")]);
    assert_eq!(pool.members().next().map(|member| member.failures), Some(1));
}

#[test]
fn news_of_a_member_that_has_left_changes_nothing() {
    let (mut pool, now) = pool(2);
    let gone = pool.pick(&[]).expect("a member").id;
    pool.receive(Input::Members(&[backend(2)]), now);
    for input in [
        Input::Answered(gone),
        Input::Failed(gone, Fault::Unreachable),
        Input::Done(gone),
        Input::Probed(gone, Reached::Yes),
        Input::Probed(gone, Reached::No),
    ] {
        pool.receive(input, now);
    }
    assert_eq!(outputs(&mut pool), []);
    assert_eq!(pool.count(), (1, 1));
    // Back again, it is a new member: old requests cannot speak for it.
    pool.receive(Input::Members(&[backend(1), backend(2)]), now);
    assert_ne!(id_of(&pool, 1), gone);
}

#[derive(Clone, Debug)]
enum Step {
    Members(Vec<u8>),
    Pick,
    Answer(usize),
    Fail(usize, Fault),
    Probed(usize, Reached),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![Just(Fault::Unreachable), Just(Fault::Broken)];
    let reached = prop_oneof![Just(Reached::Yes), Just(Reached::No)];
    prop_oneof![
        proptest::collection::vec(1..6u8, 0..6).prop_map(Step::Members),
        Just(Step::Pick),
        (0..8usize).prop_map(Step::Answer),
        (0..8usize, fault).prop_map(|(at, fault)| Step::Fail(at, fault)),
        (0..8usize, reached).prop_map(|(at, reached)| Step::Probed(at, reached)),
        (0..40_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever happens: every pick is a member, requests under way add up, nothing waits for ever.
    #[test]
    fn the_pool_stays_consistent(steps in proptest::collection::vec(step(), 0..200)) {
        let (mut pool, mut now) = pool(3);
        let mut under_way: Vec<MemberId> = Vec::new();
        let mut probes: Vec<MemberId> = Vec::new();
        for step in steps {
            match step {
                Step::Members(numbers) => {
                    let backends: Vec<Backend> = numbers.into_iter().map(backend).collect();
                    pool.receive(Input::Members(&backends), now);
                }
                Step::Pick => {
                    let pick = pool.pick(&[]);
                    prop_assert_eq!(pick.is_some(), pool.count().1 > 0);
                    under_way.extend(pick.map(|pick| pick.id));
                }
                Step::Answer(at) if at < under_way.len() => {
                    let id = under_way.swap_remove(at);
                    pool.receive(Input::Answered(id), now);
                    pool.receive(Input::Done(id), now);
                }
                Step::Fail(at, fault) if at < under_way.len() => {
                    let id = under_way.swap_remove(at);
                    pool.receive(Input::Failed(id, fault), now);
                    pool.receive(Input::Done(id), now);
                }
                Step::Probed(at, reached) if at < probes.len() => {
                    pool.receive(Input::Probed(probes.swap_remove(at), reached), now);
                }
                Step::Wait(milliseconds) => {
                    now += Duration::from_millis(milliseconds);
                    pool.expire(now);
                }
                Step::Answer(_) | Step::Fail(..) | Step::Probed(..) => {}
            }
            for output in outputs(&mut pool) {
                if let Output::Probe(pick) = output {
                    probes.push(pick.id);
                }
            }
            prop_assert!(pool.deadline().is_none_or(|at| at <= now + Settings::default().ejection_max));
            for member in &pool.members {
                let expected = under_way.iter().filter(|&&id| id == member.id).count();
                prop_assert_eq!(usize::try_from(member.in_flight), Ok(expected));
                let probed = member.state == State::Probing;
                prop_assert!(!probed || probes.contains(&member.id), "a probe nobody makes");
            }
        }
    }
}
