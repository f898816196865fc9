//! The hardware watchdog: `Documentation/watchdog/watchdog-api.rst`. Petting needs no call of its own: any write does.

use std::os::fd::{AsRawFd, BorrowedFd};

mod request {
    nix::ioctl_readwrite!(wdioc_settimeout, b'W', 6, libc::c_int);
}

/// Asks for a time-out in seconds and answers with the one the device really took (`WDIOC_SETTIMEOUT`).
///
/// # Errors
/// `EINVAL` beyond the device's range, `EOPNOTSUPP` when it has one time-out only, `ENOTTY` when it is no watchdog.
pub fn set_watchdog_timeout(watchdog: BorrowedFd<'_>, seconds: u16) -> nix::Result<u32> {
    let mut seconds = libc::c_int::from(seconds);
    // SAFETY: the kernel reads and writes one int that outlives the call.
    unsafe { request::wdioc_settimeout(watchdog.as_raw_fd(), &mut seconds) }?;
    u32::try_from(seconds).map_err(|_| nix::errno::Errno::ERANGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_device_that_is_no_watchdog_is_refused() {
        let file = std::fs::File::open("/dev/null").expect("every Linux has /dev/null");
        assert_eq!(set_watchdog_timeout(file.as_fd(), 15), Err(nix::errno::Errno::ENOTTY));
    }
}
