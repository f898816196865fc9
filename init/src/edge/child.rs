//! From a row of the table to a process. PID 1 forks and goes on at once; everything that could wait for a file
//! system, from making directories to executing the program, is done by the child.

use std::ffi::{CString, NulError};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use manifest::{Service, Stage};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::prctl::{set_keepcaps, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{
    Gid, Uid, chdir, chroot, dup2_stderr, dup2_stdin, dup2_stdout, execve, fchdir, fchownat, mkdir, pipe2,
    setgroups, setresgid, setresuid, setsid,
};
use sys::Fork;

use super::cgroup::Cgroup;

/// What a child gets from its parent.
pub struct Parent<'a> {
    /// `/dev/null`.
    pub null: BorrowedFd<'a>,
    /// The writing end of the row's log pipe.
    pub log: BorrowedFd<'a>,
    /// The row's group, if the kernel has such.
    pub cgroup: Option<&'a Cgroup>,
    /// The initramfs, where rows of its stage live.
    pub initramfs: BorrowedFd<'a>,
    /// When PID 1 began.
    pub init_started: Duration,
}

/// A process, just born.
pub struct Child {
    /// Its id.
    pub pid: i32,
    /// The reading end of its notify pipe.
    pub notify: OwnedFd,
}

/// Exit status of a child that could not become its service, as shells have it.
const NOT_EXECUTED: i32 = 127;

/// Starts a row's program.
///
/// # Errors
/// When there is no process, descriptor or memory for it. What fails in the child is said in the row's log, and
/// the child ends with status 127.
pub fn spawn(service: &Service, parent: &Parent<'_>) -> Result<Child, Errno> {
    let (notify, notify_writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let program = Program::of(service, &notify_writer, parent.init_started).map_err(|_| Errno::EINVAL)?;
    let side = match parent.cgroup {
        Some(cgroup) => cgroup.fork(),
        None => sys::fork(),
    };
    match side? {
        Fork::Parent(pid) => Ok(Child { pid, notify }),
        Fork::Child => {
            let Err(Failure { step, error }) =
                become_service(service, &program, parent, notify_writer.as_fd());
            let _ = writeln!(std::io::stderr(), "<3>cannot start: {step}: {error}");
            sys::exit_immediately(NOT_EXECUTED)
        }
    }
}

/// Runs `work` in a child of PID 1, for calls that may never come back, such as sync(2).
///
/// # Errors
/// When there is no process for it.
pub fn beside(work: impl FnOnce()) -> Result<i32, Errno> {
    match sys::fork()? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            work();
            sys::exit_immediately(0)
        }
    }
}

/// All strings of an execve(2), made before the fork.
struct Program {
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    fn of(service: &Service, notify: &OwnedFd, init_started: Duration) -> Result<Self, NulError> {
        let arguments = service.command().into_iter().map(CString::new).collect::<Result<_, _>>()?;
        let environment = [
            "PATH=/bin:/sbin".to_owned(),
            format!("BRAMBLE_NOTIFY_FD={}", notify.as_raw_fd()),
            format!("BRAMBLE_INIT_US={}", init_started.as_micros()),
        ];
        let environment = environment.into_iter().map(CString::new).collect::<Result<_, _>>()?;
        Ok(Self { arguments, environment })
    }
}

struct Failure {
    step: &'static str,
    error: Errno,
}

fn step(step: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |error| Failure { step, error }
}

fn become_service(
    service: &Service,
    program: &Program,
    parent: &Parent<'_>,
    notify: BorrowedFd<'_>,
) -> Result<std::convert::Infallible, Failure> {
    dup2_stdin(parent.null).map_err(step("stdin"))?;
    dup2_stdout(parent.log).map_err(step("stdout"))?;
    dup2_stderr(parent.log).map_err(step("stderr"))?;
    // PID 1 blocks the signals it reads by signalfd; a mask outlives execve.
    SigSet::empty().thread_set_mask().map_err(step("signal mask"))?;
    setsid().map_err(step("session"))?;
    if service.stage == Stage::Initramfs {
        fchdir(parent.initramfs).and_then(|()| chroot(".")).map_err(step("initramfs"))?;
    }
    chdir("/").map_err(step("working directory"))?;
    make_directories(service).map_err(step("directories"))?;
    let files = service.limits.files_max.into();
    setrlimit(Resource::RLIMIT_NOFILE, files, files).map_err(step("limit of files"))?;
    // Not worth a service: a kernel without it only chooses its victims less well.
    let _ = fs::write("/proc/self/oom_score_adj", service.limits.oom_score_adjust.to_string());
    drop_rights(service)?;
    // Only now does the pipe outlive the execution: nobody but the service itself must hold it open.
    fcntl(notify, FcntlArg::F_SETFD(FdFlag::empty())).map_err(step("notify pipe"))?;
    let path = program.arguments.first().ok_or(Failure { step: "program", error: Errno::ENOENT })?;
    execve(path, &program.arguments, &program.environment).map_err(step("execution"))
}

fn make_directories(service: &Service) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(service.user.0), Gid::from_raw(service.user.0));
    for directory in service.directories {
        let mode = Mode::from_bits_truncate(directory.mode);
        match mkdir(directory.path, mode) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
        // The parent belongs to root, so nobody else can have put a link in its place.
        fchownat(AT_FDCWD, directory.path, Some(user), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        fchmodat(AT_FDCWD, directory.path, mode, FchmodatFlags::FollowSymlink)?;
    }
    Ok(())
}

/// capabilities(7): first what it may ever have, then who it is, then what it has.
fn drop_rights(service: &Service) -> Result<(), Failure> {
    let mut last = None;
    for number in 0..64 {
        if service.capabilities.contains(number) {
            continue;
        }
        match sys::drop_bounding_capability(number) {
            Ok(()) => {}
            // One more than the kernel's last.
            Err(Errno::EINVAL) => {
                last = Some(number);
                break;
            }
            Err(error) => return Err(Failure { step: "bounding set", error }),
        }
    }
    if service.user != manifest::ROOT {
        let (user, group) = (Uid::from_raw(service.user.0), Gid::from_raw(service.user.0));
        set_keepcaps(true).map_err(step("keeping capabilities"))?;
        setgroups(&[]).map_err(step("groups"))?;
        setresgid(group, group, group).map_err(step("group"))?;
        setresuid(user, user, user).map_err(step("user"))?;
        sys::set_capabilities(service.capabilities.bits()).map_err(step("capabilities"))?;
        for number in (0..last.unwrap_or(64)).filter(|number| service.capabilities.contains(*number)) {
            sys::raise_ambient_capability(number).map_err(step("ambient set"))?;
        }
    }
    set_no_new_privs().map_err(step("no new privileges"))
}
