//! Both ends of the NBD handshake, and requests.

use std::sync::Arc;

use nbd::client::{Attached, HandshakeError};
use nbd::export::{BlockSizes, Export, Work};
use nbd::transmission::{REQUEST_BYTES, Request, SIMPLE_REPLY_BYTES, SimpleReply};
use nbd::{Command, client, server};

use crate::input::Input;

/// Names and descriptions have 4096 bytes at most, and a little more comes with them: no machine asks for more at once.
const WANTED_MAX: usize = 4096 + 1024;

/// A client takes what it wants and no more, ends one way, and the sizes of the pieces a server sends make no difference.
pub fn nbd_client(data: &[u8]) {
    let mut input = Input(data);
    let piece = usize::from(input.u8()).max(1);
    let whole = attach(input.0, usize::MAX);
    assert_eq!(attach(input.0, piece), whole);
}

/// The export and the bytes taken, or why there is none.
type Ended = Result<(Attached, usize), HandshakeError>;

fn attach(mut bytes: &[u8], piece: usize) -> (Option<Ended>, Vec<u8>) {
    let mut handshake = client::Handshake::new("root");
    let (before, mut sent) = (bytes.len(), Vec::new());
    let result = loop {
        let wanted = handshake.wanted();
        assert!(wanted <= WANTED_MAX);
        let offered = bytes.get(..piece.min(bytes.len())).unwrap_or(bytes);
        match handshake.receive(offered) {
            Err(error) => {
                assert_eq!((handshake.wanted(), handshake.attached()), (0, None));
                break Some(Err(error));
            }
            Ok(taken) => {
                assert!(taken <= wanted && taken <= offered.len());
                bytes = &bytes[taken..];
            }
        }
        while let Some(out) = handshake.transmit() {
            sent.extend(out);
        }
        if let Some(attached) = handshake.attached() {
            assert_eq!(handshake.wanted(), 0);
            break Some(Ok((attached, before - bytes.len())));
        }
        if bytes.is_empty() {
            break None;
        }
        assert!(handshake.wanted() > 0, "neither ended nor wanting");
    };
    (result, sent)
}

fn exports() -> Arc<[Export]> {
    let export = |name: &str, read_only| Export {
        name: name.to_owned(),
        description: "an export".to_owned(),
        size: 1 << 20,
        read_only,
        block_sizes: BlockSizes::default(),
    };
    Arc::from([export("root", true), export("data", false)])
}

/// A server takes what it wants and no more, answers at most so much to so much, and the sizes of the pieces a client
/// sends make no difference.
pub fn nbd_server(data: &[u8]) {
    let mut input = Input(data);
    let piece = usize::from(input.u8()).max(1);
    let whole = serve(input.0, usize::MAX);
    assert_eq!(serve(input.0, piece), whole);
}

fn serve(mut bytes: &[u8], piece: usize) -> (server::State, usize, Vec<u8>) {
    let mut handshake = server::Handshake::new(exports());
    let (before, mut sent) = (bytes.len(), Vec::new());
    while handshake.state() == server::State::Running {
        while let Some(out) = handshake.transmit() {
            // Each option is answered with a few facts, however much it asked.
            assert!(out.len() <= 1024, "{} bytes at once", out.len());
            sent.extend(out);
        }
        let wanted = handshake.wanted();
        assert!((1..=WANTED_MAX).contains(&wanted));
        let offered = bytes.get(..piece.min(bytes.len())).unwrap_or(bytes);
        let taken = handshake.receive(offered);
        assert!(taken <= wanted && taken <= offered.len());
        bytes = &bytes[taken..];
        if bytes.is_empty() {
            break;
        }
    }
    while let Some(out) = handshake.transmit() {
        sent.extend(out);
    }
    if handshake.state() != server::State::Running {
        assert_eq!(handshake.wanted(), 0);
    }
    (handshake.state(), before - bytes.len(), sent)
}

/// A header is written back byte for byte, and what is admitted lies inside its export.
pub fn nbd_request(data: &[u8]) {
    let mut input = Input(data);
    let export = Export {
        size: input.u64(),
        read_only: input.u8() & 1 != 0,
        block_sizes: BlockSizes { minimum: 1 << (input.u8() % 13), preferred: 4096, maximum: 1 << 25 },
        ..exports()[0].clone()
    };
    let _ = SimpleReply::decode(&input.array::<SIMPLE_REPLY_BYTES>());
    let mut bytes: [u8; REQUEST_BYTES] = input.array();
    if bytes[0] & 1 == 0 {
        // Past the magic number, which no fuzzer should have to guess each time.
        bytes[..4].copy_from_slice(&0x2560_9513_u32.to_be_bytes());
    }
    let Ok(request) = Request::decode(&bytes) else { return };
    assert_eq!(request.encode(), bytes);
    let Ok(work) = export.admit(&request) else { return };
    let inside = |offset: u64, length: u32| {
        assert_eq!((offset, length), (request.offset, request.length));
        assert!(offset.checked_add(length.into()).is_some_and(|end| end <= export.size));
        assert_eq!(
            (offset % u64::from(export.block_sizes.minimum), length % export.block_sizes.minimum),
            (0, 0)
        );
    };
    match work {
        Work::Read { offset, length } => {
            inside(offset, length);
            assert!(length <= export.block_sizes.maximum);
        }
        Work::Write { offset, length, .. } => {
            inside(offset, length);
            assert!(!export.read_only && length <= export.block_sizes.maximum);
        }
        Work::Trim { offset, length, .. } | Work::Zero { offset, length, .. } => {
            inside(offset, length);
            assert!(!export.read_only);
        }
        Work::Flush => assert_eq!(request.command, Command::Flush),
        Work::Disconnect => assert_eq!(request.command, Command::Disconnect),
    }
}
