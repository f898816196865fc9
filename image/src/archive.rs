//! Fetches kernel and firmware packages from Debian's archive, through apt.
//!
//! apt runs with its whole state in a folder of ours: no root, no foreign architecture to enable, nothing of the
//! host's package lists touched. From the host come the archive's address and its proxy settings; signatures are
//! checked by apt against Debian's own keyring. The packages found are written down (`packages.json`) and used
//! from then on without asking again, until a refresh is asked for: a build says the same tomorrow as today.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{file, sources, tool};

/// One package that was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Name, version and architecture as the file is called.
    pub file: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

/// The archive seen from one suite.
#[derive(Debug)]
pub struct Archive {
    folder: PathBuf,
    suite: String,
}

impl Archive {
    /// The archive as seen from `suite`, with everything kept below `folder`.
    ///
    /// # Errors
    /// If the current folder is unknown.
    pub fn new(folder: &Path, suite: &str) -> Result<Self> {
        // apt takes relative paths from its own root folder.
        let folder = std::path::absolute(folder).context("cannot tell the current folder")?;
        Ok(Self { folder, suite: suite.to_owned() })
    }

    /// The packages recorded by an earlier [`resolve`](Self::resolve) of the same `names`, if there was one.
    pub fn recorded(&self, names: &[&str]) -> Option<Vec<Package>> {
        let record: Record = serde_json::from_slice(&fs::read(self.record(names)).ok()?).ok()?;
        Some(record.packages)
    }

    /// Asks the archive for the newest packages called `names`, and those that carry parts of a kernel among them.
    ///
    /// # Errors
    /// If the host has no Debian source, or apt cannot reach the archive or does not find a package.
    pub fn resolve(&self, names: &[&str]) -> Result<Vec<Package>> {
        self.configure()?;
        tool::run(self.apt("apt-get")?.args(["update", "-q"]), "read the package lists").context(
            "Debian's archive cannot be read; is the network up? (--offline uses what was fetched before)",
        )?;
        let mut wanted: Vec<String> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        while let Some(name) = next.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let mut show = self.apt("apt-cache")?;
            let text = tool::output(show.args(["show", "--no-all-versions", &name]), "look a package up")?;
            let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
            let version = version.with_context(|| format!("{} has no package {name}", self.suite))?;
            let depends = text.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or("");
            next.extend(kernel_parts(depends));
            wanted.push(format!("{name}={version}"));
        }
        let mut download = self.apt("apt-get")?;
        download.args(["download", "--print-uris", "-qq"]).args(&wanted);
        let text = tool::output(&mut download, "look packages up")?;
        let mut packages: Vec<Package> = text.lines().filter_map(parse_uri_line).collect();
        if packages.len() != wanted.len() {
            bail!("apt-get names {} files for {} packages: {}", packages.len(), wanted.len(), text.trim());
        }
        packages.sort_by(|a, b| a.file.cmp(&b.file));
        let record = Record { wanted, packages: packages.clone() };
        file::write(&self.record(names), &serde_json::to_vec_pretty(&record)?)?;
        Ok(packages)
    }

    /// Fetches those of the recorded packages that are not here yet. Returns the folder they are in.
    ///
    /// # Errors
    /// If apt cannot fetch them or a file is not what was announced.
    pub fn fetch(&self, names: &[&str], packages: &[Package]) -> Result<PathBuf> {
        let folder = self.packages();
        if packages.iter().all(|package| folder.join(&package.file).exists()) {
            return Ok(folder);
        }
        let record: Record = serde_json::from_slice(&fs::read(self.record(names))?)?;
        let arriving = self.arriving();
        file::clear(&arriving)?;
        let mut download = self.apt("apt-get")?;
        download.current_dir(&arriving).args(["download", "-q"]).args(&record.wanted);
        tool::run(&mut download, "fetch packages").context(
            "cannot fetch Debian's packages; is the network up and the disk not full? \
             If they were replaced in the archive, run again with --refresh",
        )?;
        fs::create_dir_all(&folder)?;
        for package in packages {
            let arrived = arriving.join(&package.file);
            let sum = file::sha256(&arrived)?;
            if sum != package.sha256 {
                bail!("{}: has sha256 {sum}, announced was {}", arrived.display(), package.sha256);
            }
            fs::rename(&arrived, folder.join(&package.file))?;
        }
        Ok(folder)
    }

    /// Where fetched packages are.
    pub fn packages(&self) -> PathBuf {
        self.folder.join("packages")
    }

    /// Where files are while they arrive: for showing progress.
    pub fn arriving(&self) -> PathBuf {
        self.folder.join("arriving")
    }

    fn record(&self, names: &[&str]) -> PathBuf {
        self.folder.join(format!("{}.json", names.join("+")))
    }

    fn apt(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(tool::find(program, "apt")?);
        command.arg("-c").arg(self.folder.join("apt.conf"));
        Ok(command)
    }

    fn configure(&self) -> Result<()> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: apt install debian-archive-keyring");
        }
        let uri = sources::main_archive(&host_sources()).context(
            "no Debian archive among the apt sources of this computer (/etc/apt): \
             add one, or give a kernel with --kernel DIR",
        )?;
        for folder in ["state/lists/partial", "cache/archives/partial", "preferences", "parts"] {
            fs::create_dir_all(self.folder.join(folder))
                .with_context(|| format!("cannot create {}", self.folder.join(folder).display()))?;
        }
        file::write(&self.folder.join("status"), b"")?;
        let mut list = String::new();
        let base = self.suite.split('-').next().unwrap_or(&self.suite);
        for suite in BTreeSet::from([base, &self.suite]) {
            list += &format!("deb [arch=arm64 signed-by={KEYRING}] {uri} {suite} main non-free-firmware\n");
        }
        file::write(&self.folder.join("sources.list"), list.as_bytes())?;
        file::write(&self.folder.join("apt.conf"), self.configuration().as_bytes())
    }

    fn configuration(&self) -> String {
        let (root, suite) = (self.folder.display(), &self.suite);
        format!(
            "Dir::State \"{root}/state\";\n\
             Dir::State::status \"{root}/status\";\n\
             Dir::Cache \"{root}/cache\";\n\
             Dir::Etc::sourcelist \"{root}/sources.list\";\n\
             Dir::Etc::sourceparts \"{root}/parts\";\n\
             Dir::Etc::preferences \"{root}/no-preferences\";\n\
             Dir::Etc::preferencesparts \"{root}/preferences\";\n\
             APT::Architecture \"arm64\";\n\
             #clear APT::Architectures;\n\
             APT::Architectures {{ \"arm64\"; }};\n\
             APT::Default-Release \"{suite}\";\n\
             APT::Sandbox::User \"root\";\n\
             APT::Update::Error-Mode \"any\";\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"2\";\n\
             Acquire::http::Timeout \"30\";\n\
             Acquire::https::Timeout \"30\";\n"
        )
    }
}

/// What was asked for and what the archive answered.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    wanted: Vec<String>,
    packages: Vec<Package>,
}

/// The packages in a `Depends:` line that hold parts of a kernel of a certain release. The other ones are
/// programs for an installed Debian (initramfs-tools, kmod).
fn kernel_parts(depends: &str) -> Vec<String> {
    let names = depends.split([',', '|']).filter_map(|item| item.split_whitespace().next());
    let is_part = |name: &&str| {
        ["linux-image-", "linux-base-", "linux-binary-", "linux-modules-"]
            .iter()
            .filter_map(|prefix| name.strip_prefix(prefix))
            .any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    names.filter(is_part).map(str::to_owned).collect()
}

/// Parses `'address' file bytes SHA256:sum`, as `apt-get --print-uris` writes it.
fn parse_uri_line(line: &str) -> Option<Package> {
    let mut words = line.strip_prefix('\'')?.split_once("' ")?.1.split_whitespace();
    let (name, bytes, sum) = (words.next()?, words.next()?, words.next()?);
    let plain = name.ends_with(".deb") && !name.contains('/');
    let sha256 = sum.strip_prefix("SHA256:")?.to_owned();
    plain.then_some(Package { file: name.to_owned(), bytes: bytes.parse().ok()?, sha256 })
}

/// The host's source files, in apt's order.
fn host_sources() -> Vec<(String, String)> {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    let mut paths: Vec<PathBuf> = parts.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| {
        path.extension().is_some_and(|extension| extension == "list" || extension == "sources")
    });
    paths.sort();
    paths.insert(0, PathBuf::from("/etc/apt/sources.list"));
    let read = |path: PathBuf| Some((path.to_string_lossy().into_owned(), fs::read_to_string(&path).ok()?));
    paths.into_iter().filter_map(read).collect()
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_parts_are_told_from_the_tools_of_an_installed_system() {
        let new = "dracut | initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool, \
                   linux-base-7.2.12+deb13-arm64 (= 7.2.12-1~bpo13+1), linux-modules-7.2.12+deb13-arm64 (= 7.2.12-1)";
        assert_eq!(kernel_parts(new), ["linux-base-7.2.12+deb13-arm64", "linux-modules-7.2.12+deb13-arm64"]);
        assert_eq!(kernel_parts("kmod, linux-base (>= 4.12~), linux-image-arm64"), Vec::<String>::new());
        assert_eq!(kernel_parts(""), Vec::<String>::new());
    }

    #[test]
    fn a_file_name_that_leaves_the_folder_is_refused() {
        let line = |name| format!("'http://a/b.deb' {name} 12 SHA256:ab");
        assert_eq!(parse_uri_line(&line("b_1%3a2_all.deb")).map(|package| package.bytes), Some(12));
        assert_eq!(parse_uri_line(&line("../b.deb")), None);
        assert_eq!(parse_uri_line("'http://a' b.deb x SHA256:ab"), None);
        assert_eq!(parse_uri_line("E: nonsense"), None);
    }
}
