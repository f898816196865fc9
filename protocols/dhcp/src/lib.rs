//! DHCP for IPv4: messages, frames, and the two machines that speak it.
//!
//! The codec is shared by the DHCP server, by the clients (`netroot` in the initramfs and `network` for the
//! uplink) and by the model of the Pi firmware, so it depends on nothing but `thiserror`.
//!
//! Specifications: RFC 2131 (protocol), RFC 2132 (options), RFC 3396 (long options), RFC 3046 (relay agent
//! information), RFC 3397 (domain search), RFC 3442 (classless routes), RFC 4578 (PXE), RFC 6842 (client
//! identifier echoed), RFC 894/791/768/826 as far as a raw frame needs them.
//!
//! *Not supported*: BOOTP without options, DHCPFORCERENEW, DHCPLEASEQUERY, authentication (option 90), IP
//! fragments, link layers other than Ethernet.
//!
//! *Deviations, and the devices that forced them*: options keep their order and no pad octets are ever written
//! between them (Pi 4 EEPROM images before 2020-01 stop at a pad); a parameter request list may contain 0 (edk2's
//! HTTP boot sends an uninitialised item); a reply is never shorter than 300 octets (BOOTP relays drop less).
//!
//! Nothing here touches a socket, a clock or a random number generator: time and entropy are arguments.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod client;
pub mod frame;
mod mac;
mod message;
mod names;
mod options;
pub mod server;

pub use mac::{MacAddr, ParseMacError};
pub use message::{
    CLIENT_PORT, DecodeError, EncodeError, MAX_OVER_ETHERNET, MIN_LENGTH, Message, MessageType, Op,
    SERVER_PORT,
};
pub use options::{Options, Route, code};

#[cfg(test)]
mod testing;
