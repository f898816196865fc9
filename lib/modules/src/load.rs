//! The acting half: reads the tables and inserts modules.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use sys::ModuleFile;

use crate::index::{Index, underscored};

/// Why a module, or the tables, could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's release could not be read.
    #[error("cannot read the kernel release")]
    Release(#[source] io::Error),
    /// No tables: no modules can be loaded on this machine.
    #[error("cannot read {path}")]
    Table {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One module was refused.
    #[error("cannot load module {name}: {source}")]
    Insert {
        /// The module.
        name: String,
        /// The kernel's answer, or why the file could not be opened.
        #[source]
        source: io::Error,
    },
    /// Neither a module nor an alias nor part of the kernel.
    #[error("no module {0}")]
    Unknown(String),
}

/// What one request did: nothing in it is fatal.
#[derive(Debug, Default)]
pub struct Report {
    /// Modules inserted now, in order.
    pub loaded: Vec<String>,
    /// What went wrong on the way.
    pub errors: Vec<Error>,
}

type Insert = dyn FnMut(&Path, &str) -> io::Result<()>;

/// The modules of the running kernel: tables, what is loaded already, and the way to load.
pub struct Modules {
    index: Index,
    folder: PathBuf,
    tried: BTreeSet<String>,
    seen: BTreeSet<String>,
    insert: Box<Insert>,
}

impl Modules {
    /// Reads the tables of the running kernel in `<root>/lib/modules/<release>/`. Only `modules.dep` must exist.
    ///
    /// # Errors
    /// When the release or `modules.dep` cannot be read.
    pub fn load_from(root: &Path) -> Result<Self, Error> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").map_err(Error::Release)?;
        let folder = root.join("lib/modules").join(release.trim());
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let path = folder.join("modules.dep");
        let dep = fs::read_to_string(&path).map_err(|source| Error::Table { path, source })?;
        let index = Index::default()
            .dep(&dep)
            .alias(read("modules.alias"))
            .softdep(&read("modules.softdep"))
            .builtin(&read("modules.builtin"))
            .listed(&read("modules.load"));
        let mut modules = Self::with_insert(index, folder, Box::new(insert_file));
        // A module that is in already would be decompressed in vain before the kernel says EEXIST.
        let present = fs::read_to_string("/proc/modules").unwrap_or_default();
        modules.tried.extend(present.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned));
        Ok(modules)
    }

    pub(crate) fn with_insert(index: Index, folder: PathBuf, insert: Box<Insert>) -> Self {
        Self { index, folder, tried: BTreeSet::new(), seen: BTreeSet::new(), insert }
    }

    /// The tables.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Loads what `modules.load` lists.
    pub fn load_listed(&mut self) -> Report {
        let mut report = Report::default();
        for (name, parameters) in self.index.load_list().to_vec() {
            self.load_into(&name, &parameters, &mut report);
        }
        report
    }

    /// Loads a module by name with its dependencies; `parameters` go to the module itself. Does nothing when it
    /// is loaded, was tried before, or is part of the kernel.
    pub fn load(&mut self, name: &str, parameters: &str) -> Report {
        let mut report = Report::default();
        self.load_into(&underscored(name), parameters, &mut report);
        report
    }

    /// Loads every module whose alias matches a device's `modalias`, or any other alias (`fs-vfat`). A string
    /// seen before does nothing; at most 4096 strings are remembered, which is more than any board has devices.
    pub fn load_alias(&mut self, modalias: &str) -> Report {
        let mut report = Report::default();
        if self.seen.contains(modalias) {
            return report;
        }
        let names: Vec<String> = self.index.resolve(modalias).into_iter().map(underscored).collect();
        for name in names {
            self.load_into(&name, "", &mut report);
        }
        if self.seen.len() < 4096 {
            self.seen.insert(modalias.to_owned());
        }
        report
    }

    /// Loads modules for every device that `sysfs` (normally `/sys`) shows, and for the devices those modules
    /// bring to light, until nothing new appears. Devices that a driver finds later announce themselves by uevent.
    pub fn coldplug(&mut self, sysfs: &Path) -> Report {
        let mut report = Report::default();
        // Bus behind bus behind bus: PCI, USB hub, USB device, network adapter. Eight is twice that.
        for _ in 0..8 {
            let before = self.seen.len();
            for modalias in modaliases(sysfs) {
                let Report { loaded, errors } = self.load_alias(&modalias);
                report.loaded.extend(loaded);
                report.errors.extend(errors);
            }
            if self.seen.len() == before {
                break;
            }
        }
        report
    }

    /// Loads a name or, failing that, an alias.
    ///
    /// # Errors
    /// When nothing answers to the name or the module itself is refused.
    pub fn load_request(&mut self, request: &str) -> Result<(), Error> {
        let name = underscored(request);
        if self.tried.contains(&name) || self.index.is_builtin(&name) {
            return Ok(());
        }
        let report = if self.index.path(&name).is_some() {
            self.load(&name, "")
        } else if self.index.resolve(request).is_empty() {
            return Err(Error::Unknown(request.to_owned()));
        } else {
            self.load_alias(request)
        };
        report.errors.into_iter().next().map_or(Ok(()), Err)
    }

    fn load_into(&mut self, name: &str, parameters: &str, report: &mut Report) {
        let plan: Vec<String> = self.index.plan(name).into_iter().map(str::to_owned).collect();
        if plan.is_empty() && !self.index.is_builtin(name) && !self.tried.contains(name) {
            report.errors.push(Error::Unknown(name.to_owned()));
        }
        for step in plan {
            let Some(path) = self.index.path(&step).map(|path| self.folder.join(path)) else { continue };
            // Tried once is enough: a module refused now is refused the next time as well.
            if !self.tried.insert(step.clone()) {
                continue;
            }
            let parameters = if step == name { parameters } else { "" };
            match (self.insert)(&path, parameters) {
                Ok(()) => report.loaded.push(step),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => report.errors.push(Error::Insert { name: step, source }),
            }
        }
    }
}

fn insert_file(path: &Path, parameters: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let parameters = CString::new(parameters)?;
    let plain = path.extension().is_some_and(|extension| extension == "ko");
    let kind = if plain { ModuleFile::Plain } else { ModuleFile::Compressed };
    Ok(sys::finit_module(file.as_fd(), &parameters, kind)?)
}

/// Every device sits on a bus, so `bus/*/devices/*` names all that can have a driver, in a few directories
/// instead of the thousands of `/sys/devices`.
fn modaliases(sysfs: &Path) -> BTreeSet<String> {
    let buses = fs::read_dir(sysfs.join("bus")).into_iter().flatten().flatten();
    let devices =
        buses.flat_map(|bus| fs::read_dir(bus.path().join("devices")).into_iter().flatten().flatten());
    devices
        .filter_map(|device| fs::read_to_string(device.path().join("modalias")).ok())
        .map(|text| text.trim_end().to_owned())
        .filter(|text| !text.is_empty())
        .collect()
}
