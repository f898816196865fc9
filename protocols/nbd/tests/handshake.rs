//! Both ends of the handshake: against each other in every chunking, cut at every byte, and against hostile bytes.

use std::sync::Arc;

use nbd::client::{self, Attached, HandshakeError};
use nbd::option::Refusal;
use nbd::server::{self, State};
use nbd::transmission::ReplyStyle;
use nbd::{BlockSizes, Export};

const OPTION: &[u8; 8] = b"IHAVEOPT";

fn exports() -> Arc<[Export]> {
    let export = |name: &str, size| Export {
        name: name.into(),
        description: format!("generation {name}"),
        size,
        read_only: true,
        block_sizes: BlockSizes::default(),
    };
    Arc::new([export("first", 4096), export("second", 1 << 40)])
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    [&OPTION[..], &number.to_be_bytes(), &length, data].concat()
}

fn inquiry(name: &[u8], infos: &[u16]) -> Vec<u8> {
    let mut data = [&(name.len() as u32).to_be_bytes()[..], name].concat();
    data.extend_from_slice(&(infos.len() as u16).to_be_bytes());
    data.extend(infos.iter().flat_map(|info| info.to_be_bytes()));
    data
}

/// A server fed with the client flags 3 and these bytes: what it answered, how many bytes it took, where it stands.
fn serve(bytes: &[u8]) -> (Vec<u8>, usize, State) {
    let mut server = server::Handshake::new(exports());
    let mut out = Vec::new();
    let bytes = [&[0, 0, 0, 3], bytes].concat();
    let mut taken = 0;
    loop {
        while let Some(sent) = server.transmit() {
            out.extend(sent);
        }
        if server.wanted() == 0 || taken == bytes.len() {
            return (out[18..].to_vec(), taken - 4, server.state());
        }
        taken += server.receive(&bytes[taken..]);
    }
}

/// The replies in an answer: option, type, data.
fn replies(mut bytes: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut replies = Vec::new();
    let number = |at: &[u8]| u32::from_be_bytes(at[..4].try_into().unwrap());
    while !bytes.is_empty() {
        assert_eq!(bytes[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
        let length = number(&bytes[16..]) as usize;
        replies.push((number(&bytes[8..]), number(&bytes[12..]), bytes[20..][..length].to_vec()));
        bytes = &bytes[20 + length..];
    }
    replies
}

fn refusals(bytes: &[u8]) -> Vec<(u32, Refusal)> {
    replies(bytes).into_iter().map(|(option, kind, _)| (option, Refusal(kind))).collect()
}

fn attach(export: &str, chunk: usize) -> (Result<Attached, HandshakeError>, State) {
    let (mut client, mut server) = (client::Handshake::new(export), server::Handshake::new(exports()));
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    loop {
        to_client.extend(server.transmit().unwrap_or_default());
        to_server.extend(client.transmit().unwrap_or_default());
        if to_client.is_empty() && to_server.is_empty() {
            return (client.attached().ok_or(HandshakeError::NotNbd), server.state());
        }
        let taken = match client.receive(&to_client[..chunk.min(to_client.len())]) {
            Ok(taken) => taken,
            Err(error) => return (Err(error), server.state()),
        };
        to_client.drain(..taken);
        let taken = server.receive(&to_server[..chunk.min(to_server.len())]);
        to_server.drain(..taken);
    }
}

#[test]
fn client_and_server_agree_in_every_chunking() {
    for chunk in 1..200 {
        let (attached, state) = attach("second", chunk);
        let attached = attached.unwrap();
        assert_eq!(attached.size, 1 << 40);
        assert_eq!(attached.flags, exports()[1].transmission_flags());
        assert_eq!(attached.block_sizes, Some(BlockSizes::default()));
        assert_eq!(attached.description.as_deref(), Some("generation second"));
        assert_eq!(state, State::Chosen { export: 1, style: ReplyStyle::Simple });
    }
}

#[test]
fn unknown_export_is_refused_and_worth_another_try() {
    let (attached, state) = attach("third", 4096);
    let error = attached.unwrap_err();
    assert!(matches!(error, HandshakeError::Refused { refusal: Refusal::UNKNOWN_EXPORT, .. }));
    assert!(error.worth_retrying());
    assert_eq!(state, State::Running);
}

#[test]
fn nameless_export_is_the_first() {
    assert_eq!(attach("", 4096).0.map(|attached| attached.size), Ok(4096));
}

#[test]
fn overlong_name_is_cut_and_refused() {
    assert!(matches!(attach(&"x".repeat(5000), 4096).0, Err(HandshakeError::Refused { .. })));
}

#[test]
fn hostile_and_clumsy_options_are_refused_and_the_server_stays_alive() {
    let cases: Vec<(&str, Vec<u8>, Refusal)> = vec![
        ("unknown option", option(4711, b"x"), Refusal::UNSUPPORTED),
        ("TLS", option(5, b""), Refusal::UNSUPPORTED),
        ("meta contexts", option(10, b"\0\0\0\0"), Refusal::UNSUPPORTED),
        ("extended headers", option(11, b""), Refusal::UNSUPPORTED),
        ("LIST with data", option(3, b"x"), Refusal::INVALID),
        ("STRUCTURED_REPLY with data", option(8, b"x"), Refusal::INVALID),
        ("GO without data", option(7, b""), Refusal::INVALID),
        ("GO with a name longer than the data", option(7, b"\0\0\0\x09abc\0\0"), Refusal::INVALID),
        ("GO with an endless name", option(7, b"\xff\xff\xff\xffabc\0\0"), Refusal::INVALID),
        ("GO without a count", option(7, b"\0\0\0\x05first"), Refusal::INVALID),
        ("GO with too few infos", option(7, b"\0\0\0\x05first\0\x02\0\x01"), Refusal::INVALID),
        ("GO with more behind", option(7, b"\0\0\0\x05first\0\0x"), Refusal::INVALID),
        ("INFO of nothing", option(6, &inquiry(b"nothing", &[])), Refusal::UNKNOWN_EXPORT),
        ("GO with a name of other bytes", option(7, &inquiry(b"\xff\0", &[])), Refusal::UNKNOWN_EXPORT),
        ("too much data", option(7, &[0; 6000]), Refusal::TOO_BIG),
        ("too much data for anything", option(4711, &vec![7; 1 << 20]), Refusal::TOO_BIG),
    ];
    for (name, bytes, refusal) in cases {
        let number = u32::from_be_bytes(bytes[8..12].try_into().unwrap());
        let go = option(7, &inquiry(b"second", &[]));
        let (answer, taken, state) = serve(&[bytes.clone(), go].concat());
        assert_eq!(refusals(&answer).first(), Some(&(number, refusal)), "{name}");
        assert_eq!(state, State::Chosen { export: 1, style: ReplyStyle::Simple }, "{name}");
        assert!(taken > bytes.len(), "{name}");
    }
}

#[test]
fn what_is_no_handshake_closes() {
    let cases: [(&str, Vec<u8>); 4] = [
        ("no magic", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("export name of nothing", option(1, b"nothing")),
        ("endless export name", [&OPTION[..], &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]].concat()),
        ("abort", option(2, b"")),
    ];
    for (name, bytes) in cases {
        assert_eq!(serve(&bytes).2, State::Closed, "{name}");
    }
    let mut server = server::Handshake::new(exports());
    server.receive(&[0, 0, 1, 3]);
    assert_eq!(server.state(), State::Closed, "unknown client flag");
}

#[test]
fn abort_is_acknowledged() {
    assert_eq!(replies(&serve(&option(2, b"")).0), [(2, 1, vec![])]);
}

#[test]
fn list_names_all_exports() {
    let answer = replies(&serve(&option(3, b"")).0);
    let texts: Vec<_> = answer.iter().map(|(_, kind, data)| (*kind, data.get(4..9))).collect();
    assert_eq!(texts, [(2, Some(&b"first"[..])), (2, Some(&b"secon"[..])), (1, None)]);
}

#[test]
fn info_answers_what_was_asked_once() {
    let (answer, _, state) = serve(&option(6, &inquiry(b"first", &[1, 1, 2, 3, 3, 99])));
    let kinds: Vec<_> =
        replies(&answer).iter().map(|(_, kind, data)| (*kind, data.get(1).copied())).collect();
    assert_eq!(kinds, [(3, Some(0)), (3, Some(1)), (3, Some(2)), (3, Some(3)), (1, None)]);
    assert_eq!(state, State::Running);
}

#[test]
fn old_clients_choose_by_name_with_and_without_zeroes() {
    for (flags, length) in [(3u8, 10), (1, 134), (0, 134)] {
        let mut server = server::Handshake::new(exports());
        server.transmit();
        let bytes = [&[0, 0, 0, flags][..], &option(1, b"second")].concat();
        let mut taken = 0;
        while taken < bytes.len() {
            taken += server.receive(&bytes[taken..]);
        }
        let answer = server.transmit().unwrap();
        assert_eq!((answer.len(), &answer[..8]), (length, &(1u64 << 40).to_be_bytes()[..]));
        assert_eq!(server.state(), State::Chosen { export: 1, style: ReplyStyle::Simple });
    }
}

#[test]
fn structured_replies_are_agreed_before_the_choice() {
    let bytes = [option(8, b""), option(7, &inquiry(b"first", &[]))].concat();
    assert_eq!(serve(&bytes).2, State::Chosen { export: 0, style: ReplyStyle::Structured });
}

#[test]
fn no_byte_behind_the_handshake_is_taken() {
    let go = option(7, &inquiry(b"first", &[]));
    let (_, taken, _) = serve(&[go.clone(), vec![0x25; 28]].concat());
    assert_eq!(taken, go.len());
}

#[test]
fn client_cut_at_every_byte_leaves_the_server_waiting() {
    let bytes = [option(3, b""), option(6, &inquiry(b"first", &[3])), option(7, &inquiry(b"first", &[1]))];
    let bytes = bytes.concat();
    for end in 0..bytes.len() {
        let (_, taken, state) = serve(&bytes[..end]);
        assert_eq!((taken, state), (end, State::Running));
    }
}

#[test]
fn client_is_not_fooled_by_other_servers() {
    let greeting = |magic: &[u8; 8], flags: u16| [b"NBDMAGIC", &magic[..], &flags.to_be_bytes()].concat();
    let reply = |option: u32, kind: u32, length: u32, data: &[u8]| {
        let magic = 0x0003_e889_0455_65a9u64.to_be_bytes();
        let head = [option, kind, length].map(u32::to_be_bytes).concat();
        [&greeting(OPTION, 3)[..], &magic, &head, data].concat()
    };
    let cases: [(&str, Vec<u8>); 10] = [
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("oldstyle", greeting(&0x0000_4202_8186_1253_u64.to_be_bytes(), 0)),
        ("unfixed newstyle", greeting(OPTION, 2)),
        ("no reply magic", [greeting(OPTION, 3), vec![0; 20]].concat()),
        ("reply to another option", reply(3, 1, 0, b"")),
        ("ACK without an export", reply(7, 1, 0, b"")),
        ("4 GiB of data", reply(7, 3, u32::MAX, b"")),
        ("short information", reply(7, 3, 4, b"\0\0\0\0")),
        ("empty information", reply(7, 3, 0, b"")),
        ("a list item", reply(7, 2, 0, b"")),
    ];
    for (name, bytes) in cases {
        let mut client = client::Handshake::new("first");
        let mut taken = 0;
        let outcome = loop {
            match client.receive(&bytes[taken..]) {
                Ok(count) => taken += count,
                Err(error) => break Some(error),
            }
            client.transmit();
            if taken == bytes.len() {
                break None;
            }
        };
        assert!(outcome.is_some(), "{name}");
        assert_eq!((client.wanted(), client.attached()), (0, None), "{name}");
    }
}

#[test]
fn client_ends_endless_information() {
    let mut client = client::Handshake::new("first");
    let greeting = [&b"NBDMAGICIHAVEOPT"[..], &[0, 3]].concat();
    assert_eq!(client.receive(&greeting), Ok(18));
    let head = [&0x0003_e889_0455_65a9u64.to_be_bytes()[..], &[0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 2]].concat();
    let ended = (0..1000).any(|_| client.receive(&head).is_err() || client.receive(&[0, 99]).is_err());
    assert!(ended);
}

#[test]
fn random_bytes_never_make_either_end_panic_or_grow() {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let mut bytes = Vec::new();
        for _ in 0..6 {
            let length = (random() % 40) as usize;
            let data: Vec<u8> = (0..length).map(|_| (random() % 9) as u8).collect();
            bytes.extend(option((random() % 12) as u32, &data));
        }
        let spoiled = random() as usize % bytes.len();
        bytes[spoiled] ^= 1 << (random() % 8);
        let (answer, taken, _) = serve(&bytes);
        assert!(taken <= bytes.len() && answer.len() < 16 * bytes.len());
        let mut client = client::Handshake::new("first");
        let mut stream = [&b"NBDMAGICIHAVEOPT"[..], &[0, 3], &answer[..]].concat();
        let spoiled = 18 + random() as usize % (stream.len() - 17);
        if let Some(byte) = stream.get_mut(spoiled) {
            *byte ^= 1 << (random() % 8);
        }
        let mut rest = &stream[..];
        while let Ok(taken) = client.receive(rest) {
            if taken == 0 {
                break;
            }
            rest = &rest[taken..];
        }
    }
}
