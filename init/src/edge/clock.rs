//! The one clock: time since kernel start, which no one can set.

use nix::time::{ClockId, clock_gettime};

use crate::supervisor::Moment;

/// Now. `CLOCK_MONOTONIC` starts at zero when the kernel's timekeeping does, and boards do not suspend.
pub fn now() -> Moment {
    // The call cannot fail for this clock; were it to, the machine would stand still rather than fall.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Moment::from).unwrap_or_default()
}
