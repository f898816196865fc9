//! What this machine is and how it is, from its facts, its init and its kernel.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use api::{Health, Heartbeat};
use config::{Machine, Role, RootKind};

use crate::init_socket;

/// A heartbeat as of now.
pub async fn heartbeat(machine: &Machine, own_address: Option<Ipv4Addr>) -> Heartbeat {
    let services = init_socket::services().await;
    // The agent itself is what tells; a row that has given up is not a machine that is ready.
    let ready = services
        .iter()
        .filter(|service| service.name != "agent")
        .all(|service| matches!(service.state.as_str(), "ready" | "done"));
    let mac = machine.mac.clone().or_else(|| mac_of(own_address?)).unwrap_or_default();
    Heartbeat {
        serial: machine.serial.clone(),
        mac,
        address: own_address.map(|address| address.to_string()).unwrap_or_default(),
        role: match machine.role {
            Role::Head => "head",
            Role::Node => "node",
        }
        .to_owned(),
        boot_id: line_of("/proc/sys/kernel/random/boot_id"),
        now_us: bus::event::boottime_us(),
        ready,
        stopping: false,
        image: machine.image.clone(),
        root: machine.root.as_str().to_owned(),
        model: machine.model.clone(),
        kernel: line_of("/proc/sys/kernel/osrelease"),
        events: machine.events.clone(),
        health: health(),
        services,
    }
}

/// The facts of a Linux host that Bramble did not boot.
pub fn of_any_host(serial: Option<&str>) -> Machine {
    let address = first_address();
    let mac = address.and_then(mac_of);
    let from_mac = mac.as_deref().map(|mac| mac.replace(':', "").chars().skip(4).collect::<String>());
    Machine {
        role: Role::Node,
        serial: serial.map(str::to_owned).or(from_mac).unwrap_or_else(|| "00000000".to_owned()),
        model: line_of("/proc/device-tree/model"),
        mac,
        interface: None,
        address,
        server: None,
        image: String::new(),
        root: RootKind::Card,
        root_device: String::new(),
        events: BTreeMap::new(),
    }
}

fn first_address() -> Option<Ipv4Addr> {
    let mut addresses = nix::ifaddrs::getifaddrs().ok()?;
    addresses.find_map(|interface| {
        let address = interface.address?.as_sockaddr_in()?.ip();
        (!address.is_loopback()).then_some(address)
    })
}

/// Ethernet address of the interface that has this address.
fn mac_of(address: Ipv4Addr) -> Option<String> {
    let all: Vec<_> = nix::ifaddrs::getifaddrs().ok()?.collect();
    let owner = all.iter().find(|interface| {
        interface.address.as_ref().and_then(|a| a.as_sockaddr_in()).is_some_and(|a| a.ip() == address)
    })?;
    all.iter().filter(|interface| interface.interface_name == owner.interface_name).find_map(|interface| {
        let bytes = interface.address.as_ref()?.as_link_addr()?.addr()?;
        let text: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(text.join(":"))
    })
}

fn health() -> Health {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let load = line_of("/proc/loadavg");
    Health {
        memory_total_bytes: kib("MemTotal") * 1024,
        memory_available_bytes: kib("MemAvailable") * 1024,
        load_1: load.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0),
        overlay_used_percent: overlay_used_percent(),
        temperature_c: line_of("/sys/class/thermal/thermal_zone0/temp")
            .parse::<f64>()
            .ok()
            .map(|milli| milli / 1000.0),
    }
}

/// How full the file system is that takes the writes to `/`.
fn overlay_used_percent() -> Option<f64> {
    let root = nix::sys::statvfs::statvfs("/").ok()?;
    let (blocks, free) = (root.blocks() as f64, root.blocks_free() as f64);
    (blocks > 0.0).then(|| (1000.0 * (blocks - free) / blocks).round() / 10.0)
}

/// A file of one line, without its end; empty when it cannot be read.
fn line_of(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim_end_matches(['\n', '\0']).to_owned()
}
