//! Which files a board asks for, in which order, and what it does with the answers.
//!
//! ```text
//!            ask, answer            ask, answer              ask, answer
//!  [ROM, bootcode.bin] ---> config.txt ---> start*.elf, fixup*.dat ---> tree, initramfs, command line, kernel
//!                               |                  |                        |
//!                               +--- what cannot boot the board halts it, with the file's name
//! ```
//!
//! [`Sequence`] is asked what comes [`next`](Sequence::next) and told the [`answer`](Sequence::answer); whether files
//! come from a card or over TFTP is its driver's business. Orders were taken from captures; of the Pi 5's the part
//! behind config.txt is inferred, no capture being public.
//!
//! *Stricter than a board*: a missing initramfs or command line halts here with the file's name, while a board would
//! start a kernel that then finds no root. *Not modelled*: 32-bit kernels, `boot_ramdisk`, `include`.

mod plan;

use std::collections::VecDeque;

use crate::config::{Config, Facts};
use crate::model::Generation;
use crate::prefix::Prefix;

/// Where the files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// A FAT partition that was already found to be bootable; `tryboot_file` chooses tryboot.txt over config.txt.
    Card {
        /// Whether the settings are in tryboot.txt.
        tryboot_file: bool,
    },
    /// A TFTP server.
    Network,
}

/// Which code asks; over TFTP each asks in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The mask ROM of the Pi 3.
    Rom,
    /// `bootcode.bin`.
    Bootcode,
    /// `start.elf` or `start4.elf`.
    Start,
    /// The EEPROM of the Pi 4 and 5.
    Eeprom,
}

/// A file wanted, or only its existence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub stage: Stage,
    /// Path with every prefix, without a leading slash.
    pub path: String,
    /// Whether the request ends with the first sign that the file exists.
    pub probe: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Ask for this file and pass on the answer.
    Ask(Request),
    /// `bootcode.bin` speaks DHCP anew; call [`Sequence::rediscovered`] afterwards.
    Discover,
    /// All is loaded: [`Sequence::finish`].
    Boot,
    /// The board stops here.
    Halt(Halt),
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is no such file.
    Missing,
    /// A probed file exists.
    Exists,
    /// All of a file.
    Content(Vec<u8>),
}

/// Why a board does not boot from what it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// A file without which nothing starts.
    #[error("{path} is missing: {purpose}")]
    Missing {
        /// As asked for.
        path: String,
        /// What it is for.
        purpose: &'static str,
    },
    /// A file that makes the firmware do something else than boot.
    #[error("{path} exists and would start the recovery instead of the system")]
    Diverted {
        /// As asked for.
        path: String,
    },
    /// The setting a Pi 3 needs to start an arm64 kernel is missing, or it is switched off.
    #[error("config.txt lacks arm_64bit=1: the board would start a 32-bit kernel")]
    ThirtyTwoBit,
    /// A directive this model of the firmware does not follow.
    #[error("config.txt uses {0}, which this firmware model does not follow")]
    NotModelled(&'static str),
    /// The Pi 5's own check.
    #[error("OS does not indicate support for Raspberry Pi 5: {path} is missing and os_check is not 0")]
    OsCheck {
        /// The device tree it looked for.
        path: String,
    },
    /// `device_tree=` without a value.
    #[error("config.txt withholds the device tree, without which an arm64 kernel does not start")]
    NoDeviceTree,
    /// Not what begins with d00dfeed.
    #[error("{path} is not a device tree")]
    NotADeviceTree {
        /// As asked for.
        path: String,
    },
}

/// What was loaded, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The kernel's path.
    pub kernel_path: String,
    /// The kernel: an arm64 `Image`, perhaps gzipped; not yet looked at.
    pub kernel: Vec<u8>,
    /// All archives, one behind the other.
    pub initramfs: Option<Vec<u8>>,
    /// Absent only on a Pi 5 with `os_check=0`.
    pub device_tree: Option<Vec<u8>>,
    /// The first line of the command line file.
    pub command_line: String,
}

/// One boot of one board.
#[derive(Debug)]
pub struct Sequence {
    facts: Facts,
    medium: Medium,
    prefix: Option<Prefix>,
    config: Config,
    os_prefix: String,
    overlay_directory: String,
    tasks: VecDeque<Task>,
    halt: Option<Halt>,
    loaded: Loaded,
}

#[derive(Debug, Clone)]
struct Task {
    stage: Stage,
    /// Without the network prefix.
    name: String,
    role: Role,
    probe: bool,
}

/// What a file is for, and so what its presence or absence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Discover,
    BootCode,
    /// Decides whether the prefix is used.
    Marker,
    LastMarker,
    Config,
    /// Asked for and not used.
    InVain,
    Diverts,
    Firmware,
    /// Decide whether `os_prefix` is used.
    PrefixedKernel,
    PrefixedTree,
    PrefixedReadme,
    Tree,
    TreeIfPresent,
    CommandLine,
    Initramfs,
    InitramfsIfPresent,
    Kernel,
    KernelIfPresent,
}

impl Sequence {
    /// The beginning: after power-on over the network, or with the partition found on a card.
    pub fn new(facts: Facts, medium: Medium) -> Sequence {
        let mut sequence = Sequence {
            facts,
            medium,
            prefix: (medium == Medium::Network).then_some(Prefix::Serial(facts.serial)),
            config: Config::defaults(facts.model),
            os_prefix: String::new(),
            overlay_directory: String::new(),
            tasks: VecDeque::new(),
            halt: None,
            loaded: Loaded {
                kernel_path: String::new(),
                kernel: Vec::new(),
                initramfs: None,
                device_tree: None,
                command_line: String::new(),
            },
        };
        sequence.begin();
        sequence
    }

    /// What the board does now.
    pub fn next(&self) -> Next {
        if let Some(halt) = &self.halt {
            return Next::Halt(halt.clone());
        }
        match self.tasks.front() {
            None => Next::Boot,
            Some(Task { role: Role::Discover, .. }) => Next::Discover,
            Some(task) => Next::Ask(Request { stage: task.stage, path: self.path(task), probe: task.probe }),
        }
    }

    /// The second DHCP exchange of a Pi 3 is done.
    pub fn rediscovered(&mut self) {
        if self.next() == Next::Discover {
            self.tasks.pop_front();
        }
    }

    /// The answer to the request last given by [`next`](Self::next).
    pub fn answer(&mut self, answer: Answer) {
        if matches!(self.next(), Next::Ask(_))
            && let Some(task) = self.tasks.pop_front()
        {
            let path = self.path(&task);
            match answer {
                Answer::Missing => self.missing(task, path),
                Answer::Exists => self.present(task, path, Vec::new()),
                Answer::Content(content) => self.present(task, path, content),
            }
        }
    }

    /// The files, once [`Next::Boot`] was reached.
    ///
    /// # Errors
    /// The reason if the board halted; [`Halt::Missing`] for the kernel if it is still asking.
    pub fn finish(self) -> Result<Loaded, Halt> {
        match self.next() {
            Next::Boot => Ok(self.loaded),
            Next::Halt(halt) => Err(halt),
            Next::Ask(Request { path, .. }) => Err(Halt::Missing { path, purpose: "not answered yet" }),
            Next::Discover => Err(Halt::Missing { path: String::new(), purpose: "not answered yet" }),
        }
    }

    fn path(&self, task: &Task) -> String {
        match self.prefix {
            // The ROM knows no prefix.
            Some(prefix) if task.stage != Stage::Rom => format!("{prefix}{}", task.name),
            _ => task.name.clone(),
        }
    }

    fn missing(&mut self, task: Task, path: String) {
        let role = task.role;
        let halt = |purpose| Some(Halt::Missing { path: path.clone(), purpose });
        match role {
            Role::Marker | Role::Discover | Role::InVain | Role::Diverts => {}
            Role::TreeIfPresent | Role::KernelIfPresent | Role::InitramfsIfPresent => {}
            Role::LastMarker => self.prefix = None,
            Role::Config if self.facts.model.generation() != Generation::Five => self.configured(&[]),
            // The Pi 5 has no start4.elf to probe for: config.txt decides about the prefix.
            Role::Config if self.prefix.take().is_some() => self.tasks.push_front(task),
            Role::Config => self.halt = halt("it marks what a Pi 5 can boot from"),
            Role::BootCode => self.halt = halt("the boot ROM starts it"),
            Role::Firmware => self.halt = halt("firmware of this model"),
            Role::PrefixedKernel | Role::PrefixedTree => self.os_prefix.clear(),
            Role::PrefixedReadme => self.overlay_directory = self.config.overlay_prefix.clone(),
            Role::Tree if self.facts.model.generation() == Generation::Five => {
                if self.config.os_check {
                    self.halt = Some(Halt::OsCheck { path });
                }
            }
            Role::Tree => self.halt = halt("device tree of this model"),
            Role::CommandLine => self.halt = halt("kernel command line"),
            Role::Initramfs => self.halt = halt("initramfs named in config.txt"),
            Role::Kernel => self.halt = halt("kernel"),
        }
        self.expand(role);
    }

    fn present(&mut self, task: Task, path: String, content: Vec<u8>) {
        match task.role {
            Role::Marker => self.tasks.retain(|task| task.role != Role::LastMarker),
            Role::Diverts => self.halt = Some(Halt::Diverted { path }),
            Role::Config => self.configured(&content),
            Role::Tree | Role::TreeIfPresent if task.probe => {}
            Role::Tree | Role::TreeIfPresent => {
                if !content.starts_with(&DEVICE_TREE_MAGIC) {
                    self.halt = Some(Halt::NotADeviceTree { path });
                }
                self.tasks.retain(|task| !matches!(task.role, Role::Tree | Role::TreeIfPresent));
                self.loaded.device_tree = Some(content);
            }
            Role::CommandLine => self.loaded.command_line = first_line(&content),
            Role::Initramfs | Role::InitramfsIfPresent => {
                self.loaded.initramfs.get_or_insert_default().extend_from_slice(&content);
            }
            Role::Kernel | Role::KernelIfPresent => {
                self.tasks.clear();
                self.loaded.kernel_path = path;
                self.loaded.kernel = content;
                self.plan_automatic_initramfs(&task.name);
            }
            _ => {}
        }
        self.expand(task.role);
    }
}

/// Devicetree Specification §5.2: the header's first word.
const DEVICE_TREE_MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];

fn first_line(content: &[u8]) -> String {
    let line = content.split(|byte| matches!(byte, b'\n' | b'\r' | 0)).next().unwrap_or_default();
    String::from_utf8_lossy(line).trim().to_owned()
}

#[cfg(test)]
mod tests;
