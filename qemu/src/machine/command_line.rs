//! A machine as QEMU arguments.
//!
//! `-M virt` is not a Raspberry Pi: the device tree the firmware fetched does not describe it, so QEMU gives its own.
//! Everything else the guest starts with is what the firmware model fetched. PCI slots are fixed, so that the
//! cluster network is always the first one the kernel finds, as the on-board port is on a Pi.

use std::fmt;
use std::str::FromStr;

use crate::switch::Mac;

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// Also the name of its folder in the run directory.
    pub name: String,
    /// Of the network interface on the cluster switch.
    pub mac: Mac,
    /// The board's serial number.
    pub serial: u32,
    /// Main memory.
    pub memory_mib: u32,
    /// Cores.
    pub processors: u32,
    /// With a card a machine boots from it, without one from the network.
    pub has_card: bool,
    /// A second network interface, towards the workstation and beyond.
    pub uplink: Option<Uplink>,
}

/// The head's way out.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// Of the second network interface.
    pub mac: Mac,
    /// Ports of the workstation's loopback that lead into the machine.
    pub forwards: Vec<Forward>,
    /// Whether to write what passes to `uplink.pcap`.
    pub capture: bool,
}

/// A TCP port of 127.0.0.1 that leads to one of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// On the workstation.
    pub host: u16,
    /// On the head.
    pub guest: u16,
}

/// Text that is not `HOST:GUEST`.
#[derive(Debug, thiserror::Error)]
#[error("expected two TCP ports as HOST:GUEST, for example 2222:22")]
pub struct ForwardError;

impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or(ForwardError);
        let (host, guest) = text.split_once(':').ok_or(ForwardError)?;
        Ok(Self { host: port(host)?, guest: port(guest)? })
    }
}

/// The arguments for one boot. Paths are relative to the run directory, which is QEMU's working directory: short
/// enough for any socket address.
pub fn arguments(hardware: &Hardware, boot: &Boot<'_>) -> Vec<String> {
    let name = &hardware.name;
    let mut arguments = Vec::new();
    let mut add = |option: &str, value: String| arguments.extend([format!("-{option}"), value]);
    add("name", format!("bramble-{name}"));
    // A kernel that is given a seed moves its base, and a kernel whose base is to stay secret takes itself out of the
    // page tables whenever it leaves (arm64 `kaslr_requires_kpti`). QEMU empties its whole translation cache of
    // addresses at every such switch, which made system calls and interrupts several times as dear. There is the
    // random number device for everything else the seed is good for.
    add("machine", "virt,dtb-randomness=off".into());
    add("accel", format!("tcg,tb-size={TRANSLATION_CACHE_MIB}"));
    add("cpu", "cortex-a72".into());
    add("smp", hardware.processors.to_string());
    add("m", format!("{}M", hardware.memory_mib));
    add("display", "none".into());
    // Our end of the pipe: nothing the guest says can be lost between QEMU's start and a reader's arrival.
    add("chardev", "file,id=console,path=/dev/fd/1".into());
    add("serial", "chardev:console".into());
    add("chardev", format!("socket,id=qmp,path={name}/qmp.sock,server=off"));
    add("mon", "chardev=qmp,mode=control".into());
    add("netdev", format!("stream,id=cluster,server=off,addr.type=unix,addr.path={name}/port.sock"));
    add(
        "device",
        format!("virtio-net-pci,id=nic0,netdev=cluster,mac={},romfile=,addr=1", Colons(hardware.mac)),
    );
    if let Some(uplink) = &hardware.uplink {
        let forwards: String = uplink
            .forwards
            .iter()
            .map(|forward| format!(",hostfwd=tcp:127.0.0.1:{}-:{}", forward.host, forward.guest))
            .collect();
        add("netdev", format!("user,id=uplink,ipv6=off{forwards}"));
        if uplink.capture {
            add("object", format!("filter-dump,id=capture,netdev=uplink,file={name}/uplink.pcap"));
        }
        add(
            "device",
            format!("virtio-net-pci,id=nic1,netdev=uplink,mac={},romfile=,addr=2", Colons(uplink.mac)),
        );
    }
    if hardware.has_card {
        // Without a file system flush to the workstation's disk: a power cut of the guest is the death of QEMU, and
        // what QEMU has written is then safe in the page cache.
        add("drive", format!("if=none,id=card,format=raw,cache=unsafe,file={name}/card.img"));
        add("device", "virtio-blk-pci,drive=card,addr=3".into());
    }
    add("device", "virtio-rng-pci,addr=4".into());
    add("device", "i6300esb,addr=5".into());
    add("action", "watchdog=reset".into());
    add("kernel", format!("{name}/kernel"));
    if boot.has_initramfs {
        add("initrd", format!("{name}/initramfs"));
    }
    add("append", boot.command_line.to_owned());
    arguments.extend(["-nodefaults".into(), "-no-user-config".into(), "-no-reboot".into()]);
    arguments
}

/// What differs from boot to boot.
#[derive(Debug, Clone, Copy)]
pub struct Boot<'a> {
    /// Whether there is a file `initramfs`.
    pub has_initramfs: bool,
    /// The kernel's command line.
    pub command_line: &'a str,
}

/// QEMU's default is an eighth of the host's memory per machine. A booted Bramble fills less than this; a guest that
/// needs more is retranslated, which costs time and not correctness.
pub const TRANSLATION_CACHE_MIB: u32 = 64;

/// An Ethernet address as QEMU and people write it.
#[derive(Debug, Clone, Copy)]
pub struct Colons(pub Mac);

impl fmt::Display for Colons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Hardware {
        let forwards = vec![Forward { host: 8080, guest: 80 }, Forward { host: 8081, guest: 8081 }];
        Hardware {
            name: "head".into(),
            mac: [0xdc, 0xa6, 0x32, 0, 0, 1],
            serial: 0x1000_0000,
            memory_mib: 256,
            processors: 1,
            has_card: true,
            uplink: Some(Uplink { mac: [0x52, 0x54, 0, 0, 0, 1], forwards, capture: false }),
        }
    }

    const BOOT: Boot<'_> = Boot { has_initramfs: true, command_line: "quiet x=1,2" };

    #[test]
    fn every_device_has_its_own_slot_and_the_cluster_network_the_first() {
        let arguments = arguments(&head(), &BOOT);
        let devices: Vec<_> = arguments.iter().filter(|argument| argument.contains(",addr=")).collect();
        let mut slots: Vec<u32> =
            devices.iter().map(|device| device.rsplit_once(",addr=").unwrap().1.parse().unwrap()).collect();
        assert_eq!(slots.len(), 5, "{devices:?}");
        let first = devices.iter().find(|device| device.ends_with(",addr=1")).unwrap();
        assert!(first.contains("netdev=cluster") && first.contains("dc:a6:32:00:00:01"), "{first}");
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), 5);
    }

    #[test]
    fn forwards_listen_on_the_loopback_only() {
        let arguments = arguments(&head(), &BOOT);
        let user = arguments.iter().find(|argument| argument.starts_with("user,")).unwrap();
        let expected =
            "user,id=uplink,ipv6=off,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=tcp:127.0.0.1:8081-:8081";
        assert_eq!(user, expected);
    }

    #[test]
    fn a_node_has_neither_card_nor_uplink() {
        let node = Hardware { name: "node-1".into(), has_card: false, uplink: None, ..head() };
        let text = arguments(&node, &BOOT).join(" ");
        assert!(!text.contains("drive") && !text.contains("virtio-blk") && !text.contains("user,"), "{text}");
    }

    #[test]
    fn the_command_line_is_handed_over_as_it_is() {
        let arguments = arguments(&head(), &BOOT);
        let position = arguments.iter().position(|argument| argument == "-append").unwrap();
        assert_eq!(arguments[position + 1], "quiet x=1,2");
        let without = super::arguments(&head(), &Boot { has_initramfs: false, ..BOOT });
        assert!(!without.contains(&"-initrd".to_owned()));
    }

    #[test]
    fn a_forward_is_two_ports() {
        assert_eq!("2222:22".parse::<Forward>().ok(), Some(Forward { host: 2222, guest: 22 }));
        for bad in ["", "22", "0:22", "22:0", "70000:1", "a:b", "1:2:3"] {
            assert!(bad.parse::<Forward>().is_err(), "{bad:?}");
        }
    }
}
