//! The kernel's announcements of devices: one netlink datagram each, `ACTION@DEVPATH\0KEY=VALUE\0...`
//! (lib/kobject_uevent.c).
//!
//! Only the kernel is believed: datagrams from other processes are dropped. When the socket overflows
//! [`Uevents::next`] says so once; the caller then looks at sysfs itself ([`crate::Modules::coldplug`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};

/// What the kernel says about one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind` and so on.
    pub action: String,
    /// Path below `/sys`.
    pub devpath: String,
    pairs: Vec<(String, String)>,
}

/// The kernel's own limit is 64 variables in 2 KiB (`UEVENT_NUM_ENVP`, `UEVENT_BUFFER_SIZE`).
const MOST_PAIRS: usize = 64;
const LONGEST: usize = 4096;

impl Uevent {
    /// Decodes one datagram; `None` when it is not a kernel announcement.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let mut fields = datagram.split(|byte| *byte == 0).map(|field| std::str::from_utf8(field).ok());
        let (action, devpath) = fields.next()??.split_once('@')?;
        let pairs = fields.take(MOST_PAIRS).filter_map(|field| {
            let (key, value) = field?.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        });
        Some(Self { action: action.to_owned(), devpath: devpath.to_owned(), pairs: pairs.collect() })
    }

    /// The value of a variable: `MODALIAS`, `SUBSYSTEM`, `DEVNAME`, `INTERFACE`, `PARTUUID`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// What to give to [`crate::Modules::load_alias`]: the alias of a device that has just appeared.
    pub fn new_modalias(&self) -> Option<&str> {
        if self.action == "add" { self.get("MODALIAS") } else { None }
    }
}

/// A socket that receives them. Non-blocking; wait for the descriptor to become readable.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

/// Announcements come in bursts while drivers load: room for about two thousand.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// `UEVENT` multicast group of the kernel (group 2 is udev's).
const KERNEL_GROUP: u32 = 1;

impl Uevents {
    /// Opens and binds the socket.
    ///
    /// # Errors
    /// When the kernel refuses one of the two.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        // Beyond the system's limit needs CAP_NET_ADMIN; without it the default must do.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES);
        }
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    /// The next announcement; `None` when there is none now.
    ///
    /// # Errors
    /// `ENOBUFS` once after announcements were lost; anything else means that the socket is of no more use.
    pub fn next(&self) -> io::Result<Option<Uevent>> {
        let mut datagram = [0; LONGEST];
        loop {
            match receive(self.socket.as_raw_fd(), &mut datagram) {
                Ok((length, Some(0))) => {
                    if let Some(event) = datagram.get(..length).and_then(Uevent::parse) {
                        return Ok(Some(event));
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn receive(socket: RawFd, datagram: &mut [u8]) -> nix::Result<(usize, Option<u32>)> {
    let (length, sender) = recvfrom::<NetlinkAddr>(socket, datagram)?;
    Ok((length, sender.map(|address| address.pid())))
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Uevents {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_announcement_is_taken_apart() {
        let datagram = b"add@/devices/usb1/1-1\0ACTION=add\0MODALIAS=usb:v1p2\0SEQNUM=7\0\0";
        let event = Uevent::parse(datagram).expect("well formed");
        assert_eq!((event.action.as_str(), event.devpath.as_str()), ("add", "/devices/usb1/1-1"));
        assert_eq!(event.new_modalias(), Some("usb:v1p2"));
        assert_eq!(event.get("SEQNUM"), Some("7"));
        assert_eq!(event.get("NONE"), None);
    }

    #[test]
    fn only_devices_that_appear_ask_for_modules() {
        let event = Uevent::parse(b"remove@/x\0MODALIAS=usb:v1").expect("well formed");
        assert_eq!(event.new_modalias(), None);
    }

    #[test]
    fn datagrams_of_udev_and_noise_are_refused() {
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed\xca\xfe"), None);
        assert_eq!(Uevent::parse(b""), None);
        assert_eq!(Uevent::parse(b"\xff\xff@\0"), None);
        assert!(Uevent::parse(b"add@/x\0nonsense\0=\0\xff=\xff\0").is_some());
    }

    #[test]
    fn the_socket_opens_and_has_nothing_to_say_at_first() {
        let uevents = Uevents::open().expect("netlink is there on every Linux");
        assert!(matches!(uevents.next(), Ok(None | Some(_))));
    }
}
