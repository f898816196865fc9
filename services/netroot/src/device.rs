//! The kernel's network block device, driven through generic netlink.
//!
//! Specification: include/uapi/linux/nbd-netlink.h and drivers/block/nbd.c. What is told to the kernel, and why:
//!
//! * no `TIMEOUT`. With one, a request that takes longer breaks a good connection (a head under the boot storm of its
//!   whole cluster), and one sent on a connection that then died is repeated only when its time is over, however soon
//!   the next connection is there. Without one `nbd_xmit_timeout` merely looks at a request each time the queue's
//!   `io_timeout` has passed, and repeats it if the connection it went out on has been replaced. So `io_timeout`
//!   is set to 200 ms; the block layer adds about a second of its own (`blk_round_jiffies`). The price is a line
//!   "Possible stuck request" in the kernel's log per look;
//! * `DEAD_CONN_TIMEOUT` of ten years: I/O waits for the keeper, never fails;
//! * `BACKEND_IDENTIFIER`, the image id: the kernel refuses to be reconnected to something else;
//! * no client flags: the device outlives this process.
//!
//! A dead server is found by the socket ([`crate::session`]). The multicast of `LINK_DEAD` is not listened to: the
//! kernel shuts the socket down in the same breath, and a descriptor that was kept shows it without a
//! message that could be lost for want of memory.

use std::fs;
use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nbd::client::Attached;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::SockProtocol;

use crate::netlink::{ACT, Request, Socket, attributes, u16_at};

/// The one device this machine uses.
pub const PATH: &str = "/dev/nbd0";
const SYSFS: &str = "/sys/block/nbd0";
const INDEX: u32 = 0;

/// The kernel's side of the root device.
#[derive(Debug)]
pub struct Device {
    socket: Socket,
    family: u16,
    backend: String,
}

const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
const ATTR_INDEX: u16 = 1;
const ATTR_SIZE_BYTES: u16 = 2;
const ATTR_BLOCK_SIZE_BYTES: u16 = 3;
const ATTR_SERVER_FLAGS: u16 = 5;
const ATTR_SOCKETS: u16 = 7;
const ATTR_DEAD_CONN_TIMEOUT: u16 = 8;
const ATTR_BACKEND_IDENTIFIER: u16 = 10;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;
const NESTED: u16 = 0x8000;

/// Longer than a board stays powered on; far from overflowing the kernel's jiffies.
const DEAD_CONN_TIMEOUT_S: u64 = 10 * 365 * 24 * 3600;
const IO_TIMEOUT_MS: &str = "200";

impl Device {
    /// Finds the driver, which must be loaded. `backend` names what the device holds.
    ///
    /// # Errors
    /// `NotFound` when the driver is not there.
    pub fn open(backend: &str) -> io::Result<Self> {
        let mut socket = Socket::ask(SockProtocol::NetlinkGeneric)?;
        let family = family(&mut socket, b"nbd\0")?;
        Ok(Self { socket, family, backend: backend.to_owned() })
    }

    /// Attaches the device to a new connection, the first time.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn connect(&mut self, stream: &TcpStream, export: &Attached) -> io::Result<()> {
        // Before there is I/O: changing it later could have to wait for the I/O to end.
        fs::write(Path::new(SYSFS).join("queue/io_timeout"), IO_TIMEOUT_MS)?;
        let block_size: u64 = if export.size.is_multiple_of(4096) { 4096 } else { 512 };
        let request = self
            .request(CONNECT, stream)
            .with(ATTR_SIZE_BYTES, &export.size.to_ne_bytes())
            .with(ATTR_BLOCK_SIZE_BYTES, &block_size.to_ne_bytes())
            .with(ATTR_SERVER_FLAGS, &u64::from(export.flags.0).to_ne_bytes());
        self.socket.request(request).map(drop)
    }

    /// Replaces a dead connection by a new one.
    ///
    /// # Errors
    /// `ENOSPC` while the old one is alive in the kernel's eyes.
    pub fn reconfigure(&mut self, stream: &TcpStream) -> io::Result<()> {
        let request = self.request(RECONFIGURE, stream);
        self.socket.request(request).map(drop)
    }

    /// Lets go of the device; its I/O fails from now on.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn disconnect(&mut self) -> io::Result<()> {
        let request = Request::new(self.family, ACT, &[DISCONNECT, 1, 0, 0]);
        self.socket.request(request.with(ATTR_INDEX, &INDEX.to_ne_bytes())).map(drop)
    }

    fn request(&self, command: u8, stream: &TcpStream) -> Request {
        let descriptor = stream.as_raw_fd().to_ne_bytes();
        let item = [8_u16.to_ne_bytes(), SOCK_FD.to_ne_bytes()].concat();
        let item = [item.as_slice(), &descriptor].concat();
        let backend = [self.backend.as_bytes(), &[0]].concat();
        Request::new(self.family, ACT, &[command, 1, 0, 0])
            .with(ATTR_INDEX, &INDEX.to_ne_bytes())
            .with(ATTR_DEAD_CONN_TIMEOUT, &DEAD_CONN_TIMEOUT_S.to_ne_bytes())
            .with(ATTR_BACKEND_IDENTIFIER, &backend)
            .with_nested(ATTR_SOCKETS, SOCK_ITEM | NESTED, &item)
    }
}

/// The number of a generic netlink family (`CTRL_CMD_GETFAMILY`).
fn family(socket: &mut Socket, name: &[u8]) -> io::Result<u16> {
    const GENL_ID_CTRL: u16 = 16;
    const GETFAMILY: u8 = 3;
    const ATTR_FAMILY_ID: u16 = 1;
    const ATTR_FAMILY_NAME: u16 = 2;
    let request = Request::new(GENL_ID_CTRL, ACT, &[GETFAMILY, 1, 0, 0]).with(ATTR_FAMILY_NAME, name);
    let answers = socket.request(request)?;
    let mut found = answers.iter().flat_map(|(_, payload)| attributes(payload, 4));
    let number = found.find(|(kind, _)| *kind == ATTR_FAMILY_ID).and_then(|(_, value)| u16_at(value, 0));
    number.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The size in bytes of the device when it is attached: an earlier netroot may have done that.
pub fn attached_size() -> Option<u64> {
    // The file is there exactly while the device has a configuration (nbd_start_device).
    if !Path::new(SYSFS).join("pid").exists() {
        return None;
    }
    let sectors: u64 = fs::read_to_string(Path::new(SYSFS).join("size")).ok()?.trim().parse().ok()?;
    sectors.checked_mul(512)
}

/// Whether this machine has a connection to the server in established state, by the list of the kernel.
pub fn has_connection_to(server: SocketAddrV4) -> bool {
    fs::read_to_string("/proc/net/tcp").is_ok_and(|list| is_listed(&list, server))
}

/// A line is `number: local remote state ...`; the address is in host order as hex, the port in plain hex.
fn is_listed(list: &str, server: SocketAddrV4) -> bool {
    const ESTABLISHED: &str = "01";
    let address = u32::from_ne_bytes(server.ip().octets());
    let wanted = format!("{address:08X}:{:04X}", server.port());
    list.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().skip(2);
        words.next() == Some(&wanted) && words.next() == Some(ESTABLISHED)
    })
}

/// Becomes readable when the connection ends, and not for the data of the kernel's I/O: the inner epoll asks for
/// nothing but the end of the stream.
///
/// # Errors
/// When the kernel is out of descriptors.
pub fn end_of(stream: &TcpStream) -> io::Result<OwnedFd> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLRDHUP, 0))?;
    Ok(epoll.0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use nix::sys::epoll::EpollTimeout;

    use super::*;

    #[test]
    fn the_end_of_a_stream_is_seen_and_its_data_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        let (mut peer, _) = listener.accept().expect("loopback");
        let watch = Epoll(end_of(&stream).expect("epoll"));
        let mut events = [EpollEvent::empty()];
        peer.write_all(b"data").expect("loopback");
        assert_eq!(watch.wait(&mut events, EpollTimeout::from(50_u8)).expect("epoll"), 0);
        drop(peer);
        assert_eq!(watch.wait(&mut events, EpollTimeout::from(1000_u16)).expect("epoll"), 1);
    }

    #[test]
    fn an_established_connection_is_found_in_the_kernels_list_until_it_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let Ok(std::net::SocketAddr::V4(address)) = listener.local_addr() else { panic!("an IPv4 address") };
        assert!(!has_connection_to(address));
        let stream = TcpStream::connect(address).expect("loopback");
        assert!(has_connection_to(address));
        drop(listener);
        drop(stream);
        assert!(!has_connection_to(address));
        assert!(!is_listed("\n0: x\n1: a b\n", address));
    }

    #[test]
    fn a_family_nobody_registered_is_not_found() {
        let mut socket = Socket::ask(SockProtocol::NetlinkGeneric).expect("generic netlink");
        assert_eq!(family(&mut socket, b"nlctrl\0").expect("always there"), 16);
        assert!(family(&mut socket, b"no such thing\0").is_err());
    }
}
