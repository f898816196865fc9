//! Boots as the head sees them, on a clock of the test's own.

use proptest::prelude::*;

use super::*;

const MAC: &str = "dc:a6:32:00:00:02";
const SECOND: u64 = 1_000_000;

fn state() -> State {
    State::new(config::Config::default().cluster, [], 0)
}

fn seen(kind: &str, at_us: u64) -> bus::Event {
    bus::Event {
        at_us,
        mac: MAC.into(),
        ip: "10.77.0.11".into(),
        detail: "pi4".into(),
        ..bus::Event::new(kind)
    }
}

fn beat(boot: &str, now_us: u64, ready: bool) -> Heartbeat {
    Heartbeat {
        serial: "10000001".into(),
        mac: MAC.into(),
        address: "10.77.0.11".into(),
        role: "node".into(),
        boot_id: boot.into(),
        now_us,
        ready,
        events: [("init".to_owned(), SECOND), ("root".to_owned(), 2 * SECOND)].into(),
        ..Heartbeat::default()
    }
}

fn phase(state: &State) -> Phase {
    state.node(MAC).expect("the board is known").phase
}

fn steps(state: &State) -> Vec<(String, u64)> {
    let boot = &state.node(MAC).expect("the board is known").boot;
    boot.steps().iter().map(|step| (step.step.clone(), step.at_us / SECOND)).collect()
}

#[test]
fn a_boot_is_told_from_discover_to_ready_on_one_clock() {
    let mut state = state();
    state.observe(&seen("discover", 10 * SECOND), 10 * SECOND);
    state.observe(&seen("offer", 10 * SECOND), 10 * SECOND);
    let file = bus::Event {
        mac: String::new(),
        serial: "10000001".into(),
        file: "vmlinuz".into(),
        ..seen("file", 14 * SECOND)
    };
    state.observe(&file, 14 * SECOND);
    assert_eq!(phase(&state), Phase::Booting);
    // Kernel start is at 15 s of the head: the node says "now is 5 s" at 20 s.
    state.heartbeat(beat("a", 5 * SECOND, false), 20 * SECOND);
    assert_eq!(phase(&state), Phase::Starting);
    state.heartbeat(beat("a", 6 * SECOND, true), 21 * SECOND);
    assert_eq!(phase(&state), Phase::Ready);
    let expected =
        [("discover", 0), ("offer", 0), ("file", 4), ("kernel", 5), ("init", 6), ("root", 7), ("ready", 11)];
    assert_eq!(steps(&state), expected.map(|(step, at)| (step.to_owned(), at)));
    assert_eq!(state.ready_nodes(), [("node-1".to_owned(), Ipv4Addr::new(10, 77, 0, 11))]);
    assert_eq!(state.node(MAC).map(|node| node.record.serial.as_str()), Some("10000001"));
}

#[test]
fn the_running_systems_own_dhcp_begins_no_new_boot() {
    let mut state = state();
    state.observe(&seen("discover", SECOND), SECOND);
    state.observe(&seen("file", 2 * SECOND), 2 * SECOND);
    let plain = bus::Event { detail: "plain".into(), ..seen("discover", 3 * SECOND) };
    state.observe(&plain, 3 * SECOND);
    state.heartbeat(beat("a", SECOND, true), 4 * SECOND);
    state.observe(&bus::Event { detail: "plain".into(), ..seen("discover", 9 * SECOND) }, 9 * SECOND);
    assert_eq!(phase(&state), Phase::Ready);
    assert_eq!(state.node(MAC).map(|node| node.record.boots), Some(1));
}

#[test]
fn a_boot_roms_repeated_discover_is_one_boot_and_a_power_cycle_another() {
    let mut state = state();
    for at in [1, 5, 9] {
        state.observe(&seen("discover", at * SECOND), at * SECOND);
    }
    assert_eq!(state.node(MAC).map(|node| node.record.boots), Some(1));
    state.heartbeat(beat("a", SECOND, true), 12 * SECOND);
    let effects = state.observe(&seen("discover", 20 * SECOND), 20 * SECOND);
    assert!(effects.contains(&Effect::Backends), "a node that boots gets no requests");
    assert_eq!(phase(&state), Phase::Booting);
    assert_eq!(state.node(MAC).map(|node| node.record.boots), Some(2));
}

#[test]
fn three_missed_heartbeats_are_a_lost_node_and_one_more_beat_brings_it_back() {
    let mut state = state();
    state.heartbeat(beat("a", SECOND, true), SECOND);
    assert_eq!(state.expire(7 * SECOND), []);
    assert!(state.expire(7 * SECOND + 1).contains(&Effect::Backends));
    assert_eq!(phase(&state), Phase::Lost);
    state.heartbeat(beat("a", 8 * SECOND, true), 8 * SECOND);
    assert_eq!(phase(&state), Phase::Ready);
    assert_eq!(state.node(MAC).map(|node| node.record.boots), Some(1));
}

#[test]
fn a_board_that_shows_nothing_for_two_minutes_has_stalled() {
    let mut state = state();
    state.observe(&seen("discover", SECOND), SECOND);
    state.expire(120 * SECOND);
    assert_eq!(phase(&state), Phase::Booting);
    state.expire(122 * SECOND);
    assert_eq!(phase(&state), Phase::Stalled);
}

#[test]
fn a_node_that_says_goodbye_is_out_of_rotation_at_once() {
    let mut state = state();
    state.heartbeat(beat("a", SECOND, true), SECOND);
    let effects = state.heartbeat(Heartbeat { stopping: true, ..beat("a", 2 * SECOND, false) }, 2 * SECOND);
    assert!(effects.contains(&Effect::Backends));
    assert_eq!(phase(&state), Phase::Stopping);
}

#[test]
fn records_bring_back_names_after_a_restart_of_the_head() {
    let mut before = state();
    before.heartbeat(beat("a", SECOND, true), SECOND);
    let records: Vec<_> = before.nodes().map(|node| node.record.clone()).collect();
    let after = State::new(config::Config::default().cluster, records, 0);
    let node = after.node_named("node-1").expect("the name is kept");
    assert_eq!((node.phase, node.record.serial.as_str()), (Phase::Unknown, "10000001"));
    assert!(!node.boot.steps().is_empty(), "the last boot is kept");
}

#[test]
fn a_node_that_ran_on_while_its_head_was_away_was_not_started_again() {
    let mut before = state();
    before.heartbeat(beat("a", SECOND, true), SECOND);
    let records: Vec<_> = before.nodes().map(|node| node.record.clone()).collect();
    let mut after = State::new(config::Config::default().cluster, records, 0);
    after.heartbeat(beat("a", 90 * SECOND, true), 5 * SECOND);
    let boots = |state: &State| state.node(MAC).map(|node| node.record.boots);
    assert_eq!((phase(&after), boots(&after)), (Phase::Ready, Some(1)));
    after.heartbeat(beat("b", SECOND, true), 30 * SECOND);
    assert_eq!(boots(&after), Some(2));
}

/// Anything that can reach the state.
fn happening() -> impl Strategy<Value = (u8, u8, u8, bool, u32)> {
    (0..12_u8, 0..6_u8, 0..8_u8, any::<bool>(), 0..30_000_000_u32)
}

proptest! {
    #[test]
    fn no_two_machines_ever_have_one_address(happenings in prop::collection::vec(happening(), 1..200)) {
        const KINDS: [&str; 11] =
            ["discover", "offer", "request", "ack", "nak", "file", "missing", "probe", "attach", "detach", "x"];
        let mut state = state();
        let mut now_us = 0;
        for (kind, board, address, flag, later_us) in happenings {
            now_us += u64::from(later_us);
            let mac = format!("dc:a6:32:00:00:{board:02x}");
            let ip = format!("10.77.0.{}", 11 + address);
            if let Some(kind) = KINDS.get(usize::from(kind)) {
                let detail = if flag { "plain" } else { "pi4" }.to_owned();
                state.observe(&bus::Event { mac, ip, detail, at_us: now_us, ..bus::Event::new(kind) }, now_us);
            } else {
                state.heartbeat(Heartbeat { mac, address: ip, ready: flag, now_us: 5, ..beat("b", 5, flag) }, now_us);
            }
            state.expire(now_us);
            let mut addresses: Vec<_> = state.nodes().filter_map(|node| node.record.address).collect();
            let all = addresses.len();
            addresses.sort();
            addresses.dedup();
            prop_assert_eq!(addresses.len(), all);
            for node in state.nodes() {
                let ordered = node.boot.steps().is_sorted_by_key(|step| step.at_us);
                prop_assert!(ordered, "{:?}", node.boot);
                if let Some(address) = node.record.address {
                    prop_assert_eq!(state.node_at(address).map(|found| &found.record.mac), Some(&node.record.mac));
                }
            }
        }
    }
}
