//! TFTP packets, and both ends of a transfer.

use std::num::{NonZeroU8, NonZeroU16};
use std::time::Instant;

use tftp::client::{Fetch, MESSAGE_KEPT, Patience, Purpose};
use tftp::options::Limits;
use tftp::server::{Output, State, Transfer};
use tftp::{BlockSize, ErrorCode, Options, Packet};

use crate::input::Input;

/// What was read is written so that it reads the same.
pub fn tftp_packet(data: &[u8]) {
    let Ok(packet) = Packet::decode(data) else { return };
    let mut encoded = Vec::new();
    packet.encode(&mut encoded);
    assert_eq!(Packet::decode(&encoded), Ok(packet));
}

fn options(input: &mut Input<'_>) -> Options {
    let chosen = input.u8();
    Options {
        block_size: BlockSize::new(input.u16()).filter(|_| chosen & 1 != 0),
        transfer_size: (chosen & 2 != 0).then(|| input.u64()),
        timeout: NonZeroU8::new(input.u8()).filter(|_| chosen & 4 != 0),
        window_size: NonZeroU16::new(input.u16()).filter(|_| chosen & 8 != 0),
    }
}

/// Whatever a client sends: blocks lie inside the file and carry its numbers, windows are kept, and the transfer ends.
pub fn tftp_server(data: &[u8]) {
    let mut input = Input(data);
    let size = match input.u8() & 3 {
        0 => input.u64(),
        1 => u64::from(input.u8()),
        _ => u64::from(input.u16()),
    };
    let (wish, limits) = (options(&mut input), Limits::default());
    let granted = wish.granted(size, &limits);
    let block_size = u64::from(granted.block_size.unwrap_or(BlockSize::DEFAULT).get());
    let window = granted.window_size.map_or(1, NonZeroU16::get);
    let mut now = Instant::now();
    let mut transfer = Transfer::new(size, &wish, &limits, now);
    let mut last_block = 0;
    let mut drain = |transfer: &mut Transfer| {
        let mut blocks = 0;
        while let Some(output) = transfer.transmit() {
            let Output::Data { block, offset, length } = output else { continue };
            blocks += 1;
            last_block = block;
            assert_eq!(offset % block_size, 0);
            assert_eq!(block, (offset / block_size + 1) as u16);
            assert_eq!(u64::from(length), block_size.min(size - offset), "at {offset} of {size}");
        }
        assert!(blocks <= window, "{blocks} blocks in a window of {window}");
        last_block
    };
    let (mut acknowledged, mut closed) = (0, false);
    while !input.is_empty() {
        let sent = drain(&mut transfer);
        match input.u8() & 7 {
            0 => now += input.pause(),
            1 => now = now.max(transfer.deadline().unwrap_or(now)),
            2 => transfer.request_repeated(now),
            3 if input.u8() == 0 => {
                transfer.unreachable();
                closed = true;
            }
            4 => {
                if let Ok(packet) = Packet::decode(input.counted()) {
                    transfer.receive(&packet, now);
                }
            }
            5 => {
                let block = sent.wrapping_add(input.u16());
                transfer.receive(&Packet::Acknowledgement { block }, now);
            }
            _ => transfer.receive(&Packet::Acknowledgement { block: sent }, now),
        }
        drain(&mut transfer);
        transfer.expire(now);
        assert!(transfer.acknowledged_octets() >= acknowledged && transfer.acknowledged_octets() <= size);
        acknowledged = transfer.acknowledged_octets();
        assert!(transfer.deadline().is_none_or(|deadline| deadline > now));
        // A client that closes its port with all blocks sent to it counts as done.
        if transfer.state() == State::Completed && !closed {
            assert_eq!(transfer.acknowledged_octets(), size);
        }
    }
    // Thirty seconds of silence in steps of 50 ms at least.
    for _ in 0..1000 {
        let Some(deadline) = transfer.deadline() else { break };
        transfer.expire(deadline);
        drain(&mut transfer);
    }
    assert_ne!(transfer.state(), State::Running, "a client's silence has no end");
}

/// Whatever servers send: octets are counted, blocks keep their size, and the fetch ends.
pub fn tftp_client(data: &[u8]) {
    let mut input = Input(data);
    let wish = options(&mut input);
    let purpose = if input.u8() & 3 == 0 { Purpose::Probe } else { Purpose::Read };
    let mut now = Instant::now();
    let mut fetch = Fetch::new(b"vmlinuz", wish, purpose, Patience::default(), now);
    let mut octets = 0;
    while !input.is_empty() {
        now += input.pause() / 256;
        let next = (fetch.blocks() + 1) as u16;
        let mut datagram = Vec::new();
        let port = 1024 + u16::from(input.u8() & 1);
        match input.u8() & 7 {
            0 => datagram.extend(input.counted()),
            1 => {
                let block = next.wrapping_add(input.u16());
                Packet::Data { block, payload: input.counted() }.encode(&mut datagram);
            }
            2 => Packet::OptionAcknowledgement(options(&mut input)).encode(&mut datagram),
            3 => Packet::OptionAcknowledgement(wish).encode(&mut datagram),
            4 if input.u8() == 0 => {
                Packet::Error { code: ErrorCode(input.u16()), message: input.counted() }
                    .encode(&mut datagram);
            }
            _ => {
                let whole =
                    fetch.granted().and_then(|granted| granted.block_size).unwrap_or(BlockSize::DEFAULT);
                let payload = vec![input.u8(); usize::from(whole.get())];
                Packet::Data { block: next, payload: &payload }.encode(&mut datagram);
            }
        }
        let over = fetch.outcome().is_some();
        if let Some(payload) = fetch.receive(port, &datagram, now) {
            assert!(!over, "octets after the end");
            let granted = fetch.granted().and_then(|granted| granted.block_size);
            assert!(payload.len() <= usize::from(granted.unwrap_or(BlockSize::DEFAULT).get()));
            octets += payload.len() as u64;
        }
        assert_eq!(fetch.octets(), octets);
        drain_client(&mut fetch);
        fetch.expire(now);
        drain_client(&mut fetch);
        assert!(fetch.deadline().is_none_or(|deadline| deadline > now));
        if let Some(tftp::client::Outcome::Refused { message, .. }) = fetch.outcome() {
            assert!(message.len() <= MESSAGE_KEPT);
        }
    }
    for _ in 0..1000 {
        let Some(deadline) = fetch.deadline() else { break };
        fetch.expire(deadline);
        drain_client(&mut fetch);
    }
    assert!(fetch.outcome().is_some(), "a server's silence has no end");
}

fn drain_client(fetch: &mut Fetch) {
    let mut sent = 0;
    while let Some(output) = fetch.transmit() {
        sent += 1;
        assert!(Packet::decode(&output.datagram).is_ok());
    }
    assert!(sent <= 2, "an answer, and one to a stranger");
}
