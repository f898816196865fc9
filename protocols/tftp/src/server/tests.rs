use std::num::{NonZeroU8, NonZeroU16};

use super::*;

fn start(size: u64, requested: Options) -> (Transfer, Instant) {
    let now = Instant::now();
    (Transfer::new(size, &requested, &Limits::default(), now), now)
}

fn ack(block: u16) -> Packet<'static> {
    Packet::Acknowledgement { block }
}

fn data(block: u16, offset: u64, length: u16) -> Option<Output> {
    Some(Output::Data { block, offset, length })
}

fn with_window(blocks: u16) -> Options {
    Options { window_size: NonZeroU16::new(blocks), ..Options::default() }
}

#[test]
fn file_without_options_goes_in_blocks_of_512() {
    let (mut transfer, now) = start(600, Options::default());
    assert_eq!(transfer.transmit(), data(1, 0, 512));
    assert_eq!(transfer.transmit(), None);
    transfer.receive(&ack(1), now);
    assert_eq!(transfer.transmit(), data(2, 512, 88));
    transfer.receive(&ack(2), now);
    assert_eq!(transfer.state(), State::Completed);
    assert_eq!((transfer.deadline(), transfer.transmit()), (None, None));
}

#[test]
fn only_requested_options_are_acknowledged() {
    let asked = Options { transfer_size: Some(0), ..Options::default() };
    let (mut transfer, now) = start(600, asked);
    let granted = Options { transfer_size: Some(600), ..Options::default() };
    assert_eq!(transfer.transmit(), Some(Output::OptionAcknowledgement(granted)));
    assert_eq!(transfer.transmit(), None);
    transfer.receive(&ack(0), now);
    assert_eq!(transfer.transmit(), data(1, 0, 512));
}

#[test]
fn block_size_and_window_are_granted_up_to_the_limit_and_long_timeouts_refused() {
    let asked = Options {
        block_size: Some(BlockSize::LARGEST),
        window_size: NonZeroU16::new(1000),
        timeout: NonZeroU8::new(255),
        transfer_size: None,
    };
    let (mut transfer, _) = start(600, asked);
    let granted = Options {
        block_size: Some(BlockSize::ETHERNET),
        window_size: NonZeroU16::new(32),
        timeout: None,
        transfer_size: None,
    };
    assert_eq!(transfer.transmit(), Some(Output::OptionAcknowledgement(granted)));
}

#[test]
fn file_that_is_a_multiple_of_the_block_size_ends_with_an_empty_block() {
    for (size, blocks) in [(0, 1), (512, 2), (1024, 3)] {
        let (mut transfer, now) = start(size, Options::default());
        let mut last = None;
        for block in 1..=blocks {
            last = transfer.transmit();
            transfer.receive(&ack(block), now);
        }
        assert_eq!(last, data(blocks, size, 0));
        assert_eq!(transfer.state(), State::Completed);
    }
}

#[test]
fn duplicate_acknowledgement_does_not_resend() {
    let (mut transfer, now) = start(5000, Options::default());
    transfer.transmit();
    transfer.receive(&ack(1), now);
    assert_eq!(transfer.transmit(), data(2, 512, 512));
    transfer.receive(&ack(1), now);
    transfer.receive(&ack(0), now);
    assert_eq!(transfer.transmit(), None);
}

#[test]
fn acknowledgement_of_a_block_never_sent_changes_nothing() {
    let (mut transfer, now) = start(5000, Options::default());
    transfer.transmit();
    for block in [2, 3, 40000, 65535] {
        transfer.receive(&ack(block), now);
        assert_eq!((transfer.transmit(), transfer.acknowledged_octets()), (None, 0), "{block}");
    }
}

#[test]
fn silence_repeats_the_block_at_200_400_800_ms_until_an_unheard_client_is_given_up() {
    let (mut transfer, begin) = start(5000, Options::default());
    transfer.transmit();
    let mut moments = Vec::new();
    while let Some(deadline) = transfer.deadline() {
        transfer.expire(deadline);
        if transfer.transmit() == data(1, 0, 512) {
            moments.push((deadline - begin).as_millis());
        }
    }
    assert_eq!(moments, [200, 600, 1400, 3000]);
    assert_eq!(transfer.state(), State::GaveUp);
}

#[test]
fn client_heard_once_is_given_30_seconds() {
    let (mut transfer, begin) = start(5000, Options::default());
    transfer.transmit();
    transfer.receive(&ack(1), begin);
    let (mut last, mut repeats) = (begin, 0);
    while let Some(deadline) = transfer.deadline() {
        last = deadline;
        transfer.expire(deadline);
        repeats += u32::from(transfer.transmit().is_some());
    }
    assert!((30..33).contains(&(last - begin).as_secs()), "{:?}", last - begin);
    assert!((15..25).contains(&repeats), "{repeats}");
}

#[test]
fn early_expiry_does_nothing() {
    let (mut transfer, now) = start(5000, Options::default());
    transfer.transmit();
    transfer.expire(now + Duration::from_millis(199));
    assert_eq!(transfer.transmit(), None);
}

#[test]
fn retransmission_adapts_to_the_round_trip() {
    let (mut transfer, begin) = start(500_000, Options::default());
    let mut now = begin;
    for block in 1..200 {
        transfer.transmit();
        now += Duration::from_millis(100);
        transfer.receive(&ack(block), now);
    }
    let wait = transfer.deadline().map(|deadline| deadline - now);
    assert!(wait > Some(Duration::from_millis(99)) && wait < Some(Duration::from_millis(130)), "{wait:?}");
}

#[test]
fn timeout_option_replaces_the_estimate() {
    let (mut transfer, begin) = start(5000, Options { timeout: NonZeroU8::new(3), ..Options::default() });
    transfer.transmit();
    assert_eq!(transfer.deadline(), Some(begin + Duration::from_secs(3)));
}

#[test]
fn error_ends_the_transfer_without_failure() {
    let (mut transfer, now) = start(5000, Options { transfer_size: Some(0), ..Options::default() });
    transfer.transmit();
    transfer.receive(&Packet::Error { code: ErrorCode::NOT_DEFINED, message: b"Early terminate" }, now);
    assert_eq!(transfer.state(), State::Aborted(ErrorCode::NOT_DEFINED));
    assert_eq!((transfer.deadline(), transfer.transmit()), (None, None));
}

#[test]
fn repeated_request_repeats_the_first_answer_but_never_restarts_a_running_transfer() {
    for asked in [Options::default(), Options { transfer_size: Some(0), ..Options::default() }] {
        let (mut transfer, now) = start(5000, asked);
        let first = transfer.transmit();
        transfer.request_repeated(now);
        assert_eq!(transfer.transmit(), first);
        assert_eq!(transfer.transmit(), None);
        transfer.receive(&ack(u16::from(asked.is_empty())), now);
        transfer.transmit();
        transfer.request_repeated(now);
        assert_eq!(transfer.transmit(), None);
    }
}

#[test]
fn window_opens_after_the_first_acknowledgement() {
    let (mut transfer, now) = start(5000, with_window(4));
    assert!(matches!(transfer.transmit(), Some(Output::OptionAcknowledgement(_))));
    transfer.receive(&ack(0), now);
    let blocks: Vec<_> = std::iter::from_fn(|| transfer.transmit()).collect();
    assert_eq!(blocks.len(), 4);
    transfer.receive(&ack(4), now);
    assert_eq!(transfer.transmit(), data(5, 2048, 512));
}

#[test]
fn acknowledgement_inside_the_window_resends_from_the_gap() {
    let (mut transfer, now) = start(50_000, with_window(4));
    transfer.transmit();
    transfer.receive(&ack(0), now);
    while transfer.transmit().is_some() {}
    transfer.receive(&ack(2), now);
    assert_eq!(transfer.transmit(), data(3, 1024, 512));
    assert_eq!(std::iter::from_fn(|| transfer.transmit()).count(), 3);
}

#[test]
fn late_acknowledgement_of_the_whole_window_outruns_the_retransmission() {
    let (mut transfer, now) = start(50_000, with_window(4));
    transfer.transmit();
    transfer.receive(&ack(0), now);
    while transfer.transmit().is_some() {}
    transfer.expire(transfer.deadline().unwrap());
    assert_eq!(transfer.transmit(), data(1, 0, 512));
    transfer.receive(&ack(4), now);
    assert_eq!(transfer.transmit(), data(5, 2048, 512));
}

#[test]
fn block_counter_rolls_over_to_zero() {
    let size = 70_000 * 512 + 1;
    let (mut transfer, now) = start(size, Options::default());
    let mut counted = 0u64;
    while transfer.state() == State::Running {
        let Some(Output::Data { block, offset, .. }) = transfer.transmit() else { panic!("stalled") };
        counted += 1;
        assert_eq!((u64::from(block), offset), (counted % 65536, (counted - 1) * 512));
        transfer.receive(&ack(block), now);
    }
    assert_eq!((counted, transfer.state()), (70_001, State::Completed));
}

#[test]
fn closed_port_ends_the_transfer_as_complete_only_if_all_was_sent() {
    for (size, state) in [(100, State::Completed), (5000, State::GaveUp)] {
        let (mut transfer, _) = start(size, Options::default());
        transfer.transmit();
        transfer.unreachable();
        assert_eq!((transfer.state(), transfer.deadline()), (state, None));
    }
}
