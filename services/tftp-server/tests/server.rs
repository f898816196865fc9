//! The server over real sockets, with the client machine of the `tftp` crate and with hand-made datagrams.

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tftp::client::{Fetch, Outcome, Patience, Purpose};
use tftp::{BlockSize, ErrorCode, Options, Packet};

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2000];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..length].to_vec(), from)
}

fn is_silent(socket: &UdpSocket, wait: Duration) -> bool {
    socket.set_read_timeout(Some(wait)).unwrap();
    let silent = socket.recv_from(&mut [0; 2000]).is_err();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    silent
}

fn wish() -> Options {
    Options { block_size: Some(BlockSize::ETHERNET), transfer_size: Some(0), ..Options::default() }
}

/// One file with the client machine.
fn fetch(server: SocketAddr, file: &[u8], wish: Options, purpose: Purpose) -> (Outcome, Vec<u8>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut fetch = Fetch::new(file, wish, purpose, Patience::default(), Instant::now());
    let (mut content, mut buffer) = (Vec::new(), [0; 2000]);
    loop {
        while let Some(output) = fetch.transmit() {
            let port = output.port.unwrap_or(server.port());
            socket.send_to(&output.datagram, (server.ip(), port)).unwrap();
        }
        let Some(deadline) = fetch.deadline() else { break };
        let wait = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(wait)).unwrap();
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let new = fetch.receive(from.port(), &buffer[..length], Instant::now());
                content.extend_from_slice(new.unwrap_or_default());
            }
            Err(_) => fetch.expire(Instant::now()),
        }
    }
    (fetch.outcome().unwrap().clone(), content)
}

fn error_code(datagram: &[u8]) -> Option<ErrorCode> {
    match Packet::decode(datagram) {
        Ok(Packet::Error { code, .. }) => Some(code),
        _ => None,
    }
}

#[test]
fn file_arrives_whole_with_and_without_options() {
    let root = tempfile::tempdir().unwrap();
    for length in [0usize, 1, 512, 1468, 100_000] {
        let content: Vec<u8> = (0..length).map(|index| (index * 7 / 3) as u8).collect();
        std::fs::write(root.path().join("kernel"), &content).unwrap();
        let server = support::serve(root.path(), &[]);
        for wish in [Options::default(), wish()] {
            let (outcome, received) = fetch(server, b"kernel", wish, Purpose::Read);
            assert_eq!((outcome, received == content), (Outcome::Complete, true), "{length}");
        }
    }
}

#[test]
fn missing_file_is_refused_at_once() {
    let root = tempfile::tempdir().unwrap();
    let server = support::serve(root.path(), &[]);
    let begin = Instant::now();
    let (outcome, _) = fetch(server, b"recovery.elf", wish(), Purpose::Read);
    assert!(matches!(outcome, Outcome::Refused { code: ErrorCode::FILE_NOT_FOUND, .. }));
    assert!(begin.elapsed() < Duration::from_millis(500));
}

#[test]
fn probe_and_read_agree_on_the_length_of_a_rendered_file() {
    let boot = tempfile::tempdir().unwrap();
    let server = support::serve_boards(boot.path());
    let (probed, _) = fetch(server, b"0a1b2c3d/cmdline.txt", wish(), Purpose::Probe);
    let (outcome, content) = fetch(server, b"0a1b2c3d/cmdline.txt", wish(), Purpose::Read);
    assert_eq!(outcome, Outcome::Complete);
    assert_eq!(probed, Outcome::Probed { size: Some(content.len() as u64) });
    assert!(String::from_utf8(content).unwrap().contains("bramble.serial=0a1b2c3d"));
}

#[test]
fn every_transfer_has_its_own_port_and_a_repeated_request_does_not_begin_another() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("f"), [7; 1100]).unwrap();
    let server = support::serve(root.path(), &[]);
    let (one, two) = (socket(), socket());
    one.send_to(b"\0\x01f\0octet\0", server).unwrap();
    two.send_to(b"\0\x01f\0octet\0", server).unwrap();
    let (first, from) = receive(&one);
    assert_ne!(receive(&two).1, from);
    assert_ne!(from, server);
    one.send_to(b"\0\x01f\0octet\0", server).unwrap();
    assert_eq!(receive(&one), (first, from));
    // The transfer goes on where it was, and a request that arrives late does not restart it.
    one.send_to(&[0, 4, 0, 1], from).unwrap();
    assert_eq!(receive(&one), ([&[0, 3, 0, 2][..], &[7; 512]].concat(), from));
    one.send_to(b"\0\x01f\0octet\0", server).unwrap();
    // Behind the request, and before the block is repeated.
    std::thread::sleep(Duration::from_millis(20));
    one.send_to(&[0, 4, 0, 2], from).unwrap();
    assert_eq!(receive(&one), ([&[0, 3, 0, 3][..], &[7; 76]].concat(), from));
    one.send_to(&[0, 4, 0, 3], from).unwrap();
    assert!(is_silent(&one, Duration::from_millis(400)));
}

#[test]
fn lost_block_is_repeated_after_200_ms() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("f"), [7; 600]).unwrap();
    let server = support::serve(root.path(), &[]);
    let socket = socket();
    let begin = Instant::now();
    socket.send_to(b"\0\x01f\0octet\0", server).unwrap();
    let first = receive(&socket);
    assert_eq!(receive(&socket), first);
    let waited = begin.elapsed();
    assert!((Duration::from_millis(190)..Duration::from_millis(400)).contains(&waited), "{waited:?}");
}

#[test]
fn what_is_refused_is_refused_and_what_is_no_request_stays_unanswered() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("f"), "x").unwrap();
    let server = support::serve(root.path(), &[]);
    let refused: [(&[u8], ErrorCode); 4] = [
        (b"\0\x02new\0octet\0", ErrorCode::ACCESS_VIOLATION),
        (b"\0\x01f\0netascii\0", ErrorCode::NOT_DEFINED),
        (b"\0\x01\0octet\0", ErrorCode::FILE_NOT_FOUND),
        (b"\0\x01../f\0octet\0tsize\x000\0", ErrorCode::FILE_NOT_FOUND),
    ];
    for (datagram, code) in refused {
        let socket = socket();
        socket.send_to(datagram, server).unwrap();
        assert_eq!(error_code(&receive(&socket).0), Some(code), "{}", datagram.escape_ascii());
    }
    let socket = socket();
    let long = [b"\0\x01", &[b'f'; 600][..]].concat();
    for datagram in
        [&b""[..], b"\0", b"\0\x01", b"\0\x01f", b"\0\x03\0\x01x", b"\0\x04\0\0", b"\0\x09x", &long]
    {
        socket.send_to(datagram, server).unwrap();
    }
    assert!(is_silent(&socket, Duration::from_millis(200)));
    assert_eq!(fetch(server, b"f", wish(), Purpose::Read).1, b"x");
}

#[test]
fn requests_beyond_the_limit_are_dropped_and_answered_when_there_is_room() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("f"), [7; 600]).unwrap();
    let server = support::serve(root.path(), &["--transfers", "1"]);
    let (one, two) = (socket(), socket());
    one.send_to(b"\0\x01f\0octet\0", server).unwrap();
    let (_, from) = receive(&one);
    two.send_to(b"\0\x01f\0octet\0", server).unwrap();
    assert!(is_silent(&two, Duration::from_millis(150)));
    // A probe frees its place at once.
    one.send_to(b"\0\x05\0\0Early terminate\0", from).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    two.send_to(b"\0\x01f\0octet\0", server).unwrap();
    assert_eq!(receive(&two).0.len(), 516);
}

#[test]
fn file_beyond_the_memory_is_refused_and_others_are_not() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("big"), vec![7; (1 << 20) + 1]).unwrap();
    std::fs::write(root.path().join("small"), "x").unwrap();
    let server = support::serve(root.path(), &["--memory", "1"]);
    assert!(matches!(fetch(server, b"big", wish(), Purpose::Read).0, Outcome::Refused { .. }));
    assert_eq!(fetch(server, b"small", wish(), Purpose::Read).1, b"x");
}

#[test]
fn five_hundred_boards_fetch_the_same_file_at_once() {
    let root = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..50_000u32).map(|index| (index / 3) as u8).collect();
    std::fs::write(root.path().join("kernel"), &content).unwrap();
    let server = support::serve(root.path(), &[]);
    let mut boards: Vec<_> = (0..500)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            let fetch = Fetch::new(b"kernel", wish(), Purpose::Read, Patience::default(), Instant::now());
            (socket, fetch, Vec::new())
        })
        .collect();
    let (begin, mut buffer) = (Instant::now(), [0; 2000]);
    while boards.iter().any(|(_, fetch, _)| fetch.outcome().is_none()) {
        assert!(begin.elapsed() < Duration::from_secs(60));
        for (socket, fetch, received) in &mut boards {
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let new = fetch.receive(from.port(), &buffer[..length], Instant::now());
                received.extend_from_slice(new.unwrap_or_default());
            }
            fetch.expire(Instant::now());
            while let Some(output) = fetch.transmit() {
                let port = output.port.unwrap_or(server.port());
                socket.send_to(&output.datagram, (server.ip(), port)).unwrap();
            }
        }
    }
    for (_, fetch, received) in &boards {
        assert_eq!(fetch.outcome(), Some(&Outcome::Complete));
        assert!(*received == content);
    }
}
