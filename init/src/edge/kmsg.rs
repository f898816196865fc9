//! The kernel's log, `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg): the way to every console and to pstore.

use std::fs::{File, OpenOptions};
use std::io::Write;

/// Not an error, and yet for the eyes of whoever watches the machine come up and go down.
pub const NOTICE: u8 = 5;

/// What kmsg takes in one record is 1024 bytes less its own prefix; more is refused altogether.
const TEXT_MAX: usize = 900;

/// A writer to the kernel's log; silent if there is none.
#[derive(Debug)]
pub struct Kmsg {
    log: Option<File>,
    level: Option<File>,
}

impl Kmsg {
    /// Opens the log and, for later, the console's level. `/dev` and `/proc` must be mounted.
    pub fn open() -> Self {
        let open = |path| OpenOptions::new().write(true).open(path).ok();
        Self { log: open("/dev/kmsg"), level: open("/proc/sys/kernel/printk") }
    }

    /// One that says nothing.
    #[cfg(test)]
    pub fn silent() -> Self {
        Self { log: None, level: None }
    }

    /// Writes one line of `priority` (0 to 7).
    pub fn say(&self, priority: u8, text: &str) {
        if let Some(mut log) = self.log.as_ref() {
            let text = text.get(..text.floor_char_boundary(TEXT_MAX)).unwrap_or_default();
            // A record is one write call. There is nobody left to tell about a failure.
            let _ = log.write(format!("<{priority}>{text}\n").as_bytes());
        }
    }

    /// Lets [`NOTICE`]s through to the consoles, which `quiet` keeps to errors.
    pub fn show_notices(&self) {
        if let Some(mut level) = self.level.as_ref() {
            let _ = level.write(b"6");
        }
    }
}
