//! Which modules ship in which stage, and in which order they load.
//!
//! The declaration is the text file `modules.toml` of this crate. From it and the kernel this module makes
//! a [`Selection`] per stage: the declared modules, everything they depend on, and the tables the loader
//! on the board reads, in kmod's text formats (modules.dep(5)):
//!
//! - `modules.dep`: `path: dependency dependency…`, the last one to be loaded first;
//! - `modules.softdep`: `softdep <module> pre: <module>… post: <module>…`;
//! - `modules.alias`: `alias <pattern> <module>`;
//! - `modules.builtin`: as the kernel ships it, in the initramfs only the declared ones;
//! - `modules.load`: names to load at once (initramfs only).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::kernel::{Kernel, Module};
use crate::modinfo::canonical;
use crate::tree::Tree;

/// The parsed `modules.toml`.
#[derive(Debug, Clone, Deserialize)]
pub struct Declaration {
    load: Vec<String>,
    #[serde(flatten)]
    machines: BTreeMap<String, Stages>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stages {
    initramfs: Vec<String>,
    root: Vec<String>,
}

/// Where modules are shipped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// What it takes to reach the root.
    Initramfs,
    /// Everything.
    Root,
}

/// The modules of one stage.
#[derive(Debug, Clone)]
pub struct Selection {
    release: String,
    modules: BTreeMap<String, Module>,
    /// For each module everything it needs, nearest last: in the order of a `modules.dep` line reversed.
    needs: BTreeMap<String, Vec<String>>,
    builtin: String,
    load: Vec<String>,
}

impl Declaration {
    /// The declaration this crate ships.
    ///
    /// # Errors
    /// If the text is not what it should be.
    pub fn shipped() -> Result<Self> {
        Self::parse(include_str!("../modules.toml"))
    }

    /// Parses the text of a `modules.toml`.
    ///
    /// # Errors
    /// If it is not TOML of the right shape.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("modules.toml")
    }

    /// The declared modules of a stage: canonical name, and whether the kernel may lack it.
    fn declared(&self, stage: Stage) -> BTreeMap<String, bool> {
        let mut names = BTreeMap::new();
        for stages in self.machines.values() {
            let root: &[String] = if stage == Stage::Root { &stages.root } else { &[] };
            for entry in stages.initramfs.iter().chain(root) {
                let name = canonical(entry.trim_end_matches('?'));
                let optional = names.entry(name).or_insert(true);
                *optional &= entry.ends_with('?');
            }
        }
        names
    }
}

impl Selection {
    /// Resolves the modules of `stage` against `kernel`.
    ///
    /// # Errors
    /// If a module that is not optional is missing, a module file is damaged, or dependencies form a circle.
    pub fn resolve(declaration: &Declaration, kernel: &Kernel, stage: Stage) -> Result<Self> {
        let mut resolver =
            Resolver { kernel, modules: BTreeMap::new(), needs: BTreeMap::new(), wishes: Vec::new() };
        let declared = declaration.declared(stage);
        for (name, optional) in &declared {
            if kernel.has(name) {
                resolver.add(name, &mut Vec::new())?;
            } else if !kernel.is_builtin(name) && !optional {
                bail!(
                    "modules.toml names {name}, which kernel {} does not have: \
                     correct the name or mark it \"{name}?\"",
                    kernel.release
                );
            }
        }
        // A wish that names an alias (crypto-crc32c) is left to the kernel's own request at run time.
        while let Some(name) = resolver.wishes.pop() {
            if kernel.has(&name) {
                resolver.add(&name, &mut Vec::new())?;
            }
        }
        let Resolver { modules, needs, .. } = resolver;
        let (builtin, load) = match stage {
            Stage::Root => (kernel.builtin_list().to_owned(), Vec::new()),
            Stage::Initramfs => {
                let load = declaration.load.iter().map(|name| canonical(name));
                let load = load.filter(|name| !kernel.is_builtin(name)).collect();
                (declared_builtin(kernel, &declared), load)
            }
        };
        if let Some(name) = load.iter().find(|name| !modules.contains_key(*name)) {
            bail!("modules.toml: {name} is to be loaded in the initramfs but is not listed for it");
        }
        Ok(Self { release: kernel.release.clone(), modules, needs, builtin, load })
    }

    /// Names of the modules, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Adds the modules and their tables to `tree`, below `lib/modules/<release>`.
    pub fn ship(&self, tree: &mut Tree) {
        let folder = format!("lib/modules/{}", self.release);
        for module in self.modules.values() {
            tree.file(&format!("{folder}/{}", module.path), 0o644, module.content.as_slice());
        }
        tree.file(&format!("{folder}/modules.dep"), 0o644, self.dep_table());
        tree.file(&format!("{folder}/modules.softdep"), 0o644, self.softdep_table());
        tree.file(&format!("{folder}/modules.alias"), 0o644, self.alias_table());
        tree.file(&format!("{folder}/modules.builtin"), 0o644, self.builtin.as_str());
        if !self.load.is_empty() {
            tree.file(&format!("{folder}/modules.load"), 0o644, self.load.join("\n") + "\n");
        }
    }

    /// The text of `modules.dep`.
    pub fn dep_table(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            let _ = write!(text, "{}:", module.path);
            // Written backwards: modprobe loads the last dependency first.
            for need in self.needs.get(name).into_iter().flatten().rev() {
                if let Some(needed) = self.modules.get(need) {
                    let _ = write!(text, " {}", needed.path);
                }
            }
            text.push('\n');
        }
        text
    }

    /// The text of `modules.softdep`.
    pub fn softdep_table(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            for wish in &module.info.softdeps {
                let _ = writeln!(text, "softdep {name} {wish}");
            }
        }
        text
    }

    /// The text of `modules.alias`.
    pub fn alias_table(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            for pattern in &module.info.aliases {
                let _ = writeln!(text, "alias {pattern} {name}");
            }
        }
        text
    }
}

struct Resolver<'a> {
    kernel: &'a Kernel,
    modules: BTreeMap<String, Module>,
    needs: BTreeMap<String, Vec<String>>,
    /// Modules named in soft dependencies: taken afterwards, because unlike hard ones they may form circles.
    wishes: Vec<String>,
}

impl Resolver<'_> {
    /// Reads `name` and all it needs. `path` is the chain that led here, to name a circle.
    fn add(&mut self, name: &str, path: &mut Vec<String>) -> Result<()> {
        if path.iter().any(|above| above == name) {
            bail!("kernel modules depend on each other in a circle: {} -> {name}", path.join(" -> "));
        }
        if self.needs.contains_key(name) {
            return Ok(());
        }
        let module = self.kernel.module(name)?;
        let mut order: Vec<String> = Vec::new();
        path.push(name.to_owned());
        for need in &module.info.depends {
            if self.kernel.has(need) {
                self.add(need, path)?;
                let below = self.needs.get(need).cloned().unwrap_or_default();
                for step in below.into_iter().chain([need.clone()]) {
                    if !order.contains(&step) {
                        order.push(step);
                    }
                }
            } else if !self.kernel.is_builtin(need) {
                bail!("module {name} depends on {need}, which the kernel package does not have");
            }
        }
        path.pop();
        self.wishes.extend(module.info.soft_names());
        self.modules.insert(name.to_owned(), module);
        self.needs.insert(name.to_owned(), order);
        Ok(())
    }
}

fn declared_builtin(kernel: &Kernel, declared: &BTreeMap<String, bool>) -> String {
    let wanted: BTreeSet<&str> = declared.keys().map(String::as_str).collect();
    let mut text = String::new();
    for line in kernel.builtin_list().lines() {
        let file = line.rsplit('/').next().unwrap_or(line);
        if wanted.contains(canonical(file.trim_end_matches(".ko")).as_str()) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
#[path = "selection/tests.rs"]
mod tests;
