//! Drives a virtual cluster as a user does: through the `qemu` command line and the head's API.
//!
//! The system tests in `tests/tests` and the benchmarks in `tests/src/bin` share this.

mod cluster;
mod http;

pub use cluster::{Cluster, Options, repository};
pub use http::{Answer, get, post};
