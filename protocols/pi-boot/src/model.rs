//! The boards, and what differs between their boot chains as far as files and identities go.

/// A board that can boot from a card or, except where noted, from its own Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Model {
    /// Pi 3 Model B: mask ROM with the oldest network boot (BCM2837).
    Pi3B,
    /// Pi 3 Model B+: mask ROM with the network boot repaired (BCM2837B0).
    Pi3BPlus,
    /// Pi 4 Model B (BCM2711, boot loader in EEPROM).
    Pi4,
    /// Pi 400.
    Pi400,
    /// Compute Module 4.
    Cm4,
    /// Pi 5 Model B (BCM2712, the whole boot loader in EEPROM).
    Pi5,
    /// Compute Module 5.
    Cm5,
}

/// What a boot chain looks like: models of one generation ask for the same firmware files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Generation {
    /// ROM, then `bootcode.bin`, then `start.elf`.
    Three,
    /// EEPROM, then `start4.elf`.
    Four,
    /// EEPROM alone.
    Five,
}

/// A device tree under its two names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceTreeNames {
    /// What the vendor's kernel calls it, and what the firmware asks for.
    pub downstream: &'static str,
    /// What the mainline kernel and Debian call it.
    pub mainline: &'static str,
}

impl Model {
    /// Every model, for tables and tests.
    pub const ALL: [Model; 7] =
        [Model::Pi3B, Model::Pi3BPlus, Model::Pi4, Model::Pi400, Model::Cm4, Model::Pi5, Model::Cm5];

    /// The boot chain of this model.
    pub fn generation(self) -> Generation {
        match self {
            Model::Pi3B | Model::Pi3BPlus => Generation::Three,
            Model::Pi4 | Model::Pi400 | Model::Cm4 => Generation::Four,
            Model::Pi5 | Model::Cm5 => Generation::Five,
        }
    }

    /// A revision code as the board's OTP holds it: the commonest variant of the model.
    pub fn revision(self) -> u32 {
        match self {
            Model::Pi3B => 0x00a0_2082,
            Model::Pi3BPlus => 0x00a0_20d3,
            Model::Pi4 => 0x00c0_3114,
            Model::Pi400 => 0x00c0_3130,
            Model::Cm4 => 0x00a0_3141,
            Model::Pi5 => 0x00c0_4170,
            Model::Cm5 => 0x00c0_4180,
        }
    }

    /// The number a `[board-type=0x..]` filter compares with: bits 4 to 11 of the revision code.
    pub fn board_type(self) -> u32 {
        (self.revision() >> 4) & 0xff
    }

    /// Whether a `[name]` filter of config.txt selects this model.
    ///
    /// Variants also see the contents meant for their family: a 400 sees `[pi4]`, a 3B+ sees `[pi3]`.
    pub fn answers_to(self, filter: &str) -> bool {
        match filter {
            "pi3" => self.generation() == Generation::Three,
            "pi3+" => self == Model::Pi3BPlus,
            "pi4" => self.generation() == Generation::Four,
            "pi400" => self == Model::Pi400,
            "cm4" => self == Model::Cm4,
            "pi5" => self.generation() == Generation::Five,
            "cm5" => self == Model::Cm5,
            _ => false,
        }
    }

    /// The device tree this model asks for.
    pub fn device_tree(self) -> DeviceTreeNames {
        let (downstream, mainline) = match self {
            Model::Pi3B => ("bcm2710-rpi-3-b.dtb", "bcm2837-rpi-3-b.dtb"),
            Model::Pi3BPlus => ("bcm2710-rpi-3-b-plus.dtb", "bcm2837-rpi-3-b-plus.dtb"),
            Model::Pi4 => ("bcm2711-rpi-4-b.dtb", "bcm2711-rpi-4-b.dtb"),
            Model::Pi400 => ("bcm2711-rpi-400.dtb", "bcm2711-rpi-400.dtb"),
            Model::Cm4 => ("bcm2711-rpi-cm4.dtb", "bcm2711-rpi-cm4-io.dtb"),
            Model::Pi5 => ("bcm2712-rpi-5-b.dtb", "bcm2712-rpi-5-b.dtb"),
            Model::Cm5 => ("bcm2712-rpi-cm5-cm5io.dtb", "bcm2712-rpi-cm5-cm5io.dtb"),
        };
        DeviceTreeNames { downstream, mainline }
    }

    /// The file whose presence in a FAT partition, or under a network prefix, says "boot from here".
    pub fn boot_marker(self) -> &'static str {
        match self.generation() {
            Generation::Three => "start.elf",
            Generation::Four => "start4.elf",
            Generation::Five => "config.txt",
        }
    }
}

/// Which build of the VideoCore firmware config.txt chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirmwareVariant {
    /// `start.elf`, `start4.elf`.
    #[default]
    Standard,
    /// `start_cd.elf`: cut down, chosen by `gpu_mem=16`.
    CutDown,
    /// `start_x.elf`: with camera codecs, chosen by `start_x=1`.
    Extended,
    /// `start_db.elf`: with debugging output, chosen by `start_debug=1`.
    Debug,
}

/// The start and fixup files of a generation, or `None` for the Pi 5, which has all that in its EEPROM.
pub fn firmware_files(
    generation: Generation,
    variant: FirmwareVariant,
) -> Option<(&'static str, &'static str)> {
    use FirmwareVariant::{CutDown, Debug, Extended, Standard};
    match (generation, variant) {
        (Generation::Three, Standard) => Some(("start.elf", "fixup.dat")),
        (Generation::Three, CutDown) => Some(("start_cd.elf", "fixup_cd.dat")),
        (Generation::Three, Extended) => Some(("start_x.elf", "fixup_x.dat")),
        (Generation::Three, Debug) => Some(("start_db.elf", "fixup_db.dat")),
        (Generation::Four, Standard) => Some(("start4.elf", "fixup4.dat")),
        (Generation::Four, CutDown) => Some(("start4cd.elf", "fixup4cd.dat")),
        (Generation::Four, Extended) => Some(("start4x.elf", "fixup4x.dat")),
        (Generation::Four, Debug) => Some(("start4db.elf", "fixup4db.dat")),
        (Generation::Five, _) => None,
    }
}

/// Device trees whose two names differ, beyond those of [`Model`]: boards that ask for them exist.
const RENAMED: [DeviceTreeNames; 6] = [
    DeviceTreeNames { downstream: "bcm2710-rpi-3-b.dtb", mainline: "bcm2837-rpi-3-b.dtb" },
    DeviceTreeNames { downstream: "bcm2710-rpi-3-b-plus.dtb", mainline: "bcm2837-rpi-3-b-plus.dtb" },
    DeviceTreeNames { downstream: "bcm2710-rpi-cm3.dtb", mainline: "bcm2837-rpi-cm3-io3.dtb" },
    DeviceTreeNames { downstream: "bcm2710-rpi-zero-2-w.dtb", mainline: "bcm2837-rpi-zero-2-w.dtb" },
    DeviceTreeNames { downstream: "bcm2711-rpi-cm4.dtb", mainline: "bcm2711-rpi-cm4-io.dtb" },
    // The D0 stepping of the Pi 5 asks for its own tree.
    DeviceTreeNames { downstream: "bcm2712d0-rpi-5-b.dtb", mainline: "bcm2712-d-rpi-5-b.dtb" },
];

/// The other name of a requested device tree, if it has one: downstream to mainline or the reverse.
///
/// A server that does not have `requested` serves this file under the requested name.
pub fn device_tree_alias(requested: &str) -> Option<&'static str> {
    RENAMED.iter().find_map(|names| match requested {
        name if name == names.downstream => Some(names.mainline),
        name if name == names.mainline => Some(names.downstream),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_finds_its_mainline_tree_through_the_alias() {
        for model in Model::ALL {
            let names = model.device_tree();
            if names.downstream != names.mainline {
                assert_eq!(device_tree_alias(names.downstream), Some(names.mainline));
                assert_eq!(device_tree_alias(names.mainline), Some(names.downstream));
            } else {
                assert_eq!(device_tree_alias(names.downstream), None);
            }
        }
    }

    #[test]
    fn board_types_are_those_of_the_revision_code_table() {
        let types: Vec<u32> = Model::ALL.iter().map(|model| model.board_type()).collect();
        assert_eq!(types, [0x08, 0x0d, 0x11, 0x13, 0x14, 0x17, 0x18]);
    }

    #[test]
    fn variants_see_their_family_but_not_each_other() {
        assert!(Model::Pi400.answers_to("pi4") && Model::Pi400.answers_to("pi400"));
        assert!(!Model::Pi4.answers_to("pi400") && !Model::Pi3B.answers_to("pi3+"));
        assert!(Model::Pi3BPlus.answers_to("pi3") && Model::Cm5.answers_to("pi5"));
    }
}
