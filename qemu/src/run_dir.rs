//! The directory of one running cluster, and the lock that says it is running.
//!
//! ```text
//! lock              held (flock) by the supervisor; its content is the supervisor's pid
//! control.sock      see `control`
//! supervisor.log    what a detached supervisor says
//! NAME/             one per machine:
//!   console.log       what the firmware model and the serial console said (console.log.1: the older part)
//!   qemu.log          what QEMU itself said
//!   kernel initramfs  what the firmware model fetched at the last boot
//!   card.img          the head's SD card
//!   port.pcap         with --pcap; the head also has uplink.pcap
//!   port.sock qmp.sock
//! ```
//! The lock is the truth: the kernel releases it with the process, so a crash cannot leave a cluster "running", and what
//! else it left behind is removed by the next start.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// An open run directory.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    handle: File,
}

/// The held lock of a run directory.
#[derive(Debug)]
pub struct Lock {
    file: Flock<File>,
    /// Whether a supervisor before this one ended without tidying up.
    pub was_stale: bool,
}

/// Why a run directory cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another supervisor holds it.
    #[error("a cluster is already running in {path} (pid {pid}); `./bramble down` stops it")]
    Running {
        /// The run directory.
        path: PathBuf,
        /// Of its supervisor, as the lock file says.
        pid: String,
    },
    /// The directory or the lock file cannot be used.
    #[error("run directory {path}: {source}")]
    Unusable {
        /// The run directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl RunDir {
    /// Opens the directory, making it first where it is missing. Only its owner may look inside.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn create(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Self::open(path)
    }

    /// Opens a directory that exists.
    ///
    /// # Errors
    /// When it does not, or is not readable.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        Ok(Self { handle: File::open(&path)?, path })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of a machine.
    pub fn machine(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A path for a socket in this directory that always fits the 108 bytes of `sockaddr_un`, however deep the clone lies.
    pub fn socket(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()))
    }

    /// Takes the lock and removes what a crashed supervisor left.
    ///
    /// # Errors
    /// When a supervisor is running here, or the file cannot be written.
    pub fn lock(&self) -> Result<Lock, LockError> {
        let unusable = |source| LockError::Unusable { path: self.path.clone(), source };
        let path = self.path.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(unusable)?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, errno)| {
            let mut pid = String::new();
            match errno {
                nix::errno::Errno::EWOULDBLOCK => {
                    // The pid is a courtesy; without it the line says the same.
                    let _ = file.read_to_string(&mut pid);
                    LockError::Running { path: self.path.clone(), pid: pid.trim().to_owned() }
                }
                errno => unusable(errno.into()),
            }
        })?;
        let mut before = String::new();
        file.read_to_string(&mut before).map_err(unusable)?;
        file.set_len(0).map_err(unusable)?;
        writeln!(file, "{}", std::process::id()).map_err(unusable)?;
        let _ = fs::remove_file(self.path.join("control.sock"));
        Ok(Lock { file, was_stale: !before.trim_matches('\0').trim().is_empty() })
    }

    /// Whether a supervisor is running here.
    pub fn is_locked(&self) -> bool {
        let Ok(file) = File::open(self.path.join("lock")) else { return false };
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
    }
}

impl Lock {
    /// Gives the directory back after an orderly end.
    pub fn release(self) {
        // An empty file is how the next start knows that nothing is stale; failing to say so costs one remark.
        let _ = self.file.set_len(0);
    }
}
