//! Netlink: messages built and taken apart, and a socket that asks one question at a time.
//!
//! Small on purpose: netroot needs ten kinds of message of two families, and it lives in an initramfs where the
//! general crates would weigh more than all the rest of it.
//!
//! Specification: include/uapi/linux/netlink.h; all integers are in host order, everything is aligned to 4.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// `NLM_F_REQUEST | NLM_F_ACK`: do it and say how it went.
pub const ACT: u16 = 0x5;
/// `NLM_F_REQUEST | NLM_F_DUMP`: list all.
pub const DUMP: u16 = 0x301;
/// `NLM_F_CREATE | NLM_F_REPLACE`: make it so, whatever there was before.
pub const REPLACE: u16 = 0x500;
/// Mark of an attribute that holds attributes.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A message being built.
#[derive(Debug)]
pub struct Request(Vec<u8>);

impl Request {
    /// A message of a type, with flags, beginning with the family's fixed header.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.splice(4..8, [kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
        bytes.extend_from_slice(fixed);
        pad(&mut bytes);
        Self(bytes)
    }

    /// Appends an attribute.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        append(&mut self.0, kind, value);
        self
    }

    /// Appends an attribute that holds one attribute.
    #[must_use]
    pub fn with_nested(self, kind: u16, inner: u16, value: &[u8]) -> Self {
        let mut nested = Vec::new();
        append(&mut nested, inner, value);
        self.with(kind | NESTED, &nested)
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.splice(0..4, length.to_ne_bytes());
        self.0.splice(8..12, sequence.to_ne_bytes());
        self.0
    }
}

/// One attribute as bytes, for values that are attributes themselves. `value` is at most 64 KiB by construction.
fn append(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is, within the family.
    pub kind: u16,
    /// Which request it answers.
    sequence: u32,
    /// Fixed header and attributes.
    pub payload: &'a [u8],
}

/// The messages in a datagram; ends at the first one that is cut short.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let payload = datagram.get(HEADER_BYTES..length)?;
        let message = Message { kind: u16_at(datagram, 4)?, sequence: u32_at(datagram, 8)?, payload };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes behind a fixed header of so many bytes; ends at the first one that is cut short.
pub fn attributes(payload: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload.get(fixed..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// An unsigned integer in host order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// An unsigned integer in host order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A netlink socket.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

/// The kernel answers within the call that asks; this only ends the wait for an answer that it dropped.
const ANSWER_LIMIT_S: i64 = 5;
/// The kernel fills at most 32 KiB per datagram of a dump.
const LARGEST_DATAGRAM: usize = 32 * 1024;

impl Socket {
    /// A socket for questions.
    ///
    /// # Errors
    /// When the kernel does not know the family.
    pub fn ask(family: SockProtocol) -> io::Result<Self> {
        let socket = Self::open(family, SockFlag::SOCK_CLOEXEC, 0)?;
        setsockopt(&socket.socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_LIMIT_S))?;
        Ok(socket)
    }

    /// A non-blocking socket that hears multicast groups (a bit each).
    ///
    /// # Errors
    /// When the kernel does not know the family.
    pub fn listen(family: SockProtocol, groups: u32) -> io::Result<Self> {
        Self::open(family, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, groups)
    }

    fn open(family: SockProtocol, flags: SockFlag, groups: u32) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, family)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request and collects the answers: none for an acknowledged act, one or many for a question.
    ///
    /// # Errors
    /// The kernel's refusal as its errno, or `TimedOut`.
    pub fn request(&mut self, request: Request) -> io::Result<Vec<(u16, Vec<u8>)>> {
        self.sequence = self.sequence.wrapping_add(1);
        send(self.socket.as_raw_fd(), &request.finish(self.sequence), MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut datagram = vec![0; LARGEST_DATAGRAM];
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut datagram, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                length => length?,
            };
            for message in messages(datagram.get(..length).unwrap_or_default()) {
                match message.kind {
                    // The answer to an earlier request that was given up.
                    _ if message.sequence != self.sequence => {}
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => {
                        let code = u32_at(message.payload, 0).unwrap_or(0).cast_signed();
                        let refused = || io::Error::from_raw_os_error(code.wrapping_neg());
                        return if code == 0 { Ok(answers) } else { Err(refused()) };
                    }
                    kind => answers.push((kind, message.payload.to_vec())),
                }
            }
        }
    }

    /// One datagram of a listening socket into `datagram`; `WouldBlock` when there is none.
    ///
    /// # Errors
    /// `ENOBUFS` once after messages were lost.
    pub fn receive<'a>(&self, datagram: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = recv(self.socket.as_raw_fd(), datagram, MsgFlags::empty())?;
        Ok(datagram.get(..length).unwrap_or_default())
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_taken_apart() {
        let bytes = Request::new(16, ACT, &[1, 2, 3, 4]).with(3, b"lo\0").with_nested(7, 1, &[9]).finish(5);
        assert_eq!(bytes.len() % 4, 0);
        let all: Vec<_> = messages(&bytes).collect();
        let [message] = all.as_slice() else { panic!("one message: {all:?}") };
        assert_eq!((message.kind, message.sequence), (16, 5));
        let attributes: Vec<_> = attributes(message.payload, 4).collect();
        assert_eq!(attributes[0], (3, b"lo\0".as_slice()));
        assert_eq!(attributes[1].0, 7);
        assert_eq!(super::attributes(attributes[1].1, 0).collect::<Vec<_>>(), [(1, [9].as_slice())]);
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        for length in [0_u32, 3, 15, 17, 4096, u32::MAX] {
            let mut bytes = Request::new(16, ACT, &[]).finish(1);
            bytes.splice(0..4, length.to_ne_bytes());
            assert_eq!(messages(&bytes).count(), 0, "{length}");
        }
        assert_eq!(attributes(&[0, 0, 1, 0], 0).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0], 0).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 1], 0).count(), 0);
        assert_eq!(attributes(&[5, 0, 1, 0, 1], 0).count(), 1, "padding may be absent at the end");
        assert_eq!(attributes(&[], 16).count(), 0);
    }
}
