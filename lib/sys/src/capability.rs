//! Capabilities of the calling thread: capabilities(7), `include/uapi/linux/capability.h`.
//!
//! To give a child of another user exactly the set S: drop everything else from the bounding set, keep capabilities
//! over `setresuid` (`nix::sys::prctl::set_keepcaps`), then [`set_capabilities`] S, then raise each of S as ambient.

use libc::{c_int, c_ulong};

/// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit words per set.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes `set` (bit n = capability n) the effective, permitted and inheritable set of this thread.
///
/// # Errors
/// `EPERM` when the set holds a capability the thread has not.
pub fn set_capabilities(set: u64) -> nix::Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let word = |bits: u64| {
        let bits = (bits & 0xffff_ffff) as u32;
        Data { effective: bits, permitted: bits, inheritable: bits }
    };
    let data = [word(set), word(set >> 32)];
    // SAFETY: version 3 reads one header and exactly two data records, which outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    nix::errno::Errno::result(answer).map(drop)
}

/// Takes one capability out of this thread's bounding set: nothing it executes can ever gain it.
///
/// # Errors
/// `EINVAL` for a number this kernel has not (one more than its last), `EPERM` without `CAP_SETPCAP`.
pub fn drop_bounding_capability(capability: u8) -> nix::Result<()> {
    // SAFETY: PR_CAPBSET_DROP takes integers only.
    let answer = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability), 0, 0, 0) };
    nix::errno::Errno::result(answer).map(drop)
}

/// Puts one capability into the ambient set, so that it survives the execution of an ordinary program by an
/// ordinary user.
///
/// # Errors
/// `EPERM` when it is not both permitted and inheritable, `EINVAL` for a number this kernel has not.
pub fn raise_ambient_capability(capability: u8) -> nix::Result<()> {
    let (raise, capability) = (libc::PR_CAP_AMBIENT_RAISE as c_ulong, c_ulong::from(capability));
    // SAFETY: PR_CAP_AMBIENT takes integers only.
    let answer = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, 0, 0) };
    nix::errno::Errno::result(answer).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    // Credentials belong to the thread, so each test spends a thread of its own on them.
    fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(work).join().expect("the thread does not panic"))
    }

    #[test]
    fn giving_up_all_capabilities_is_always_allowed_and_getting_one_back_is_not() {
        assert_eq!(on_a_thread(|| (set_capabilities(0), set_capabilities(1))), (Ok(()), Err(Errno::EPERM)));
    }

    #[test]
    fn a_capability_that_is_not_permitted_cannot_be_ambient() {
        assert_eq!(
            on_a_thread(|| set_capabilities(0).and_then(|()| raise_ambient_capability(0))),
            Err(Errno::EPERM)
        );
    }

    #[test]
    fn a_capability_the_kernel_has_not_cannot_be_dropped() {
        let answer = on_a_thread(|| drop_bounding_capability(63));
        assert!(matches!(answer, Err(Errno::EINVAL | Errno::EPERM)), "{answer:?}");
    }
}
