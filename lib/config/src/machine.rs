//! The facts of this machine, as netroot found them: `/run/bramble/machine`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::MACHINE_PATH;

/// What this machine is and where its root came from. Read-only after boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Head or node.
    pub role: Role,
    /// The board's serial number, 8 hex digits.
    pub serial: String,
    /// The board's model as its device tree says, or `unknown`.
    pub model: String,
    /// Ethernet address of the interface that leads to the cluster, lower case with colons. `None` on a head
    /// before its network is up.
    pub mac: Option<String>,
    /// Name of that interface.
    pub interface: Option<String>,
    /// This machine's address on the cluster's network. `None` on a head: its address is configured.
    pub address: Option<Ipv4Addr>,
    /// The head's address. `None` on the head itself.
    pub server: Option<Ipv4Addr>,
    /// SHA-256 of the root image, 64 hex digits.
    pub image: String,
    /// What the root is on.
    pub root: RootKind,
    /// The root's block device, such as `/dev/nbd0`.
    pub root_device: String,
    /// Microseconds from kernel start to each step of the boot, by step.
    pub events: BTreeMap<String, u64>,
}

/// Which of the two roles this machine plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Boots from its card and serves.
    Head,
    /// Boots from the head and works.
    Node,
}

/// What the root is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootKind {
    /// A network block device of the head.
    Nbd,
    /// A slot of the SD card.
    Card,
}

impl RootKind {
    /// `nbd` or `card`.
    pub fn as_str(self) -> &'static str {
        match self {
            RootKind::Nbd => "nbd",
            RootKind::Card => "card",
        }
    }
}

/// Why the facts of this machine cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The file cannot be read.
    #[error("cannot read {MACHINE_PATH}; is this a Bramble machine?")]
    Read(#[source] std::io::Error),
    /// A fact is missing.
    #[error("{MACHINE_PATH} has no {0}")]
    Missing(&'static str),
    /// A fact is not what it should be.
    #[error("{MACHINE_PATH}: bad value for {0}")]
    Bad(&'static str),
}

/// The facts fill a few hundred bytes.
const MACHINE_MAX_BYTES: usize = 16 * 1024;

impl Machine {
    /// Reads the facts of the running machine.
    ///
    /// # Errors
    /// When netroot has not written them, or they are not right.
    pub fn load() -> Result<Self, MachineError> {
        Self::load_from(Path::new(MACHINE_PATH))
    }

    /// Reads the facts from any file.
    ///
    /// # Errors
    /// As [`Machine::load`].
    pub fn load_from(path: &Path) -> Result<Self, MachineError> {
        let text = std::fs::read_to_string(path).map_err(MachineError::Read)?;
        Self::parse(text.get(..text.len().min(MACHINE_MAX_BYTES)).unwrap_or(""))
    }

    /// Reads the facts from text: lines `key=value`; unknown keys are left alone.
    ///
    /// # Errors
    /// The first fact that is missing or bad.
    pub fn parse(text: &str) -> Result<Self, MachineError> {
        let facts: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let need = |key: &'static str| facts.get(key).copied().ok_or(MachineError::Missing(key));
        let address = |key: &'static str| match facts.get(key) {
            None | Some(&"") => Ok(None),
            Some(text) => text.parse::<Ipv4Addr>().map(Some).map_err(|_| MachineError::Bad(key)),
        };
        let text_of =
            |key: &str| facts.get(key).filter(|text| !text.is_empty()).map(|text| (*text).to_owned());
        let hex = |key: &'static str, digits: usize| {
            let text = need(key)?;
            let legal = text.len() == digits && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
            if legal { Ok(text.to_owned()) } else { Err(MachineError::Bad(key)) }
        };
        Ok(Self {
            role: match need("role")? {
                "head" => Role::Head,
                "node" => Role::Node,
                _ => return Err(MachineError::Bad("role")),
            },
            serial: hex("serial", 8)?,
            model: text_of("model").unwrap_or_else(|| "unknown".to_owned()),
            mac: text_of("mac"),
            interface: text_of("interface"),
            address: address("address")?,
            server: address("server")?,
            image: hex("image", 64)?,
            root: match need("root")? {
                "nbd" => RootKind::Nbd,
                "card" => RootKind::Card,
                _ => return Err(MachineError::Bad("root")),
            },
            root_device: need("root_device")?.to_owned(),
            events: facts
                .iter()
                .filter_map(|(key, value)| {
                    Some((key.strip_prefix("event.")?.to_owned(), value.parse().ok()?))
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "role=node\nserial=10000001\nmodel=linux,dummy-virt\nmac=dc:a6:32:00:00:02\ninterface=eth0\n\
        address=10.77.0.11\nserver=10.77.0.1\nimage=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n\
        root=nbd\nroot_device=/dev/nbd0\nevent.init=1100000\nevent.root=2500000\nlater=unknown\n";

    #[test]
    fn a_nodes_facts_are_read_whole() {
        let machine = Machine::parse(NODE).expect("the sample is right");
        assert_eq!(machine.role, Role::Node);
        assert_eq!(machine.server, Some(Ipv4Addr::new(10, 77, 0, 1)));
        assert_eq!(machine.events.get("root"), Some(&2_500_000));
        assert_eq!(machine.events.len(), 2);
    }

    #[test]
    fn a_missing_or_bad_fact_is_named() {
        let without = NODE.replace("serial=10000001\n", "");
        assert!(matches!(Machine::parse(&without), Err(MachineError::Missing("serial"))));
        let bad = NODE.replace("serial=10000001", "serial=../../etc");
        assert!(matches!(Machine::parse(&bad), Err(MachineError::Bad("serial"))));
        let bad = NODE.replace("address=10.77.0.11", "address=10.77.0.300");
        assert!(matches!(Machine::parse(&bad), Err(MachineError::Bad("address"))));
    }
}
