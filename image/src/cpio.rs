//! Writes the initramfs archive: cpio, "new ASCII" format without checksums.
//!
//! Specification: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel, whose
//! init/initramfs.c is the only reader that matters. Each member is a 110-byte header of 8-digit
//! hexadecimal fields, the name with its NUL padded to 4 bytes, and the content padded to 4 bytes.
//! Not supported: files of 4 GiB and more, hard links.

use crate::tree::{Entry, Kind, Tree};

/// The archive of `tree`, every entry owned by root and last modified at `mtime` (seconds since 1970).
pub fn archive(tree: &Tree, mtime: u32) -> Vec<u8> {
    let mut out = Vec::new();
    // Inode numbers only have to differ (init/initramfs.c hashes them for hard links).
    for (inode, (path, entry)) in (1u32..).zip(tree.entries()) {
        member(&mut out, inode, path, entry, mtime);
    }
    header(&mut out, &Header { inode: 0, mode: 0, links: 1, mtime: 0, size: 0, device: (0, 0) }, TRAILER);
    out
}

fn member(out: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry, mtime: u32) {
    let (kind, links, device, content): (u32, u32, (u32, u32), &[u8]) = match &entry.kind {
        Kind::Directory => (S_IFDIR, 2, (0, 0), &[]),
        Kind::File(content) => (S_IFREG, 1, (0, 0), content),
        Kind::Symlink(target) => (S_IFLNK, 1, (0, 0), target.as_bytes()),
        Kind::CharDevice(major, minor) => (S_IFCHR, 1, (*major, *minor), &[]),
    };
    let size = u32::try_from(content.len()).expect("an initramfs file is far below 4 GiB");
    let mode = kind | u32::from(entry.mode);
    header(out, &Header { inode, mode, links, mtime, size, device }, path);
    out.extend_from_slice(content);
    pad(out);
}

struct Header {
    inode: u32,
    mode: u32,
    links: u32,
    mtime: u32,
    size: u32,
    device: (u32, u32),
}

fn header(out: &mut Vec<u8>, header: &Header, name: &str) {
    let name_size = u32::try_from(name.len() + 1).expect("a path is far below 4 GiB");
    let Header { inode, mode, links, mtime, size, device } = *header;
    out.extend_from_slice(b"070701");
    // In order: inode, mode, uid, gid, links, mtime, size, device the file is on (major, minor), device the
    // node stands for (major, minor), size of the name with its NUL, checksum.
    for field in [inode, mode, 0, 0, links, mtime, size, 0, 0, device.0, device.1, name_size, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

const TRAILER: &str = "TRAILER!!!";
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

#[cfg(test)]
#[path = "cpio/tests.rs"]
mod tests;
