//! A balancer in a thread of its own, and back ends that do exactly what a test tells them to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    balancer: load_balancer::Args,
}

/// A running balancer; asks it to stop when dropped.
pub struct Balancer {
    pub address: SocketAddr,
    stop: tokio::sync::watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Balancer {
    pub fn start(backends: &[SocketAddr], more: &[&str]) -> Self {
        let address = free_address();
        let backends = backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let http = address.to_string();
        let arguments = ["load-balancer", "--http", &http, "--backend", &backends];
        let line = Line::parse_from(arguments.iter().chain(more));
        let (ctx, stop) = service::Context::for_test("load-balancer");
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(load_balancer::run(line.balancer, ctx)).expect("the balancer runs");
        });
        let deadline = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the balancer does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { address, stop, thread: Some(thread) }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the balancer listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out can be set");
        stream
    }

    /// Sends bytes on a connection of their own and returns all that comes back.
    pub fn raw(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_ref()).expect("the request can be sent");
        let mut answer = Vec::new();
        // A reset after the answer is as good an end as any.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn get(&self, path: &str) -> String {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n"))
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the balancer ends in order");
        }
    }

    pub fn ask_to_stop(&self) {
        let _ = self.stop.send(true);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A back end: each connection is given to a function in a thread of its own.
pub struct Backend {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

/// One connection to a [`Backend`].
pub struct Connection {
    pub stream: TcpStream,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Backend {
    pub fn start(serve: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (count, seen, serve) = (connections.clone(), heads.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let (serve, seen) = (serve.clone(), seen.clone());
                std::thread::spawn(move || serve(&mut Connection { stream, heads: seen }));
            }
        });
        Self { address, connections, heads }
    }

    /// Answers every request with 200 and its own name.
    pub fn named(name: &'static str) -> Self {
        Self::start(move |connection| {
            while connection.head().is_some() {
                connection.answer(name);
            }
        })
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The request heads seen, in lower case.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("not poisoned").clone()
    }
}

impl Connection {
    /// Reads one request head; `None` at the end of the connection.
    pub fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        self.heads.lock().expect("not poisoned").push(head.clone());
        Some(head)
    }

    pub fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("the body comes");
        bytes
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub fn answer(&mut self, body: &str) {
        self.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    }
}

/// An address that refuses connections.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address")
}

/// The body of an answer.
pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}
