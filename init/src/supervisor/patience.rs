//! How long each phase of a shutdown may take.

use std::time::Duration;

use manifest::MachineRole;

/// The longest a phase waits before the next begins without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For services to stop after SIGTERM, all of them together.
    pub stop: Duration,
    /// For what was sent SIGKILL to be gone.
    pub kill: Duration,
    /// For data to reach its disk.
    pub sync: Duration,
    /// For file systems to be unmounted.
    pub release: Duration,
    /// For netroot to let go of the device, SIGKILL included.
    pub keeper: Duration,
}

impl Patience {
    /// A node owns no data: with its network root away, which makes every phase hang, it is down in 8.5 s. A head has
    /// a card, whose last write must not be lost because the card is slow.
    pub fn of(machine: MachineRole) -> Self {
        let (stop, sync, release) = match machine {
            MachineRole::Node => (4, 1, 1),
            MachineRole::Head => (8, 10, 10),
        };
        Self {
            stop: Duration::from_secs(stop),
            kill: Duration::from_secs(1),
            sync: Duration::from_secs(sync),
            release: Duration::from_secs(release),
            keeper: Duration::from_millis(1500),
        }
    }

    /// The longest a shutdown can take.
    #[cfg(test)]
    pub fn total(&self) -> Duration {
        self.stop + self.kill + self.sync + self.release + self.keeper
    }
}
