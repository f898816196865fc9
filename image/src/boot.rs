//! The boot partition: what a Pi 3, 4 and 5 want to find on the card, and what the head serves over TFTP.
//!
//! Sources: the Raspberry Pi documentation on config.txt, boot flow and network boot, and Debian's
//! `raspi-firmware`. One `config.txt` serves all boards, with a filter for the Pi 5's consoles alone and without `device_tree=`:
//!
//! - The firmware asks for device trees by the vendor kernel's names. Where Debian's name differs, a copy bears the other name
//!   ([`DTB_NAMES`]). `device_tree=` under model filters is documented too, but no filter tells the two steppings of the Pi 5
//!   apart, which need different trees; and `upstream_kernel=1` makes the firmware probe `upstream/` first, which
//!   over TFTP costs a round of missing files.
//! - `os_check=0` because a Pi 5 otherwise looks for marks of the vendor's kernel in the device tree.
//! - A Pi 3 reads `bootcode.bin`, `start.elf`, `fixup.dat`; a Pi 4 `start4.elf`, `fixup4.dat`; a Pi 5 has all that in its EEPROM.
//!
//! Not supported: overlays (made for the vendor's device trees, they do not fit these), splash screens, CM5 (Debian has no tree).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::tree::Tree;

/// What goes into the boot partition beside the firmware.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The gzipped kernel.
    pub kernel: &'a [u8],
    /// The compressed initramfs.
    pub initramfs: &'a [u8],
    /// SHA-256 of the root file system, in hexadecimal.
    pub image_id: &'a str,
    /// Folder with the device trees.
    pub dtbs: &'a Path,
    /// Unpacked `raspi-firmware` package.
    pub firmware: &'a Path,
    /// The settings file with everything commented out.
    pub settings: &'a [u8],
    /// The kernel package's copyright file, if it came with one.
    pub kernel_licence: Option<&'a [u8]>,
}

/// The content of the boot partition.
///
/// # Errors
/// If a firmware file or all device trees are missing.
pub fn tree(parts: &Parts<'_>) -> Result<Tree> {
    let mut tree = Tree::new();
    tree.file("config.txt", 0o644, format!("{CONFIG}{}", pi_boot::PI5_SECTION));
    tree.file("cmdline.txt", 0o644, command_line(parts.image_id, pi_boot::CONSOLES));
    tree.file(pi_boot::COMMAND_LINE_PI5, 0o644, command_line(parts.image_id, pi_boot::CONSOLES_PI5));
    tree.file("bramble.toml", 0o644, parts.settings);
    tree.file("vmlinuz", 0o644, parts.kernel);
    tree.file("initramfs.img", 0o644, parts.initramfs);
    for name in FIRMWARE {
        let path = parts.firmware.join("usr/lib/raspi-firmware").join(name);
        tree.file(name, 0o644, read(&path)?);
    }
    let licence = parts.firmware.join("usr/share/doc/raspi-firmware/copyright");
    tree.file("LICENCE.raspi-firmware.txt", 0o644, read(&licence)?);
    if let Some(licence) = parts.kernel_licence {
        tree.file("LICENCE.linux.txt", 0o644, licence);
    }
    device_trees(&mut tree, parts.dtbs)?;
    Ok(tree)
}

/// The command line of a head: `bramble.*` says who the machine is (ARCHITECTURE.md), the rest is for the kernel.
pub fn command_line(image_id: &str, consoles: &str) -> String {
    let slot = root_partition(image_id);
    format!(
        "{consoles} {} bramble.role=head bramble.image={image_id} bramble.root=PARTUUID={slot}\n",
        pi_boot::KERNEL_SETTINGS
    )
}

/// The partition of root slot A as the kernel names it: disk signature, then the partition's number.
pub fn root_partition(image_id: &str) -> String {
    format!("{:08x}-02", disk_signature(image_id))
}

/// The MBR disk signature: the first four bytes of the image id, so that two cards of different images can be
/// told apart in one machine. Zero would mean "none".
pub fn disk_signature(image_id: &str) -> u32 {
    let start = image_id.get(..8).unwrap_or_default();
    u32::from_str_radix(start, 16).unwrap_or_default().max(1)
}

fn device_trees(tree: &mut Tree, folder: &Path) -> Result<()> {
    let failed = || format!("cannot read {}", folder.display());
    let mut found = 0;
    for entry in fs::read_dir(folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = DTB_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && name.ends_with(".dtb");
        if !ours {
            continue;
        }
        let content = read(&entry.path())?;
        if let Some((_, vendor)) = DTB_NAMES.iter().find(|(debian, _)| *debian == name) {
            tree.file(vendor, 0o644, content.as_slice());
        }
        tree.file(&name, 0o644, content);
        found += 1;
    }
    if found == 0 {
        bail!("{}: no device tree of a Raspberry Pi", folder.display());
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Device trees by Debian's name and by the name the firmware asks for. Names that are equal are left out.
pub const DTB_NAMES: [(&str, &str); 6] = [
    ("bcm2837-rpi-3-b.dtb", "bcm2710-rpi-3-b.dtb"),
    ("bcm2837-rpi-3-b-plus.dtb", "bcm2710-rpi-3-b-plus.dtb"),
    ("bcm2837-rpi-cm3-io3.dtb", "bcm2710-rpi-cm3.dtb"),
    ("bcm2837-rpi-zero-2-w.dtb", "bcm2710-rpi-zero-2-w.dtb"),
    ("bcm2711-rpi-cm4-io.dtb", "bcm2711-rpi-cm4.dtb"),
    ("bcm2712-d-rpi-5-b.dtb", "bcm2712d0-rpi-5-b.dtb"),
];

/// The chips of the Pi 3, 4 and 5.
const DTB_PREFIXES: [&str; 3] = ["bcm2837-rpi-", "bcm2711-rpi-", "bcm2712-"];

/// Pi 3: the first three; Pi 4: the other two. The plain variants, without camera and codecs, are enough for a
/// machine without a desktop, and the `_cd` ones cannot do 64-bit with all memory.
const FIRMWARE: [&str; 5] = ["bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat"];

/// Below 4096 bytes, of which some stages read no more; what matters to early stages comes first.
const CONFIG: &str = "\
# Read by the Raspberry Pi firmware before anything of Bramble runs. Settings of the cluster are in bramble.toml.
arm_64bit=1
enable_uart=1
kernel=vmlinuz
initramfs initramfs.img followkernel
os_check=0
disable_splash=1
boot_delay=0
";

#[cfg(test)]
#[path = "boot/tests.rs"]
mod tests;
