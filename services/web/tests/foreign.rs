//! The web server as foreign clients see it: curl, and raw bytes from a socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Parser;

/// A server in a thread of its own; asks it to stop when dropped.
struct Server {
    address: SocketAddr,
    stop: tokio::sync::watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    web: web::Args,
}

impl Server {
    fn start() -> Self {
        let address = free_address();
        let line = Line::parse_from(["web", "--listen", &address.to_string(), "--name", "node-7"]);
        let (ctx, stop) = service::Context::for_test("web");
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(web::run(line.web, ctx)).expect("the server runs");
        });
        let deadline = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { address, stop, thread: Some(thread) }
    }

    fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out can be set");
        stream.write_all(request).expect("the request can be sent");
        let mut answer = Vec::new();
        // A reset after the answer is as good an end as any.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address")
}

fn curl(arguments: &[&str]) -> Option<String> {
    match Command::new("curl").args(["-s", "-S", "-i", "-m", "5"]).args(arguments).output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(_) => {
            println!("skipped: needs curl");
            None
        }
    }
}

#[test]
fn curl_gets_plain_text_and_a_browser_gets_a_page() {
    let server = Server::start();
    let url = format!("http://{}/", server.address);
    let Some(text) = curl(&[&url]) else { return };
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("content-type: text/plain"), "{text}");
    assert!(text.contains("x-bramble-node: node-7\r\n"), "{text}");
    assert!(text.contains("\r\n\r\nnode    node-7\n"), "{text}");
    let Some(page) = curl(&["-H", "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", &url]) else {
        return;
    };
    assert!(page.contains("content-type: text/html"), "{page}");
    assert!(page.contains("<h1>node-7</h1>"), "{page}");
}

#[test]
fn healthz_says_name_and_version() {
    let server = Server::start();
    let Some(answer) = curl(&[&format!("http://{}/healthz", server.address)]) else { return };
    assert!(answer.ends_with(concat!("\r\n\r\nok node-7 ", env!("CARGO_PKG_VERSION"), "\n")), "{answer}");
}

#[test]
fn other_paths_and_methods_are_refused_by_name() {
    let server = Server::start();
    let missing = server.raw(b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(missing.starts_with("HTTP/1.1 404 "), "{missing}");
    let post = server.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc");
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    assert!(post.contains("allow: GET, HEAD\r\n"), "{post}");
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let server = Server::start();
    let answer = server.raw(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.contains("content-length: "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn a_head_beyond_the_limits_and_a_malformed_one_end_the_connection() {
    let server = Server::start();
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    assert!(server.raw(large.as_bytes()).starts_with("HTTP/1.1 431 "));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: a\r\n".repeat(100));
    assert!(server.raw(many.as_bytes()).starts_with("HTTP/1.1 431 "));
    let malformed = server.raw(b"\x16\x03\x01\x02\x00\x01\r\n\r\n");
    assert!(malformed.is_empty() || malformed.starts_with("HTTP/1.1 400 "), "{malformed}");
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let server = Server::start();
    let mut idle = TcpStream::connect(server.address).expect("the server listens");
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("the request can be sent");
    let mut first = [0; 64];
    assert!(idle.read(&mut first).expect("an answer comes") > 0);
    let started = Instant::now();
    drop(server);
    assert!(started.elapsed() < Duration::from_secs(1), "took {:?}", started.elapsed());
}
