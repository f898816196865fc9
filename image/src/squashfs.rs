//! Writes the root file system: squashfs 4.0.
//!
//! Specification: Documentation/filesystems/squashfs.rst of the kernel; the writing itself is the crate
//! `backhand`. This module decides compressor, block size and times.

use std::io::Cursor;

use anyhow::{Context, Result};
use backhand::compression::{CompressionOptions, Compressor, Zstd};
use backhand::{FilesystemCompressor, FilesystemWriter, NodeHeader};

use crate::tree::{Kind, Tree};

/// The squashfs image of `tree`, every entry owned by root and last modified at `mtime` (seconds since 1970).
///
/// # Errors
/// If `backhand` refuses an entry.
pub fn image(tree: &Tree, mtime: u32) -> Result<Vec<u8>> {
    let zstd = CompressionOptions::Zstd(Zstd { compression_level: ZSTD_LEVEL });
    let mut writer = FilesystemWriter::default();
    writer.set_compressor(FilesystemCompressor::new(Compressor::Zstd, Some(zstd))?);
    writer.set_block_size(BLOCK_SIZE);
    writer.set_time(mtime);
    writer.set_root_mode(0o755);
    for (path, entry) in tree.entries() {
        let header = NodeHeader::new(entry.mode, 0, 0, mtime);
        match &entry.kind {
            Kind::Directory => writer.push_dir(path, header),
            Kind::File(content) => writer.push_file(Cursor::new(content), path, header),
            Kind::Symlink(target) => writer.push_symlink(target.as_str(), path, header),
            Kind::CharDevice(major, minor) => {
                // The kernel's old_decode_dev layout, which squashfs stores: fs/squashfs/inode.c.
                writer.push_char_device((major << 8) | minor, path, header)
            }
        }
        .with_context(|| format!("squashfs: cannot add {path}"))?;
    }
    let mut out = Cursor::new(Vec::new());
    writer.write(&mut out).context("squashfs: cannot write the image")?;
    Ok(out.into_inner())
}

/// zstd at its strongest: compressed once, read at every boot. xz makes the image 12 % smaller and takes four times as
/// long to unpack (measured on the initramfs), at each page fault; the image is a quarter of what it may be.
const ZSTD_LEVEL: u32 = 22;
/// 128 KiB, squashfs' own default: 256 KiB saves 3 % and doubles what a page fault fetches over the network and unpacks.
const BLOCK_SIZE: u32 = 128 * 1024;
