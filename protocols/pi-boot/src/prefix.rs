//! The directory a network-booting board puts before its file names.
//!
//! EEPROM `TFTP_PREFIX=0`: `<serial>/`, eight lower-case hex digits; `TFTP_PREFIX=2`: `<mac>/`, lower case with dashes.

use std::fmt;

/// Who a TFTP path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// The low 32 bits of the board's serial number.
    Serial(u32),
    /// The address of the board's Ethernet.
    Mac([u8; 6]),
}

impl Prefix {
    /// Takes a prefix off a requested path: `1a2b3c4d/start4.elf` is serial 1a2b3c4d and `start4.elf`.
    ///
    /// Only what a board sends is a prefix: lower case, exact length, something behind the slash.
    pub fn split(path: &str) -> Option<(Prefix, &str)> {
        let (directory, file) = path.split_once('/')?;
        if file.is_empty() {
            return None;
        }
        Some((parse_serial(directory).or_else(|| parse_mac(directory))?, file))
    }
}

impl fmt::Display for Prefix {
    /// With the slash, ready to be put before a name.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prefix::Serial(serial) => write!(formatter, "{serial:08x}/"),
            Prefix::Mac([a, b, c, d, e, f]) => {
                write!(formatter, "{a:02x}-{b:02x}-{c:02x}-{d:02x}-{e:02x}-{f:02x}/")
            }
        }
    }
}

fn parse_serial(text: &str) -> Option<Prefix> {
    if text.len() != 8 || !text.bytes().all(is_digit) {
        return None;
    }
    u32::from_str_radix(text, 16).ok().map(Prefix::Serial)
}

fn parse_mac(text: &str) -> Option<Prefix> {
    let mut mac = [0; 6];
    let mut groups = text.split('-');
    for byte in &mut mac {
        let group = groups.next().filter(|group| group.len() == 2 && group.bytes().all(is_digit))?;
        *byte = u8::from_str_radix(group, 16).ok()?;
    }
    groups.next().is_none().then_some(Prefix::Mac(mac))
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn serial_and_mac_directories_are_prefixes() {
        assert_eq!(Prefix::split("1a2b3c4d/start4.elf"), Some((Prefix::Serial(0x1a2b_3c4d), "start4.elf")));
        assert_eq!(
            Prefix::split("0000beef/overlays/x.dtbo"),
            Some((Prefix::Serial(0xbeef), "overlays/x.dtbo"))
        );
        let mac = Prefix::Mac([0xdc, 0xa6, 0x32, 0x01, 0x36, 0xc2]);
        assert_eq!(Prefix::split("dc-a6-32-01-36-c2/config.txt"), Some((mac, "config.txt")));
    }

    #[test]
    fn other_directories_are_not_prefixes() {
        for path in [
            "config.txt",
            "overlays/x.dtbo",
            "1A2B3C4D/config.txt",
            "1a2b3c4d5/config.txt",
            "1a2b3c4/config.txt",
            "+a2b3c4d/config.txt",
            "1a2b3c4d/",
            "1a2b3c4d",
            "/1a2b3c4d/config.txt",
            "dc-a6-32-01-36/config.txt",
            "dc-a6-32-01-36-c2-00/config.txt",
            "dc:a6:32:01:36:c2/config.txt",
            "é2b3c4d/config.txt",
            "",
        ] {
            assert_eq!(Prefix::split(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_written_prefix_is_read_back(serial: u32, mac: [u8; 6]) {
            for prefix in [Prefix::Serial(serial), Prefix::Mac(mac)] {
                let path = format!("{prefix}overlays/x");
                prop_assert_eq!(Prefix::split(&path), Some((prefix, "overlays/x")));
            }
        }

        #[test]
        fn any_path_is_split_without_panic(path in ".*") {
            Prefix::split(&path);
        }
    }
}
