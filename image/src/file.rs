//! Writing results so that a stopped build never leaves half a file under a final name.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

/// Writes `content` to `path`: beside it first, then renamed.
///
/// # Errors
/// If the folder cannot be written.
pub fn write(path: &Path, content: &[u8]) -> Result<()> {
    let part = beside(path);
    let failed = || format!("cannot write {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(failed)?;
    }
    fs::write(&part, content).with_context(failed)?;
    fs::rename(&part, path).with_context(failed)
}

/// Like [`write`], but leaves a file alone that holds `content` already.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_if_different(path: &Path, content: &[u8]) -> Result<()> {
    let same = fs::metadata(path).is_ok_and(|now| now.len() == content.len() as u64)
        && fs::read(path).is_ok_and(|now| now == content);
    if same { Ok(()) } else { write(path, content) }
}

/// Bytes in the files directly in `folder` and its subfolders; 0 if there is no such folder.
pub fn size_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// The name a file has while it is being written.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Makes `folder` an empty directory.
///
/// # Errors
/// If it cannot be emptied or made.
pub fn clear(folder: &Path) -> Result<()> {
    let failed = || format!("cannot empty {}", folder.display());
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(failed),
        _ => {}
    }
    fs::create_dir_all(folder).with_context(failed)
}

/// Writes `content` at `offset`, leaving out blocks of zeros: `file` must hold none but zeros or holes there.
///
/// # Errors
/// If the disk is full.
pub fn write_sparse(file: &mut File, offset: u64, content: &[u8]) -> io::Result<()> {
    for (index, block) in (0u64..).zip(content.chunks(SPARSE_BLOCK)) {
        if block.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(offset + index * SPARSE_BLOCK as u64))?;
            file.write_all(block)?;
        }
    }
    Ok(())
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let failed = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer).with_context(failed)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            length => hash.update(&buffer[..length]),
        }
    }
}

/// Small enough to find the holes of a FAT volume, big enough to write an image in few calls.
const SPARSE_BLOCK: usize = 16 * 1024;
