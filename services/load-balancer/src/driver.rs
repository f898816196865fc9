//! Listens, keeps the limits on clients, runs probes when they are due, and drains at the end.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::balancer::Balancer;
use crate::pool::Backend;
use crate::proxy;
use crate::upstream::{BUFFER_MAX, SWEEP_EVERY};

/// How many clients are served at once.
#[derive(Debug)]
pub(crate) struct Entrance {
    places: Arc<Semaphore>,
    places_max: u32,
    by_client: Mutex<HashMap<IpAddr, u32>>,
    turned_away: AtomicU64,
}

impl Entrance {
    pub(crate) fn new(places_max: u32) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(places_max as usize)),
            places_max,
            by_client: Mutex::new(HashMap::new()),
            turned_away: AtomicU64::new(0),
        })
    }

    /// Connections and tunnels open now.
    pub(crate) fn taken(&self) -> u32 {
        let free = u32::try_from(self.places.available_permits()).unwrap_or(u32::MAX);
        self.places_max.saturating_sub(free)
    }

    /// Connections refused because their client had too many.
    pub(crate) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// `None` when the client has as many places as one may have.
    fn admit(self: &Arc<Self>, client: IpAddr, permit: OwnedSemaphorePermit) -> Option<Arc<Place>> {
        let mut by_client = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_client.entry(client).or_default();
        if *count >= CONNECTIONS_PER_CLIENT_MAX {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *count += 1;
        Some(Arc::new(Place { client, entrance: self.clone(), _permit: permit }))
    }
}

/// A client's claim on one connection; given back when the last holder drops it.
#[derive(Debug)]
pub(crate) struct Place {
    client: IpAddr,
    entrance: Arc<Entrance>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Who the client is, as far as the network knows.
    pub(crate) fn client(&self) -> IpAddr {
        self.client
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_client = self.entrance.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_client.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_client.remove(&self.client);
            }
        }
    }
}

/// Serves until asked to stop, then lets requests under way be answered for at most [`DRAIN`].
pub(crate) async fn run(
    listener: TcpListener,
    balancer: Arc<Balancer>,
    entrance: Arc<Entrance>,
    members: watch::Receiver<Vec<Backend>>,
    ctx: service::Context,
) {
    let (stop, stopping) = watch::channel(());
    tokio::select! {
        () = ctx.shutdown() => {}
        // Both only end with this function; connections are tasks of their own and live on.
        () = accept(&listener, &balancer, &entrance, &stopping) => {}
        () = keep(&balancer, members, &ctx) => {}
    }
    drop(listener);
    drop(stop);
    if timeout(DRAIN, entrance.places.acquire_many(entrance.places_max)).await.is_err() {
        tracing::warn!(connections = entrance.taken(), "connections did not end in time and are cut");
    }
}

async fn accept(
    listener: &TcpListener,
    balancer: &Arc<Balancer>,
    entrance: &Arc<Entrance>,
    stopping: &watch::Receiver<()>,
) {
    loop {
        // With every place taken, new connections wait in the kernel's backlog.
        let Ok(permit) = entrance.places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or memory, or a peer gone already: the next try must not spin.
                tracing::debug!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match entrance.admit(proxy::client_address(peer), permit) {
            Some(place) => {
                tokio::spawn(connection(stream, peer, balancer.clone(), place, stopping.clone()));
            }
            // Said if the socket takes it at once, which a new one does.
            None => drop(stream.try_write(TOO_MANY)),
        }
    }
}

/// Applies changes of the back ends, probes, and keeps the status up to date. Every arm may lose: its cause stays.
async fn keep(balancer: &Arc<Balancer>, mut members: watch::Receiver<Vec<Backend>>, ctx: &service::Context) {
    let mut sweep = interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = None;
    let mut members_end = false;
    members.mark_changed();
    loop {
        let deadline = balancer.deadline();
        tokio::select! {
            changed = members.changed(), if !members_end => match changed {
                Ok(()) => {
                    let backends = members.borrow_and_update().clone();
                    balancer.replace(&backends);
                }
                Err(_) => members_end = true,
            },
            () = balancer.changed.notified() => {}
            () = sleep_until(deadline.unwrap_or_else(std::time::Instant::now).into()), if deadline.is_some() => {
                balancer.expire();
            }
            _ = sweep.tick() => balancer.sweep(),
        }
        let count = balancer.count();
        if shown != Some(count) {
            shown = Some(count);
            ctx.status(format_args!("{} of {} nodes ready", count.0, count.1));
        }
    }
}

/// One connection to its end; `stopping` closes when the balancer wants to end.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    balancer: Arc<Balancer>,
    place: Arc<Place>,
    mut stopping: watch::Receiver<()>,
) {
    let _ = stream.set_nodelay(true);
    // A client that stops reading, or is gone without a word, is given up by the kernel.
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(balancer.idle_limit()));
    let service = service_fn(move |request| {
        let answer = proxy::serve(balancer.clone(), place.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_header_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .max_buf_size(BUFFER_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        // The connection goes on below; hyper then closes it after the answer under way.
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}

/// A browser opens six; this leaves room for a household or a class behind one address.
const CONNECTIONS_PER_CLIENT_MAX: u32 = 256;
/// For a whole request head, and with it for the time an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A request head that does not fit is answered 431; 16 KiB is what common servers allow.
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
/// init kills what has not ended after 3 s.
const DRAIN: Duration = Duration::from_millis(2500);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const TOO_MANY: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: text/plain\r\ncontent-length: 39\r\n\
    retry-after: 10\r\nconnection: close\r\n\r\ntoo many connections from this address\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(entrance: &Entrance) -> OwnedSemaphorePermit {
        entrance.places.clone().try_acquire_owned().expect("a free place")
    }

    #[test]
    fn one_client_cannot_take_every_place_and_gets_its_own_back() {
        let entrance = Entrance::new(CONNECTIONS_PER_CLIENT_MAX + 10);
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut places: Vec<_> = (0..CONNECTIONS_PER_CLIENT_MAX)
            .map(|_| entrance.admit(one, permit(&entrance)).expect("within the limit"))
            .collect();
        assert!(entrance.admit(one, permit(&entrance)).is_none());
        assert!(entrance.admit(other, permit(&entrance)).is_some());
        assert_eq!(entrance.turned_away(), 1);
        places.pop();
        assert!(entrance.admit(one, permit(&entrance)).is_some());
        drop(places);
        assert_eq!(entrance.taken(), 0);
        assert!(entrance.by_client.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn the_length_of_the_refusal_is_true() {
        let text = std::str::from_utf8(TOO_MANY).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }

    #[tokio::test]
    async fn a_request_that_a_lost_node_never_answers_goes_to_another() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (dead, good, front) = tokio::try_join!(bind(), bind(), bind()).expect("loopback has free ports");
        let backend = |name: &str, listener: &TcpListener| Backend {
            name: name.into(),
            address: listener.local_addr().expect("a bound socket has an address"),
        };
        let (lost, kept) = (backend("lost", &dead), backend("kept", &good));
        let address = front.local_addr().expect("a bound socket has an address");
        let (members, changes) = watch::channel(vec![lost]);
        let limits =
            crate::balancer::Limits { response: Duration::from_secs(60), idle: Duration::from_secs(60) };
        let (ctx, _stop) = service::Context::for_test("load-balancer");
        tokio::spawn(run(front, Arc::new(Balancer::new(limits)), Entrance::new(16), changes, ctx));
        let mut client = TcpStream::connect(address).await.expect("the balancer listens");
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("the request is taken");
        let (mut silent, _) = dead.accept().await.expect("the request gets there");
        assert!(silent.read(&mut [0; 1024]).await.expect("the request gets there") > 0);

        members.send_replace(vec![kept]);
        let (mut other, _) = good.accept().await.expect("the request comes again");
        assert!(other.read(&mut [0; 1024]).await.expect("the request comes again") > 0);
        other.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("the answer is taken");
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.expect("the answer comes");
        assert_eq!(&answer, b"HTTP/1.1 204");
    }
}
