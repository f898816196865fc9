//! A child process, born into its control group.
//!
//! std's `Command` does not fit PID 1: it waits in the parent until the child has executed, and a child whose program
//! lies on a network root that is away may take for ever to do so.

use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, pid_t};

/// On which side of the fork we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// In the parent: the child's process id.
    Parent(pid_t),
    /// In the child.
    Child,
}

/// `CLONE_INTO_CGROUP` (clone3 only).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args`, version 2 (Linux 5.7), 88 bytes.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// fork(2). For single-threaded processes; the child of any other may only make system calls, and must then execute
/// a program or [`exit_immediately`].
///
/// # Errors
/// `EAGAIN` at the limit of processes, `ENOMEM`.
pub fn fork() -> nix::Result<Fork> {
    // SAFETY: PID 1, the caller, has one thread, so no lock can be left held in the child; the documentation above
    // hands the same duty to every other caller.
    let answer = unsafe { libc::fork() };
    side(answer.into())
}

/// Like [`fork`], but the child starts its life in the cgroup (v2) whose directory `cgroup` is: no moment outside
/// its limits, and none of the waiting that moving a living process costs (a write to `cgroup.procs` takes a global
/// semaphore for an RCU grace period).
///
/// # Errors
/// `EBADF` when the descriptor is no directory of a cgroup2 file system, `EAGAIN` at its limit of processes, `EBUSY`.
pub fn fork_into_cgroup(cgroup: BorrowedFd<'_>) -> nix::Result<Fork> {
    let arguments = CloneArguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM and with stack 0 this is fork: the child goes on with a copy of everything. The libc
    // is not told, which matters to threads and their identifiers only; the caller has one thread (see `fork`).
    let answer =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) };
    side(answer)
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this status.
    Exit(c_int),
    /// By this signal, real-time ones included (which `nix::sys::wait` has no name for, and loses the child).
    Signal(c_int),
}

/// Takes note of one child of this process that has ended, any child, without waiting.
///
/// # Errors
/// `ECHILD` when there are no children at all.
pub fn reap() -> nix::Result<Option<(pid_t, End)>> {
    let mut status = 0;
    // SAFETY: the kernel writes one int that outlives the call.
    let answer = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    let pid = nix::errno::Errno::result(answer)?;
    let end = match libc::WIFEXITED(status) {
        true => End::Exit(libc::WEXITSTATUS(status)),
        false => End::Signal(libc::WTERMSIG(status)),
    };
    Ok((pid != 0).then_some((pid, end)))
}

/// _exit(2): ends the process without running anything of its parent's at-exit work.
pub fn exit_immediately(code: c_int) -> ! {
    // SAFETY: takes an integer, does not return.
    unsafe { libc::_exit(code) }
}

fn side(answer: libc::c_long) -> nix::Result<Fork> {
    let pid = nix::errno::Errno::result(answer)?;
    Ok(match pid_t::try_from(pid).map_err(|_| nix::errno::Errno::ERANGE)? {
        0 => Fork::Child,
        pid => Fork::Parent(pid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    // One test for both, because `reap` takes any child, those of other tests as well.
    #[test]
    fn the_parent_learns_how_each_child_ended() {
        let child = |work: fn()| match fork().expect("fork") {
            Fork::Child => {
                work();
                exit_immediately(7)
            }
            Fork::Parent(pid) => pid,
        };
        let real_time = libc::SIGRTMIN() + 3;
        let (first, second) =
            (child(|| ()), child(|| std::thread::sleep(std::time::Duration::from_secs(60))));
        assert_eq!(waited(), (first, End::Exit(7)));
        // nix has no name for this signal either.
        std::process::Command::new("kill")
            .args([format!("-{real_time}"), second.to_string()])
            .status()
            .expect("kill");
        loop {
            // kill(1) itself is reaped by its Command, or by us if we are quicker.
            let (pid, end) = waited();
            if pid == second {
                assert_eq!(end, End::Signal(real_time));
                return;
            }
        }
    }

    fn waited() -> (pid_t, End) {
        for _ in 0..1000 {
            if let Ok(Some(child)) = reap() {
                return child;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("no child ended in ten seconds")
    }

    #[test]
    fn a_descriptor_that_is_no_cgroup_gives_no_child() {
        let file = std::fs::File::open("/").expect("the root directory");
        match fork_into_cgroup(file.as_fd()) {
            Ok(Fork::Child) => exit_immediately(1),
            answer => assert!(answer.is_err(), "{answer:?}"),
        }
    }

    #[test]
    fn clone_arguments_have_the_size_the_kernel_knows() {
        assert_eq!(size_of::<CloneArguments>(), 88);
    }
}
