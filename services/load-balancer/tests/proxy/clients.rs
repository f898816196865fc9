//! The balancer against hostile clients and foreign ones.

use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Backend, Balancer, body};

/// A back end that answers everything at once, whatever the body.
fn echo_head() -> Backend {
    Backend::start(|connection| {
        while let Some(head) = connection.head() {
            if head.contains("transfer-encoding: chunked") {
                while connection.read(1) != b"0" {}
                connection.read(4);
            } else if let Some(at) = head.find("content-length: ") {
                let digits: String = head[at + 16..].chars().take_while(char::is_ascii_digit).collect();
                connection.read(digits.parse().expect("a length"));
            }
            connection.answer("ok");
        }
    })
}

#[test]
fn requests_that_two_readers_could_read_differently_do_not_reach_a_back_end() {
    let backend = echo_head();
    let balancer = Balancer::start(&[backend.address], &[]);
    let cases = [
        ("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        ("a list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc"),
        ("a signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc"),
        ("an unknown coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (
            "a coding that is not last",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
        ),
        ("two codings", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("a coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a blank before the colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\nabc"),
        ("a folded field", "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n"),
        ("a bare carriage return", "GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n"),
        ("a NUL", "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        ("TRACE", "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        ("a blank in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("HTTP/2 by prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ];
    for (case, request) in cases {
        let mut stream = balancer.connect();
        stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out can be set");
        stream.write_all(request.as_bytes()).expect("the request can be sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{case}: {answer}");
    }
    assert_eq!(backend.heads(), Vec::<String>::new());
}

#[test]
fn of_length_and_coding_only_the_coding_reaches_the_back_end() {
    for fields in
        ["Content-Length: 3\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3"]
    {
        let backend = echo_head();
        let balancer = Balancer::start(&[backend.address], &[]);
        let answer = balancer
            .raw(format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n\r\n0\r\n\r\n"));
        let [head] = &backend.heads()[..] else { panic!("one request, or a refusal: {answer}") };
        assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
        assert_eq!(body(&answer), "ok");
    }
}

#[test]
fn a_bad_chunk_of_a_client_ends_its_request_and_hurts_nobody_else() {
    let backend = echo_head();
    let balancer = Balancer::start(&[backend.address], &[]);
    for _ in 0..5 {
        let answer =
            balancer.raw("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nnot hex\r\n");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(body(&balancer.get("/")), "ok");
}

#[test]
fn a_head_beyond_the_limits_is_431() {
    let balancer = Balancer::start(&[Backend::named("one").address], &[]);
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    assert!(balancer.raw(large).starts_with("HTTP/1.1 431 "));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(200));
    assert!(balancer.raw(many).starts_with("HTTP/1.1 431 "));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::start(|connection| {
        while let Some(head) = connection.head() {
            let path = head.split(' ').nth(1).expect("a target").to_owned();
            connection.answer(&path);
        }
    });
    let balancer = Balancer::start(&[backend.address], &[]);
    let answer = balancer.raw(
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let places: Vec<_> = ["\r\n\r\n/1", "\r\n\r\n/2", "\r\n\r\n/3"].map(|body| answer.find(body)).to_vec();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{answer}");
}

#[test]
fn answers_without_a_body_end_where_they_should() {
    let backend = Backend::start(|connection| {
        while let Some(head) = connection.head() {
            let status = head.split(['/', ' ']).nth(2).expect("a target").to_owned();
            connection.write(format!("HTTP/1.1 {status} Fine\r\nETag: \"x\"\r\n"));
            connection.write(if status == "204" { "\r\n" } else { "Content-Length: 7\r\n\r\n" });
        }
    });
    let balancer = Balancer::start(&[backend.address], &[]);
    let answer = balancer.raw(
        "HEAD /200 HTTP/1.1\r\nHost: a\r\n\r\nGET /304 HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /204 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let starts: Vec<&str> = answer.matches("HTTP/1.1 ").collect();
    assert_eq!(starts.len(), 3, "{answer}");
    // RFC 9110 §8.6: to HEAD the length is that of GET's body; a 304 may leave it out, and hyper does.
    assert_eq!(answer.matches("content-length: 7").count(), 1, "{answer}");
    assert_eq!(backend.connections(), 1, "such answers leave the connection usable");
}

#[test]
fn a_client_of_http_1_0_gets_an_answer_it_can_read() {
    let backend = Backend::start(|connection| {
        while connection.head().is_some() {
            connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        }
    });
    let balancer = Balancer::start(&[backend.address], &[]);
    let answer = balancer.raw("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert!(!answer.to_lowercase().contains("chunked"), "{answer}");
    assert_eq!(body(&answer), "hello");
}

#[test]
fn one_address_cannot_have_more_than_its_share_of_connections() {
    let balancer = Balancer::start(&[Backend::named("one").address], &[]);
    let started = Instant::now();
    let mut held = Vec::new();
    loop {
        let mut stream = balancer.connect();
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out can be set");
        let mut answer = [0; 64];
        if let Ok(length @ 1..) = stream.read(&mut answer) {
            assert!(answer[..length].starts_with(b"HTTP/1.1 429 "), "{:?}", &answer[..length]);
            break;
        }
        held.push(stream);
        assert!(held.len() <= 300 && started.elapsed() < Duration::from_secs(30), "{} held", held.len());
    }
    assert!(held.len() >= 200, "only {}", held.len());
    drop(held);
}

#[test]
fn curl_gets_through_with_100_continue_and_chunks() {
    let backend = echo_head();
    let balancer = Balancer::start(&[backend.address], &[]);
    let url = format!("http://{}/upload", balancer.address);
    for extra in [["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]] {
        let curl =
            Command::new("curl").args(["-sS", "-m", "5", "-d", "some data"]).args(extra).arg(&url).output();
        let Ok(output) = curl else {
            println!("skipped: needs curl");
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ok", "{extra:?} {said}");
    }
    let heads = backend.heads();
    assert!(heads.iter().all(|head| !head.contains("expect")), "{heads:?}");
    assert!(heads.iter().all(|head| head.contains("x-forwarded-for: 127.0.0.1\r\n")), "{heads:?}");
}
