//! config.txt and cmdline.txt of one node, made by the head when the node's firmware asks.
//!
//! One node, one file: but for the Pi 5's consoles there are no filters, every line counts, and the whole stays far below the 4096 bytes that all stages of
//! the firmware read.

use std::fmt::Write;
use std::net::Ipv4Addr;

/// The port of the head's NBD server.
const NBD_PORT: u16 = 10809;

/// Consoles of the Pi 3, the Pi 4 and the virtual machine, the same on head and nodes; the last one is `/dev/console`.
/// ttyS1 is the mini-UART of the Pi 3 and 4, ttyAMA0 a PL011.
pub const CONSOLES: &str = "console=tty1 console=ttyS1,115200 console=ttyAMA0,115200";

/// Consoles of the Pi 5: ttyAMA10 is its debug connector. They cannot stand in one line with the others: the kernel tries
/// only the first `console=` that names a driver (kernel/printk/printk.c, `try_enable_preferred_console`), so ttyAMA0
/// and ttyAMA10 exclude each other.
pub const CONSOLES_PI5: &str = "console=tty1 console=ttyAMA10,115200";

/// The command line's file for a Pi 5, named in [`PI5_SECTION`]; all others read `cmdline.txt`.
pub const COMMAND_LINE_PI5: &str = "cmdline-pi5.txt";

/// The end of every config.txt: a Pi 5 has other consoles.
pub const PI5_SECTION: &str = "[pi5]\ncmdline=cmdline-pi5.txt\n[all]\n";

/// What accompanies the `bramble.*` keys: reboot 10 s after a panic, keep what services log to the kernel, and
/// `eth0` as the kernel names it.
pub const KERNEL_SETTINGS: &str = "panic=10 printk.devkmsg=on net.ifnames=0 quiet";

/// What one node is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeBoot {
    /// The board's serial number, as the TFTP path gave it.
    pub serial: u32,
    /// SHA-256 of the root image; also the name of its NBD export.
    pub image: [u8; 32],
    /// The head's address in the cluster network.
    pub server: Ipv4Addr,
    /// How much the node's services log, as tracing names it.
    pub log_level: &'static str,
}

/// config.txt for a node. The same for all of them: what differs is in the command line.
pub fn render_config(node: &NodeBoot) -> String {
    // enable_uart and the file names come first: some stages are said to read only the beginning.
    // The device tree is left to the board, which knows its name; the server knows the aliases. A Pi 5 is kept from
    // judging it: mainline trees lack what its check may look for.
    format!(
        "# node {:08x}, made by the head\n\
         arm_64bit=1\n\
         enable_uart=1\n\
         kernel=vmlinuz\n\
         initramfs initramfs.img followkernel\n\
         os_check=0\n\
         {PI5_SECTION}",
        node.serial
    )
}

/// cmdline.txt for a node: one line.
pub fn render_command_line(node: &NodeBoot) -> String {
    command_line(node, CONSOLES)
}

/// [`COMMAND_LINE_PI5`] for a node: one line.
pub fn render_command_line_pi5(node: &NodeBoot) -> String {
    command_line(node, CONSOLES_PI5)
}

fn command_line(node: &NodeBoot, consoles: &str) -> String {
    let mut image = String::with_capacity(64);
    for byte in node.image {
        // Writing to a String cannot fail.
        let _ = write!(image, "{byte:02x}");
    }
    let NodeBoot { serial, server, log_level, .. } = node;
    format!(
        "bramble.role=node bramble.image={image} bramble.root=nbd:{server}:{NBD_PORT} \
         bramble.server={server} bramble.serial={serial:08x} bramble.log={log_level} {consoles} {KERNEL_SETTINGS}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Autoboot, CONFIG_LIMIT, Config, Facts, LINE_LIMIT};
    use crate::model::{Generation, Model};
    use proptest::prelude::*;

    #[test]
    fn command_line_has_the_keys_of_the_architecture() {
        let node = NodeBoot {
            serial: 0x2b,
            image: [0xab; 32],
            server: Ipv4Addr::new(10, 77, 0, 1),
            log_level: "info",
        };
        let image = "ab".repeat(32);
        assert_eq!(
            render_command_line(&node),
            format!(
                "bramble.role=node bramble.image={image} bramble.root=nbd:10.77.0.1:10809 \
                 bramble.server=10.77.0.1 bramble.serial=0000002b bramble.log=info console=tty1 \
                 console=ttyS1,115200 console=ttyAMA0,115200 panic=10 printk.devkmsg=on net.ifnames=0 quiet\n"
            )
        );
    }

    proptest! {
        #[test]
        fn a_rendered_config_means_the_same_to_every_board(serial: u32, image: [u8; 32], server: [u8; 4]) {
            let node = NodeBoot { serial, image, server: server.into(), log_level: "info" };
            let text = render_config(&node);
            prop_assert!(text.len() < CONFIG_LIMIT);
            prop_assert!(text.lines().all(|line| line.len() <= LINE_LIMIT));
            for model in Model::ALL {
                let facts = Facts { model, serial, tryboot: false, partition: 0 };
                let wanted = Config {
                    arm_64bit: true,
                    kernel: Some("vmlinuz".to_owned()),
                    initramfs: vec!["initramfs.img".to_owned()],
                    os_check: false,
                    command_line: match model.generation() {
                        Generation::Five => COMMAND_LINE_PI5.to_owned(),
                        Generation::Three | Generation::Four => "cmdline.txt".to_owned(),
                    },
                    ..Config::defaults(model)
                };
                prop_assert_eq!(Config::parse(text.as_bytes(), &facts), wanted);
                prop_assert_eq!(Autoboot::parse(text.as_bytes(), &facts), Autoboot::default());
            }
            // The kernel takes at most COMMAND_LINE_SIZE = 2048 (arch/arm64/include/uapi/asm/setup.h).
            prop_assert!(render_command_line(&node).len() < 2048);
        }
    }
}
