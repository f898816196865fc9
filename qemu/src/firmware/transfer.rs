//! One file over TFTP, asked for in the manner of the code that asks.
//!
//! | | ROM of the Pi 3 | bootcode.bin | start.elf | EEPROM, start4.elf |
//! |---|---|---|---|---|
//! | options | none | `tsize 0` | `tsize 0 blksize 1468` | `tsize 0 blksize 1468`, 1024 before 2022-10 |
//! | silence | 1 s, then dead | 1 s, then "missing" | the same | repeats every 2 s, 30 s a file |
//!
//! The machine is `tftp::Fetch`; here are the wire, the differences, and what a server may not do.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcp::MacAddr;
use pi_boot::{Answer, Generation, Model, Request, Stage};
use tftp::client::{self, Fetch, Patience, Purpose};
use tftp::{BlockSize, Options};
use tokio::time::Instant;

use super::trace::REFUSAL_LATE_AFTER;
use super::wire::{CableError, Wire};
use super::{LOADED_BYTES_MAX, Outcome, Settings, TraceEntry, Violation};

/// Why a file was not loaded although the server has it, or never said that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// `TFTP_FILE_TIMEOUT`, or the ROM's second of silence.
    #[error("timed out after {bytes} bytes")]
    TimedOut {
        /// Received until then.
        bytes: u64,
    },
    /// The block counter of EEPROMs before 2025-09-23 has 16 bits.
    #[error("more than {blocks_max} blocks: the EEPROM of this date cannot count further")]
    TooManyBlocks {
        /// What it can count.
        blocks_max: u64,
    },
    /// All files together would not fit a board's memory.
    #[error("too large: a boot loads at most {LOADED_BYTES_MAX} bytes")]
    TooLarge,
    /// An option that was not asked for, or more than was asked for, or a block too long.
    #[error("the server acknowledged what was not asked for")]
    Protocol,
}

/// The server as this boot sees it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: Ipv4Addr,
    pub(super) mac: MacAddr,
    /// Ours, one for each transfer.
    pub(super) next_port: u16,
    /// Where the transfer before came from.
    pub(super) last_port: Option<u16>,
    /// Bytes that still fit.
    pub(super) room: u64,
}

/// What one request brought.
pub(super) struct Transferred {
    pub(super) answer: Answer,
    pub(super) entry: TraceEntry,
}

/// Asks for one file.
pub(super) async fn transfer(
    wire: &mut Wire<'_>,
    server: &mut Server,
    model: Model,
    settings: &Settings,
    request: &Request,
) -> Result<Result<Transferred, TransferError>, CableError> {
    let manner = Manner::of(request.stage, model, settings);
    let source_port = server.next_port;
    server.next_port = source_port.checked_add(1).unwrap_or(FIRST_PORT);
    let start = Instant::now();
    let purpose = if request.probe { Purpose::Probe } else { Purpose::Read };
    let mut fetch =
        Fetch::new(request.path.as_bytes(), manner.options, purpose, manner.patience, start.into_std());
    let mut content = Vec::new();
    let mut port = None;
    let mut heard_at = start;
    let verdict = loop {
        while let Some(output) = fetch.transmit() {
            let to = SocketAddrV4::new(server.address, output.port.unwrap_or(tftp::PORT));
            wire.send(source_port, (server.mac, to), &output.datagram).await?;
        }
        if let Some(verdict) = manner.verdict(&fetch, &content, server.room) {
            break verdict;
        }
        let silent_at = manner.silence.map(|silence| heard_at + silence);
        let fetch_at = fetch.deadline().map_or(start, Instant::from_std);
        let received = wire.receive(silent_at.map_or(fetch_at, |silent_at| silent_at.min(fetch_at))).await?;
        let now = Instant::now();
        if let Some(datagram) = received
            && datagram.destination_port == source_port
            && *datagram.source.ip() == server.address
        {
            heard_at = now;
            port.get_or_insert(datagram.source.port());
            if let Some(payload) = fetch.receive(datagram.source.port(), datagram.payload(), now.into_std()) {
                content.extend_from_slice(payload);
            }
        }
        // Whatever came: a flood of anything else must not keep a transfer alive.
        if manner.silence.is_some_and(|silence| now >= heard_at + silence) {
            break Verdict::Silence;
        }
        fetch.expire(now.into_std());
    };
    let elapsed = start.elapsed();
    let mut violations = manner.violations(&fetch, verdict, elapsed);
    violations.extend(port.filter(|port| server.reuses(*port)).map(Violation::PortReused));
    server.last_port = port.or(server.last_port);
    let (answer, outcome) = match verdict {
        Verdict::Missing => (Answer::Missing, Outcome::Missing),
        Verdict::Exists => (Answer::Exists, Outcome::Exists),
        Verdict::Complete => {
            let bytes = content.len() as u64;
            server.room = server.room.saturating_sub(bytes);
            (Answer::Content(content), Outcome::Read(bytes))
        }
        Verdict::Silence if manner.silence_is_absence => (Answer::Missing, Outcome::Missing),
        Verdict::Silence => return Ok(Err(TransferError::TimedOut { bytes: fetch.octets() })),
        Verdict::Failed(error) => return Ok(Err(error)),
    };
    let entry = TraceEntry { path: request.path.clone(), outcome, elapsed, violations };
    Ok(Ok(Transferred { answer, entry }))
}

impl Server {
    /// Whether a transfer's port is not a fresh one.
    fn reuses(&self, port: u16) -> bool {
        port == tftp::PORT || self.last_port == Some(port)
    }
}

/// The first of the dynamic ports; the ROM starts here, the EEPROM somewhere behind.
pub(super) const FIRST_PORT: u16 = 49152;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Missing,
    Exists,
    Complete,
    Silence,
    Failed(TransferError),
}

/// How one stage of one model asks.
#[derive(Debug, Clone, Copy)]
struct Manner {
    options: Options,
    patience: Patience,
    /// After this long without a packet the code gives up.
    silence: Option<Duration>,
    /// The later stages of a Pi 3 take a silent server's file for missing.
    silence_is_absence: bool,
    blocks_max: u64,
}

impl Manner {
    fn of(stage: Stage, model: Model, settings: &Settings) -> Manner {
        let size = Options { transfer_size: Some(0), ..Options::default() };
        let impatient = Manner {
            options: Options::default(),
            patience: Patience { repeat: None, file: settings.file_timeout },
            silence: Some(Duration::from_secs(1)),
            silence_is_absence: stage != Stage::Rom,
            blocks_max: 65535,
        };
        match (model.generation(), stage) {
            (_, Stage::Rom) => impatient,
            (_, Stage::Bootcode) => Manner { options: size, ..impatient },
            (Generation::Three, _) => {
                Manner { options: Options { block_size: Some(BlockSize::ETHERNET), ..size }, ..impatient }
            }
            _ => Manner {
                options: Options { block_size: Some(settings.eeprom.block_size()), ..size },
                patience: Patience { file: settings.file_timeout, ..Patience::default() },
                silence: None,
                silence_is_absence: false,
                blocks_max: settings.eeprom.blocks_max(),
            },
        }
    }

    /// Whether and how the transfer has ended.
    fn verdict(&self, fetch: &Fetch, content: &[u8], room: u64) -> Option<Verdict> {
        // The firmware needs the OACK: without it every file counts as missing, whatever data follows.
        let has_data = fetch.blocks() > 0 || matches!(fetch.outcome(), Some(client::Outcome::Probed { .. }));
        if has_data && fetch.granted().is_none() && !self.options.is_empty() {
            return Some(Verdict::Missing);
        }
        if content.len() as u64 > room {
            return Some(Verdict::Failed(TransferError::TooLarge));
        }
        if fetch.blocks() > self.blocks_max {
            return Some(Verdict::Failed(TransferError::TooManyBlocks { blocks_max: self.blocks_max }));
        }
        Some(match fetch.outcome()? {
            client::Outcome::Complete => Verdict::Complete,
            client::Outcome::Probed { .. } => Verdict::Exists,
            // Any ERROR counts as "missing".
            client::Outcome::Refused { .. } => Verdict::Missing,
            client::Outcome::Violation => Verdict::Failed(TransferError::Protocol),
            client::Outcome::TimedOut => Verdict::Silence,
        })
    }

    fn violations(&self, fetch: &Fetch, verdict: Verdict, elapsed: Duration) -> Vec<Violation> {
        let mut violations = Vec::new();
        let is_refused = matches!(fetch.outcome(), Some(client::Outcome::Refused { .. }));
        if is_refused && elapsed > REFUSAL_LATE_AFTER {
            violations.push(Violation::LateRefusal(elapsed));
        }
        match fetch.granted() {
            Some(granted) => {
                let lacks_size = self.options.transfer_size.is_some() && granted.transfer_size.is_none();
                let lacks_blocks = self.options.block_size.is_some() && granted.block_size.is_none();
                if lacks_size || lacks_blocks {
                    violations.push(Violation::OptionNotAcknowledged);
                }
                if let Some(announced) = granted.transfer_size
                    && verdict == Verdict::Complete
                    && announced != fetch.octets()
                {
                    violations.push(Violation::WrongSize { announced, sent: fetch.octets() });
                }
            }
            None if verdict == Verdict::Missing && !is_refused => {
                violations.push(Violation::NoOptionAcknowledgement);
            }
            None => {}
        }
        violations
    }
}
