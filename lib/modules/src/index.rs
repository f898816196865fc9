//! The tables of depmod, parsed, and the questions asked of them. No I/O.
//!
//! A Pi has about a hundred devices and the full set some ten thousand aliases, so matching all against all is
//! out of the question. Aliases are filed under a key that any matching device string must contain:
//!
//! * `of:N*T*C<compatible>[C*]` under `<compatible>`: a device asks for each of its compatible strings;
//! * all others under the literal text before the first wildcard: a device asks for each prefix of its string.
//!
//! Keys are 32-bit hashes in one sorted array; a false hit is rejected by the real match, which always follows.

use std::collections::{BTreeMap, BTreeSet};

use crate::fnmatch::matches;

/// What depmod knows about the modules that ship.
#[derive(Debug, Default)]
pub struct Index {
    modules: BTreeMap<String, Module>,
    softdeps: BTreeMap<String, Softdep>,
    builtin: BTreeSet<String>,
    listed: Vec<(String, String)>,
    alias_text: String,
    /// Key hash, and where the line begins in `alias_text`; sorted.
    aliases: Vec<(u32, u32)>,
}

#[derive(Debug)]
struct Module {
    path: String,
    needs: Vec<String>,
}

/// Modules wanted around another one, without a symbol dependency (`modules.softdep`).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Softdep {
    /// To be loaded before it.
    pub pre: Vec<String>,
    /// To be loaded after it.
    pub post: Vec<String>,
}

impl Index {
    /// `modules.dep`: `path: path path ...`, paths relative to the release's folder. Adds to what is known.
    #[must_use]
    pub fn dep(mut self, text: &str) -> Self {
        for (path, needs) in text.lines().filter_map(|line| line.split_once(':')) {
            let needs = needs.split_ascii_whitespace().map(name_of).collect();
            self.modules.insert(name_of(path), Module { path: path.to_owned(), needs });
        }
        self
    }

    /// `modules.alias`: `alias PATTERN MODULE`. Replaces earlier aliases. Text beyond 4 GiB is not indexed.
    #[must_use]
    pub fn alias(mut self, text: String) -> Self {
        let mut at = 0;
        self.aliases = Vec::with_capacity(text.len() / 48);
        for line in text.split_inclusive('\n') {
            if let (Some((pattern, _)), Ok(offset)) = (alias_line(line), u32::try_from(at)) {
                self.aliases.push((hash(filed_under(pattern.as_bytes())), offset));
            }
            at += line.len();
        }
        self.aliases.sort_unstable();
        self.alias_text = text;
        self
    }

    /// `modules.softdep`: `softdep MODULE pre: a b post: c`.
    #[must_use]
    pub fn softdep(mut self, text: &str) -> Self {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { continue };
            let entry = self.softdeps.entry(underscored(name)).or_default();
            let mut post = false;
            for word in words {
                match word {
                    "pre:" => post = false,
                    "post:" => post = true,
                    name if post => entry.post.push(underscored(name)),
                    name => entry.pre.push(underscored(name)),
                }
            }
        }
        self
    }

    /// `modules.builtin`: a path per line, of code that is part of the kernel.
    #[must_use]
    pub fn builtin(mut self, text: &str) -> Self {
        self.builtin.extend(text.lines().map(name_of));
        self
    }

    /// `modules.load`: a name per line, then its parameters; `#` begins a comment.
    #[must_use]
    pub fn listed(mut self, text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        self.listed.extend(lines.map(|line| {
            let (name, parameters) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            (underscored(name), parameters.trim().to_owned())
        }));
        self
    }

    /// Names and parameters to be loaded at every boot, in file order.
    pub fn load_list(&self) -> &[(String, String)] {
        &self.listed
    }

    /// The path of a module, relative to the release's folder; `None` when it does not ship.
    pub fn path(&self, name: &str) -> Option<&str> {
        self.modules.get(name).map(|module| module.path.as_str())
    }

    /// Whether it is part of the kernel itself.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    /// Soft dependencies of a module.
    pub fn softdep_of(&self, name: &str) -> Option<&Softdep> {
        self.softdeps.get(name)
    }

    /// Modules whose alias matches a device's `modalias`, in the order of the file, without repetition.
    pub fn resolve(&self, modalias: &str) -> Vec<&str> {
        let mut lines = BTreeSet::new();
        for key in questions(modalias.as_bytes()) {
            let wanted = hash(key);
            let first = self.aliases.partition_point(|(hash, _)| *hash < wanted);
            let same = self.aliases.iter().skip(first).take_while(|(hash, _)| *hash == wanted);
            lines.extend(same.map(|(_, line)| *line));
        }
        let mut names: Vec<&str> = Vec::new();
        for line in lines {
            let text = self.alias_text.get(line as usize..).and_then(|rest| rest.lines().next());
            if let Some((pattern, name)) = text.and_then(alias_line)
                && matches(pattern.as_bytes(), modalias.as_bytes())
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        names
    }

    /// The modules to insert for `name`, dependencies first, itself included, then what it wants afterwards.
    /// Names that do not ship are left out: they are part of the kernel or were not wanted on the machine.
    pub fn plan(&self, name: &str) -> Vec<&str> {
        let mut plan = Vec::new();
        self.visit(name, &mut BTreeSet::new(), &mut plan);
        plan
    }

    fn visit<'a>(&'a self, name: &str, seen: &mut BTreeSet<&'a str>, plan: &mut Vec<&'a str>) {
        let Some((name, module)) = self.modules.get_key_value(name) else { return };
        // Also ends the recursion: a cycle in the files costs nothing.
        if !seen.insert(name) {
            return;
        }
        let soft = self.softdeps.get(name);
        for before in soft.iter().flat_map(|soft| &soft.pre) {
            self.visit(before, seen, plan);
        }
        // depmod(8) lists the deepest dependency last.
        for need in module.needs.iter().rev() {
            self.visit(need, seen, plan);
        }
        plan.push(name);
        for after in soft.iter().flat_map(|soft| &soft.post) {
            self.visit(after, seen, plan);
        }
    }
}

/// The name of the module in a file: the part before `.ko`, dashes as underscores, as the kernel reports it.
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    underscored(file.split(".ko").next().unwrap_or(file))
}

pub(crate) fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

fn alias_line(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("alias"), Some(pattern), Some(name)) => Some((pattern, name)),
        _ => None,
    }
}

const DEVICE_TREE: &[u8] = b"of:N*T*C";

fn filed_under(pattern: &[u8]) -> &[u8] {
    if let Some(compatible) = pattern.strip_prefix(DEVICE_TREE) {
        let compatible = compatible.strip_suffix(b"C*").unwrap_or(compatible);
        if literal(compatible).len() == compatible.len() {
            return compatible;
        }
    }
    literal(pattern)
}

fn literal(pattern: &[u8]) -> &[u8] {
    pattern.split(|byte| matches!(byte, b'*' | b'?' | b'[')).next().unwrap_or_default()
}

/// Longest device string considered; the kernel's own limit for a uevent is 2 KiB.
const LONGEST: usize = 2048;
/// A compatible string may contain a `C` itself, so every piece between two of them is asked for. A device has
/// two or three compatible strings; sixteen `C`s leave room for capital letters in them.
const MOST_CS: usize = 16;

fn questions(modalias: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = modalias.get(..LONGEST.min(modalias.len())).unwrap_or_default();
    let prefixes = (0..=text.len()).filter_map(|end| text.get(..end));
    let cs: Vec<usize> = match text.starts_with(b"of:N") {
        true => {
            let starts = text.iter().enumerate().filter(|(_, byte)| **byte == b'C').map(|(at, _)| at);
            starts.take(MOST_CS).chain([text.len()]).collect()
        }
        false => Vec::new(),
    };
    let starts = cs.clone();
    let pieces = starts
        .into_iter()
        .flat_map(move |start| cs.clone().into_iter().map(move |end| (start, end)))
        .filter_map(|(start, end)| text.get(start + 1..end));
    prefixes.chain(pieces)
}

/// FNV-1a: short keys, no adversary (the files are ours), and it need not be seeded.
fn hash(key: &[u8]) -> u32 {
    key.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
