//! What a name in a request stands for, and what no name can reach.

use std::ffi::OsStr;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use pi_boot::{NodeBoot, Prefix};

use crate::content::{Cache, Content, ReadError};

/// All that can be asked for.
#[derive(Debug)]
pub enum Tree {
    /// A folder.
    Folder(Folder),
    /// A folder of its own for every board.
    Nodes(NodeTree),
}

/// Why there is no content.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// There is no such file, or nobody may know of it.
    #[error("no such file")]
    Missing,
    /// There is one, but it cannot be sent.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No descriptor, no memory: a failure of this moment that says nothing about the file.
    #[error("cannot open")]
    Open(#[source] std::io::Error),
}

impl Tree {
    /// Looks a name up. Blocks while the file is read.
    ///
    /// # Errors
    /// When there is nothing to send.
    pub fn lookup(&self, name: &[u8], cache: &Cache) -> Result<Content, LookupError> {
        match self {
            Self::Folder(folder) => Ok(cache.content(folder.open_file(name)?, Instant::now())?),
            Self::Nodes(nodes) => nodes.lookup(name, cache),
        }
    }

    /// The serial number in a name, if boards put it there.
    pub fn serial_of(&self, name: &[u8]) -> Option<u32> {
        match (self, std::str::from_utf8(name).ok().and_then(Prefix::split)?) {
            (Self::Nodes(_), (Prefix::Serial(serial), _)) => Some(serial),
            _ => None,
        }
    }
}

/// A folder that cannot be left.
#[derive(Debug)]
pub struct Folder {
    descriptor: OwnedFd,
}

impl Folder {
    /// Opens the folder itself.
    ///
    /// # Errors
    /// When it cannot be opened, or is none.
    pub fn open(path: &Path) -> nix::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { descriptor: nix::fcntl::open(path, flags, Mode::empty())? })
    }

    /// Opens a regular file below the folder. The kernel keeps the walk inside: no `..`, absolute path, symbolic link or
    /// rename in between leads out (openat2(2), `RESOLVE_BENEATH`). Bytes of a name mean themselves; there is no
    /// encoding to hide behind.
    fn open_file(&self, name: &[u8]) -> Result<File, LookupError> {
        // Many clients put a slash before names; to them the folder is the root.
        let slashes = name.iter().take_while(|byte| **byte == b'/').count();
        let name = &name[slashes..];
        if name.is_empty() {
            return Err(LookupError::Missing);
        }
        // O_NONBLOCK: to open a pipe must not wait for its writer.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let how = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = match openat2(&self.descriptor, OsStr::from_bytes(name), how) {
            Ok(descriptor) => File::from(descriptor),
            Err(error) if PASSING.contains(&error) => return Err(LookupError::Open(error.into())),
            Err(_) => return Err(LookupError::Missing),
        };
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(file),
            // A board takes the answer to a directory's name for a file (and boots something else).
            _ => Err(LookupError::Missing),
        }
    }
}

/// A folder for every board, named by its serial number, made of the boot partition's files and of what is
/// rendered for the board.
#[derive(Debug)]
pub struct NodeTree {
    boot: Folder,
    image: [u8; 32],
    server: Ipv4Addr,
    log_level: &'static str,
}

impl NodeTree {
    /// Boards will load the files of `boot`, attach `image` (64 hex digits) of `server`, and log at `log_level`.
    ///
    /// # Errors
    /// When the folder cannot be opened or `image` is no SHA-256.
    pub fn new(boot: &Path, image: &str, server: Ipv4Addr, log_level: &'static str) -> anyhow::Result<Self> {
        let image = parse_sha256(image).ok_or_else(|| anyhow::anyhow!("{image:?} is no image id"))?;
        Ok(Self { boot: Folder::open(boot)?, image, server, log_level })
    }

    fn lookup(&self, name: &[u8], cache: &Cache) -> Result<Content, LookupError> {
        let name = std::str::from_utf8(name).map_err(|_| LookupError::Missing)?;
        // A board that falls back to names without prefix finds nothing there that it could start, so that it never
        // boots as somebody else. Only the Pi 3's ROM asks for its first file that way.
        if name == BOOTCODE {
            return self.boot_file(name, cache);
        }
        let Some((Prefix::Serial(serial), file)) = Prefix::split(name) else {
            return Err(LookupError::Missing);
        };
        let node = NodeBoot { serial, image: self.image, server: self.server, log_level: self.log_level };
        match file {
            "config.txt" => Ok(Arc::new(pi_boot::render_config(&node).into_bytes())),
            "cmdline.txt" => Ok(Arc::new(pi_boot::render_command_line(&node).into_bytes())),
            pi_boot::COMMAND_LINE_PI5 => Ok(Arc::new(pi_boot::render_command_line_pi5(&node).into_bytes())),
            _ if !is_for_boards(file) => Err(LookupError::Missing),
            _ => match (self.boot_file(file, cache), pi_boot::device_tree_alias(file)) {
                (Err(LookupError::Missing), Some(alias)) => self.boot_file(alias, cache),
                (found, _) => found,
            },
        }
    }

    /// Empty files are missing ones: a board takes the mere existence of some names for an order.
    fn boot_file(&self, name: &str, cache: &Cache) -> Result<Content, LookupError> {
        let content = cache.content(self.boot.open_file(name.as_bytes())?, Instant::now())?;
        if content.is_empty() { Err(LookupError::Missing) } else { Ok(content) }
    }
}

/// The files of the boot partition that boards may have. Whatever else lies there (the head's own command line and
/// settings, a recovery image) would divert or betray.
fn is_for_boards(file: &str) -> bool {
    let named = |prefix: &str, suffix: &str| file.starts_with(prefix) && file.ends_with(suffix);
    !file.contains('/')
        && (["vmlinuz", "initramfs.img", BOOTCODE].contains(&file)
            || named("bcm", ".dtb")
            || named("start", ".elf")
            || named("fixup", ".dat"))
}

fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair =
            std::str::from_utf8(pair).ok().filter(|pair| pair.chars().all(|c| c.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

/// Failures that say nothing about the file: the board shall ask again. ENOSYS is a kernel before 5.6.
const PASSING: [Errno; 6] =
    [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EIO, Errno::EAGAIN, Errno::ENOSYS];

const BOOTCODE: &str = "bootcode.bin";

/// Threads that look names up: enough that one slow file does not hold up the short ones.
pub const LOOKUPS: usize = 4;

#[cfg(test)]
mod tests;
