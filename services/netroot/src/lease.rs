//! The DHCP client of one link: drives `dhcp::client` over a UDP socket bound to the link.
//!
//! The interface has no address at first, so answers are asked for as broadcasts; no packet socket is needed. One
//! task per link; it ends when its link does, and otherwise goes on for the life of the machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use dhcp::client::{Client, Config, Input, Lease, Output};
use dhcp::{CLIENT_PORT, Message, SERVER_PORT};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use tokio::sync::{mpsc, watch};

use crate::link::Link;
use crate::network::News;
use crate::report::{Level, Reporter};

/// Who asks: lets a DHCP server tell a running Bramble from the firmware that booted it.
const VENDOR_CLASS: &str = "bramble";
/// No DHCP message over Ethernet is longer.
const LARGEST: usize = 1500;

/// Waits for the carrier, then gets a lease and keeps it. `previous` is the address the link had before this
/// process was started again.
pub async fn keep(
    link: Link,
    previous: Option<Ipv4Addr>,
    mut carrier: watch::Receiver<bool>,
    news: mpsc::Sender<News>,
    report: Rc<Reporter>,
) {
    if carrier.wait_for(|carrier| *carrier).await.is_err() {
        return;
    }
    let socket = loop {
        match open(&link.name) {
            Ok(socket) => break socket,
            Err(error) => {
                report.log(Level::Error, format_args!("{}: no socket for DHCP: {error}", link.name))
            }
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    };
    let mut config = Config::new(link.mac);
    config.vendor_class = Some(VENDOR_CLASS.to_owned());
    config.broadcast = true;
    let now = Instant::now();
    let mut client = match previous {
        Some(address) => Client::resume(config, address, seed(&link), now),
        None => Client::new(config, seed(&link), now),
    };
    let mut buffer = [0; LARGEST];
    loop {
        client.expire(Instant::now());
        while let Some(output) = client.transmit() {
            act(output, &link, &socket, &news, &report).await;
        }
        let due = client.deadline().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            // A datagram is either read whole or still in the socket.
            received = socket.recv(&mut buffer) => {
                let bytes = received.ok().and_then(|length| buffer.get(..length)).unwrap_or_default();
                if let Ok(message) = Message::decode(bytes) {
                    client.receive(Input::Message(&message), Instant::now());
                }
            }
            // Only the newest state of the carrier matters.
            changed = carrier.changed() => match changed {
                Ok(()) if *carrier.borrow_and_update() => client.receive(Input::Verify, Instant::now()),
                Ok(()) => {}
                Err(_) => return,
            },
            () = tokio::time::sleep_until(due.into()) => {}
        }
    }
}

async fn act(
    output: Output,
    link: &Link,
    socket: &tokio::net::UdpSocket,
    news: &mpsc::Sender<News>,
    report: &Reporter,
) {
    let send = async |message: Message, to: Ipv4Addr| {
        if let Err(error) = socket.send_to(&message.encode(), SocketAddrV4::new(to, SERVER_PORT)).await {
            // The machine sends again by itself.
            report.log(Level::Debug, format_args!("{}: DHCP message not sent: {error}", link.name));
        }
    };
    match output {
        Output::Broadcast(message) => send(message, Ipv4Addr::BROADCAST).await,
        Output::Unicast { message, server } => send(message, server).await,
        Output::Configure(lease) => {
            let _ = news.send(News::Lease(link.clone(), Box::new(lease))).await;
        }
        // The root hangs on this address: without it nothing would ever come back.
        Output::Deconfigure(reason) => report.log(
            Level::Warning,
            format_args!(
                "{}: lease ended ({reason:?}); the address is kept and a new lease sought",
                link.name
            ),
        ),
    }
}

fn open(interface: &str) -> io::Result<tokio::net::UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::Broadcast, &true)?;
    setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT)))?;
    tokio::net::UdpSocket::from_std(UdpSocket::from(socket))
}

/// Differs between machines by the hardware address and between starts by the clock; it spreads retries and
/// numbers transactions, and keeps no secret.
fn seed(link: &Link) -> u64 {
    let [a, b, c, d, e, f] = link.mac.0;
    let mac = u64::from_be_bytes([a, b, c, d, e, f, 0, 0]);
    mac ^ u64::from(std::process::id()) ^ crate::facts::microseconds_since_kernel_start().rotate_left(20)
}

/// Which of two leases leads to the root: one from the head before any other, and of two alike the first.
pub fn is_better(new: &Lease, current: Option<&Lease>, head: Option<Ipv4Addr>) -> bool {
    let from_head = |lease: &Lease| Some(lease.server) == head;
    current.is_none_or(|current| from_head(new) && !from_head(current))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(server: u8) -> Lease {
        Lease {
            address: Ipv4Addr::new(10, 77, 0, 11),
            prefix: 16,
            server: Ipv4Addr::new(10, 77, 0, server),
            routes: Vec::new(),
            dns_servers: Vec::new(),
            ntp_servers: Vec::new(),
            host_name: None,
            domain_name: None,
            domain_search: Vec::new(),
            mtu: None,
            lifetime: None,
            options: dhcp::Options::default(),
        }
    }

    #[test]
    fn any_lease_is_better_than_none_and_the_heads_is_better_than_any_other() {
        let head = Some(Ipv4Addr::new(10, 77, 0, 1));
        assert!(is_better(&lease(2), None, head));
        assert!(is_better(&lease(1), Some(&lease(2)), head));
        assert!(!is_better(&lease(2), Some(&lease(1)), head));
        assert!(!is_better(&lease(3), Some(&lease(2)), head), "of two alike the first stays");
        assert!(!is_better(&lease(1), Some(&lease(1)), head));
    }
}
