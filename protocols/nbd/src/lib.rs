//! NBD, the protocol the root comes over: bytes <-> types, and clockless machines for both ends of the handshake.
//!
//! | file | what |
//! |---|---|
//! | [`export`] | [`Export`]: what is served, and [`Export::admit`], the one place that judges a request |
//! | [`option`] | the handshake's options and their replies as bytes |
//! | [`client`] | [`client::Handshake`]: from greeting to [`client::Attached`] |
//! | [`server`] | [`server::Handshake`]: from greeting to the export a client chose |
//! | [`transmission`] | requests and replies as bytes |
//!
//! The handshakes are byte streams in, bytes out: `wanted` says how much to read, `receive` takes it, `transmit` drains
//! what to send. They have no deadline of their own: a driver allows the whole handshake one, since all its steps
//! are each other's answers. Neither machine ever takes a byte that follows the handshake, so that the socket can
//! be handed to the kernel.
//!
//! Specification: `doc/proto.md` of the NetworkBlockDevice project: fixed newstyle, options `EXPORT_NAME`, `ABORT`,
//! `LIST`, `INFO`, `GO`, `STRUCTURED_REPLY`; simple replies, and structured ones for reads.
//!
//! Not supported: oldstyle and unfixed newstyle, TLS (`STARTTLS`), meta contexts and block status, extended
//! headers, `CACHE` and `RESIZE`.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod client;
pub mod export;
pub mod option;
pub mod server;
pub mod transmission;

pub use export::{BlockSizes, Export, Work};
pub use transmission::{Command, ErrorNumber, Request, TransmissionFlags};

/// Where a server listens.
pub const PORT: u16 = 10809;

/// The most data in one request: what the kernel's client may ask for (65536 sectors), and what every server has
/// to take if it negotiates no block size.
pub const MAXIMUM_PAYLOAD: u32 = 32 * 1024 * 1024;
