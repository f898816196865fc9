//! What a Raspberry Pi's boot ROM, EEPROM and VideoCore firmware do before the kernel runs.
//!
//! The virtual machines of this cluster get nothing by a side door: a machine with a card starts only what
//! [`boot_from_card`] found on it, one without a card only what [`boot_from_network`] was given by DHCP and TFTP.
//! If a board could not boot from it, neither does its virtual machine.
//!
//! The order of requests and the reading of config.txt are in `pi-boot`; here are the card and the wire.
//!
//! *Not modelled*: the VideoCore firmware's content (it is fetched and must be there, but nothing runs it), overlays
//! (fetched, not applied), 32-bit kernels, `boot_ramdisk`, `include`, secure boot, HTTP boot, self-update, IPv6,
//! and what the firmware appends to the command line.

mod card;
mod kernel;
mod lease;
mod network;
mod settings;
#[cfg(test)]
mod tests;
mod trace;
mod transfer;
mod wire;

pub use card::{CardError, boot_from_card};
pub use kernel::KernelError;
pub use lease::DhcpError;
pub use network::{NetworkError, Progress, boot_from_network, boot_from_network_with};
pub use pi_boot::Model;
pub use settings::{EepromDate, Settings};
pub use trace::{Outcome, TraceEntry, Violation};
pub use transfer::TransferError;
pub use wire::CableError;

/// A board: who it is. The same board boots from a card or from the network.
#[derive(Debug, Clone)]
pub struct Board {
    /// For messages only.
    pub name: String,
    /// Of the on-board Ethernet.
    pub mac: [u8; 6],
    /// The 32 bits that name the board in TFTP paths.
    pub serial: u32,
    /// Decides the boot chain.
    pub model: Model,
}

/// What the firmware put into memory for the kernel.
#[derive(Debug, Clone)]
pub struct BootFiles {
    /// An arm64 `Image`, unpacked if it came as gzip.
    pub kernel: Vec<u8>,
    /// All configured archives, one after the other.
    pub initramfs: Option<Vec<u8>>,
    /// The first line of the command line file; what the firmware would append is left out.
    pub command_line: String,
    /// As read; absent only where the board starts a kernel without one.
    pub device_tree: Option<Vec<u8>>,
    /// What was asked for, in order.
    pub trace: Vec<TraceEntry>,
}

/// The most that is loaded for one boot, all files together. A board has 1 GiB at least, and the kernel unpacks there.
const LOADED_BYTES_MAX: u64 = 768 << 20;
