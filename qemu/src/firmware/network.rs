//! Booting from the network: link, DHCP, and the files in the order of the model.
//!
//! One caller, no task: the future of [`boot_from_network`] owns the plug until the kernel is loaded, and dropping it
//! is pulling the power.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use pi_boot::{Facts, Halt, Medium, Next, Request, Sequence, Stage};
use tokio::time::{Instant, sleep};

use super::kernel::{self, KernelError};
use super::lease::{self, DhcpError, Lease};
use super::trace::{Outcome, TraceEntry, Violation};
use super::transfer::{FIRST_PORT, Server, TransferError, Transferred, transfer};
use super::wire::{CableError, Wire};
use super::{Board, BootFiles, LOADED_BYTES_MAX, Settings};
use crate::switch::SwitchPort;

/// Why a board did not boot from the network. It then goes on to its next boot mode, or starts anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The switch is gone.
    #[error(transparent)]
    Cable(#[from] CableError),
    /// No address, or no boot server.
    #[error(transparent)]
    Dhcp(#[from] DhcpError),
    /// ARP for the TFTP server, or for the router before it, was never answered.
    #[error("nobody answers to {address}: the TFTP server cannot be reached")]
    Unreachable {
        /// The address asked for.
        address: Ipv4Addr,
    },
    /// A file did not come, though nobody said it is missing.
    #[error("{path}: {source}")]
    Transfer {
        /// As asked for.
        path: String,
        /// Why.
        source: TransferError,
    },
    /// The firmware stopped.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// The kernel is none.
    #[error("{path} does not start: {source}")]
    Kernel {
        /// As asked for.
        path: String,
        /// Why.
        source: KernelError,
    },
}

/// What happens during a network boot, for a person to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A DISCOVER was sent.
    Discover {
        /// Counted from 1 in each DHCP exchange.
        attempt: u32,
    },
    /// An OFFER came.
    Offer {
        /// Its sender.
        server: Ipv4Addr,
        /// What it offers; 0.0.0.0 from a proxy.
        address: Ipv4Addr,
    },
    /// The board has an address.
    Lease {
        /// It.
        address: Ipv4Addr,
        /// Where the files are asked for.
        tftp_server: Ipv4Addr,
    },
    /// A file was asked for.
    File {
        /// With every prefix.
        path: String,
        /// What came.
        outcome: Outcome,
        /// Until the last byte.
        elapsed: Duration,
    },
    /// The server broke a rule.
    Violation(Violation),
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Progress::Discover { attempt } => write!(formatter, "DISCOVER {attempt}"),
            Progress::Offer { server, address } => write!(formatter, "OFFER of {address} from {server}"),
            Progress::Lease { address, tftp_server } => {
                write!(formatter, "address {address}, files from {tftp_server}")
            }
            Progress::File { path, outcome: Outcome::Missing, .. } => write!(formatter, "{path}: not found"),
            Progress::File { path, outcome: Outcome::Exists, .. } => write!(formatter, "{path}: exists"),
            Progress::File { path, outcome: Outcome::Read(bytes), elapsed } => {
                write!(formatter, "{path}: {bytes} bytes in {} ms", elapsed.as_millis())
            }
            Progress::Violation(violation) => write!(formatter, "server at fault: {violation}"),
        }
    }
}

/// Boots `board` over its Ethernet with the defaults of its EEPROM.
///
/// # Errors
/// When a real board would give this attempt up.
pub async fn boot_from_network(
    port: &mut SwitchPort,
    board: &Board,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<BootFiles, NetworkError> {
    boot_from_network_with(port, board, &Settings::default(), progress).await
}

/// The same with an EEPROM of another date or with other settings.
///
/// # Errors
/// When a real board would give this attempt up.
pub async fn boot_from_network_with(
    port: &mut SwitchPort,
    board: &Board,
    settings: &Settings,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<BootFiles, NetworkError> {
    sleep(settings.link_wait).await;
    let facts = Facts { model: board.model, serial: board.serial, tryboot: false, partition: 0 };
    let mut sequence = Sequence::new(facts, Medium::Network);
    let mut boot = Boot { wire: Wire::new(port, board.mac), board, settings, progress };
    let mut server = boot.find_server(false).await?;
    let mut trace = Vec::new();
    loop {
        match sequence.next() {
            Next::Ask(request) => {
                let Transferred { answer, entry } = boot.ask(&mut server, &request).await?;
                trace.push(entry);
                sequence.answer(answer);
            }
            Next::Discover => {
                server = boot.find_server(true).await?;
                sequence.rediscovered();
            }
            Next::Boot | Next::Halt(_) => break,
        }
    }
    let loaded = sequence.finish()?;
    let kernel = kernel::load(loaded.kernel)
        .map_err(|source| NetworkError::Kernel { path: loaded.kernel_path, source })?;
    Ok(BootFiles {
        kernel,
        initramfs: loaded.initramfs,
        command_line: loaded.command_line,
        device_tree: loaded.device_tree,
        trace,
    })
}

struct Boot<'b> {
    wire: Wire<'b>,
    board: &'b Board,
    settings: &'b Settings,
    progress: &'b mut (dyn FnMut(Progress) + Send),
}

impl Boot<'_> {
    /// DHCP, then ARP for the TFTP server.
    async fn find_server(&mut self, is_second: bool) -> Result<Server, NetworkError> {
        let client = lease::client(self.board.model, is_second);
        let lease =
            lease::acquire(&mut self.wire, self.board, client, self.settings, self.progress).await??;
        let next_hop = Lease::next_hop(&lease);
        let deadline = Instant::now() + self.settings.file_timeout;
        let mac = self.wire.resolve(next_hop, deadline).await?;
        let mac = mac.ok_or(NetworkError::Unreachable { address: next_hop })?;
        Ok(Server {
            address: lease.tftp_server,
            mac,
            next_port: if client.takes_offers_unasked() { FIRST_PORT } else { random_port() },
            last_port: None,
            room: LOADED_BYTES_MAX,
        })
    }

    async fn ask(&mut self, server: &mut Server, request: &Request) -> Result<Transferred, NetworkError> {
        // The Pi 3's ROM answers no ARP once it speaks TFTP.
        self.wire.answers_arp = request.stage != Stage::Rom;
        let model = self.board.model;
        let transferred = transfer(&mut self.wire, server, model, self.settings, request)
            .await?
            .map_err(|source| NetworkError::Transfer { path: request.path.clone(), source })?;
        let TraceEntry { path, outcome, elapsed, violations } = transferred.entry.clone();
        (self.progress)(Progress::File { path, outcome, elapsed });
        for violation in violations {
            (self.progress)(Progress::Violation(violation));
        }
        Ok(transferred)
    }
}

/// The EEPROM counts up from somewhere, so that a reboot does not meet its own old transfers.
fn random_port() -> u16 {
    FIRST_PORT | (lease::random_u32() as u16 & 0x3fff)
}
