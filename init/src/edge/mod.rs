//! The operating system's side of PID 1: small doers without policy. What to do is decided in `supervisor`.

pub mod boot;
pub mod buttons;
pub mod cgroup;
pub mod child;
pub mod clock;
pub mod kmsg;
pub mod last_words;
pub mod power;
pub mod root;
pub mod socket;
pub mod watchdog;
