//! config.txt and autoboot.txt as the firmware of a given board reads them.
//!
//! The result is what *this* board, in *this* boot, would do: filters are already applied. Reading never fails;
//! like the firmware it passes over what it does not know. Only keys that choose files are kept.

use crate::conditional::Conditions;
use crate::model::{FirmwareVariant, Generation, Model};

/// Bytes of config.txt that every stage looks at; some stages read no further, so nothing may be beyond.
pub const CONFIG_LIMIT: usize = 4096;

/// The firmware ignores what stands beyond this column of a line.
pub const LINE_LIMIT: usize = 98;

/// The whole of autoboot.txt: it must fit one sector.
pub const AUTOBOOT_LIMIT: usize = 512;

/// What the filters of config.txt can ask about a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The board's model.
    pub model: Model,
    /// The board's serial number, for `[0x...]`.
    pub serial: u32,
    /// Whether the one-shot tryboot flag was set at this reset.
    pub tryboot: bool,
    /// The partition booted from, counted from 1; 0 when booting from the network.
    pub partition: u32,
}

/// Where the device tree comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceTreeChoice {
    /// The name that belongs to the model.
    #[default]
    ByModel,
    /// `device_tree=name`.
    Named(String),
    /// `device_tree=` with nothing behind it: the kernel gets none.
    Absent,
}

/// The settings of config.txt that decide which files are loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `arm_64bit`: default on from the Pi 4 on, off on the Pi 3, fixed on the Pi 5.
    pub arm_64bit: bool,
    /// `kernel=`; otherwise the name is looked for by model.
    pub kernel: Option<String>,
    /// `initramfs a,b followkernel` or `ramfsfile=`: loaded one behind the other.
    pub initramfs: Vec<String>,
    /// `auto_initramfs=1`: the name follows from the kernel's.
    pub auto_initramfs: bool,
    /// `os_prefix=`, put before kernel, initramfs, command line, device tree and overlays as plain text.
    pub os_prefix: String,
    /// `overlay_prefix=`, by default `overlays/`.
    pub overlay_prefix: String,
    /// `cmdline=`, by default `cmdline.txt`.
    pub command_line: String,
    /// `device_tree=`.
    pub device_tree: DeviceTreeChoice,
    /// `upstream_kernel=1`: mainline names first.
    pub upstream_kernel: bool,
    /// `os_check`, by default on: a Pi 5 refuses to start without its device tree.
    pub os_check: bool,
    /// `start_file=`.
    pub start_file: Option<String>,
    /// `fixup_file=`.
    pub fixup_file: Option<String>,
    /// Chosen by `gpu_mem=16`, `start_x=1` or `start_debug=1`.
    pub variant: FirmwareVariant,
    /// `boot_ramdisk=1`: everything else is in `boot.img`.
    pub boot_ramdisk: bool,
    /// The overlays named by `dtoverlay=`, without directory and suffix, in order.
    pub overlays: Vec<String>,
    /// Whether an `include` line was met (and, as in `bootcode.bin`, not followed).
    pub has_include: bool,
}

impl Config {
    /// What a board does that finds no config.txt.
    pub fn defaults(model: Model) -> Config {
        Config {
            arm_64bit: model.generation() != Generation::Three,
            kernel: None,
            initramfs: Vec::new(),
            auto_initramfs: false,
            os_prefix: String::new(),
            overlay_prefix: "overlays/".to_owned(),
            command_line: "cmdline.txt".to_owned(),
            device_tree: DeviceTreeChoice::ByModel,
            upstream_kernel: false,
            os_check: true,
            start_file: None,
            fixup_file: None,
            variant: FirmwareVariant::Standard,
            boot_ramdisk: false,
            overlays: Vec::new(),
            has_include: false,
        }
    }

    /// Reads config.txt (or tryboot.txt). Later lines win over earlier ones.
    pub fn parse(bytes: &[u8], facts: &Facts) -> Config {
        let mut config = Config::defaults(facts.model);
        for line in matching_lines(bytes, CONFIG_LIMIT, facts) {
            config.apply(&line);
        }
        if facts.model.generation() == Generation::Five {
            config.arm_64bit = true;
        }
        config
    }

    /// The start and fixup files to load, or `None` on boards that need none.
    pub fn firmware_files(&self, model: Model) -> Option<(String, String)> {
        let (start, fixup) = crate::model::firmware_files(model.generation(), self.variant)?;
        let chosen = |name: &Option<String>, default: &str| name.clone().unwrap_or(default.to_owned());
        Some((chosen(&self.start_file, start), chosen(&self.fixup_file, fixup)))
    }

    fn apply(&mut self, line: &str) {
        if let Some((key, value)) = line.split_once('=') {
            self.set(key.trim(), value.trim());
            return;
        }
        // The two directives without an equals sign.
        let mut words = line.split_whitespace();
        match words.next() {
            // The address (`followkernel`, `0` or a number) is not kept: the loader of a virtual machine places it.
            Some("initramfs") => self.initramfs = names(words.next().unwrap_or("")),
            Some("include") => self.has_include = true,
            _ => {}
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        let on = number(value).is_some_and(|number| number != 0);
        match key {
            "arm_64bit" => self.arm_64bit = on,
            "kernel" => self.kernel = some_name(value),
            "ramfsfile" => self.initramfs = names(value),
            "auto_initramfs" => self.auto_initramfs = on,
            "os_prefix" => self.os_prefix = value.to_owned(),
            "overlay_prefix" => self.overlay_prefix = value.to_owned(),
            "cmdline" => self.command_line = value.to_owned(),
            "device_tree" if value.is_empty() => self.device_tree = DeviceTreeChoice::Absent,
            "device_tree" => self.device_tree = DeviceTreeChoice::Named(value.to_owned()),
            "upstream_kernel" => self.upstream_kernel = on,
            "os_check" => self.os_check = on,
            "start_file" => self.start_file = some_name(value),
            "fixup_file" => self.fixup_file = some_name(value),
            "gpu_mem" => self.choose(FirmwareVariant::CutDown, number(value) == Some(16)),
            "start_x" => self.choose(FirmwareVariant::Extended, on),
            "start_debug" => self.choose(FirmwareVariant::Debug, on),
            "boot_ramdisk" => self.boot_ramdisk = on,
            "dtoverlay" => {
                let name = value.split([',', ':']).next().unwrap_or("");
                // An empty `dtoverlay=` only ends the parameters of the one before.
                if !name.is_empty() {
                    self.overlays.push(name.to_owned());
                }
            }
            _ => {}
        }
    }

    fn choose(&mut self, variant: FirmwareVariant, wanted: bool) {
        if wanted {
            self.variant = variant;
        } else if self.variant == variant {
            self.variant = FirmwareVariant::Standard;
        }
    }
}

/// autoboot.txt: which partition holds the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Autoboot {
    /// `boot_partition=`, counted from 1.
    pub boot_partition: Option<u32>,
    /// `tryboot_a_b=1`: a tryboot reads config.txt of the other partition, not tryboot.txt of this one.
    pub tryboot_a_b: bool,
}

impl Autoboot {
    /// Reads autoboot.txt, of which only the filters `[all]`, `[none]` and `[tryboot]` mean anything.
    pub fn parse(bytes: &[u8], facts: &Facts) -> Autoboot {
        let mut autoboot = Autoboot::default();
        for line in matching_lines(bytes, AUTOBOOT_LIMIT, facts) {
            match line.split_once('=').map(|(key, value)| (key.trim(), number(value.trim()))) {
                Some(("boot_partition", number)) => {
                    autoboot.boot_partition = number.filter(|number| *number != 0)
                }
                Some(("tryboot_a_b", number)) => autoboot.tryboot_a_b = number == Some(1),
                _ => {}
            }
        }
        autoboot
    }
}

/// The lines of `bytes` that are for this boot, without comments, blanks and filters.
fn matching_lines(bytes: &[u8], limit: usize, facts: &Facts) -> Vec<String> {
    let mut conditions = Conditions::default();
    let mut lines = Vec::new();
    for line in bytes.get(..limit).unwrap_or(bytes).split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line.get(..LINE_LIMIT).unwrap_or(line));
        let line = line.trim();
        if let Some(filter) = line.strip_prefix('[') {
            conditions.enter(filter.strip_suffix(']').unwrap_or(filter), facts);
        } else if !line.is_empty() && !line.starts_with('#') && conditions.hold() {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// A decimal or `0x` number as the firmware writes them.
pub(crate) fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn some_name(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn names(list: &str) -> Vec<String> {
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
