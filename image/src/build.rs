//! A build from start to end, in the order it happens.
//!
//! packages → unpacked → programs → `vmlinuz` → `root.squashfs` → `initramfs.img` → `boot/` → `head.img` → `image.json`.
//! Each file is made again only if what it is made from changed ([`crate::stamp`]); `boot/` is compared with what it should be.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::archive::{Archive, Package};
use crate::binaries::{self, Binaries};
use crate::kernel::Kernel;
use crate::progress::Progress;
use crate::report::Report;
use crate::selection::{Declaration, Selection, Stage};
use crate::stamp::{self, Artefact, Inputs};
use crate::tree::{Kind, Tree};
use crate::{boot, card, compress, contents, cpio, file, squashfs, tool};

/// What to build, from what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The checkout.
    pub repository: PathBuf,
    /// Where results go.
    pub out: PathBuf,
    /// A kernel on disk, in place of Debian's package.
    pub kernel: Option<PathBuf>,
    /// Suite the kernel package is taken from.
    pub suite: String,
    /// Cargo profile of the image's programs.
    pub profile: String,
    /// Never use the network.
    pub offline: bool,
    /// Ask the archive for newer packages.
    pub refresh: bool,
    /// Modification time of everything shipped, in seconds since 1970.
    pub mtime: u32,
}

/// Builds everything and says what came out.
///
/// # Errors
/// The first step that fails, with its reason and where possible a remedy, in one line.
pub fn build(options: &Options) -> Result<Report> {
    fs::create_dir_all(options.cache())
        .with_context(|| format!("cannot create {}", options.cache().display()))?;
    let _lock = lock(&options.cache())?;
    let mut progress = Progress::new();
    let (kernel_root, firmware) = packages(options, &mut progress)?;
    progress.begin("programs", "building init, netroot and bramble");
    let binaries = progress.suspend(|| binaries::build(&options.repository, &options.profile))?;
    progress.done(&format!("init, netroot, bramble: {}", options.profile));
    assemble(options, &kernel_root, &firmware, &binaries, &mut progress)
}

/// Makes all files from what was fetched and compiled.
fn assemble(
    options: &Options,
    kernel_root: &Path,
    firmware: &Path,
    binaries: &Binaries,
    progress: &mut Progress,
) -> Result<Report> {
    let kernel = Kernel::find(kernel_root)?;
    let build = Build { options, kernel: &kernel, binaries };
    let vmlinuz = build.vmlinuz(progress)?;
    let root = build.root(progress)?;
    let initramfs = build.initramfs(progress)?;
    let boot_tree = build.boot_tree(&vmlinuz, &initramfs, &root.sha256, firmware)?;
    build.boot_folder(&boot_tree)?;
    let head = build.head(progress, &boot_tree, &root)?;
    let listing =
        fs::read_to_string(build.initramfs_listing()).context("cannot read the initramfs listing")?;
    let image_id = root.sha256.clone();
    let artefacts = [root, initramfs, vmlinuz, head];
    let report = Report::new(&kernel.release, &image_id, artefacts, &boot_tree, &listing);
    report.write(&options.out)?;
    Ok(report)
}

impl Options {
    fn cache(&self) -> PathBuf {
        self.out.join("cache")
    }
}

/// Only one builder at a time works in a folder; a second one waits.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("  waiting for another build in {}", folder.display());
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Fetches and unpacks what comes from Debian. Returns the folders of kernel and firmware.
fn packages(options: &Options, progress: &mut Progress) -> Result<(PathBuf, PathBuf)> {
    let names: &[&str] =
        if options.kernel.is_some() { &["raspi-firmware"] } else { &["linux-image-arm64", "raspi-firmware"] };
    let archive = Archive::new(&options.cache().join("apt").join(&options.suite), &options.suite)?;
    progress.begin("packages", "reading Debian's package lists");
    let recorded = archive.recorded(names).filter(|_| !options.refresh || options.offline);
    let packages = match recorded {
        Some(packages) => packages,
        None if options.offline => {
            bail!("nothing was fetched yet for --offline: build once with the network")
        }
        None => archive.resolve(names)?,
    };
    let folder = fetch(options, &archive, names, &packages, progress)?;
    let unpacked = options.cache().join("unpacked");
    progress.say("unpacking");
    let (firmware, kernel): (Vec<_>, Vec<_>) =
        packages.iter().partition(|package| package.file.starts_with("raspi-firmware"));
    let firmware = unpack(&folder, &firmware, &unpacked)?;
    let kernel = match &options.kernel {
        Some(folder) => folder.clone(),
        None => unpack(&folder, &kernel, &unpacked)?,
    };
    progress.done(&packages.iter().map(|package| package.file.as_str()).collect::<Vec<_>>().join(" "));
    Ok((kernel, firmware))
}

fn fetch(
    options: &Options,
    archive: &Archive,
    names: &[&str],
    packages: &[Package],
    progress: &Progress,
) -> Result<PathBuf> {
    if options.offline {
        // An absent file is found when it is unpacked, with its name.
        return Ok(archive.packages());
    }
    let total: u64 = packages.iter().map(|package| package.bytes).sum();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let here = file::size_below(&archive.arriving());
                if here > 0 {
                    progress.say(&format!("fetching {} of {} MB", here / 1_000_000, total / 1_000_000));
                }
                std::thread::park_timeout(std::time::Duration::from_millis(200));
            }
        });
        let result = archive.fetch(names, packages);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        result
    })
}

/// Unpacks `packages` into one folder named by their hashes, unless that exists.
fn unpack(folder: &Path, packages: &[&Package], unpacked: &Path) -> Result<PathBuf> {
    let id = packages.iter().fold(Inputs::default(), |inputs, package| inputs.with(&package.sha256)).id();
    let target = unpacked.join(id.get(..16).unwrap_or(&id));
    if target.exists() {
        return Ok(target);
    }
    let part = file::beside(&target);
    file::clear(&part)?;
    for package in packages {
        let mut dpkg = Command::new(tool::find("dpkg-deb", "dpkg")?);
        dpkg.arg("-x").arg(folder.join(&package.file)).arg(&part);
        tool::run(&mut dpkg, &format!("unpack {}", package.file))?;
    }
    fs::rename(&part, &target).with_context(|| format!("cannot write {}", target.display()))?;
    Ok(target)
}

/// The steps that make files, and what they share.
struct Build<'a> {
    options: &'a Options,
    kernel: &'a Kernel,
    binaries: &'a Binaries,
}

impl Build<'_> {
    fn vmlinuz(&self, progress: &mut Progress) -> Result<Artefact> {
        let path = self.options.out.join("vmlinuz");
        self.step(progress, "kernel", &path, Inputs::new().with(&self.kernel.identity), || {
            file::write(&path, &compress::gzip(&self.kernel.read_image()?)?)
        })
    }

    fn root(&self, progress: &mut Progress) -> Result<Artefact> {
        let path = self.options.out.join("root.squashfs");
        let rootfs = self.options.repository.join("rootfs");
        let mut verbatim = Tree::new();
        verbatim.copy_from(&rootfs)?;
        let inputs = self.inputs().with(&self.binaries.bramble).with(verbatim.digest());
        self.step(progress, "root", &path, inputs, || {
            let modules = Selection::resolve(&Declaration::shipped()?, self.kernel, Stage::Root)?;
            let tree = contents::root(&self.binaries.bramble, &modules, &rootfs)?;
            file::write(&path, &squashfs::image(&tree, self.options.mtime)?)
        })
    }

    fn initramfs(&self, progress: &mut Progress) -> Result<Artefact> {
        let path = self.options.out.join("initramfs.img");
        let inputs = self.inputs().with(&self.binaries.init).with(&self.binaries.netroot);
        self.step(progress, "initramfs", &path, inputs, || {
            let modules = Selection::resolve(&Declaration::shipped()?, self.kernel, Stage::Initramfs)?;
            let tree = contents::initramfs(&self.binaries.init, &self.binaries.netroot, &modules);
            file::write(&self.initramfs_listing(), tree.listing().as_bytes())?;
            file::write(&path, &compress::initramfs(&cpio::archive(&tree, self.options.mtime))?)
        })
    }

    fn boot_tree(
        &self,
        vmlinuz: &Artefact,
        initramfs: &Artefact,
        image_id: &str,
        firmware: &Path,
    ) -> Result<Tree> {
        let settings = self.options.repository.join("lib/config/bramble.toml");
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        boot::tree(&boot::Parts {
            kernel: &read(&vmlinuz.path)?,
            initramfs: &read(&initramfs.path)?,
            image_id,
            dtbs: &self.kernel.dtbs,
            firmware,
            settings: &read(&settings)?,
            kernel_licence: self.kernel.licence.as_deref(),
        })
    }

    /// Makes the folder `boot/` hold exactly `tree`, touching only what differs.
    fn boot_folder(&self, tree: &Tree) -> Result<()> {
        let folder = self.options.out.join("boot");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if tree.get(&entry.file_name().to_string_lossy()).is_none() {
                fs::remove_file(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        for (path, entry) in tree.entries() {
            if let Kind::File(content) = &entry.kind {
                file::write_if_different(&folder.join(path), content)?;
            }
        }
        Ok(())
    }

    fn head(&self, progress: &mut Progress, boot_tree: &Tree, root: &Artefact) -> Result<Artefact> {
        let path = self.options.out.join("head.img");
        let inputs = self.inputs().with(boot_tree.digest()).with(&root.sha256);
        self.step(progress, "card", &path, inputs, || {
            let squashfs =
                fs::read(&root.path).with_context(|| format!("cannot read {}", root.path.display()))?;
            card::write(&path, boot_tree, &squashfs, &root.sha256, self.options.mtime)
        })
    }

    fn step(
        &self,
        progress: &mut Progress,
        name: &'static str,
        path: &Path,
        inputs: Inputs,
        make: impl FnOnce() -> Result<()>,
    ) -> Result<Artefact> {
        progress.begin(name, &format!("making {}", path.display()));
        let (artefact, made) = stamp::step(&self.options.cache().join("stamps"), path, inputs, make)?;
        let state = if made { "made" } else { "unchanged" };
        progress.done(&format!("{} {state}, {} bytes", path.display(), artefact.bytes));
        Ok(artefact)
    }

    /// Inputs of every step that ships modules or times.
    fn inputs(&self) -> Inputs {
        Inputs::new().with(&self.kernel.identity).with(self.options.mtime.to_le_bytes())
    }

    fn initramfs_listing(&self) -> PathBuf {
        self.options.cache().join("initramfs.list")
    }
}

#[cfg(test)]
#[path = "build/tests.rs"]
mod tests;
