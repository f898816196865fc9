//! One uplink: a DHCP client for as long as the interface is there, and its lease in the kernel.
//!
//! The task owns the client, the packet socket and the addresses of its interface; it is aborted when the interface goes. What
//! it configured stays when the process ends: the kernel removes the address when the lease is over, and the next run
//! asks to have it again (RFC 2131 §4.4.2).

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use dhcp::client::{Client, Config, Ended, Input, Lease, Output};
use dhcp::frame::{Checksum, Datagram};
use dhcp::{CLIENT_PORT, MacAddr, Message, Route, SERVER_PORT};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until};

use crate::kernel::{Kernel, KernelError, UplinkRoute};
use crate::links::Link;
use crate::nft::{InterfaceName, Network};
use crate::packet::PacketSocket;
use crate::resolver::Names;

/// What the driver hears of an uplink.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) name: InterfaceName,
    pub(crate) state: State,
}

/// Where an uplink stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No lease yet, or no more.
    Asking,
    /// In use.
    Leased { address: Ipv4Addr, prefix: u8, router: Option<Ipv4Addr>, names: Names },
    /// Its network overlaps the cluster's; nothing of the lease is used.
    Overlaps { address: Ipv4Addr, prefix: u8 },
}

/// What an uplink is made of.
#[derive(Debug)]
pub(crate) struct Uplink {
    pub(crate) kernel: Kernel,
    pub(crate) link: Link,
    /// For its routes.
    pub(crate) metric: u32,
    pub(crate) cluster: Network,
    pub(crate) host_name: Option<String>,
    pub(crate) carrier: watch::Receiver<bool>,
    pub(crate) reports: mpsc::Sender<Report>,
}

/// Why an uplink has to start again.
#[derive(Debug, thiserror::Error)]
enum UplinkError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("no packet socket")]
    Socket(#[source] io::Error),
    #[error("nothing can be received")]
    Receive(#[source] io::Error),
    #[error("the service is ending")]
    Ending,
}

impl Uplink {
    /// Runs for as long as it is let.
    pub(crate) async fn run(mut self) {
        loop {
            match self.serve().await {
                UplinkError::Ending => return,
                error => {
                    let name = self.link.name.as_str();
                    tracing::warn!(link = name, "uplink starts again: {:#}", anyhow::Error::new(error));
                    sleep(START_AGAIN).await;
                }
            }
        }
    }

    async fn serve(&mut self) -> UplinkError {
        match self.drive().await {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    async fn drive(&mut self) -> Result<std::convert::Infallible, UplinkError> {
        self.kernel.set_up(self.link.index).await?;
        let socket = PacketSocket::open(&self.link.name).map_err(UplinkError::Socket)?;
        let mut config = Config::new(self.link.mac);
        config.host_name = self.host_name.clone();
        let (seed, now) = (RandomState::new().build_hasher().finish(), Instant::now());
        let mut client = match self.kernel.addresses(self.link.index).await?.first() {
            Some(&address) => Client::resume(config, address, seed, now),
            None => Client::new(config, seed, now),
        };
        let mut installed = Installed::default();
        let mut frame = vec![0; FRAME_MAX];
        let mut carrier = *self.carrier.borrow_and_update();
        loop {
            while let Some(output) = client.transmit() {
                self.obey(output, &socket, &mut installed).await?;
            }
            let deadline = client.deadline();
            tokio::select! {
                received = socket.receive(&mut frame) => {
                    let length = received.map_err(UplinkError::Receive)?;
                    if let Some(message) = frame.get(..length).and_then(read_message) {
                        client.receive(Input::Message(&message), Instant::now());
                    }
                }
                // Both of these keep what they have to say when another arm wins.
                () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                    client.expire(Instant::now());
                }
                changed = self.carrier.changed() => {
                    changed.map_err(|_| UplinkError::Ending)?;
                    let before = std::mem::replace(&mut carrier, *self.carrier.borrow_and_update());
                    // The cable may have been moved to another network.
                    if carrier && !before {
                        client.receive(Input::Verify, Instant::now());
                    }
                }
            }
        }
    }

    async fn obey(
        &self,
        output: Output,
        socket: &PacketSocket,
        installed: &mut Installed,
    ) -> Result<(), UplinkError> {
        match output {
            Output::Broadcast(message) => self.broadcast(&message, socket),
            Output::Unicast { message, server } => {
                if let Err(error) = installed.renewals.send(&self.link.name, &message, server) {
                    tracing::debug!(%error, "renewal not sent; it will be tried again");
                }
            }
            Output::Configure(lease) => self.configure(&lease, installed).await?,
            Output::Deconfigure(reason) => {
                let why = match reason {
                    Ended::Expired => "nobody extended it",
                    Ended::Refused => "the server took it back",
                    Ended::GivenUp => "it was given up",
                };
                tracing::warn!(link = self.link.name.as_str(), "lease lost: {why}");
                self.deconfigure(installed).await?;
                self.report(State::Asking).await?;
            }
        }
        Ok(())
    }

    fn broadcast(&self, message: &Message, socket: &PacketSocket) {
        let payload = message.encode();
        let datagram = Datagram {
            source_mac: self.link.mac,
            destination_mac: MacAddr::BROADCAST,
            source: SocketAddrV4::new(message.ciaddr, CLIENT_PORT),
            destination: SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT),
            payload: &payload,
        };
        // Without a carrier it is lost, with one it is repeated: the client does not wait for either.
        let sent = datagram.encode().map_err(io::Error::other).and_then(|frame| socket.send(&frame));
        if let Err(error) = sent {
            tracing::debug!(link = self.link.name.as_str(), %error, "request not sent; it will be tried again");
        }
    }

    async fn configure(&self, lease: &Lease, installed: &mut Installed) -> Result<(), UplinkError> {
        let (address, prefix) = (lease.address, lease.prefix);
        if Network::of(address, prefix).overlaps(&self.cluster) {
            tracing::error!(
                link = self.link.name.as_str(),
                "the uplink's network {} overlaps the cluster's {}: set another cluster.address",
                Network::of(address, prefix),
                self.cluster
            );
            self.deconfigure(installed).await?;
            return self.report(State::Overlaps { address, prefix }).await;
        }
        let index = self.link.index;
        let left = lease.lifetime.map(|lifetime| lifetime.expires.saturating_duration_since(Instant::now()));
        self.kernel.set_address(index, address, prefix, left).await?;
        self.kernel.keep_only(index, Some(address)).await?;
        let routes = usable_routes(&lease.routes, self.cluster);
        for &old in installed.routes.iter().filter(|old| !routes.contains(old)) {
            self.kernel.remove_route(index, self.route(old, address)).await;
        }
        for &route in &routes {
            self.kernel.set_route(index, self.route(route, address)).await?;
        }
        let router = routes.iter().find(|route| route.prefix == 0).map(|route| route.router);
        installed.routes = routes;
        let names = Names {
            servers: lease.dns_servers.clone(),
            domains: lease.domain_search.iter().chain(&lease.domain_name).cloned().collect(),
        };
        self.report(State::Leased { address, prefix, router, names }).await
    }

    async fn deconfigure(&self, installed: &mut Installed) -> Result<(), UplinkError> {
        *installed = Installed::default();
        // Routes name the address as their source and go with it.
        Ok(self.kernel.keep_only(self.link.index, None).await?)
    }

    fn route(&self, route: Route, source: Ipv4Addr) -> UplinkRoute {
        UplinkRoute { route, source, metric: self.metric }
    }

    async fn report(&self, state: State) -> Result<(), UplinkError> {
        let report = Report { name: self.link.name.clone(), state };
        self.reports.send(report).await.map_err(|_| UplinkError::Ending)
    }
}

/// What the lease has brought into the kernel.
#[derive(Debug, Default)]
struct Installed {
    routes: Vec<Route>,
    renewals: Renewals,
}

/// The socket that asks for more time. Answers are read from the packet socket; this one is kept so that the kernel does not
/// tell the server that nobody listens, and its smallest possible buffer is left to fill.
#[derive(Debug, Default)]
struct Renewals(Option<Socket>);

impl Renewals {
    fn send(&mut self, name: &InterfaceName, message: &Message, server: Ipv4Addr) -> io::Result<()> {
        self.0 = None;
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        socket.bind_device(Some(name.as_str().as_bytes()))?;
        socket.set_recv_buffer_size(0)?;
        socket.bind(&SocketAddrV4::new(message.ciaddr, CLIENT_PORT).into())?;
        socket.send_to(&message.encode(), &SocketAddrV4::new(server, SERVER_PORT).into())?;
        self.0 = Some(socket);
        Ok(())
    }
}

/// The sum is not looked at: a server on this host, or a virtual one, leaves it to hardware that is not there, and on
/// a wire Ethernet's own has been checked.
fn read_message(frame: &[u8]) -> Option<Message> {
    let datagram = Datagram::decode(frame, Checksum::Vouched).ok()?;
    Message::decode(datagram.payload).ok()
}

/// What a server sends may neither lead the cluster's traffic astray nor fill the kernel's table.
fn usable_routes(routes: &[Route], cluster: Network) -> Vec<Route> {
    let usable = |route: &&Route| {
        let destination = Network::of(route.destination, route.prefix);
        // The default route overlaps everything and harms nothing: the cluster's own is more specific.
        (route.prefix == 0 || !destination.overlaps(&cluster))
            && !route.router.is_loopback()
            && !route.router.is_multicast()
            && !cluster.contains(route.router)
    };
    routes.iter().filter(usable).take(ROUTES_MAX).copied().collect()
}

const START_AGAIN: Duration = Duration::from_secs(5);
/// Ethernet's largest payload and its header.
const FRAME_MAX: usize = 1514;
const ROUTES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: [u8; 4], prefix: u8, router: [u8; 4]) -> Route {
        Route { destination: destination.into(), prefix, router: router.into() }
    }

    #[test]
    fn routes_into_the_cluster_or_through_it_are_not_taken() {
        let cluster = Network::of([10, 77, 0, 1].into(), 16);
        let good = [route([0; 4], 0, [192, 168, 1, 1]), route([10, 0, 0, 0], 24, [192, 168, 1, 2])];
        let bad = [
            route([10, 77, 3, 0], 24, [192, 168, 1, 1]),
            route([10, 0, 0, 0], 8, [192, 168, 1, 1]),
            route([0; 4], 0, [10, 77, 0, 11]),
            route([0; 4], 0, [127, 0, 0, 1]),
            route([0; 4], 0, [224, 0, 0, 1]),
        ];
        assert_eq!(usable_routes(&[&good[..], &bad[..]].concat(), cluster), good);
    }

    #[test]
    fn a_flood_of_routes_is_cut_off() {
        let many: Vec<Route> =
            (0..200).map(|number| route([172, 16, number, 0], 24, [192, 168, 1, 1])).collect();
        assert_eq!(usable_routes(&many, Network::of([10, 77, 0, 1].into(), 16)).len(), ROUTES_MAX);
    }
}
