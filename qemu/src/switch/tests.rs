use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::stream::{Deframer, MAX_LENGTH, Oversized, encode};
use super::*;

const A: Mac = [2, 0, 0, 0, 0, 1];
const B: Mac = [2, 0, 0, 0, 0, 2];
const C: Mac = [2, 0, 0, 0, 0, 3];
const EVERYBODY: Mac = [0xff; 6];

fn frame(destination: Mac, source: Mac, text: &[u8]) -> Vec<u8> {
    [&destination[..], &source[..], &[0x88, 0xb5], text].concat()
}

/// A switch with three plugs, numbered as the ports.
fn three() -> (Switch, [(PortNumber, SwitchPort); 3]) {
    let switch = Switch::new(7);
    let ports = ["a", "b", "c"].map(|name| {
        let port = switch.add_port(name);
        (port, switch.plug(port))
    });
    (switch, ports)
}

/// The next frame, or `None` when nothing comes although every task had its turn.
async fn next(port: &mut SwitchPort) -> Option<Vec<u8>> {
    timeout(Duration::from_millis(1), port.from_switch.recv()).await.ok().flatten()
}

#[tokio::test(start_paused = true)]
async fn unknown_destinations_are_flooded_and_known_ones_are_not() {
    let (_switch, [(_, mut a), (_, mut b), (_, mut c)]) = three();
    let hello = frame(B, A, b"hello");
    a.to_switch.send(hello.clone()).await.unwrap();
    assert_eq!(next(&mut b).await, Some(hello.clone()));
    assert_eq!(next(&mut c).await, Some(hello), "the switch could not know where B is");
    assert_eq!(next(&mut a).await, None, "a frame never returns to its sender");

    let answer = frame(A, B, b"answer");
    b.to_switch.send(answer.clone()).await.unwrap();
    assert_eq!(next(&mut a).await, Some(answer));
    assert_eq!(next(&mut c).await, None, "A had been learned");
}

#[tokio::test(start_paused = true)]
async fn group_addresses_reach_everybody_else() {
    let (_switch, [(_, a), (_, mut b), (_, mut c)]) = three();
    for destination in [EVERYBODY, [0x33, 0x33, 0, 0, 0, 1]] {
        a.to_switch.send(frame(destination, A, b"")).await.unwrap();
        assert!(next(&mut b).await.is_some());
        assert!(next(&mut c).await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn pause_frames_go_no_further_than_the_switch() {
    let (_switch, [(_, a), (_, mut b), _]) = three();
    a.to_switch.send(frame([0x01, 0x80, 0xc2, 0, 0, 1], A, b"")).await.unwrap();
    assert_eq!(next(&mut b).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_moves_is_followed() {
    let (_switch, [(_, mut a), (_, b), (_, mut c)]) = three();
    a.to_switch.send(frame(EVERYBODY, A, b"")).await.unwrap();
    c.to_switch.send(frame(EVERYBODY, A, b"")).await.unwrap();
    while next(&mut c).await.is_some() {}
    while next(&mut a).await.is_some() {}
    b.to_switch.send(frame(A, B, b"moved")).await.unwrap();
    assert!(next(&mut c).await.is_some());
    assert_eq!(next(&mut a).await, None);
}

#[tokio::test(start_paused = true)]
async fn malformed_frames_are_counted_and_dropped() {
    let (switch, [(port, a), (_, mut b), _]) = three();
    let long = frame(EVERYBODY, A, &[0; MAX_FRAME_BYTES]);
    for bad in [vec![], vec![0; 13], long, frame(B, EVERYBODY, b"from everybody")] {
        a.to_switch.send(bad).await.unwrap();
    }
    assert_eq!(next(&mut b).await, None);
    assert_eq!(switch.counters(port).malformed, 4);
    assert_eq!(switch.counters(port).received, 4);
}

#[tokio::test(start_paused = true)]
async fn a_cut_cable_carries_nothing_until_it_is_mended() {
    let (switch, [(_, a), (port, mut b), _]) = three();
    switch.set_cut(port, true);
    a.to_switch.send(frame(EVERYBODY, A, b"")).await.unwrap();
    b.to_switch.send(frame(EVERYBODY, B, b"")).await.unwrap();
    assert_eq!(next(&mut b).await, None);
    assert_eq!(switch.counters(port).cut, 2);
    switch.set_cut(port, false);
    a.to_switch.send(frame(EVERYBODY, A, b"")).await.unwrap();
    assert!(next(&mut b).await.is_some());
}

/// Which of a hundred frames get through a port that loses a third in each direction.
async fn survivors(seed: u64) -> Vec<u8> {
    let switch = Switch::new(seed);
    let [a, b] = ["a", "b"].map(|name| switch.add_port(name));
    switch.set_impairment(b, Impairment { loss: 1.0 / 3.0, ..Impairment::default() });
    let (a, mut b) = (switch.plug(a), switch.plug(b));
    for number in 0..100 {
        a.to_switch.send(frame(B, A, &[number])).await.unwrap();
    }
    let mut numbers = Vec::new();
    while let Some(frame) = next(&mut b).await {
        numbers.push(frame[14]);
    }
    numbers
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_loses_the_same_frames() {
    let first = survivors(1).await;
    assert!((45..90).contains(&first.len()), "{} of 100 at a loss of a third", first.len());
    assert_eq!(first, survivors(1).await);
    assert_ne!(first, survivors(2).await);
}

#[tokio::test(start_paused = true)]
async fn delay_holds_each_frame_back_and_keeps_their_order() {
    let (switch, [(_, a), (port, mut b), _]) = three();
    switch.set_impairment(port, Impairment { delay: Duration::from_millis(80), ..Impairment::default() });
    let sent = Instant::now();
    for number in 0..5 {
        a.to_switch.send(frame(B, A, &[number])).await.unwrap();
    }
    for number in 0..5 {
        assert_eq!(b.from_switch.recv().await.unwrap()[14], number);
    }
    let took = sent.elapsed();
    assert!((80..90).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_limited_rate_spaces_frames_by_their_length() {
    let (switch, [(_, a), (port, mut b), _]) = three();
    switch.set_impairment(port, Impairment { rate: Some(1_000_000), ..Impairment::default() });
    let sent = Instant::now();
    for _ in 0..10 {
        a.to_switch.send(frame(B, A, &[0; 1236])).await.unwrap();
    }
    for _ in 0..10 {
        b.from_switch.recv().await.unwrap();
    }
    // 10 frames of 1250 bytes are 100,000 bits.
    let took = sent.elapsed();
    assert!((100..115).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_device_that_does_not_read_loses_frames_and_blocks_nobody() {
    let (switch, [(_, a), (slow, _unread), (_, mut c)]) = three();
    let count = PORT_QUEUE_FRAMES + 10;
    for _ in 0..count {
        a.to_switch.send(frame(EVERYBODY, A, b"")).await.unwrap();
        assert!(next(&mut c).await.is_some());
    }
    let counters = switch.counters(slow);
    assert_eq!((counters.sent, counters.overrun), (PORT_QUEUE_FRAMES as u64, 10));
}

#[tokio::test(start_paused = true)]
async fn one_port_inventing_addresses_does_not_push_out_the_others() {
    let (switch, [(port, a), (_, mut b), (_, mut c)]) = three();
    c.to_switch.send(frame(EVERYBODY, C, b"")).await.unwrap();
    next(&mut c).await;
    for number in 0..1000_u16 {
        let [high, low] = number.to_be_bytes();
        a.to_switch.send(frame(B, [2, 1, 0, 0, high, low], b"")).await.unwrap();
        next(&mut b).await;
        next(&mut c).await;
    }
    assert_eq!(switch.counters(port).unlearned, 1000 - ADDRESSES_PER_PORT as u64);
    while next(&mut b).await.is_some() {}
    a.to_switch.send(frame(C, A, b"")).await.unwrap();
    assert!(next(&mut c).await.is_some());
    assert_eq!(next(&mut b).await, None, "C is still known");
}

#[tokio::test(start_paused = true)]
async fn a_new_plug_keeps_the_port_and_ends_the_old_one() {
    let (switch, [(_, a), (port, mut old), _]) = three();
    let mut new = switch.plug(port);
    a.to_switch.send(frame(B, A, b"")).await.unwrap();
    assert!(next(&mut new).await.is_some());
    assert_eq!(old.from_switch.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn devices_see_the_end_of_the_switch() {
    let (switch, [(_, mut a), ..]) = three();
    drop(switch);
    assert_eq!(a.from_switch.recv().await, None);
}

#[tokio::test]
async fn a_stream_plug_carries_frames_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port.sock");
    let switch = Switch::new(0);
    let [a, b] = ["a", "b"].map(|name| switch.add_port(name));
    let mut a = switch.plug(a);
    switch.listen(b, UnixListener::bind(&path).unwrap());
    let mut qemu = UnixStream::connect(&path).await.unwrap();

    let hello = frame(A, B, b"from qemu");
    let mut bytes = Vec::new();
    encode(&hello, &mut bytes);
    qemu.write_all(&bytes).await.unwrap();
    assert_eq!(a.from_switch.recv().await, Some(hello));

    let answer = frame(B, A, b"to qemu");
    a.to_switch.send(answer.clone()).await.unwrap();
    let mut expected = Vec::new();
    encode(&answer, &mut expected);
    let mut received = vec![0; expected.len()];
    qemu.read_exact(&mut received).await.unwrap();
    assert_eq!(received, expected);
}

#[tokio::test]
async fn a_stream_out_of_step_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port.sock");
    let switch = Switch::new(0);
    switch.listen(switch.add_port("a"), UnixListener::bind(&path).unwrap());
    let mut qemu = UnixStream::connect(&path).await.unwrap();
    qemu.write_all(&[0xff; 8]).await.unwrap();
    // The reader has let go; once the plug is replaced the writer lets go too, and the peer sees the end.
    let mut second = UnixStream::connect(&path).await.unwrap();
    second.write_all(&[0, 0, 0, 0]).await.unwrap();
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(5), qemu.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the old connection is still open");
}

#[test]
fn frames_split_at_every_byte_come_out_whole() {
    let frames = [frame(A, B, b"first"), Vec::new(), frame(B, A, &[7; 1000])];
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| encode(frame, &mut bytes));
    for split in 0..=bytes.len() {
        let mut deframer = Deframer::default();
        let mut out = Vec::new();
        for part in [&bytes[..split], &bytes[split..]] {
            deframer.feed(part, |frame| out.push(frame)).unwrap();
        }
        assert_eq!(out, frames, "split at {split}");
    }
}

#[test]
fn an_oversized_length_is_refused_before_any_of_it_is_kept() {
    let mut deframer = Deframer::default();
    let length = (MAX_LENGTH as u32 + 1).to_be_bytes();
    assert_eq!(deframer.feed(&length, |_| panic!("no frame")), Err(Oversized(MAX_LENGTH + 1)));
    let largest = (MAX_LENGTH as u32).to_be_bytes();
    assert_eq!(Deframer::default().feed(&largest, |_| panic!("no frame")), Ok(()));
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_frames(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
        chunk in 1_usize..50,
    ) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| encode(frame, &mut bytes));
        let mut deframer = Deframer::default();
        let mut out = Vec::new();
        for part in bytes.chunks(chunk) {
            deframer.feed(part, |frame| out.push(frame)).unwrap();
        }
        prop_assert_eq!(out, frames);
    }

    #[test]
    fn hostile_streams_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut deframer = Deframer::default();
        let _ = deframer.feed(&bytes, |frame| assert!(frame.len() <= MAX_LENGTH));
    }
}

#[test]
fn a_capture_is_readable_as_pcap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("port.pcap");
    let mut capture = Capture::create(&path).unwrap();
    let sent = frame(A, B, b"caught");
    capture.frame(&sent);
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes[..4], 0xa1b2_3c4d_u32.to_le_bytes());
    assert_eq!(bytes[20..24], 1_u32.to_le_bytes(), "Ethernet");
    assert_eq!(bytes[32..36], (sent.len() as u32).to_le_bytes());
    assert_eq!(bytes[40..], sent);
}
