//! The system calls `nix` has no safe wrapper for: the only crate of the project that may say `unsafe`.
//!
//! One call per function, each with the contract that makes it sound; every function answers with the kernel's own
//! [`nix::errno::Errno`]. What `nix` already wraps (mount, mlockall, sendfile, signalfd, setresuid, reboot without
//! argument) is used from there and is not repeated here.
//!
//! Not supported: anything but 64-bit Linux. The structures below are written for that ABI.
#![allow(unsafe_code)]

mod block;
mod capability;
mod descriptor;
mod link;
mod module;
mod power;
mod process;
mod watchdog;

pub use block::{block_device_size, reread_partition_table, resize_ext4, resize_partition};
pub use capability::{drop_bounding_capability, raise_ambient_capability, set_capabilities};
pub use descriptor::adopt_descriptor;
pub use link::bring_loopback_up;
pub use module::{ModuleFile, finit_module};
pub use power::restart_with_argument;
pub use process::{End, Fork, exit_immediately, fork, fork_into_cgroup, reap};
pub use watchdog::set_watchdog_timeout;
