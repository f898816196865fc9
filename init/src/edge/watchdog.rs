//! The hardware watchdog (Documentation/watchdog/watchdog-api.rst): if PID 1's loop stands still, the board restarts.
//!
//! It is never closed and never disarmed: a shutdown that hangs ends by it as well.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use super::kmsg::Kmsg;
use crate::supervisor::Moment;

/// The Raspberry Pi's counter holds 2^20 ticks of 1/65536 s, just under 16 s.
const TIMEOUT_SECONDS: u16 = 15;

/// Three chances to be on time.
const PET_INTERVAL: Duration = Duration::from_secs(5);

/// The watchdog, if there is one.
#[derive(Debug, Default)]
pub struct Watchdog {
    device: Option<File>,
    next: Moment,
}

impl Watchdog {
    /// Takes the device if it is there and not taken yet: its driver may be loaded at any time.
    pub fn look(&mut self, kmsg: &Kmsg) {
        if self.device.is_some() {
            return;
        }
        let Ok(device) = OpenOptions::new().write(true).open("/dev/watchdog") else { return };
        match sys::set_watchdog_timeout(device.as_fd(), TIMEOUT_SECONDS) {
            Ok(seconds) => kmsg.say(6, &format!("init: watchdog set to {seconds} s")),
            Err(error) => kmsg.say(4, &format!("init: watchdog keeps its own time: {error}; going on")),
        }
        self.device = Some(device);
        self.next = Moment::ZERO;
    }

    /// To be called at the end of every pass of the loop, and only there.
    pub fn pet(&mut self, now: Moment) {
        if let Some(device) = self.device.as_mut()
            && self.next <= now
        {
            // Any byte but 'V' pets.
            let _ = device.write(b".");
            self.next = now.saturating_add(PET_INTERVAL);
        }
    }

    /// When [`Self::pet`] is due.
    pub fn deadline(&self) -> Option<Moment> {
        self.device.as_ref().map(|_| self.next)
    }
}
