//! Reads what a kernel module says of itself: the `.modinfo` section of its ELF file.
//!
//! The section is a run of NUL-terminated `key=value` strings (include/linux/moduleparam.h,
//! `__MODULE_INFO`). The keys used here are `depends`, `softdep` and `alias`, from which kmod's depmod makes its
//! tables too. Modules may be compressed with xz or zstd, as Debian and others ship them.

use std::io::Read as _;

use object::{Object as _, ObjectSection as _};
use thiserror::Error;

/// What one module needs and which devices it serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleInfo {
    /// Modules whose symbols it uses, by module name.
    pub depends: Vec<String>,
    /// Its wishes for modules around it, verbatim: `pre: a b post: c`.
    pub softdeps: Vec<String>,
    /// Patterns of the device names (modaliases) it serves.
    pub aliases: Vec<String>,
}

/// Why a module file could not be read.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// The compressed file is damaged.
    #[error("cannot decompress")]
    Decompress(#[source] std::io::Error),
    /// The name ends in none of `.ko`, `.ko.xz`, `.ko.zst`.
    #[error("not a .ko, .ko.xz or .ko.zst file")]
    Name,
    /// It is not an ELF file.
    #[error("not an ELF file")]
    Elf(#[source] object::Error),
    /// It has no `.modinfo` section.
    #[error("no .modinfo section: not a kernel module")]
    NoModinfo,
}

/// The uncompressed module in the file called `name` that holds `bytes`.
///
/// # Errors
/// If the name or the compressed data is not understood.
pub fn decompress(name: &str, bytes: Vec<u8>) -> Result<Vec<u8>, ModuleError> {
    let mut plain = Vec::new();
    if name.ends_with(".ko") {
        return Ok(bytes);
    } else if name.ends_with(".ko.xz") {
        liblzma::read::XzDecoder::new(bytes.as_slice())
            .read_to_end(&mut plain)
            .map_err(ModuleError::Decompress)?;
    } else if name.ends_with(".ko.zst") {
        zstd::stream::copy_decode(bytes.as_slice(), &mut plain).map_err(ModuleError::Decompress)?;
    } else {
        return Err(ModuleError::Name);
    }
    Ok(plain)
}

impl ModuleInfo {
    /// Reads an uncompressed module.
    ///
    /// # Errors
    /// If `elf` is not a kernel module.
    pub fn read(elf: &[u8]) -> Result<Self, ModuleError> {
        let file = object::File::parse(elf).map_err(ModuleError::Elf)?;
        let section = file.section_by_name(".modinfo").ok_or(ModuleError::NoModinfo)?;
        let mut info = Self::default();
        for string in section.data().map_err(ModuleError::Elf)?.split(|byte| *byte == 0) {
            let string = String::from_utf8_lossy(string);
            match string.split_once('=') {
                Some(("depends", names)) => {
                    info.depends.extend(names.split(',').filter(|name| !name.is_empty()).map(canonical));
                }
                Some(("softdep", text)) => info.softdeps.push(text.to_owned()),
                Some(("alias", pattern)) => info.aliases.push(pattern.to_owned()),
                _ => {}
            }
        }
        Ok(info)
    }

    /// The modules it would like to have around it, if they exist.
    pub fn soft_names(&self) -> impl Iterator<Item = String> {
        let words = self.softdeps.iter().flat_map(|text| text.split_whitespace());
        words.filter(|word| !word.ends_with(':')).map(canonical)
    }
}

/// A module's name as the kernel keeps it: `-` and `_` are the same, and `_` is stored.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_the_names_without_their_labels() {
        let softdeps = vec!["pre: mdio-bcm-unimac a post: b".to_owned(), "c".to_owned()];
        let info = ModuleInfo { softdeps, ..ModuleInfo::default() };
        assert_eq!(info.soft_names().collect::<Vec<_>>(), ["mdio_bcm_unimac", "a", "b", "c"]);
    }

    #[test]
    fn damaged_files_are_refused_with_a_reason() {
        assert!(matches!(decompress("a.ko.gz", vec![]), Err(ModuleError::Name)));
        assert!(matches!(decompress("a.ko.xz", vec![1, 2, 3]), Err(ModuleError::Decompress(_))));
        assert!(matches!(ModuleInfo::read(b"\x7fELF"), Err(ModuleError::Elf(_))));
    }
}
