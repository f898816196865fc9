//! reboot(2) with an argument for the firmware. Without one, `nix::sys::reboot` does.

use std::convert::Infallible;
use std::ffi::CStr;

/// Restarts the machine at once, nothing synced, handing `argument` to the restart handlers
/// (`LINUX_REBOOT_CMD_RESTART2`), for example `0 tryboot`.
///
/// # Errors
/// Comes back only to say why not: `EPERM` without `CAP_SYS_BOOT`.
pub fn restart_with_argument(argument: &CStr) -> nix::Result<Infallible> {
    // SAFETY: the kernel copies at most 255 bytes of a NUL-terminated string that outlives the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_reboot,
            libc::LINUX_REBOOT_MAGIC1,
            libc::LINUX_REBOOT_MAGIC2,
            libc::LINUX_REBOOT_CMD_RESTART2,
            argument.as_ptr(),
        )
    };
    Err(nix::errno::Errno::result(answer).err().unwrap_or(nix::errno::Errno::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The test gives up the privilege first: a test run as root must not restart the machine.
    #[test]
    fn a_thread_without_the_capability_may_not_restart_the_machine() {
        let answer = std::thread::spawn(|| {
            crate::set_capabilities(0).expect("giving up is always allowed");
            restart_with_argument(c"0 tryboot")
        });
        assert_eq!(answer.join().expect("no panic").err(), Some(nix::errno::Errno::EPERM));
    }
}
