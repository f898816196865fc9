//! What a build made: `image.json` for programs, a table for people.

use std::fmt::{self, Write as _};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::file;
use crate::stamp::Artefact;
use crate::tree::{Kind, Tree};

/// Everything a build made.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// SHA-256 of `root.squashfs` in hexadecimal: the name of the image everywhere.
    pub image_id: String,
    /// Release of the kernel.
    pub kernel_release: String,
    /// `root.squashfs`, `initramfs.img`, `vmlinuz`, `head.img`.
    pub artefacts: Vec<Artefact>,
    /// The files of the boot partition, by name.
    pub boot: Vec<Artefact>,
    /// A line per entry of the initramfs: type and mode, owner, path.
    pub initramfs: Vec<String>,
}

impl Report {
    /// Gathers the results.
    pub fn new(
        kernel_release: &str,
        image_id: &str,
        artefacts: [Artefact; 4],
        boot_tree: &Tree,
        initramfs_listing: &str,
    ) -> Self {
        let boot = boot_tree.entries().filter_map(|(path, entry)| match &entry.kind {
            Kind::File(content) => Some(Artefact {
                path: Path::new("boot").join(path),
                bytes: content.len() as u64,
                sha256: format!("{:x}", Sha256::digest(content)),
            }),
            _ => None,
        });
        Self {
            image_id: image_id.to_owned(),
            kernel_release: kernel_release.to_owned(),
            artefacts: artefacts.into(),
            boot: boot.collect(),
            initramfs: initramfs_listing.lines().map(str::to_owned).collect(),
        }
    }

    /// Writes `image.json` into the folder `out`, with paths relative to it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, out: &Path) -> Result<()> {
        let mut report = self.clone();
        for artefact in &mut report.artefacts {
            if let Ok(relative) = artefact.path.strip_prefix(out) {
                artefact.path = relative.to_owned();
            }
        }
        let mut text = serde_json::to_vec_pretty(&report)?;
        text.push(b'\n');
        file::write_if_different(&out.join("image.json"), &text)
    }

    /// Bytes a node fetches over TFTP: kernel, initramfs, the largest device tree, and the two texts.
    pub fn stage1_bytes(&self) -> u64 {
        let named = |name: &str| {
            let path = Path::new("boot").join(name);
            self.boot.iter().find(|artefact| artefact.path == path).map_or(0, |artefact| artefact.bytes)
        };
        let dtbs = self.boot.iter().filter(|artefact| artefact.path.extension().is_some_and(|e| e == "dtb"));
        let dtb = dtbs.map(|artefact| artefact.bytes).max().unwrap_or(0);
        ["vmlinuz", "initramfs.img", "config.txt", "cmdline.txt"].into_iter().map(named).sum::<u64>() + dtb
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "image   {}", self.image_id)?;
        writeln!(out, "kernel  {}", self.kernel_release)?;
        for artefact in &self.artefacts {
            writeln!(out, "{:>12}  {}", grouped(artefact.bytes), artefact.path.display())?;
        }
        let boot: u64 = self.boot.iter().map(|artefact| artefact.bytes).sum();
        writeln!(out, "{:>12}  boot/ ({} files)", grouped(boot), self.boot.len())?;
        let stage1 = self.stage1_bytes();
        write!(out, "{:>12}  of that a node fetches over TFTP", grouped(stage1))?;
        if stage1 > STAGE1_LIMIT {
            write!(out, ": more than the {} set as limit", grouped(STAGE1_LIMIT))
        } else {
            Ok(())
        }
    }
}

/// `17825792` as `17,825,792`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        let _ = text.write_char(digit);
    }
    text
}

/// 17 MiB: at the 2 to 5 MB/s of the boot ROMs' lock-step TFTP this is the largest part of a node's boot.
pub const STAGE1_LIMIT: u64 = 17 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 17_825_792].map(grouped), ["0", "999", "1,000", "17,825,792"]);
    }
}
