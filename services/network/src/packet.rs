//! The packet socket of a DHCP client: works while the interface has no address, and sees answers to one it is only
//! being offered.
//!
//! packet(7). A filter in the kernel lets only datagrams to port 68 through, so that the traffic of the cluster does not wake
//! this process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{LinkAddr, MsgFlags, bind, recv, send};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::nft::InterfaceName;

/// A socket bound to one interface; sends and receives whole Ethernet frames.
#[derive(Debug)]
pub(crate) struct PacketSocket(AsyncFd<OwnedFd>);

impl PacketSocket {
    /// Opens the socket on an interface that is up.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or when the interface is gone.
    pub(crate) fn open(name: &InterfaceName) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(ETHERTYPE_IPV4.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        socket.attach_filter(&only_to_port_68())?;
        // With 0 for a protocol in the address, bind(2) keeps that of the socket (packet_do_bind, af_packet.c).
        let address = link_address(name)?;
        bind(socket.as_raw_fd(), &address)?;
        #[expect(deprecated, reason = "its successor is unsafe, and this descriptor is owned until the end")]
        let readable = AsyncFd::with_interest(OwnedFd::from(socket), Interest::READABLE)?;
        Ok(Self(readable))
    }

    /// The next frame to port 68; longer ones than the buffer are cut. Frames that came before [`Self::open`] was done may be
    /// from other interfaces. Cancel-safe.
    ///
    /// # Errors
    /// When the interface is down or gone.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |socket: &OwnedFd| recv(socket.as_raw_fd(), buffer, MsgFlags::empty()).map_err(Into::into);
        self.0.async_io(Interest::READABLE, read).await
    }

    /// Sends a frame, or fails at once: the protocol repeats what got lost.
    ///
    /// # Errors
    /// When the interface is down or gone, or its queue full.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }
}

/// The address that binds a packet socket to an interface, as getifaddrs(3) has it.
fn link_address(name: &InterfaceName) -> io::Result<LinkAddr> {
    nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == name.as_str())
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::from(nix::errno::Errno::ENODEV))
}

/// Classic BPF: IPv4, not a later fragment, UDP, to port 68, wherever the header's options end.
fn only_to_port_68() -> [SockFilter; 11] {
    // include/uapi/linux/bpf_common.h.
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF_AT_X: u16 = 0x48;
    const LOAD_X_HEADER_LENGTH: u16 = 0xb1;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(JUMP_IF_EQUAL, 0, 7, u32::from(ETHERTYPE_IPV4)),
        SockFilter::new(LOAD_HALF, 0, 0, 20),
        SockFilter::new(JUMP_IF_ANY_BIT, 5, 0, 0x1fff),
        SockFilter::new(LOAD_BYTE, 0, 0, 23),
        SockFilter::new(JUMP_IF_EQUAL, 0, 3, 17),
        SockFilter::new(LOAD_X_HEADER_LENGTH, 0, 0, 14),
        SockFilter::new(LOAD_HALF_AT_X, 0, 0, 16),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, u32::from(dhcp::CLIENT_PORT)),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::from(u16::MAX)),
    ]
}

const ETHERTYPE_IPV4: u16 = 0x0800;
