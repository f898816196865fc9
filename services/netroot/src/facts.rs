//! The facts of this machine, for every service: `/run/bramble/machine` (ARCHITECTURE.md).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use dhcp::MacAddr;
use nix::time::{ClockId, clock_gettime};

use crate::cmdline::{Cmdline, Role, hex};

/// Where the facts lie.
const PATH: &str = "/run/bramble/machine";

/// Steps of the boot, in microseconds since the kernel started. Each is recorded once.
#[derive(Debug, Default, Clone)]
pub struct Timeline(BTreeMap<&'static str, u64>);

impl Timeline {
    /// A timeline that begins with what init said about its own start (`BRAMBLE_INIT_US`).
    pub fn from_environment() -> Self {
        let init = std::env::var("BRAMBLE_INIT_US").ok().and_then(|text| text.parse().ok());
        Self(init.into_iter().map(|at| ("init", at)).collect())
    }

    /// Records that a step is done, unless it was before.
    pub fn record(&mut self, step: &'static str) {
        self.0.entry(step).or_insert_with(microseconds_since_kernel_start);
    }
}

/// `CLOCK_BOOTTIME`.
pub fn microseconds_since_kernel_start() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Where the root was found.
#[derive(Debug)]
pub enum Found {
    /// On an NBD device, by way of a link.
    Nbd {
        /// Interface name.
        interface: String,
        /// Its hardware address.
        mac: MacAddr,
        /// Our address.
        address: Ipv4Addr,
    },
    /// On a partition.
    Card {
        /// The partition's device.
        device: String,
    },
}

/// Writes the facts so that a reader sees all of them or none.
///
/// # Errors
/// When `/run/bramble` cannot be written to.
pub fn write(cmdline: &Cmdline, found: &Found, timeline: &Timeline) -> io::Result<()> {
    let text = text(cmdline, found, timeline, &serial(cmdline), &model());
    let path = Path::new(PATH);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

/// Interface and address from the facts of an earlier start of this process.
pub fn previous() -> Option<(String, Ipv4Addr)> {
    let text = fs::read_to_string(PATH).ok()?;
    let get = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    Some((get("interface=")?.to_owned(), get("address=")?.parse().ok()?))
}

fn text(cmdline: &Cmdline, found: &Found, timeline: &Timeline, serial: &str, model: &str) -> String {
    let role = match cmdline.role {
        Role::Head => "head",
        Role::Node => "node",
    };
    let mut text = format!("role={role}\nserial={serial}\nmodel={model}\nimage={}\n", cmdline.image);
    let mut fact = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key}={value}");
    };
    match found {
        Found::Nbd { interface, mac, address } => {
            fact("root", &"nbd");
            fact("root_device", &crate::device::PATH);
            fact("interface", interface);
            fact("mac", mac);
            fact("address", address);
        }
        Found::Card { device } => {
            fact("root", &"card");
            fact("root_device", device);
        }
    }
    if let Some(server) = cmdline.server {
        fact("server", &server);
    }
    for (step, at) in &timeline.0 {
        fact(&format!("event.{step}"), at);
    }
    text
}

/// The board's own number before what the head believes it is; without either, something that stays the same.
fn serial(cmdline: &Cmdline) -> String {
    let from_tree = fs::read("/proc/device-tree/serial-number").ok().and_then(|bytes| serial_of_tree(&bytes));
    from_tree.or_else(|| cmdline.serial.clone()).or_else(serial_of_adapter).unwrap_or_else(|| "0".repeat(8))
}

/// 16 hex digits and a NUL; the firmware's own prefix for netboot is the lower half.
fn serial_of_tree(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches(['\0', '\n']);
    hex(text.get(text.len().checked_sub(8)?..)?, 8)
}

/// The last four bytes of the first wired adapter's address.
fn serial_of_adapter() -> Option<String> {
    let mut names: Vec<_> =
        fs::read_dir("/sys/class/net").ok()?.flatten().map(|entry| entry.path()).collect();
    names.sort();
    names.into_iter().filter(|path| path.join("device").exists()).find_map(|path| {
        let digits = fs::read_to_string(path.join("address")).ok()?.trim().replace(':', "");
        hex(digits.get(4..)?, 8)
    })
}

fn model() -> String {
    let bytes = fs::read("/proc/device-tree/model").unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let clean: String = text.trim_end_matches('\0').chars().filter(|c| !c.is_control()).take(80).collect();
    if clean.is_empty() { "unknown".to_owned() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cmdline(text: &str) -> Cmdline {
        let image = "ab".repeat(32);
        Cmdline::parse(&format!("bramble.image={image} {text}")).expect("right")
    }

    #[test]
    fn a_nodes_facts_are_written_as_the_architecture_says() {
        let cmdline = cmdline("bramble.role=node bramble.root=nbd:10.77.0.1:10809");
        let mac = MacAddr([0xdc, 0xa6, 0x32, 0, 0, 2]);
        let found = Found::Nbd { interface: "eth0".to_owned(), mac, address: Ipv4Addr::new(10, 77, 0, 11) };
        let timeline = Timeline([("init", 1_100_000), ("root", 2_500_000)].into());
        let text = text(&cmdline, &found, &timeline, "10000001", "linux,dummy-virt");
        let image = "ab".repeat(32);
        assert_eq!(
            text,
            format!(
                "role=node\nserial=10000001\nmodel=linux,dummy-virt\nimage={image}\nroot=nbd\nroot_device=/dev/nbd0\n\
                 interface=eth0\nmac=dc:a6:32:00:00:02\naddress=10.77.0.11\nserver=10.77.0.1\n\
                 event.init=1100000\nevent.root=2500000\n"
            )
        );
    }

    #[test]
    fn a_heads_facts_have_no_address() {
        let cmdline = cmdline("bramble.role=head bramble.root=PARTUUID=01020304-02");
        let found = Found::Card { device: "/dev/vda2".to_owned() };
        let text = text(&cmdline, &found, &Timeline::default(), "10000001", "x");
        assert!(text.contains("root=card\nroot_device=/dev/vda2\n"));
        assert!(!text.contains("address=") && !text.contains("server="));
    }

    #[test]
    fn the_serial_number_of_the_device_tree_is_its_lower_half() {
        assert_eq!(serial_of_tree(b"10000000abCD1234\0").as_deref(), Some("abcd1234"));
        assert_eq!(serial_of_tree(b"1234\0"), None);
        assert_eq!(serial_of_tree(b"\xff\xff"), None);
        assert_eq!(serial_of_tree("10000000abcd12é\0".as_bytes()), None);
    }

    #[test]
    fn a_step_is_recorded_once() {
        let mut timeline = Timeline::default();
        timeline.record("link");
        let first = timeline.0.clone();
        std::thread::sleep(std::time::Duration::from_millis(2));
        timeline.record("link");
        assert_eq!(timeline.0, first);
    }
}
