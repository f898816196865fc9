//! The two sockets of the server.
//!
//! *Receiving* is a UDP socket on port 67, tied to the interface: the kernel has then checked the UDP checksum, also of a
//! frame whose sum a neighbour on the same host left to hardware (veth, bridge, virtio), and hands over nothing
//! but DHCP, however busy the interface is with block data. *Sending* to a board that has no address yet is done by
//! whole frames through a packet socket, because the kernel would ask that board by ARP first. The packet socket
//! is of protocol 0 and so receives nothing.

use anyhow::{Context as _, bail};
use dhcp::{
    CLIENT_PORT, MacAddr, SERVER_PORT,
    frame::{Arp, Datagram},
};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, ControlMessage, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrIn, bind, send,
        sendmsg, socket,
    },
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket as StdSocket},
    os::fd::{AsRawFd, OwnedFd},
};
use tokio::net::UdpSocket;

/// No DHCP message is longer on Ethernet; what is gets cut, and read as far as it goes.
const RECEIVE_BYTES: usize = 2048;

/// The interface's sockets.
pub(crate) struct Sockets {
    interface: String,
    index: u32,
    mac: MacAddr,
    server: Ipv4Addr,
    udp: UdpSocket,
    frames: OwnedFd,
}

impl Sockets {
    /// Opens both on the interface that has the address; `wanted` must be that one if given.
    pub(crate) fn open(wanted: Option<&str>, server: Ipv4Addr) -> anyhow::Result<Self> {
        let (interface, link) = find_interface(wanted, server)?;
        let Some(mac) = link.addr().filter(|_| link.halen() == 6) else {
            bail!("interface {interface} is no Ethernet");
        };
        let udp =
            open_udp(&interface).with_context(|| format!("cannot listen on UDP port 67 of {interface}"))?;
        let frames = open_packet(&link).with_context(|| format!("cannot send frames on {interface}"))?;
        let index = u32::try_from(link.ifindex()).context("an interface index has 32 bits")?;
        Ok(Self { interface, index, mac: MacAddr(mac), server, udp, frames })
    }

    pub(crate) fn interface(&self) -> &str {
        &self.interface
    }

    pub(crate) fn interface_index(&self) -> u32 {
        self.index
    }

    /// Whether the interface is still the one the sockets are tied to: a new one of the same name is not.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn check_interface(&self) -> anyhow::Result<()> {
        match nix::net::if_::if_nametoindex(self.interface.as_str()) {
            Ok(index) if index == self.index => Ok(()),
            _ => bail!("interface {} is gone", self.interface),
        }
    }

    /// Completes when a message has come in. Cancel-safe.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.udp.readable().await
    }

    /// The next message, if one has come in.
    pub(crate) fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        match self.udp.try_recv(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a message in a frame of our own to the station `mac` at `address`.
    pub(crate) fn send_frame(&self, address: Ipv4Addr, mac: MacAddr, payload: &[u8]) -> io::Result<()> {
        let datagram = Datagram {
            source_mac: self.mac,
            destination_mac: mac,
            source: SocketAddrV4::new(self.server, SERVER_PORT),
            destination: SocketAddrV4::new(address, CLIENT_PORT),
            payload,
        };
        self.put(&datagram.encode().map_err(io::Error::other)?)
    }

    /// Asks who has an address.
    pub(crate) fn send_who_has(&self, address: Ipv4Addr) -> io::Result<()> {
        self.put(&Arp::who_has(address, self.server, self.mac).encode())
    }

    /// Sends a message the kernel's way, from our address, which need not be the interface's first.
    pub(crate) fn send_datagram(&self, to: Ipv4Addr, port: u16, payload: &[u8]) -> io::Result<()> {
        let source = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(self.server.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let to = SockaddrIn::from(SocketAddrV4::new(to, port));
        let control = [ControlMessage::Ipv4PacketInfo(&source)];
        let data = [io::IoSlice::new(payload)];
        sendmsg(self.udp.as_raw_fd(), &data, &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
        Ok(())
    }

    fn put(&self, frame: &[u8]) -> io::Result<()> {
        send(self.frames.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}

/// The interface that has the address, and its link address.
fn find_interface(wanted: Option<&str>, server: Ipv4Addr) -> anyhow::Result<(String, LinkAddr)> {
    let all: Vec<_> = getifaddrs().context("cannot list the interfaces")?.collect();
    let has_address = |entry: &&nix::ifaddrs::InterfaceAddress| {
        let address = entry.address.as_ref().and_then(|address| address.as_sockaddr_in()).map(SockaddrIn::ip);
        address == Some(server) && wanted.is_none_or(|wanted| wanted == entry.interface_name)
    };
    let name = match (all.iter().find(has_address), wanted) {
        (Some(entry), _) => entry.interface_name.clone(),
        (None, Some(wanted)) => {
            bail!("interface {wanted} is not there or does not have the address {server}")
        }
        (None, None) => bail!("no interface has the address {server}"),
    };
    let links = all.iter().filter(|entry| entry.interface_name == name);
    let link = links.filter_map(|entry| entry.address.as_ref()?.as_link_addr().copied()).next();
    link.map(|link| (name.clone(), link)).with_context(|| format!("interface {name} has no link address"))
}

fn open_udp(interface: &str) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER_PORT).into())?;
    UdpSocket::from_std(StdSocket::from(socket))
}

fn open_packet(link: &LinkAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let frames = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    // getifaddrs(3) leaves the protocol 0: packet(7), no packets are received.
    bind(frames.as_raw_fd(), link)?;
    Ok(frames)
}
