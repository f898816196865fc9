//! Who asks: told from options 93, 60 and 97, never from the vendor part of the Ethernet address.

use crate::{MacAddr, Message};
use std::fmt;

/// What a client is, as far as its answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The boot ROM of a Pi 3B: it locks up when answered within about 2 s, and may hold an answer back until another
    /// frame arrives.
    Pi3Rom,
    /// A Pi 3B+ ROM, or `bootcode.bin` of a Pi up to 3: may hold an answer back as well.
    Pi3,
    /// The EEPROM of a Pi 4 or 5, and all else that boots like one.
    PiEeprom,
    /// UEFI that wants a file by TFTP.
    UefiPxe,
    /// UEFI that wants a URL.
    UefiHttp,
    /// A running system.
    Plain,
}

impl Class {
    /// The class a message shows by itself.
    pub fn of(message: &Message) -> Self {
        let options = &message.options;
        let vendor_class = options.vendor_class().unwrap_or_default();
        if vendor_class.starts_with(b"HTTPClient") {
            return Self::UefiHttp;
        }
        if !vendor_class.starts_with(b"PXEClient") {
            return Self::Plain;
        }
        match options.client_arch().first() {
            Some(0) if vendor_class == PI_VENDOR_CLASS => match options.client_machine() {
                Some(PI3_ROM_MACHINE) => Self::Pi3Rom,
                _ if message.xid == PI3_XID => Self::Pi3,
                _ => Self::PiEeprom,
            },
            Some(arch) if *arch != 0 => Self::UefiPxe,
            _ => Self::Plain,
        }
    }

    /// Whether the firmware of a Pi asks.
    pub fn is_pi(self) -> bool {
        matches!(self, Self::Pi3Rom | Self::Pi3 | Self::PiEeprom)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pi3Rom => "pi3-rom",
            Self::Pi3 => "pi3",
            Self::PiEeprom => "pi-eeprom",
            Self::UefiPxe => "uefi-pxe",
            Self::UefiHttp => "uefi-http",
            Self::Plain => "plain",
        })
    }
}

/// The serial number a Pi's firmware puts into option 97: a hint for people, since its octet order is not documented
/// for every model. The TFTP path tells it for certain.
pub(super) fn serial(message: &Message, mac: MacAddr) -> Option<u32> {
    let id = message.options.client_machine()?;
    let (words, _) = id.as_chunks::<4>();
    let [first, second, third, fourth] = words else { return None };
    let serial = u32::from_le_bytes(*fourth);
    if id == PI3_ROM_MACHINE || serial == 0 {
        return None;
    }
    // Serial four times: up to Pi 3, and later models with DHCP_OPTION97=0.
    if [second, third, fourth].iter().all(|word| *word == first) {
        return Some(serial);
    }
    // Tag, board revision, last four octets of the Ethernet address (zero before 2020-03-16), serial.
    let [_, _, tail @ ..] = mac.0;
    let tagged = matches!(first, b"RPi4" | b"4iPR" | b"RPi5" | b"5iPR");
    (tagged && (*third == tail || *third == [0; 4])).then_some(serial)
}

/// What every Pi sends. UNDI 2.1 with architecture 0 is a BIOS PC's as well, which nothing here could boot anyway.
const PI_VENDOR_CLASS: &[u8] = b"PXEClient:Arch:00000:UNDI:002001";
/// The 3B's ROM has no serial number to show.
const PI3_ROM_MACHINE: [u8; 16] = [0x44; 16];
/// The transaction number of every ROM and `bootcode.bin` up to Pi 3; later firmware draws one.
const PI3_XID: u32 = 0x26f3_0339;
