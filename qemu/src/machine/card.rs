//! The head's SD card: the built image on a bigger, sparse "card".

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

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
