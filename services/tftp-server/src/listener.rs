//! Port 69: takes requests, and keeps the table of running transfers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Event, Reporter};
use tftp::options::Limits;
use tftp::server::{State, Transfer};
use tftp::{ErrorCode, Mode, Options, Packet, Request};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, Semaphore};
use tokio::task::LocalSet;

use crate::content::{Cache, Content, ReadError};
use crate::tree::{LOOKUPS, LookupError, Tree};
use crate::{Args, exchange};

/// The server.
#[derive(Debug)]
pub struct Listener {
    socket: UdpSocket,
    local: SocketAddr,
    shared: Rc<Shared>,
}

/// What all transfers use.
#[derive(Debug)]
struct Shared {
    tree: Arc<Tree>,
    cache: Arc<Cache>,
    lookups: Semaphore,
    reporter: Reporter,
    limit: usize,
    /// By client; a request that comes again is told to its transfer.
    running: RefCell<HashMap<SocketAddr, Rc<Notify>>>,
    dropped: Cell<u64>,
}

/// A request, owned.
#[derive(Debug)]
struct Asked {
    client: SocketAddr,
    name: Vec<u8>,
    options: Options,
    since: Instant,
}

impl Listener {
    /// Binds the port.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub fn bind(address: SocketAddr, tree: Tree, args: &Args, reporter: Reporter) -> std::io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        // A rack's worth of requests while the loop is busy; the kernel grants what it allows.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
        let local = socket.local_addr()?;
        let shared = Rc::new(Shared {
            tree: Arc::new(tree),
            cache: Arc::new(Cache::new(u64::from(args.memory) << 20)),
            lookups: Semaphore::new(LOOKUPS),
            reporter,
            limit: usize::try_from(args.transfers).unwrap_or(usize::MAX),
            running: RefCell::default(),
            dropped: Cell::default(),
        });
        Ok(Self { socket: UdpSocket::from_std(socket)?, local, shared })
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// What it serves, in two words.
    pub fn tree_name(&self) -> &'static str {
        match *self.shared.tree {
            Tree::Folder(_) => "a folder",
            Tree::Nodes(_) => "boot files",
        }
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn serve(self) -> std::io::Result<()> {
        let transfers = LocalSet::new();
        transfers.run_until(self.receive()).await
    }

    async fn receive(&self) -> std::io::Result<()> {
        let mut buffer = [0; REQUEST];
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        loop {
            tokio::select! {
                // A datagram stays in the socket when the other arm wins.
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, client)) => self.request(&buffer[..length], client),
                    // An ICMP error about something sent earlier: no fault of the socket.
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                    Err(error) => return Err(error),
                },
                _ = housekeeping.tick() => self.housekeeping(),
            }
        }
    }

    fn request(&self, datagram: &[u8], client: SocketAddr) {
        // What is no request is not answered: whoever forged the sender's address would be glad of it.
        let (request, refusal) = match Packet::decode(datagram) {
            Ok(Packet::ReadRequest(request)) if request.mode == Mode::Octet => (request, None),
            Ok(Packet::ReadRequest(request)) => {
                (request, Some((ErrorCode::NOT_DEFINED, "only octet mode is supported")))
            }
            Ok(Packet::WriteRequest(request)) => {
                (request, Some((ErrorCode::ACCESS_VIOLATION, "this server is read-only")))
            }
            _ => return,
        };
        if let Some((code, message)) = refusal {
            tracing::debug!(%client, file = %request.file.escape_ascii(), message, "refused");
            send_error(self.local, client, code, message);
            return;
        }
        self.read_request(&request, client);
    }

    fn read_request(&self, request: &Request<'_>, client: SocketAddr) {
        let mut running = self.shared.running.borrow_mut();
        if let Some(repeated) = running.get(&client) {
            repeated.notify_one();
            return;
        }
        if running.len() >= self.shared.limit {
            self.shared.count_dropped();
            return;
        }
        let repeated = Rc::new(Notify::new());
        running.insert(client, repeated.clone());
        let asked =
            Asked { client, name: request.file.to_vec(), options: request.options, since: Instant::now() };
        let (shared, local) = (self.shared.clone(), self.local);
        tokio::task::spawn_local(async move {
            shared.answer(&asked, local, &repeated).await;
            shared.running.borrow_mut().remove(&asked.client);
        });
    }

    fn housekeeping(&self) {
        self.shared.cache.forget_idle(Instant::now());
        let dropped = self.shared.dropped.take();
        if dropped > 0 {
            tracing::warn!(dropped, "requests dropped at the limit; boards ask again");
        }
    }
}

impl Shared {
    async fn answer(&self, asked: &Asked, local: SocketAddr, repeated: &Notify) {
        let client = asked.client;
        let content = match self.lookup(asked.name.clone()).await {
            Ok(content) => content,
            Err(LookupError::Missing) => {
                send_error(local, client, ErrorCode::FILE_NOT_FOUND, "File not found");
                return self.report(asked, "missing", 0, String::new());
            }
            Err(error @ (LookupError::Open(_) | LookupError::Read(ReadError::Full))) => {
                tracing::debug!(%client, %error, "request dropped");
                return self.count_dropped();
            }
            Err(error @ LookupError::Read(_)) => {
                tracing::error!(%client, file = %asked.name.escape_ascii(), %error, "cannot serve");
                send_error(local, client, ErrorCode::NOT_DEFINED, "cannot read the file");
                return self.report(asked, "failed", 0, error.to_string());
            }
        };
        let socket = exchange::socket(local, client).and_then(UdpSocket::from_std);
        let Ok(socket) = socket else { return self.count_dropped() };
        let mut transfer =
            Transfer::new(content.len() as u64, &asked.options, &Limits::default(), Instant::now());
        let outcome = exchange::run(&mut transfer, &content, &socket, repeated).await;
        let bytes = transfer.acknowledged_octets();
        match outcome {
            Ok(State::Completed) => self.report(asked, "file", bytes, String::new()),
            // A board that has seen the OACK, or the first block, knows that the file exists.
            Ok(State::Aborted(_)) if bytes == 0 => self.report(asked, "probe", 0, String::new()),
            Ok(State::Aborted(code)) => {
                self.report(asked, "failed", bytes, format!("the board gave up with error {}", code.0));
            }
            Ok(State::GaveUp | State::Running) => {
                self.report(asked, "failed", bytes, "the board fell silent".to_owned());
            }
            Err(error) => self.report(asked, "failed", bytes, error.to_string()),
        }
    }

    /// On a thread, for the medium may be slow.
    async fn lookup(&self, name: Vec<u8>) -> Result<Content, LookupError> {
        let _turn = self.lookups.acquire().await;
        let (tree, cache) = (self.tree.clone(), self.cache.clone());
        let looked_up = tokio::task::spawn_blocking(move || tree.lookup(&name, &cache)).await;
        looked_up.unwrap_or_else(|failed| Err(LookupError::Open(failed.into())))
    }

    fn report(&self, asked: &Asked, kind: &str, bytes: u64, detail: String) {
        let elapsed = asked.since.elapsed();
        let file = asked.name.escape_ascii().to_string();
        tracing::debug!(client = %asked.client, file, kind, bytes, elapsed_ms = elapsed.as_millis(), detail);
        let serial = self.tree.serial_of(&asked.name);
        self.reporter.report(Event {
            duration_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            ip: asked.client.ip().to_string(),
            serial: serial.map(|serial| format!("{serial:08x}")).unwrap_or_default(),
            file,
            bytes,
            detail,
            ..Event::new(kind)
        });
    }

    fn count_dropped(&self) {
        self.dropped.set(self.dropped.get() + 1);
    }
}

/// From a port of its own, as all answers. Not repeated: the client repeats its request.
fn send_error(local: SocketAddr, client: SocketAddr, code: ErrorCode, message: &str) {
    let mut datagram = Vec::with_capacity(64);
    Packet::Error { code, message: message.as_bytes() }.encode(&mut datagram);
    if let Ok(socket) = exchange::socket(local, client) {
        let _ = socket.send(&datagram);
    }
}

/// RFC 2347 allows 512; longer ones are cut, and then malformed.
const REQUEST: usize = tftp::packet::MAXIMUM_REQUEST;

/// 4000 requests of a small datagram's bookkeeping.
const RECEIVE_BUFFER: usize = 4 << 20;

/// How often idle files are looked for and drops are told.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
