//! Accepts clients and spreads them over threads.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bus::Reporter;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::connection;
use crate::exports::Exports;

/// The server.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    local: SocketAddr,
    exports: Exports,
    reporter: Reporter,
    workers: Vec<Worker>,
    connected: Arc<AtomicUsize>,
}

/// A thread that runs connections.
#[derive(Debug)]
struct Worker {
    handle: Handle,
    /// Dropping it ends the thread, and with it the connections.
    _stop: watch::Sender<()>,
}

impl Listener {
    /// Binds the port and starts the threads.
    ///
    /// # Errors
    /// When the address is taken or not ours, or no thread can be started.
    pub fn bind(address: SocketAddr, exports: Exports, reporter: Reporter) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for the last clients' TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.into())?;
        let local = listener.local_addr()?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        let workers = (0..threads).map(Worker::start).collect::<std::io::Result<_>>()?;
        Ok(Self { listener, local, exports, reporter, workers, connected: Arc::default() })
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Serves for ever.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn serve(self) -> std::io::Result<()> {
        for worker in self.workers.iter().cycle() {
            let (stream, peer) = self.accept().await?;
            if self.connected.load(Ordering::Relaxed) >= CONNECTIONS {
                tracing::warn!(%peer, limit = CONNECTIONS, "connection refused: too many");
                continue;
            }
            // From this thread's runtime to the other's.
            let Ok(stream) = stream.into_std() else { continue };
            let counted = Counted::new(&self.connected);
            let (exports, reporter) = (self.exports.clone(), self.reporter.clone());
            worker.handle.spawn(async move {
                let _counted = counted;
                if let Ok(stream) = TcpStream::from_std(stream) {
                    connection::run(stream, peer, exports, reporter).await;
                }
            });
        }
        Ok(())
    }

    /// The next client.
    async fn accept(&self) -> std::io::Result<(TcpStream, SocketAddr)> {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => match prepare(&stream) {
                    Ok(()) => return Ok((stream, peer)),
                    // It has left already.
                    Err(error) => tracing::debug!(%peer, %error, "connection lost"),
                },
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) if is_shortage(&error) => {
                    // Clients wait in the backlog until others leave.
                    tracing::warn!(%error, "cannot accept now");
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Worker {
    fn start(number: usize) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_keep_alive(BLOCKING_KEPT)
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, mut stopped) = watch::channel(());
        std::thread::Builder::new().name(format!("nbd-{number}")).spawn(move || {
            // The sender says nothing; it goes when the listener goes.
            let _ = runtime.block_on(stopped.changed());
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _stop: stop })
    }
}

/// One more connection, for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Replies leave at once, and a client whose power was cut is noticed.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE).with_retries(3))?;
    socket.set_tcp_user_timeout(Some(UNREAD))
}

/// No descriptors, no memory: it passes.
fn is_shortage(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A Pi has four cores; more threads than cores help nobody.
pub const THREADS: usize = 4;

/// A boot storm connects faster than anybody accepts; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Four connections of each of a thousand nodes. Below the descriptors that init allows.
const CONNECTIONS: usize = 4000;

/// A card answers no faster to more, and a server's disks have enough to do with 32.
const BLOCKING_THREADS: usize = 8;

/// They come with the boot storm and go with it.
const BLOCKING_KEPT: Duration = Duration::from_secs(5);

const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Four of them without a sign of life end a connection.
const SILENCE: Duration = Duration::from_secs(30);

/// Replies that a client does not take for so long are never taken.
const UNREAD: Duration = Duration::from_secs(120);
