//! Booting from an SD card image: the partition, then the files on it.
//!
//! *Not supported*: GPT, logical partitions, cards without a partition table, `PARTITION_WALK` beyond an explicit
//! `boot_partition` (a wrong one is an error here, as before the EEPROM of 2025-08).
//!
//! Messages say their cause themselves: they are shown as one line.
//!
//! The image is opened for reading only. It may hold anything: what is read is bounded in bytes and in steps, and the
//! FAT crate, which computes with the image's numbers, is kept in a cage.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use fatfs::{FileSystem, FsOptions};
use fscommon::{BufStream, StreamSlice};
use mbrman::MBRHeader;
use pi_boot::{AUTOBOOT_LIMIT, Answer, Autoboot, Facts, Generation, Halt, Medium, Next, Sequence};

use super::kernel::{self, KernelError};
use super::trace::{Outcome, TraceEntry};
use super::{Board, BootFiles, LOADED_BYTES_MAX};

/// Why a board does not boot from a card.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The image cannot be read at all.
    #[error("cannot read {}: {source}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Sector 0 has no MBR signature.
    #[error("{} has no partition table", path.display())]
    NoPartitionTable {
        /// The image.
        path: PathBuf,
    },
    /// Only a protective MBR.
    #[error("{} is partitioned with GPT, which this firmware model does not read", path.display())]
    Gpt {
        /// The image.
        path: PathBuf,
    },
    /// Nothing the firmware could look into.
    #[error("{} has no FAT partition", path.display())]
    NoFatPartition {
        /// The image.
        path: PathBuf,
    },
    /// `boot_partition` of autoboot.txt.
    #[error("autoboot.txt chooses partition {partition}, which is no FAT partition")]
    NoSuchPartition {
        /// Counted from 1.
        partition: u32,
    },
    /// The mask ROM of the Pi 3 starts this file.
    #[error("bootcode.bin is missing on partition {partition}")]
    NoBootcode {
        /// The first FAT partition, counted from 1.
        partition: u32,
    },
    /// No partition, or not the chosen one, has what this model boots from.
    #[error("partition {partition} is not bootable for this model: {marker} is missing")]
    NotBootable {
        /// The chosen partition, or the last one looked at, counted from 1.
        partition: u32,
        /// The file that is looked for.
        marker: &'static str,
    },
    /// The FAT is damaged.
    #[error("cannot read {file} of partition {partition}: {source}")]
    FileSystem {
        /// Counted from 1.
        partition: u32,
        /// What was looked for.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The files together would not fit a board's memory.
    #[error("{file} of partition {partition} is too large: a boot loads at most {LOADED_BYTES_MAX} bytes")]
    TooLarge {
        /// Counted from 1.
        partition: u32,
        /// The file that was too much.
        file: String,
    },
    /// The firmware stopped.
    #[error("boot from partition {partition} stopped: {source}")]
    Halt {
        /// Counted from 1.
        partition: u32,
        /// Why.
        #[source]
        source: Halt,
    },
    /// The kernel is none.
    #[error("{file} of partition {partition} does not start: {source}")]
    Kernel {
        /// Counted from 1.
        partition: u32,
        /// The kernel's path.
        file: String,
        /// Why.
        #[source]
        source: KernelError,
    },
}

/// Boots `board` from the image of an SD card, as at power-on, or with the tryboot flag set.
///
/// # Errors
/// When a real board would not boot from it, with the file and the partition.
pub fn boot_from_card(image: &Path, board: &Board, tryboot: bool) -> Result<BootFiles, CardError> {
    let facts = Facts { model: board.model, serial: board.serial, tryboot, partition: 0 };
    let volumes = Volumes::open(image)?;
    let first = volumes.first()?;
    if board.model.generation() == Generation::Three && !first.has("bootcode.bin")? {
        return Err(CardError::NoBootcode { partition: first.number });
    }
    let text = first.read("autoboot.txt", AUTOBOOT_LIMIT as u64)?.unwrap_or_default();
    let autoboot = Autoboot::parse(&text, &Facts { partition: first.number, ..facts });
    let marker = board.model.boot_marker();
    let volume = match autoboot.boot_partition {
        Some(number) => volumes.numbered(number)?,
        None => volumes.first_with(marker)?,
    };
    if !volume.has(marker)? {
        return Err(CardError::NotBootable { partition: volume.number, marker });
    }
    let facts = Facts { partition: volume.number, ..facts };
    let medium = Medium::Card { tryboot_file: tryboot && !autoboot.tryboot_a_b };
    load(volume, Sequence::new(facts, medium))
}

/// Walks through the boot with the files of one partition.
fn load(volume: &Volume, mut sequence: Sequence) -> Result<BootFiles, CardError> {
    let partition = volume.number;
    let mut trace = Vec::new();
    let mut room = LOADED_BYTES_MAX;
    loop {
        let request = match sequence.next() {
            Next::Ask(request) => request,
            Next::Boot | Next::Halt(_) => break,
            // Only a network boot does this.
            Next::Discover => {
                sequence.rediscovered();
                continue;
            }
        };
        let start = Instant::now();
        let (answer, outcome) = if request.probe {
            match volume.has(&request.path)? {
                true => (Answer::Exists, Outcome::Exists),
                false => (Answer::Missing, Outcome::Missing),
            }
        } else {
            match volume.read(&request.path, room)? {
                Some(content) => {
                    let bytes = content.len() as u64;
                    room -= bytes;
                    (Answer::Content(content), Outcome::Read(bytes))
                }
                None => (Answer::Missing, Outcome::Missing),
            }
        };
        let violations = Vec::new();
        trace.push(TraceEntry { path: request.path, outcome, elapsed: start.elapsed(), violations });
        sequence.answer(answer);
    }
    let loaded = sequence.finish().map_err(|source| CardError::Halt { partition, source })?;
    let kernel = kernel::load(loaded.kernel).map_err(|source| CardError::Kernel {
        partition,
        file: loaded.kernel_path,
        source,
    })?;
    Ok(BootFiles {
        kernel,
        initramfs: loaded.initramfs,
        command_line: loaded.command_line,
        device_tree: loaded.device_tree,
        trace,
    })
}

/// The FAT partitions of an image.
struct Volumes {
    path: PathBuf,
    volumes: Vec<Volume>,
}

/// One FAT partition.
struct Volume {
    path: PathBuf,
    /// Counted from 1.
    number: u32,
    start: u64,
    end: u64,
}

const SECTOR_BYTES: u64 = 512;

impl Volumes {
    fn open(path: &Path) -> Result<Volumes, CardError> {
        let image = |source| CardError::Image { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(image)?;
        let table = match MBRHeader::read_from(&mut file) {
            Ok(table) => table,
            Err(mbrman::Error::InvalidSignature) => {
                return Err(CardError::NoPartitionTable { path: path.to_owned() });
            }
            Err(error) => return Err(image(io::Error::other(error))),
        };
        if table.iter().any(|(_, entry)| entry.sys == GPT_PROTECTIVE) {
            return Err(CardError::Gpt { path: path.to_owned() });
        }
        let volumes = (1..).zip(table.iter()).filter(|(_, (_, entry))| FAT_TYPES.contains(&entry.sys));
        let volumes = volumes
            .map(|(number, (_, entry))| {
                let start = u64::from(entry.starting_lba) * SECTOR_BYTES;
                let end = start + u64::from(entry.sectors) * SECTOR_BYTES;
                Volume { path: path.to_owned(), number, start, end }
            })
            .collect();
        Ok(Volumes { path: path.to_owned(), volumes })
    }

    fn first(&self) -> Result<&Volume, CardError> {
        self.volumes.first().ok_or_else(|| CardError::NoFatPartition { path: self.path.clone() })
    }

    fn numbered(&self, number: u32) -> Result<&Volume, CardError> {
        let volume = self.volumes.iter().find(|volume| volume.number == number);
        volume.ok_or(CardError::NoSuchPartition { partition: number })
    }

    /// The first partition with `marker`, or the last one, for the caller's message.
    fn first_with(&self, marker: &str) -> Result<&Volume, CardError> {
        let mut last = self.first()?;
        for volume in &self.volumes {
            last = volume;
            if volume.has(marker)? {
                break;
            }
        }
        Ok(last)
    }
}

/// Partition types with FAT12, FAT16 or FAT32.
const FAT_TYPES: [u8; 6] = [0x01, 0x04, 0x06, 0x0b, 0x0c, 0x0e];

/// The one entry of the MBR of a GPT disk (UEFI §5.2.3).
const GPT_PROTECTIVE: u8 = 0xee;

type Partition = BufStream<StreamSlice<Bounded>>;
type Directory<'a> = fatfs::Dir<'a, Partition>;

impl Volume {
    /// Whether there is such a file; a directory is none.
    fn has(&self, name: &str) -> Result<bool, CardError> {
        self.inside(name, |root, _| open(root, name).map(|file| file.is_some()))
    }

    /// A whole file of at most `limit` bytes; `None` if there is none.
    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, CardError> {
        let content = self.inside(name, |root, reads_left| {
            let Some(file) = open(root, name)? else { return Ok(None) };
            reads_left.set(FILE_READS_MAX);
            let mut content = Vec::new();
            file.take(limit.saturating_add(1)).read_to_end(&mut content)?;
            Ok(Some(content))
        })?;
        match content {
            Some(content) if content.len() as u64 > limit => {
                Err(CardError::TooLarge { partition: self.number, file: name.to_owned() })
            }
            content => Ok(content),
        }
    }

    fn inside<T>(
        &self,
        name: &str,
        act: impl FnOnce(Directory<'_>, &Cell<u32>) -> io::Result<T>,
    ) -> Result<T, CardError> {
        let attempt = || {
            let reads_left = Rc::new(Cell::new(LOOK_UP_READS_MAX));
            let bounded = Bounded { file: File::open(&self.path)?, reads_left: reads_left.clone() };
            let slice = StreamSlice::new(bounded, self.start, self.end)?;
            let file_system = FileSystem::new(BufStream::new(slice), FsOptions::new())?;
            act(file_system.root_dir(), &reads_left)
        };
        // The FAT crate panics on some damaged file systems (arithmetic with their numbers). Nothing outlives it here.
        let result = catch_unwind(AssertUnwindSafe(attempt))
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::InvalidData, "damaged file system")));
        result.map_err(|source| CardError::FileSystem {
            partition: self.number,
            file: name.to_owned(),
            source,
        })
    }
}

fn open<'a>(root: Directory<'a>, name: &str) -> io::Result<Option<fatfs::File<'a, Partition>>> {
    match root.open_file(name) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // What fatfs says when a name, or a part of the path, is of the other kind.
        Err(error) if error.kind() == io::ErrorKind::Other => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads to find one file: thousands of directory entries, and the end of a directory whose chain is a circle.
const LOOK_UP_READS_MAX: u32 = 64 << 10;

/// Reads of one file: the largest there may be, in clusters of 512 bytes, each with its link of the chain.
const FILE_READS_MAX: u32 = 4 << 20;

/// An image that cannot be written, and cannot be read for ever.
struct Bounded {
    file: File,
    reads_left: Rc<Cell<u32>>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.reads_left.get().checked_sub(1);
        let endless = || io::Error::new(io::ErrorKind::InvalidData, "the file system has no end");
        self.reads_left.set(left.ok_or_else(endless)?);
        self.file.read(buffer)
    }
}

impl Seek for Bounded {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

impl Write for Bounded {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
