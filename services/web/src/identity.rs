//! Who this machine says it is.

use config::{Config, Machine, MachineError};

/// What stays the same in every answer of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `node-1`, or a host's name: legal in an HTTP header.
    pub name: String,
    /// The board's serial number.
    pub serial: Option<String>,
    /// The address on the cluster's network.
    pub address: Option<String>,
    /// The first [`IMAGE_DIGITS`] digits of the image id.
    pub image: Option<String>,
    /// The running kernel's release.
    pub kernel: Option<String>,
}

impl Identity {
    /// The identity of this Bramble machine.
    ///
    /// # Errors
    /// When the machine facts are missing or wrong.
    pub fn of_machine() -> Result<Self, MachineError> {
        let machine = Machine::load()?;
        Ok(Self {
            name: machine_name(&machine, kernel_fact("hostname").as_deref()),
            serial: Some(machine.serial),
            address: machine.address.map(|address| address.to_string()),
            image: Some(machine.image.chars().take(IMAGE_DIGITS).collect()),
            kernel: kernel_fact("osrelease"),
        })
    }

    /// The identity of any Linux host.
    pub fn of_host(name: Option<String>) -> Self {
        let host = || kernel_fact("hostname").and_then(|name| parse_name(&name).ok());
        Self {
            name: name.or_else(host).unwrap_or_else(|| "localhost".to_owned()),
            serial: None,
            address: None,
            image: None,
            kernel: kernel_fact("osrelease"),
        }
    }
}

/// The name the head gave, if netroot made it the host's name; else what the standard address range makes of
/// the address, which is the same unless `cluster.nodes` was set; a board without either is known by its serial number.
fn machine_name(machine: &Machine, hostname: Option<&str>) -> String {
    let by_head = hostname.filter(|name| name.starts_with("node-")).and_then(|name| parse_name(name).ok());
    by_head
        .or_else(|| Config::default().cluster.node_name(machine.address?))
        .unwrap_or_else(|| machine.serial.clone())
}

/// Accepts 1 to 63 letters, digits, `-`, `.` and `_`: legal in a header, on a page and in a log.
pub(crate) fn parse_name(text: &str) -> Result<String, &'static str> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if (1..=63).contains(&text.len()) && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 63 letters, digits, '-', '.' or '_'")
    }
}

/// A line of `/proc/sys/kernel`.
fn kernel_fact(key: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/kernel/{key}")).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Enough digits to tell any two images apart that one cluster will ever see.
pub const IMAGE_DIGITS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(address: &str) -> Machine {
        Machine::parse(&format!(
            "role=node\nserial=0a1b2c3d\naddress={address}\nimage={}\nroot=nbd\nroot_device=/dev/nbd0\n",
            "ab".repeat(32)
        ))
        .expect("the facts are right")
    }

    #[test]
    fn a_nodes_number_is_its_address_minus_the_address_before_the_pool() {
        assert_eq!(machine_name(&machine("10.77.0.11"), None), "node-1");
        assert_eq!(machine_name(&machine("10.77.1.10"), Some("(none)")), "node-256");
    }

    #[test]
    fn the_name_given_by_the_head_comes_first() {
        assert_eq!(machine_name(&machine("10.99.0.7"), Some("node-7")), "node-7");
        assert_eq!(machine_name(&machine("10.77.0.11"), Some("node-\r\nx")), "node-1");
    }

    #[test]
    fn a_board_outside_of_the_range_is_known_by_its_serial_number() {
        assert_eq!(machine_name(&machine("192.168.1.5"), None), "0a1b2c3d");
        assert_eq!(machine_name(&machine(""), None), "0a1b2c3d");
    }

    #[test]
    fn a_name_that_could_break_a_header_is_refused() {
        for name in ["", "a b", "a\r\nb", "é", &"x".repeat(64)] {
            assert!(parse_name(name).is_err(), "{name:?}");
        }
        assert_eq!(parse_name("node-1"), Ok("node-1".to_owned()));
    }
}
