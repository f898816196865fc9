//! A file tree in memory: what will be shipped, before it is known in which format.
//!
//! The initramfs, the root file system and the boot partition are all first built as a [`Tree`], so
//! that one listing (the golden file) and one set of rules (sorted, owned by root, no times) hold for
//! each of them. Paths are relative and use `/`. Hard links, sockets and extended attributes are not
//! supported: nothing shipped needs them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

/// A tree of entries by path. Every entry's parent directories are present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

/// One shipped file, directory, link or device. The owner is always root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Permission bits, without the type bits: `0o755`.
    pub mode: u16,
    /// What it is.
    pub kind: Kind,
}

/// The types of entry a tree can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file with its content.
    File(Vec<u8>),
    /// A symbolic link with its target.
    Symlink(String),
    /// A character device with its major and minor number.
    CharDevice(u32, u32),
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a regular file, replacing an entry of the same path.
    pub fn file(&mut self, path: &str, mode: u16, content: impl Into<Vec<u8>>) {
        self.insert(path, mode, Kind::File(content.into()));
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str, mode: u16) {
        self.insert(path, mode, Kind::Directory);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.insert(path, 0o777, Kind::Symlink(target.to_owned()));
    }

    /// Adds a character device node.
    pub fn char_device(&mut self, path: &str, mode: u16, major: u32, minor: u32) {
        self.insert(path, mode, Kind::CharDevice(major, minor));
    }

    /// Adds everything below the directory `from`, as files of mode 644 (755 if executable) and directories
    /// of mode 755: the checkout's umask must not show in the image.
    ///
    /// # Errors
    /// If something cannot be read, or is neither file, directory nor symbolic link.
    pub fn copy_from(&mut self, from: &Path) -> Result<()> {
        self.copy_below(from, "")
    }

    fn copy_below(&mut self, from: &Path, prefix: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let read = || format!("cannot read {}", from.display());
        for entry in std::fs::read_dir(from).with_context(read)? {
            let entry = entry.with_context(read)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                bail!("{}: the name is not UTF-8", entry.path().display());
            };
            let path = format!("{prefix}{name}");
            let source = entry.path();
            let failed = || format!("cannot read {}", source.display());
            let metadata = std::fs::symlink_metadata(&source).with_context(failed)?;
            if metadata.is_dir() {
                self.directory(&path, 0o755);
                self.copy_below(&source, &format!("{path}/"))?;
            } else if metadata.is_symlink() {
                let target = std::fs::read_link(&source).with_context(failed)?;
                self.symlink(&path, &target.to_string_lossy());
            } else if metadata.is_file() {
                let mode = if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
                self.file(&path, mode, std::fs::read(&source).with_context(failed)?);
            } else {
                bail!("{}: not a file, directory or symbolic link", source.display());
            }
        }
        Ok(())
    }

    /// All entries, parents before children, in byte order of their paths.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// The entry at `path`.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// A hash over paths, modes and contents.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new().chain_update(self.listing());
        for entry in self.entries.values() {
            if let Kind::File(content) = &entry.kind {
                hash.update((content.len() as u64).to_le_bytes());
                hash.update(content);
            }
        }
        hash.finalize().into()
    }

    /// One line per entry: type, mode, owner and path, the text of the golden files.
    pub fn listing(&self) -> String {
        let mut text = String::new();
        for (path, entry) in &self.entries {
            let (letter, rest) = match &entry.kind {
                Kind::Directory => ('d', String::new()),
                Kind::File(_) => ('-', String::new()),
                Kind::Symlink(target) => ('l', format!(" -> {target}")),
                Kind::CharDevice(major, minor) => ('c', format!(" {major},{minor}")),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{letter}{:04o} 0:0 /{path}{rest}", entry.mode);
        }
        text
    }

    fn insert(&mut self, path: &str, mode: u16, kind: Kind) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.entries
                .entry(path[..end].to_owned())
                .or_insert(Entry { mode: 0o755, kind: Kind::Directory });
        }
        self.entries.insert(path.to_owned(), Entry { mode, kind });
    }
}
