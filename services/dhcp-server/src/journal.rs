//! The journal of bindings: a text file that only grows, until it is replaced by a shorter one.
//!
//! ```text
//! 10.77.0.11 dc:a6:32:01:36:c2 5b3f90d1        address, Ethernet address, CRC-32 of what stands before it
//! ```
//!
//! Power may go at any octet. A record counts once its line end and checksum are there; a torn last line is ignored and
//! overwritten by the next record. Of two records about one address or one board the later holds. A shorter journal
//! is written beside the old one, made durable, and renamed over it, so that there is always a whole one.
//!
//! Leases' ends are not kept: a board without a battery has no clock to compare them with after a power cut, and what
//! must survive is who has which address.

use dhcp::server::Record;
use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Longer than any journal gets: 65,536 bindings and as many superseded ones, 50 octets each.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// A journal this much longer than needed is not worth a rewrite.
const SLACK: usize = 1024;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file can be neither opened nor made.
    #[error("cannot open")]
    Open(#[source] io::Error),
    /// Another server uses it.
    #[error("another DHCP server uses it")]
    Locked,
    /// It cannot be read.
    #[error("cannot read")]
    Read(#[source] io::Error),
    /// It is no journal.
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    /// A shorter one cannot be put in its place.
    #[error("cannot replace")]
    Replace(#[source] io::Error),
    /// Records cannot be appended.
    #[error("cannot append")]
    Append(#[source] io::Error),
}

/// The open journal. One process at a time: the file is locked.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Octets that count: the next record goes here.
    length: u64,
    /// Records in the file, the superseded ones included.
    records: usize,
    /// Whether something in the file was damaged.
    damaged: bool,
}

impl Journal {
    /// Opens or makes the journal, and reads it.
    ///
    /// # Errors
    /// When it is in use, cannot be read, or is no journal.
    pub fn open(path: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(JournalError::Open)?;
        lock(&file)?;
        let mut bytes = Vec::new();
        (&mut file).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(JournalError::Read)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(JournalError::TooLong);
        }
        // A new file's name must be as durable as its records.
        sync_directory(path).map_err(JournalError::Open)?;
        let (records, length, bad_lines) = read(&bytes);
        if bad_lines > 0 {
            tracing::warn!(bad_lines, "damaged records in the journal of leases, ignored");
        }
        let damaged = bad_lines > 0 || length < bytes.len() as u64;
        let journal = Self { path: path.to_owned(), file, length, records: records.len(), damaged };
        Ok((journal, records))
    }

    /// Appends records and waits until they are on stable storage. After a failure the same place is written again.
    ///
    /// # Errors
    /// When the storage is full or broken. The records may or may not be there.
    pub fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let text: String = records.iter().map(line).collect();
        self.file.write_all_at(text.as_bytes(), self.length).map_err(JournalError::Append)?;
        self.file.sync_data().map_err(JournalError::Append)?;
        self.length += text.len() as u64;
        self.records += records.len();
        Ok(())
    }

    /// Whether the journal is damaged, or much longer than `bindings` need.
    pub fn wants_compaction(&self, bindings: usize) -> bool {
        self.damaged || self.records > 2 * bindings + SLACK
    }

    /// Replaces the journal by one of these records.
    ///
    /// # Errors
    /// When that fails; the journal is then what it was.
    pub fn compact(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let mut name = OsString::from(&self.path);
        name.push(".new");
        let beside = PathBuf::from(name);
        let text: String = records.iter().map(line).collect();
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&beside)
            .map_err(JournalError::Replace)?;
        lock(&file)?;
        file.write_all_at(text.as_bytes(), 0).map_err(JournalError::Replace)?;
        file.sync_all().map_err(JournalError::Replace)?;
        std::fs::rename(&beside, &self.path).map_err(JournalError::Replace)?;
        sync_directory(&self.path).map_err(JournalError::Replace)?;
        *self = Self {
            path: std::mem::take(&mut self.path),
            file,
            length: text.len() as u64,
            records: records.len(),
            damaged: false,
        };
        Ok(())
    }
}

fn lock(file: &File) -> Result<(), JournalError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => JournalError::Locked,
        TryLockError::Error(error) => JournalError::Open(error),
    })
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// The records, where the next one goes, and how many whole lines are none.
fn read(bytes: &[u8]) -> (Vec<Record>, u64, usize) {
    let whole = bytes.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
    let lines = bytes.get(..whole).unwrap_or_default().split_inclusive(|octet| *octet == b'\n');
    let (mut records, mut bad) = (Vec::new(), 0);
    for text in lines {
        match parse(text) {
            Some(record) => records.push(record),
            None => bad += 1,
        }
    }
    (records, whole as u64, bad)
}

fn line(record: &Record) -> String {
    let text = format!("{} {}", record.address, record.mac);
    format!("{text} {:08x}\n", crc32(text.as_bytes()))
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (address, rest) = text.split_once(' ')?;
    let (mac, _) = rest.split_once(' ')?;
    let record = Record { address: address.parse().ok()?, mac: mac.parse().ok()? };
    // What is not written exactly as we write it is damaged.
    (line(&record) == text).then_some(record)
}

/// CRC-32 of IEEE 802.3, bit by bit: a journal is read once.
fn crc32(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, octet| (0..8).fold(crc ^ u32::from(*octet), shift))
}

#[cfg(test)]
mod tests;
