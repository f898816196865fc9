//! The virtual cluster: Raspberry Pis as QEMU machines on a user-space Ethernet switch.
//!
//! Purpose: run the image that is flashed, unprivileged, on a workstation. A machine's kernel, initramfs and command line
//! come from [`firmware`], a model of the Pi's own, and from nowhere else. Tests drive a [`cluster::Cluster`] directly.
//!
//! *Not supported*: KVM (the host is not an arm64 machine as a rule, and figures stay comparable), input on consoles (the
//! machines have no shell), Wi-Fi, more than one switch.
//!
//! How to watch it: the run directory ([`run_dir`]) has each machine's console, QEMU's own words, and captures;
//! `status --json` has the rest.

pub mod cluster;
pub mod control;
pub mod display;
pub mod firmware;
pub mod head_api;
mod lines;
pub mod machine;
pub mod preflight;
pub mod run_dir;
pub mod supervisor;
pub mod switch;
