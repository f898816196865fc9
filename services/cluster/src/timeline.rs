//! One boot of one board, step by step, on the head's clock.
//!
//! Two sources meet here: what the head's own services saw (DHCP, TFTP), and what the board told once it could
//! (kernel, PID 1, link, lease, root, ready). The board's times are placed by its first heartbeat, which carries
//! its clock: boot instant = head's now - board's now. The error is the heartbeat's way, well below a millisecond.

use api::{Heartbeat, Step};
use serde::{Deserialize, Serialize};

/// Steps kept of one boot; a Pi 4 needs about 30 with its harmless misses. Later ones are dropped.
const STEPS_MAX: usize = 96;

/// One boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    start_us: u64,
    steps: Vec<Step>,
    told: bool,
    over: bool,
}

impl Boot {
    /// A boot whose first sign was seen at this moment of the head's clock.
    pub fn starting_at(start_us: u64) -> Self {
        Self { start_us, ..Self::default() }
    }

    /// The steps so far, oldest first. Times count from the boot's first sign.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// True while only DHCP was seen: another DISCOVER is then the same boot's retry.
    pub fn is_before_files(&self) -> bool {
        !self.told
            && self.steps.iter().all(|step| !matches!(step.step.as_str(), "file" | "probe" | "missing"))
            && !self.steps.is_empty()
    }

    /// True once the board runs its system, so that whatever it fetches next belongs to another boot.
    pub fn is_over(&self) -> bool {
        self.over || self.told
    }

    /// Adds what a service of the head has seen. False when it adds nothing worth telling.
    pub fn add_observed(&mut self, event: &bus::Event, at_us: u64) -> bool {
        // A running system renews its lease now and then; that is no step of its boot.
        if self.steps.len() >= STEPS_MAX || (self.told && self.over) {
            return false;
        }
        let detail = if event.file.is_empty() { &event.detail } else { &event.file };
        self.insert(Step {
            step: event.kind.clone(),
            detail: detail.chars().take(80).collect(),
            at_us: at_us.saturating_sub(self.start_us),
            duration_us: event.duration_us,
            bytes: event.bytes,
        });
        true
    }

    /// Adds what the board tells of its boot. True when the boot is complete by that.
    pub fn add_told(&mut self, beat: &Heartbeat, now_us: u64) -> bool {
        let kernel_us = now_us.saturating_sub(beat.now_us);
        if !self.told {
            self.told = true;
            // The kernel's start closes the firmware's part; it has no event of its own.
            self.tell("kernel", kernel_us);
            for (step, at_us) in beat.events.iter().take(16) {
                self.tell(step, kernel_us.saturating_add(*at_us));
            }
        }
        let complete = beat.ready && !self.over;
        if complete {
            self.over = true;
            let ready_us = beat.services.iter().map(|service| service.since_us).max().filter(|&us| us > 0);
            self.tell("ready", kernel_us.saturating_add(ready_us.unwrap_or(beat.now_us).min(beat.now_us)));
        }
        complete
    }

    fn tell(&mut self, step: &str, at_us: u64) {
        if self.steps.len() < STEPS_MAX {
            let at_us = at_us.saturating_sub(self.start_us);
            self.insert(Step { step: step.chars().take(20).collect(), at_us, ..Step::default() });
        }
    }

    fn insert(&mut self, step: Step) {
        let place = self.steps.partition_point(|other| other.at_us <= step.at_us);
        self.steps.insert(place, step);
    }
}
