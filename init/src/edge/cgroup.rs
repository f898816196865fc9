//! One control group (v2) per row: its limits, its memory, and the one sure way to kill all of it
//! (Documentation/admin-guide/cgroup-v2.rst).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use manifest::Limits;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use sys::Fork;

/// The directory of all groups. Files are opened relative to it, never through `/`, which may be a root that is away.
#[derive(Debug)]
pub struct Cgroups {
    folder: OwnedFd,
}

/// A group.
#[derive(Debug)]
pub struct Cgroup {
    folder: OwnedFd,
    killed: bool,
}

const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC).union(OFlag::O_RDONLY);

impl Cgroups {
    /// Opens the mounted hierarchy and hands its controllers on to the groups below.
    ///
    /// # Errors
    /// When it is not mounted.
    pub fn open() -> Result<Self, Errno> {
        let cgroups = Self { folder: open("/sys/fs/cgroup", FOLDER, Mode::empty())? };
        // Each alone, so that one the kernel lacks does not cost us the other.
        for controller in ["+memory", "+pids"] {
            let _ = write(cgroups.folder.as_fd(), "cgroup.subtree_control", controller);
        }
        Ok(cgroups)
    }

    /// Makes the group of a row, or takes the one it has, and sets its limits.
    ///
    /// # Errors
    /// When there can be no such group. A limit that cannot be set is no error: the service runs without it.
    pub fn group(&self, name: &str, limits: &Limits) -> Result<Cgroup, Errno> {
        match mkdirat(&self.folder, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
        let folder = openat(&self.folder, name, FOLDER, Mode::empty())?;
        if let Some(bytes) = limits.memory_max {
            let _ = write(folder.as_fd(), "memory.max", &bytes.to_string());
        }
        // Out of memory, a service dies as a whole: half of one is nothing anybody has tested.
        let _ = write(folder.as_fd(), "memory.oom.group", "1");
        let _ = write(folder.as_fd(), "pids.max", &limits.tasks_max.to_string());
        Ok(Cgroup { folder, killed: false })
    }
}

impl Cgroup {
    /// SIGKILL for everything in it.
    ///
    /// # Errors
    /// When the kernel has no `cgroup.kill` (before 5.14).
    pub fn kill(&mut self) -> Result<(), Errno> {
        self.killed = true;
        write(self.folder.as_fd(), "cgroup.kill", "1")
    }

    /// Forks a child into the group.
    ///
    /// A group that was once killed takes no child by clone3: up to Linux 7.2 the child's `kill_seq` is then that of
    /// its parent's group, differs, and the child is killed as well (`cgroup_css_set_fork` and `cgroup_post_fork` in
    /// kernel/cgroup/cgroup.c). Into such a group the child moves by itself, before it does anything else.
    ///
    /// # Errors
    /// When there is no process for it.
    pub fn fork(&self) -> Result<Fork, Errno> {
        if !self.killed {
            return sys::fork_into_cgroup(self.folder.as_fd());
        }
        let side = sys::fork()?;
        if side == Fork::Child && write(self.folder.as_fd(), "cgroup.procs", "0").is_err() {
            // Out of reach of limits and of `kill`: rather not at all.
            sys::exit_immediately(1);
        }
        Ok(side)
    }

    /// Bytes in use, page cache included; 0 if the kernel does not count.
    pub fn memory_bytes(&self) -> u64 {
        let mut text = String::new();
        let file = openat(&self.folder, "memory.current", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        let _ = file.map(|file| File::from(file).take(32).read_to_string(&mut text));
        text.trim_end().parse().unwrap_or_default()
    }
}

fn write(folder: BorrowedFd<'_>, name: &str, text: &str) -> Result<(), Errno> {
    let file = openat(folder, name, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    File::from(file)
        .write_all(text.as_bytes())
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}
