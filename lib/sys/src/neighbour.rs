//! One entry of the IPv4 neighbour table: arp(7).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{arpreq, sockaddr, sockaddr_in};
use nix::errno::Errno;

mod request {
    nix::ioctl_write_ptr_bad!(siocsarp, libc::SIOCSARP, libc::arpreq);
}

/// Enters `address` is-at `mac` on `interface` into the kernel's table (`SIOCSARP`), so that a datagram can be sent
/// to a client which does not answer ARP yet. `socket` is any IPv4 datagram socket. The entry may age out.
///
/// # Errors
/// `ENODEV` without such an interface, `EPERM` without `CAP_NET_ADMIN`, `EINVAL` for a name of 16 bytes or more.
pub fn set_neighbour(
    socket: BorrowedFd<'_>,
    interface: &str,
    address: Ipv4Addr,
    mac: [u8; 6],
) -> nix::Result<()> {
    let mut entry = arpreq {
        arp_pa: protocol_address(address),
        arp_ha: sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] },
        arp_flags: libc::ATF_COM,
        arp_netmask: protocol_address(Ipv4Addr::UNSPECIFIED),
        arp_dev: [0; 16],
    };
    for (to, from) in entry.arp_ha.sa_data.iter_mut().zip(mac) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    if interface.len() >= entry.arp_dev.len() {
        return Err(Errno::EINVAL);
    }
    for (to, from) in entry.arp_dev.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the kernel reads one arpreq, fully initialised, that outlives the call.
    unsafe { request::siocsarp(socket.as_raw_fd(), &entry) }.map(drop)
}

/// A `sockaddr_in` in the generic shape `arpreq` wants.
fn protocol_address(address: Ipv4Addr) -> sockaddr {
    let mut data = [0; 14];
    // sockaddr_in after its family: port (2 bytes), address (4 bytes, network order), padding.
    const _: () = assert!(size_of::<sockaddr_in>() == size_of::<sockaddr>());
    for (to, from) in data.iter_mut().skip(2).zip(address.octets()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn an_interface_that_does_not_exist_is_refused_by_the_kernel() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let answer = set_neighbour(socket.as_fd(), "none0", Ipv4Addr::new(10, 77, 0, 11), [2, 0, 0, 0, 0, 1]);
        assert!(matches!(answer, Err(Errno::ENODEV | Errno::EPERM)), "{answer:?}");
    }

    #[test]
    fn a_name_too_long_for_the_kernel_is_refused_before_the_call() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let answer = set_neighbour(socket.as_fd(), "sixteen_bytes_xx", Ipv4Addr::LOCALHOST, [0; 6]);
        assert_eq!(answer, Err(Errno::EINVAL));
    }
}
