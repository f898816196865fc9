//! The head's SD card: the built image on a bigger, sparse "card".

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use fatfs::{FileSystem, FsOptions};
use fscommon::{BufStream, StreamSlice};
use mbrman::MBRHeader;

/// What the file is called on the card's FAT partition.
const CONFIGURATION: &str = "bramble.toml";

/// The image builder makes sectors of this size, as every SD card has.
const SECTOR_BYTES: u64 = 512;

/// Copies the image (shared blocks where the file system can) and grows the copy to the card's size.
///
/// # Errors
/// When reading, writing or growing fails.
pub fn create(image: &Path, card: &Path, size_bytes: u64) -> io::Result<()> {
    // Written under another name first: a card that exists is whole.
    let unfinished = card.with_extension("unfinished");
    fs::copy(image, &unfinished)?;
    let file = OpenOptions::new().write(true).open(&unfinished)?;
    let image_bytes = file.metadata()?.len();
    file.set_len(size_bytes.max(image_bytes))?;
    fs::rename(&unfinished, card)
}

/// Whether the image is younger than a card kept from an earlier run, which then holds older software.
pub fn is_outdated(image: &Path, card: &Path) -> bool {
    let modified = |path| fs::metadata(path).and_then(|metadata| metadata.modified());
    matches!((modified(image), modified(card)), (Ok(image), Ok(card)) if image > card)
}

/// Puts a configuration onto the card's first partition, as its owner does from a PC.
///
/// # Errors
/// When the card has no such partition, or it is full.
pub fn configure(card: &Path, configuration: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(card)?;
    let invalid = |error: mbrman::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let table = MBRHeader::read_from(&mut file).map_err(invalid)?;
    let entry = table.get(1).ok_or_else(|| io::Error::other("the card has no first partition"))?;
    let start = u64::from(entry.starting_lba) * SECTOR_BYTES;
    let end = start + u64::from(entry.sectors) * SECTOR_BYTES;
    let slice = BufStream::new(StreamSlice::new(file, start, end)?);
    let volume = FileSystem::new(slice, FsOptions::new())?;
    let mut file = volume.root_dir().create_file(CONFIGURATION)?;
    file.truncate()?;
    file.write_all(configuration)?;
    file.flush()?;
    drop(file);
    volume.unmount()
}
