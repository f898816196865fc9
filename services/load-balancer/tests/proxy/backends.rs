//! The balancer against good back ends and bad ones.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Backend, Balancer, body, free_address};

#[test]
fn three_requests_are_answered_by_three_back_ends() {
    let backends = [Backend::named("one"), Backend::named("two"), Backend::named("three")];
    let balancer = Balancer::start(&backends.each_ref().map(|backend| backend.address), &[]);
    let mut answers: Vec<String> = (0..3).map(|_| body(&balancer.get("/")).to_owned()).collect();
    assert_eq!(answers, ["one", "two", "three"]);
    answers.extend((0..3).map(|_| body(&balancer.get("/")).to_owned()));
    assert_eq!(answers[3..], answers[..3]);
}

#[test]
fn connections_to_back_ends_are_kept() {
    let backend = Backend::named("one");
    let balancer = Balancer::start(&[backend.address], &[]);
    for _ in 0..20 {
        assert_eq!(body(&balancer.get("/")), "one");
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_dead_back_end_is_not_noticed_by_clients() {
    let good = Backend::named("good");
    let balancer = Balancer::start(&[free_address(), good.address], &[]);
    for _ in 0..10 {
        assert_eq!(body(&balancer.get("/")), "good");
    }
}

#[test]
fn even_a_post_goes_to_another_back_end_when_no_connection_can_be_made() {
    let good = Backend::start(|connection| {
        while connection.head().is_some() {
            let sent = connection.read(5);
            connection.answer(&String::from_utf8_lossy(&sent));
        }
    });
    let balancer = Balancer::start(&[free_address(), good.address], &[]);
    for _ in 0..4 {
        let answer =
            balancer.raw("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        assert_eq!(body(&answer), "hello");
    }
}

#[test]
fn a_get_whose_connection_dies_early_is_asked_again_and_a_post_is_not() {
    let bad = Backend::start(|connection| {
        connection.head();
    });
    let good = Backend::named("good");
    let balancer = Balancer::start(&[bad.address, good.address], &[]);
    assert_eq!(body(&balancer.get("/")), "good");
    let posts: Vec<String> = (0..2)
        .map(|_| balancer.raw("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
        .collect();
    assert!(posts[0].starts_with("HTTP/1.1 502 "), "{}", posts[0]);
    assert!(posts[0].contains("closed the connection before it answered"), "{}", posts[0]);
    assert!(posts[0].contains("x-request-id: "), "{}", posts[0]);
    assert_eq!(body(&posts[1]), "good");
    assert_eq!(bad.heads().iter().filter(|head| head.starts_with("post")).count(), 1);
}

#[test]
fn a_kept_connection_that_the_back_end_closed_is_replaced_without_a_word() {
    // Each connection serves one request and says nothing about closing.
    let backend = Backend::start(|connection| {
        if connection.head().is_some() {
            connection.answer("once");
        }
    });
    let balancer = Balancer::start(&[backend.address], &[]);
    for _ in 0..10 {
        assert_eq!(body(&balancer.get("/")), "once");
    }
}

#[test]
fn when_every_back_end_is_dead_the_answer_is_502_and_without_any_503() {
    let balancer = Balancer::start(&[free_address(), free_address()], &[]);
    let answer = balancer.get("/");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("could not be connected to"), "{answer}");
}

#[test]
fn a_back_end_that_never_answers_costs_the_time_out_and_gives_504() {
    let silent = Backend::start(|connection| {
        connection.head();
        sleep(Duration::from_secs(20));
    });
    let balancer = Balancer::start(&[silent.address], &["--response-timeout", "1"]);
    let started = Instant::now();
    let answer = balancer.get("/");
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&started.elapsed()));
}

#[test]
fn nonsense_from_a_back_end_is_502() {
    for nonsense in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let bad = Backend::start(move |connection| {
            while connection.head().is_some() {
                connection.write(nonsense);
            }
        });
        let balancer = Balancer::start(&[bad.address], &[]);
        let answer = balancer.get("/");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{nonsense:?}: {answer}");
    }
}

#[test]
fn an_endless_answer_head_is_502_and_not_collected() {
    let bad = Backend::start(|connection| {
        connection.head();
        connection.write("HTTP/1.1 200 OK\r\n");
        for _ in 0..10_000 {
            connection.write(format!("X: {}\r\n", "a".repeat(100)));
        }
    });
    let balancer = Balancer::start(&[bad.address], &[]);
    let answer = balancer.get("/");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[test]
fn an_answer_that_ends_early_ends_the_clients_connection_early_too() {
    for part in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
    ] {
        let bad = Backend::start(move |connection| {
            connection.head();
            connection.write(part);
        });
        let balancer = Balancer::start(&[bad.address], &[]);
        let mut stream = balancer.connect();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("the request can be sent");
        let mut answer = Vec::new();
        // The client must be able to tell: no full length, no last chunk, and no connection to go on with.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    }
}

#[test]
fn a_chunked_answer_comes_through_whole_and_its_length_field_does_not() {
    let backend = Backend::start(|connection| {
        while connection.head().is_some() {
            connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n");
            connection.write("5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\n");
        }
    });
    let balancer = Balancer::start(&[backend.address], &[]);
    let answer = balancer.get("/").to_lowercase();
    assert!(!answer.contains("content-length"), "{answer}");
    assert!(body(&answer).starts_with("5\r\nhello\r\n1\r\n!\r\n0\r\n"), "{answer}");
}

#[test]
fn a_slow_answer_arrives_piece_by_piece() {
    let backend = Backend::start(|connection| {
        connection.head();
        connection.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
        sleep(Duration::from_millis(600));
        connection.write("b");
    });
    let balancer = Balancer::start(&[backend.address], &[]);
    let mut stream = balancer.connect();
    let started = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("the request can be sent");
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while !answer.ends_with(b"a") {
        let length = stream.read(&mut piece).expect("the first piece comes");
        answer.extend_from_slice(&piece[..length]);
    }
    assert!(started.elapsed() < Duration::from_millis(400), "the first piece waited for the second");
    let length = stream.read(&mut piece).expect("the second piece comes");
    assert_eq!(&piece[..length], b"b");
}

#[test]
fn an_answer_that_stalls_is_given_up() {
    let backend = Backend::start(|connection| {
        connection.head();
        connection.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
        sleep(Duration::from_secs(20));
    });
    let balancer = Balancer::start(&[backend.address], &["--idle-timeout", "1"]);
    let started = Instant::now();
    balancer.get("/");
    assert!(started.elapsed() < Duration::from_secs(3), "took {:?}", started.elapsed());
}

#[test]
fn a_body_that_stalls_is_408_and_no_fault_of_the_back_end() {
    let backend = Backend::start(|connection| {
        while let Some(head) = connection.head() {
            if head.starts_with("post") {
                let mut rest = Vec::new();
                let _ = connection.stream.read_to_end(&mut rest);
                return;
            }
            connection.answer("fine");
        }
    });
    let balancer = Balancer::start(&[backend.address], &["--idle-timeout", "1"]);
    for _ in 0..4 {
        let answer = balancer.raw("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nonly this");
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert_eq!(body(&balancer.get("/")), "fine");
}

#[test]
fn a_slow_reader_slows_its_back_end_down() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let backend = Backend::start(move |connection| {
        connection.head();
        connection.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1 << 30));
        let piece = vec![b'x'; 64 * 1024];
        while connection.stream.write_all(&piece).is_ok() {
            count.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
    let balancer = Balancer::start(&[backend.address], &[]);
    let mut stream = balancer.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("the request can be sent");
    sleep(Duration::from_millis(700));
    let early = sent.load(Ordering::SeqCst);
    sleep(Duration::from_millis(300));
    let late = sent.load(Ordering::SeqCst);
    // Socket buffers of loopback take some MiB; the balancer's own part is two times 64 KiB.
    assert_eq!(early, late, "the back end goes on sending to nobody");
    assert!(late < 32 << 20, "{late} bytes are somewhere");
}

#[test]
fn a_large_body_goes_up_and_comes_back_unchanged() {
    const LENGTH: usize = 8 << 20;
    let backend = Backend::start(|connection| {
        connection.head();
        connection.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
        let mut piece = vec![0; 30_000];
        let mut left = LENGTH;
        while left > 0 {
            let length = connection.stream.read(&mut piece).expect("the body comes");
            connection.stream.write_all(&piece[..length]).expect("the body is taken");
            left -= length;
        }
    });
    let balancer = Balancer::start(&[backend.address], &[]);
    let mut stream = balancer.connect();
    let mut writer = stream.try_clone().expect("a socket can be cloned");
    let sent: Vec<u8> = (0..LENGTH).map(|at| (at * 7 + at / 251) as u8).collect();
    let expected = sent.clone();
    let upload = std::thread::spawn(move || {
        write!(writer, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {LENGTH}\r\n\r\n")
            .and_then(|()| writer.write_all(&sent))
            .expect("the body is taken");
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the answer comes");
    upload.join().expect("the upload ends");
    assert!(answer.ends_with(&expected), "{} bytes came back", answer.len());
}

#[test]
fn an_ejected_back_end_comes_back_when_it_listens_again() {
    let address = free_address();
    let balancer = Balancer::start(&[address], &[]);
    assert!(balancer.get("/").starts_with("HTTP/1.1 502 "));
    let listener = std::net::TcpListener::bind(address).expect("the port is still free");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 1024];
            if stream.read(&mut request).is_ok_and(|length| length > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback");
            }
        }
    });
    assert_eq!(body(&balancer.get("/")), "back");
}

#[test]
fn a_request_under_way_is_answered_before_the_end() {
    let backend = Backend::start(|connection| {
        connection.head();
        sleep(Duration::from_millis(500));
        connection.answer("late but whole");
    });
    let mut balancer = Balancer::start(&[backend.address], &[]);
    let address = balancer.address;
    let mut stream = balancer.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("the request can be sent");
    sleep(Duration::from_millis(100));
    balancer.ask_to_stop();
    sleep(Duration::from_millis(100));
    assert!(std::net::TcpStream::connect(address).is_err(), "new clients are refused while draining");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer comes and the connection ends");
    assert_eq!(body(&answer), "late but whole");
    balancer.stop();
}

#[test]
fn an_upgrade_becomes_a_tunnel_both_ways() {
    let backend = Backend::start(|connection| {
        let head = connection.head().expect("a request");
        assert!(head.contains("upgrade: websocket"), "{head}");
        connection
            .write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        let said = connection.read(5);
        connection.write(said.iter().rev().copied().collect::<Vec<u8>>());
        let _ = connection.stream.shutdown(Shutdown::Write);
        connection.read(4);
    });
    let balancer = Balancer::start(&[backend.address], &[]);
    let mut stream = balancer.connect();
    let request = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("the request can be sent");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head comes");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"hello").expect("the tunnel takes bytes");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).expect("the tunnel brings bytes");
    assert_eq!(&answer, b"olleh");
    // One direction has ended, the other has not.
    assert_eq!(stream.read(&mut byte).expect("the end comes"), 0);
    stream.write_all(b"bye!").expect("the tunnel still takes bytes");
}
