//! Network links, without netlink: for PID 1, which has one link to bring up.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Brings the loopback link up. `socket` is any IPv4 socket of the network namespace. Needs CAP_NET_ADMIN.
///
/// # Errors
/// What ioctl(2) with SIOCSIFFLAGS (netdevice(7)) says; ENODEV without a loopback.
pub fn bring_loopback_up(socket: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: ifreq is plain data for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    let flags = libc::IFF_UP | libc::IFF_RUNNING;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(|_| Errno::EINVAL)?;
    // SAFETY: SIOCSIFFLAGS reads one ifreq (netdevice(7)), which lives on this frame until the call returns; the cast is
    // to the request's type, which differs between C libraries.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn the_loopback_is_up_afterwards_or_the_right_was_missing() {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        match bring_loopback_up(socket.as_fd()) {
            Ok(()) => {
                let flags = std::fs::read_to_string("/sys/class/net/lo/flags").expect("sysfs");
                let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).expect("a number");
                assert_eq!(flags & 1, 1, "IFF_UP is set");
            }
            Err(error) => assert_eq!(error, Errno::EPERM),
        }
    }
}
