//! The service table: every row init supervises, in start order, on one page.
//!
//! Read [`TABLE`] to know what runs on a machine, as whom, with which rights and limits. A row may wait only for rows
//! above it ([`Service::after`]), so the order of the table is an order that works; rows that do not wait for each
//! other start together. Rows of [`Stage::Root`] wait, besides, for the root file system.
//!
//! Everything here is data with no dependencies: init, the multi-call binary, the image builder and tests read it.

mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use table::{AGENT_USER, TABLE};

/// What a machine is, from `bramble.role=` on the kernel command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineRole {
    /// Boots from its card and serves the others.
    Head,
    /// Boots from its head.
    Node,
}

impl MachineRole {
    /// The word used for it on the kernel command line and in the machine facts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Node => "node",
        }
    }

    /// Reads the word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Head, Self::Node].into_iter().find(|role| role.name() == name)
    }
}

/// On which machines a row runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// On the head only.
    Head,
    /// On nodes only.
    Node,
    /// On every machine.
    Both,
}

impl Role {
    /// Does a row of this role run on that machine?
    pub fn runs_on(self, machine: MachineRole) -> bool {
        matches!(
            (self, machine),
            (Self::Both, _) | (Self::Head, MachineRole::Head) | (Self::Node, MachineRole::Node)
        )
    }
}

/// Where a row's program lies and which `/` it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In the initramfs, in RAM: started first, stopped last, of use while the root is away.
    Initramfs,
    /// In the root file system.
    Root,
}

/// How a row says that those waiting for it may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It runs on, and sends `READY` through its notify pipe.
    Notify,
    /// It is a job with an end: exit status 0 means done, and it is not started again.
    Exit,
}

/// A user and the group of the same number. Numbers, because there is no user database on board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User(pub u32);

/// The one user that may do everything its capabilities allow and owns the system's files.
pub const ROOT: User = User(0);

/// A capability of capabilities(7) that some row needs. The value is the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are those of capabilities(7)")]
pub enum Capability {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
    NetBindService = 10,
    NetAdmin = 12,
    NetRaw = 13,
    SysModule = 16,
    SysPtrace = 19,
    SysAdmin = 21,
    SysResource = 24,
}

/// A set of capabilities: bit n is the capability of number n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// Every one the kernel has.
    pub const ALL: Self = Self(u64::MAX);

    /// The set of those listed.
    pub const fn of(list: &[Capability]) -> Self {
        let (mut bits, mut rest) = (0, list);
        // const fn: no iterators.
        while let [first, others @ ..] = rest {
            bits |= 1 << *first as u8;
            rest = others;
        }
        Self(bits)
    }

    /// As the bit set the kernel takes.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Is the capability of this number in the set?
    pub fn contains(self, number: u8) -> bool {
        self.0.checked_shr(number.into()).is_some_and(|bits| bits & 1 == 1)
    }
}

/// When a row that failed is started again.
///
/// The wait starts at `initial` and doubles with every failure within `window`, up to `max`. At the `limit`th
/// failure within `window` the row's state becomes `failed`: those waiting for it go on without it, and it is tried
/// once every `retry`, because nobody stands beside the machine. The first time it is ready again it is an
/// ordinary row again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// The wait after a first failure.
    pub initial: Duration,
    /// The longest wait while tries are quick.
    pub max: Duration,
    /// So many failures...
    pub limit: u8,
    /// ...within so long are too many.
    pub window: Duration,
    /// How often a failed row is tried.
    pub retry: Duration,
}

/// A folder that must exist before a row starts; it belongs to the row's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Absolute; its parent exists.
    pub path: &'static str,
    /// Permission bits.
    pub mode: u32,
}

/// What a row may use at most, and how dear it is to the kernel when memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// cgroup `memory.max`, bytes, page cache it brought in included; `None` leaves it unlimited.
    pub memory_max: Option<u64>,
    /// cgroup `pids.max`: threads and processes together.
    pub tasks_max: u32,
    /// `RLIMIT_NOFILE`: open descriptors of one process.
    pub files_max: u32,
    /// `/proc/PID/oom_score_adj`: -1000 (never killed) to 1000.
    pub oom_score_adjust: i16,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Also the argument of the multi-call binary, the name of the cgroup, and the word on the console.
    pub name: &'static str,
    /// On which machines it runs.
    pub role: Role,
    /// In which file system its program lies.
    pub stage: Stage,
    /// Names of earlier rows that must have been ready (or have failed for good) before this one is first started.
    /// Rows of other roles count as absent. It is an order, not a need: a row that dies takes nobody with it.
    pub after: &'static [&'static str],
    /// As whom it runs.
    pub user: User,
    /// All it may have: bounding and, for users other than root, ambient set.
    pub capabilities: Capabilities,
    /// How it says that it works.
    pub readiness: Readiness,
    /// When it is started again after a failure.
    pub back_off: BackOff,
    /// From start to ready; then it counts as failed. `None`: for ever, and others wait as long.
    pub start_timeout: Option<Duration>,
    /// From SIGTERM to SIGKILL.
    pub stop_timeout: Duration,
    /// What it may use.
    pub limits: Limits,
    /// What must exist before it starts.
    pub directories: &'static [Directory],
}

impl Service {
    /// Program and arguments: `argv[0]` is the path.
    pub fn command(&self) -> Vec<&'static str> {
        match self.stage {
            Stage::Initramfs => vec!["/sbin/netroot"],
            // The machine's facts and configuration are its settings (ARCHITECTURE.md, "Contracts between parts").
            Stage::Root => vec!["/bin/bramble", self.name, "--machine"],
        }
    }
}

/// The rows of one machine, in order.
pub fn rows(machine: MachineRole) -> impl Iterator<Item = &'static Service> {
    TABLE.iter().filter(move |service| service.role.runs_on(machine))
}
