//! How a Raspberry Pi finds what to boot: the files it reads, asks for and expects, as pure data and decisions.
//!
//! Two sides share it: the head, which renders config.txt and the command line of each node and answers requests
//! ([`render_config`], [`render_command_line`], [`Prefix`], [`device_tree_alias`], [`pxe`]), and the model of the
//! firmware, which reads config.txt ([`Config`]) and walks through a boot ([`Sequence`]).
//!
//! Specifications: the vendor's documentation of config.txt, autoboot.txt, boot flow and network boot; where that is
//! silent, published captures of real boards.
//!
//! *Not supported*: boards before the Pi 3, boards without Ethernet, 32-bit kernels, keys that choose no file,
//! `include`, `boot_ramdisk` (both are recognised), secure boot, HTTP boot, IPv6.
//!
//! Nothing here touches a socket, a clock, a file or a random number generator.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod conditional;
mod config;
mod model;
mod prefix;
pub mod pxe;
mod render;
mod sequence;

pub use config::{AUTOBOOT_LIMIT, Autoboot, CONFIG_LIMIT, Config, DeviceTreeChoice, Facts, LINE_LIMIT};
pub use model::{DeviceTreeNames, FirmwareVariant, Generation, Model, device_tree_alias, firmware_files};
pub use prefix::Prefix;
pub use render::{
    COMMAND_LINE_PI5, CONSOLES, CONSOLES_PI5, KERNEL_SETTINGS, NodeBoot, PI5_SECTION, render_command_line,
    render_command_line_pi5, render_config,
};
pub use sequence::{Answer, Halt, Loaded, Medium, Next, Request, Sequence, Stage};
