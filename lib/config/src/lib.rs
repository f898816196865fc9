//! Settings: `bramble.toml` from the card, and the facts of this machine.
//!
//! Both are parsed at the border into types that cannot be wrong: unknown keys and values out of range are
//! refused, all at once, with line and column. Defaults live in [`raw`](self) only; resolved types have none.
//! `bramble.toml` beside this crate is the documented sample that is put on every card, and a test keeps it true.

mod error;
mod machine;
mod raw;
mod settings;

pub use error::{ConfigErrors, Mistake};
pub use machine::{Machine, MachineError, Role, RootKind};
pub use settings::{Api, Cluster, Config, Interface, Level, LoadError, Log, Uplink};

/// Where the configuration in force lies on a running head.
pub const CONFIG_PATH: &str = "/run/bramble/config.toml";

/// Where the facts of a running machine lie.
pub const MACHINE_PATH: &str = "/run/bramble/machine";

/// The documented sample, every setting commented out.
pub const SAMPLE: &str = include_str!("../bramble.toml");

/// A larger file is refused unread: a real one has a few hundred bytes.
pub const CONFIG_MAX_BYTES: u64 = 64 * 1024;
