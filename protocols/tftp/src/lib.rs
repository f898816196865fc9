//! TFTP, the protocol every boot ROM speaks: packets, and a clockless machine for either end of one read.
//!
//! | file | what |
//! |---|---|
//! | [`packet`] | bytes <-> [`Packet`] |
//! | [`options`] | bytes <-> [`Options`], and what of a request a server grants |
//! | [`server`] | [`server::Transfer`]: one file on its way to one client |
//! | [`client`] | [`client::Fetch`]: one file, or a probe for one, on its way from a server |
//!
//! Specifications: RFC 1350 (revision 2), 2347 (options), 2348 (`blksize`), 2349 (`tsize`, `timeout`),
//! 7440 (`windowsize`).
//!
//! Not supported: writing to a server, the modes `netascii` and `mail`, multicast (RFC 2090).
//!
//! Deviations, and who forces them:
//! * The block counter rolls over from 65535 to 0; RFC 1350 knows no file beyond 65535 blocks. All Raspberry Pi
//!   boot loaders since 2025-09 and every common client count this way.
//! * A request may end without the final NUL: some boot ROMs count the string length wrongly.
//! * `ERROR 0 "Early terminate"` after an OACK is how boards ask whether a file exists. It is an answer, not a
//!   failure.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod client;
pub mod options;
pub mod packet;
pub mod server;

pub use options::{BlockSize, Options};
pub use packet::{DecodeError, ErrorCode, Mode, Packet, Request};

/// Where a server listens for requests (RFC 1350 §4).
pub const PORT: u16 = 69;
