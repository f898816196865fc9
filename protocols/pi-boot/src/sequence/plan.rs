//! Which tasks follow from the model and from config.txt.

use super::{Halt, Medium, Role, Sequence, Stage, Task};
use crate::config::{Config, DeviceTreeChoice};
use crate::model::{Generation, Model};

impl Sequence {
    pub(super) fn begin(&mut self) {
        use Role::{BootCode, Config, Discover, InVain, LastMarker, Marker};
        use Stage::{Bootcode, Eeprom, Rom};
        let config = match self.medium {
            Medium::Card { tryboot_file: true } => "tryboot.txt",
            _ => "config.txt",
        };
        match (self.facts.model.generation(), self.medium) {
            (Generation::Three, Medium::Network) => {
                self.read(Rom, "bootcode.bin", BootCode);
                self.read(Rom, "bootsig.bin", InVain);
                self.read(Bootcode, "", Discover);
                self.probe(Bootcode, "start.elf", LastMarker);
                self.read(Bootcode, "autoboot.txt", InVain);
                self.read(Bootcode, config, Config);
            }
            (Generation::Four, Medium::Network) => {
                self.probe(Eeprom, "start4.elf", Marker);
                self.probe(Eeprom, "start.elf", LastMarker);
                self.read(Eeprom, config, Config);
            }
            (Generation::Three, Medium::Card { .. }) => self.read(Bootcode, config, Config),
            _ => self.read(Eeprom, config, Config),
        }
    }

    /// config.txt was read, or is missing and `content` empty: the firmware files follow.
    pub(super) fn configured(&mut self, content: &[u8]) {
        self.config = Config::parse(content, &self.facts);
        self.halt = match () {
            () if self.config.has_include => Some(Halt::NotModelled("include")),
            () if self.config.boot_ramdisk => Some(Halt::NotModelled("boot_ramdisk")),
            () if !self.config.arm_64bit => Some(Halt::ThirtyTwoBit),
            () => None,
        };
        match self.facts.model.generation() {
            Generation::Three => self.plan_firmware_three(),
            Generation::Four => self.plan_firmware_four(),
            Generation::Five => self.read(Stage::Eeprom, "pieeprom.sig", Role::InVain),
        }
        self.plan_os_prefix();
    }

    fn plan_firmware_three(&mut self) {
        let on_network = self.medium == Medium::Network;
        self.read(Stage::Bootcode, "recovery.elf", Role::Diverts);
        self.plan_start_and_fixup(Stage::Bootcode);
        if on_network {
            for name in ["config.txt", "config.txt", "dt-blob.bin"] {
                self.read(Stage::Start, name, Role::InVain);
            }
            self.read(Stage::Start, "recovery.elf", Role::Diverts);
            for name in ["config.txt", "config.txt", "bootcfg.txt"] {
                self.read(Stage::Start, name, Role::InVain);
            }
        }
    }

    fn plan_firmware_four(&mut self) {
        let on_network = self.medium == Medium::Network;
        if on_network {
            if self.facts.model == Model::Pi4 {
                self.read(Stage::Eeprom, "vl805.sig", Role::InVain);
            }
            self.read(Stage::Eeprom, "pieeprom.sig", Role::InVain);
        }
        self.read(Stage::Eeprom, "recover4.elf", Role::Diverts);
        self.read(Stage::Eeprom, "recovery.elf", Role::Diverts);
        self.plan_start_and_fixup(Stage::Eeprom);
        if on_network {
            for name in ["config.txt", "config.txt", "dt-blob.bin", "bootcfg.txt"] {
                self.read(Stage::Start, name, Role::InVain);
            }
        }
    }

    /// The stage that loads `start*.elf`, and the second look for a recovery by what was loaded.
    fn plan_start_and_fixup(&mut self, stage: Stage) {
        if let Some((start, fixup)) = self.config.firmware_files(self.facts.model) {
            self.read(stage, &start, Role::Firmware);
            self.read(stage, &fixup, Role::Firmware);
            self.read(Stage::Start, "recovery.elf", Role::Diverts);
        }
    }

    /// `os_prefix` counts only if kernel and device tree are found under it; `upstream_kernel` implies one.
    fn plan_os_prefix(&mut self) {
        let stage = self.last_stage();
        self.os_prefix = self.config.os_prefix.clone();
        if self.os_prefix.is_empty() && self.config.upstream_kernel {
            self.os_prefix = "upstream/".to_owned();
        }
        if self.os_prefix.is_empty() {
            self.overlay_directory = self.config.overlay_prefix.clone();
            self.plan_system();
            return;
        }
        self.overlay_directory = format!("{}{}", self.os_prefix, self.config.overlay_prefix);
        if let Some(kernel) = self.kernel_names().first() {
            self.probe(stage, &self.under_os_prefix(kernel), Role::PrefixedKernel);
        }
        if let Some(tree) = self.tree_names().first() {
            self.probe(stage, &self.under_os_prefix(tree), Role::PrefixedTree);
        }
        self.probe(stage, &format!("{}README", self.overlay_directory), Role::PrefixedReadme);
    }

    /// Goes on to what depends on the answers so far.
    pub(super) fn expand(&mut self, role: Role) {
        if role == Role::PrefixedReadme {
            if self.os_prefix.is_empty() {
                self.overlay_directory = self.config.overlay_prefix.clone();
            }
            self.plan_system();
        }
    }

    fn plan_system(&mut self) {
        let stage = self.last_stage();
        match self.facts.model.generation() {
            Generation::Three => {
                self.plan_tree(stage);
                self.plan_overlays(stage);
                self.plan_command_line(stage);
                self.plan_initramfs(stage);
                self.read(stage, "armstub8.bin", Role::InVain);
            }
            Generation::Four => {
                self.plan_initramfs(stage);
                self.plan_tree(stage);
                self.plan_overlays(stage);
                self.plan_command_line(stage);
                self.read(stage, "armstub8-gic.bin", Role::InVain);
            }
            Generation::Five => {
                self.plan_tree(stage);
                self.plan_overlays(stage);
                self.plan_command_line(stage);
                self.plan_initramfs(stage);
                self.read(stage, "armstub8-2712.bin", Role::InVain);
            }
        }
        self.plan_each(stage, &self.kernel_names(), Role::KernelIfPresent, Role::Kernel);
    }

    fn plan_tree(&mut self, stage: Stage) {
        let names = self.tree_names();
        let may_lack = self.facts.model.generation() == Generation::Five && !self.config.os_check;
        if names.is_empty() && !may_lack && self.halt.is_none() {
            self.halt = Some(Halt::NoDeviceTree);
        }
        if stage == Stage::Start && self.facts.model.generation() == Generation::Three {
            for name in &names {
                self.probe(stage, &self.under_os_prefix(name), Role::TreeIfPresent);
            }
        }
        self.plan_each(stage, &names, Role::TreeIfPresent, Role::Tree);
    }

    fn plan_overlays(&mut self, stage: Stage) {
        let directory = self.overlay_directory.clone();
        self.read(stage, &format!("{directory}overlay_map.dtb"), Role::InVain);
        if self.medium == Medium::Network && stage == Stage::Start {
            self.read(stage, "config.txt", Role::InVain);
        }
        for overlay in self.config.overlays.clone() {
            self.read(stage, &format!("{directory}{overlay}.dtbo"), Role::InVain);
        }
    }

    fn plan_command_line(&mut self, stage: Stage) {
        self.read(stage, &self.under_os_prefix(&self.config.command_line), Role::CommandLine);
    }

    fn plan_initramfs(&mut self, stage: Stage) {
        for name in self.config.initramfs.clone() {
            self.read(stage, &self.under_os_prefix(&name), Role::Initramfs);
        }
    }

    /// `auto_initramfs=1`: kernel8.img wants initramfs8, kernel_2712.img wants initramfs_2712.
    pub(super) fn plan_automatic_initramfs(&mut self, kernel: &str) {
        if !self.config.auto_initramfs || !self.config.initramfs.is_empty() {
            return;
        }
        let (directory, file) = kernel
            .rsplit_once('/')
            .map_or(("", kernel), |(_, file)| (kernel.strip_suffix(file).unwrap_or(""), file));
        if let Some(rest) = file.strip_prefix("kernel") {
            let rest = rest.strip_suffix(".img").unwrap_or(rest);
            self.read(self.last_stage(), &format!("{directory}initramfs{rest}"), Role::InitramfsIfPresent);
        }
    }

    /// Asks for one name after the other until one is there; the last one has to be.
    fn plan_each(&mut self, stage: Stage, names: &[String], optional: Role, last: Role) {
        for (index, name) in names.iter().enumerate() {
            let role = if index + 1 == names.len() { last } else { optional };
            self.read(stage, &self.under_os_prefix(name), role);
        }
    }

    fn kernel_names(&self) -> Vec<String> {
        match (&self.config.kernel, self.facts.model.generation()) {
            (Some(kernel), _) => vec![kernel.clone()],
            (None, Generation::Five) => vec!["kernel_2712.img".to_owned(), "kernel8.img".to_owned()],
            (None, _) => vec!["kernel8.img".to_owned()],
        }
    }

    fn tree_names(&self) -> Vec<String> {
        let names = self.facts.model.device_tree();
        match &self.config.device_tree {
            DeviceTreeChoice::Absent => Vec::new(),
            DeviceTreeChoice::Named(name) => vec![name.clone()],
            DeviceTreeChoice::ByModel
                if self.config.upstream_kernel && names.mainline != names.downstream =>
            {
                vec![names.mainline.to_owned(), names.downstream.to_owned()]
            }
            DeviceTreeChoice::ByModel => vec![names.downstream.to_owned()],
        }
    }

    fn last_stage(&self) -> Stage {
        match self.facts.model.generation() {
            Generation::Five => Stage::Eeprom,
            _ => Stage::Start,
        }
    }

    /// A name with `os_prefix`; one that begins with a slash stays as it is, without the slash.
    fn under_os_prefix(&self, name: &str) -> String {
        match name.strip_prefix('/') {
            Some(rest) => rest.to_owned(),
            None => format!("{}{name}", self.os_prefix),
        }
    }

    fn read(&mut self, stage: Stage, name: &str, role: Role) {
        self.tasks.push_back(Task { stage, name: name.to_owned(), role, probe: false });
    }

    fn probe(&mut self, stage: Stage, name: &str, role: Role) {
        self.tasks.push_back(Task { stage, name: name.to_owned(), role, probe: true });
    }
}
