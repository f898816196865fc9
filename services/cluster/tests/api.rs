//! The API and the dashboard over a real socket, with honest and hostile clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use clap::Parser;

const TOKEN: &str = "0123456789abcdef";

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: cluster::Args,
}

/// A running service, stopped when dropped.
struct Service {
    address: SocketAddr,
    stop: tokio::sync::watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Service {
    fn start(folder: &Path, config: &str) -> Self {
        let file = folder.join("bramble.toml");
        std::fs::write(&file, config).expect("the configuration is written");
        let address =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let line = Line::try_parse_from([
            "test",
            "--listen",
            &address.to_string(),
            "--state",
            &folder.join("state.redb").display().to_string(),
            "--config",
            &file.display().to_string(),
        ])
        .expect("the arguments are right");
        let (context, stop) = service::Context::for_test("cluster");
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(cluster::run(line.args, context)).expect("the service ends well");
        });
        for _ in 0..200 {
            if TcpStream::connect(address).is_ok() {
                return Self { address, stop, thread: Some(thread) };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the service does not listen");
    }

    /// Sends bytes as they are and gives all that comes back.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("the service listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        // A refusal may come, and the connection end, before all is sent.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        self.raw(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\
                 Connection: close\r\n\r\n{body}"
            )
            .as_bytes(),
        )
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the service panicked");
        }
    }
}

fn beat(address: &str, mac: &str, ready: bool) -> String {
    let role = if address == "10.77.0.1" { "head" } else { "node" };
    format!(
        r#"{{"serial":"10000001","mac":"{mac}","address":"{address}","role":"{role}","boot_id":"b","now_us":5000000,"ready":{ready}}}"#
    )
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_heartbeat_makes_a_machine_known_and_a_restart_keeps_it() {
    let folder = folder();
    {
        let service = Service::start(folder.path(), "");
        assert!(service.send("GET", "/api/v1/nodes", "", "").ends_with("[]"));
        let answer =
            service.send("POST", "/api/v1/heartbeat", "", &beat("10.77.0.1", "dc:a6:32:00:00:01", true));
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        let nodes = service.send("GET", "/api/v1/nodes", "", "");
        assert!(nodes.contains(r#""name":"head""#) && nodes.contains(r#""state":"ready""#), "{nodes}");
        assert!(service.send("GET", "/api/v1/nodes/head", "", "").contains(r#""serial":"10000001""#));
    }
    let service = Service::start(folder.path(), "");
    let nodes = service.send("GET", "/api/v1/nodes", "", "");
    assert!(nodes.contains(r#""name":"head""#) && nodes.contains(r#""state":"unknown""#), "{nodes}");
}

#[test]
fn a_machine_speaks_for_itself_alone() {
    let folder = folder();
    let service = Service::start(folder.path(), "");
    let answer =
        service.send("POST", "/api/v1/heartbeat", "", &beat("10.77.0.11", "dc:a6:32:00:00:02", true));
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(service.send("GET", "/api/v1/nodes", "", "").ends_with("[]"));
}

#[test]
fn without_a_token_in_the_settings_orders_are_refused_and_the_way_out_is_told() {
    let folder = folder();
    let service = Service::start(folder.path(), "");
    let answer = service.send("POST", "/api/v1/nodes/head/reboot", "", "");
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("[api] token"), "{answer}");
}

#[test]
fn with_a_token_only_its_bearer_gives_orders() {
    let folder = folder();
    let service = Service::start(folder.path(), &format!("[api]\ntoken = \"{TOKEN}\"\n"));
    for headers in
        ["", "Authorization: Bearer 0123456789abcdee\r\n", "Authorization: Basic 0123456789abcdef\r\n"]
    {
        let answer = service.send("GET", "/api/v1/nodes/head/logs/web", headers, "");
        assert!(answer.starts_with("HTTP/1.1 401"), "{headers}: {answer}");
    }
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let answer = service.send("GET", "/api/v1/nodes/head/logs/web", &bearer, "");
    assert!(answer.starts_with("HTTP/1.1 404"), "there is no such machine yet: {answer}");
    service.send("POST", "/api/v1/heartbeat", "", &beat("10.77.0.1", "dc:a6:32:00:00:01", true));
    for path in ["logs/..%2f", "services/web/signal/99", "services/web/signal/-1", "services/we%20b/stop"] {
        let method = if path.starts_with("logs") { "GET" } else { "POST" };
        let answer = service.send(method, &format!("/api/v1/nodes/head/{path}"), &bearer, "");
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
    }
}

#[test]
fn the_dashboard_is_one_page_that_loads_nothing_from_elsewhere() {
    let folder = folder();
    let service = Service::start(folder.path(), "");
    let page = service.send("GET", "/", "", "");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<title>Bramble</title>"));
    assert!(page.to_ascii_lowercase().contains("content-security-policy: default-src 'none'"));
    assert!(!page.contains("http://") && !page.contains("https://"), "an address of somewhere else");
}

#[test]
fn a_page_under_a_foreign_name_reaches_nothing() {
    let folder = folder();
    let service = Service::start(folder.path(), "");
    for host in ["evil.example", "localhost.evil.example", "", "10.77.0.1.evil.example:8081"] {
        let answer = service.raw(
            format!("GET /api/v1/nodes HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 421"), "{host:?}: {answer}");
    }
    for host in ["10.77.0.1:8081", "[::1]:8081", "bramble.local", "LOCALHOST:1"] {
        let answer = service.raw(
            format!("GET /api/v1/nodes HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 200"), "{host:?}: {answer}");
    }
}

#[test]
fn rubbish_is_refused_and_the_next_client_is_served() {
    let folder = folder();
    let service = Service::start(folder.path(), "");
    let large = format!(r#"{{"serial":"{}"}}"#, "a".repeat(2 * 1024 * 1024));
    assert!(service.send("POST", "/api/v1/heartbeat", "", &large).starts_with("HTTP/1.1 413"));
    for body in ["", "{", "7", "\u{0}", r#"{"mac":7}"#, &"[".repeat(100_000)] {
        let answer = service.send("POST", "/api/v1/heartbeat", "", body);
        assert!(
            answer.starts_with("HTTP/1.1 400"),
            "{}: {answer}",
            body.chars().take(20).collect::<String>()
        );
    }
    let headers = format!("X: {}\r\n", "a".repeat(64 * 1024));
    assert!(service.send("GET", "/api/v1/nodes", &headers, "").starts_with("HTTP/1.1 431"));
    service.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    for (method, path) in [("DELETE", "/api/v1/nodes"), ("PUT", "/"), ("POST", "/api/v1/version")] {
        assert!(service.send(method, path, "", "").starts_with("HTTP/1.1 405"), "{method} {path}");
    }
    assert!(service.send("GET", "/../../etc/passwd", "", "").starts_with("HTTP/1.1 404"));
    assert!(service.send("GET", "/api/v1/version", "", "").contains(r#""version""#));
}

#[test]
fn a_thousand_connections_that_say_nothing_do_not_keep_others_out() {
    let folder = folder();
    let service = Service::start(folder.path(), "");
    let idle: Vec<_> = (0..1000).filter_map(|_| TcpStream::connect(service.address).ok()).collect();
    assert!(idle.len() > 900, "{} connections", idle.len());
    assert!(service.send("GET", "/api/v1/version", "", "").starts_with("HTTP/1.1 200"));
}

#[test]
fn changes_are_streamed_as_they_happen() {
    let folder = folder();
    let service = Service::start(folder.path(), "");
    let mut stream = TcpStream::connect(service.address).expect("the service listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("the request is sent");
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("text/event-stream") {
        let length = stream.read(&mut buffer).expect("the head answers");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    service.send("POST", "/api/v1/heartbeat", "", &beat("10.77.0.1", "dc:a6:32:00:00:01", true));
    while !text.contains(r#""state":"ready""#) {
        let length = stream.read(&mut buffer).expect("the change is told");
        assert!(length > 0, "the stream ended: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(text.contains("event: node\ndata: {"), "{text}");
}
