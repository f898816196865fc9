//! Finds the parts of a kernel in an unpacked package or an installed tree.
//!
//! Understood layouts, `R` being the release:
//!
//! | what | Debian 7.x | Debian 6.12 and `make install modules_install dtbs_install` |
//! |---|---|---|
//! | image | `usr/lib/modules/R/vmlinuz` | `boot/vmlinuz-R` or `boot/vmlinuz` |
//! | modules | `usr/lib/modules/R` | `lib/modules/R` or `usr/lib/modules/R` |
//! | dtbs | `usr/lib/modules/R/dtb/broadcom` | `usr/lib/linux-image-R/broadcom` or `boot/dtbs/R/broadcom` |
//!
//! A kernel image that is itself a gzip file is refused: the boot loaders want exactly one layer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::modinfo::{ModuleInfo, canonical, decompress};

/// One kernel on disk.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The release, as `uname -r` says it.
    pub release: String,
    /// The uncompressed kernel image.
    pub image: PathBuf,
    /// Folder with the device trees of the Broadcom boards.
    pub dtbs: PathBuf,
    /// Changes whenever the files of the kernel change.
    pub identity: String,
    /// The package's copyright file, if it is there.
    pub licence: Option<Vec<u8>>,
    modules: PathBuf,
    /// Canonical name to path below `modules`.
    index: BTreeMap<String, String>,
    builtin: BTreeSet<String>,
    builtin_list: String,
}

/// One module, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Path below `/lib/modules/R`, as shipped: `kernel/…/name.ko`.
    pub path: String,
    /// The uncompressed ELF file, with its signature.
    pub content: Vec<u8>,
    /// What it says of itself.
    pub info: ModuleInfo,
}

impl Kernel {
    /// Looks through the folder `root`.
    ///
    /// # Errors
    /// If a part is missing, or there are modules of more than one release.
    pub fn find(root: &Path) -> Result<Self> {
        let modules = modules_folder(root)?;
        let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let image = first_existing(
            "a kernel image",
            &[
                modules.join("vmlinuz"),
                root.join(format!("boot/vmlinuz-{release}")),
                root.join("boot/vmlinuz"),
            ],
        )?;
        let dtbs = first_existing(
            "device trees",
            &[
                modules.join("dtb/broadcom"),
                root.join(format!("usr/lib/linux-image-{release}/broadcom")),
                root.join(format!("boot/dtbs/{release}/broadcom")),
            ],
        )?;
        let mut hash = Sha256::new();
        let mut index = BTreeMap::new();
        index_modules(&modules, "kernel", &mut index, &mut hash)?;
        stat_into(&mut hash, &image)?;
        let list = modules.join("modules.builtin");
        let builtin_list =
            std::fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        hash.update(&builtin_list);
        let builtin = builtin_list.lines().filter_map(module_name).collect();
        let identity = format!("{:x}", hash.finalize());
        let licence = licence(root);
        Ok(Self { release, image, dtbs, identity, licence, modules, index, builtin, builtin_list })
    }

    /// Whether the kernel image itself contains the module `name`.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    /// Whether the module `name` exists as a file.
    pub fn has(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The kernel's own list of what is built in, one path per line.
    pub fn builtin_list(&self) -> &str {
        &self.builtin_list
    }

    /// Reads the module `name` (canonical form).
    ///
    /// # Errors
    /// If there is no such module, or its file is damaged.
    pub fn module(&self, name: &str) -> Result<Module> {
        let path = self.index.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        let file = self.modules.join(path);
        let read = || format!("cannot read the module {}", file.display());
        let bytes = std::fs::read(&file).with_context(read)?;
        let content = decompress(path, bytes).with_context(read)?;
        let info = ModuleInfo::read(&content).with_context(read)?;
        let end = path.rfind(".ko").map_or(path.len(), |at| at + ".ko".len());
        Ok(Module { path: path[..end].to_owned(), content, info })
    }

    /// The uncompressed kernel image.
    ///
    /// # Errors
    /// If it cannot be read or is compressed.
    pub fn read_image(&self) -> Result<Vec<u8>> {
        let image =
            std::fs::read(&self.image).with_context(|| format!("cannot read {}", self.image.display()))?;
        // Documentation/arch/arm64/booting.rst: the header's magic is "ARM\x64" at byte 56.
        if image.get(56..60) != Some(b"ARM\x64") {
            bail!("{}: not an uncompressed arm64 kernel image", self.image.display());
        }
        Ok(image)
    }
}

fn modules_folder(root: &Path) -> Result<PathBuf> {
    for parent in ["usr/lib/modules", "lib/modules"] {
        let Ok(entries) = std::fs::read_dir(root.join(parent)) else { continue };
        let mut releases: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
        match (releases.pop(), releases.len()) {
            (Some(only), 0) => return Ok(only),
            (Some(_), _) => bail!("{} holds modules of more than one kernel", root.join(parent).display()),
            (None, _) => {}
        }
    }
    bail!("{}: no kernel modules in usr/lib/modules or lib/modules", root.display())
}

/// The first copyright file among the package documentation of the kernel's parts.
fn licence(root: &Path) -> Option<Vec<u8>> {
    let folders = std::fs::read_dir(root.join("usr/share/doc")).ok()?;
    let mut folders: Vec<PathBuf> = folders.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("linux-")));
    folders.sort();
    folders.iter().find_map(|folder| std::fs::read(folder.join("copyright")).ok())
}

fn first_existing(what: &str, candidates: &[PathBuf]) -> Result<PathBuf> {
    if let Some(found) = candidates.iter().find(|path| path.exists()) {
        return Ok(found.clone());
    }
    let looked: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    bail!("the kernel has no {what}: looked for {}", looked.join(", "))
}

fn index_modules(
    root: &Path,
    below: &str,
    index: &mut BTreeMap<String, String>,
    hash: &mut Sha256,
) -> Result<()> {
    let folder = root.join(below);
    let read = || format!("cannot read {}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(read)? {
        let entry = entry.with_context(read)?;
        let is_folder = entry.file_type().with_context(read)?.is_dir();
        names.push((entry.file_name().to_string_lossy().into_owned(), is_folder));
    }
    names.sort();
    for (name, is_folder) in names {
        let path = format!("{below}/{name}");
        if is_folder {
            index_modules(root, &path, index, hash)?;
        } else if let Some(module) = module_name(&path) {
            stat_into(hash, &root.join(&path))?;
            index.insert(module, path);
        }
    }
    Ok(())
}

/// The canonical name of the module in the file at `path`; `None` if that is no module.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let end = file.rfind(".ko")?;
    matches!(&file[end..], ".ko" | ".ko.xz" | ".ko.zst").then(|| canonical(&file[..end]))
}

/// Size and time stand for the content: hashing 200 MB at every run would cost more than the run.
fn stat_into(hash: &mut Sha256, path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    hash.update(path.to_string_lossy().as_bytes());
    hash.update(metadata.len().to_le_bytes());
    hash.update(metadata.mtime().to_le_bytes());
    hash.update(metadata.mtime_nsec().to_le_bytes());
    Ok(())
}
