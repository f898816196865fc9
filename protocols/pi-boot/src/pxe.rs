//! What a Pi says in a DISCOVER, and what it wants to see in an OFFER.
//!
//! The boot code of every model poses as a PXE client. Its options, in this order: 53, 55, 93, 94, 97, 60.

use crate::model::{Generation, Model};

/// Option 60 of a native Pi boot. UEFI on the same board says `Arch:00011` instead.
pub const VENDOR_CLASS: &[u8; 32] = b"PXEClient:Arch:00000:UNDI:002001";

/// Option 60 of the answer.
pub const REPLY_CLASS: &[u8; 9] = b"PXEClient";

/// Option 43 of the answer: discovery control 3, menu prompt "PXE" with timeout 0, boot menu with one entry.
pub const BOOT_MENU: &[u8; 32] = b"\x06\x01\x03\x0a\x04\x00PXE\x09\x14\x00\x00\x11Raspberry Pi Boot\xff";

/// The entry of the menu that a board looks for.
pub const MENU_ENTRY: &[u8; 17] = b"Raspberry Pi Boot";

/// Option 93: "Intel x86PC", which the boards are not.
pub const CLIENT_ARCHITECTURE: [u8; 2] = [0, 0];

/// Option 94: UNDI, version 2.1.
pub const CLIENT_INTERFACE: [u8; 3] = [1, 2, 1];

/// The transaction every Pi 3 uses, in the ROM and in `bootcode.bin`: nothing may be keyed by it.
pub const CONSTANT_TRANSACTION: u32 = 0x26f3_0339;

/// Option 97 of the Pi 3B's ROM, the same on every board.
pub const CONSTANT_MACHINE: [u8; 17] = {
    let mut machine = [0x44; 17];
    machine[0] = 0;
    machine
};

/// Which code speaks DHCP: a Pi 3 does it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// The mask ROM of the Pi 3B.
    Rom3B,
    /// The mask ROM of the 3B+, and `bootcode.bin` on both.
    Bootcode,
    /// The EEPROM of the Pi 4 and 5.
    Eeprom,
}

impl Client {
    /// The code that speaks first after power-on.
    pub fn first(model: Model) -> Client {
        match (model, model.generation()) {
            (Model::Pi3B, _) => Client::Rom3B,
            (_, Generation::Three) => Client::Bootcode,
            _ => Client::Eeprom,
        }
    }

    /// Option 55.
    pub fn parameter_request_list(self) -> &'static [u8] {
        const ROM_3B: [u8; 12] = [43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66];
        const BOOTCODE: [u8; 14] = [43, 60, 67, 128, 129, 130, 131, 132, 133, 134, 135, 66, 1, 3];
        const EEPROM: [u8; 14] = [1, 3, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135];
        match self {
            Client::Rom3B => &ROM_3B,
            Client::Bootcode => &BOOTCODE,
            Client::Eeprom => &EEPROM,
        }
    }

    /// Option 97: type 0 and sixteen bytes.
    pub fn machine(self, model: Model, serial: u32, mac: [u8; 6]) -> [u8; 17] {
        let serial = serial.to_le_bytes();
        let mut machine = [0; 17];
        let parts = match self {
            Client::Rom3B => return CONSTANT_MACHINE,
            Client::Bootcode => [serial; 4],
            Client::Eeprom => {
                let [_, _, mac @ ..] = mac;
                let tag = if model.generation() == Generation::Five { b"5iPR" } else { b"4iPR" };
                [*tag, model.revision().to_le_bytes(), mac, serial]
            }
        };
        for (to, from) in machine.iter_mut().skip(1).zip(parts.iter().flatten()) {
            *to = *from;
        }
        machine
    }

    /// Whether the transaction is [`CONSTANT_TRANSACTION`] and the OFFER is taken without a REQUEST.
    pub fn takes_offers_unasked(self) -> bool {
        self != Client::Eeprom
    }
}

/// Whether option 43 of an OFFER has a boot menu (sub-option 9) that names the Pi.
///
/// The entry may be anywhere in the menu and have anything around it: the EEPROM searches for the text (since
/// 2019-10-16; the 3B's ROM is told to want three spaces behind it, but boots without).
pub fn menu_names_the_pi(option_43: &[u8]) -> bool {
    let mut rest = option_43;
    while let [code, length, tail @ ..] = rest {
        let Some((value, next)) = tail.split_at_checked(usize::from(*length)) else { return false };
        match code {
            9 => return value.windows(MENU_ENTRY.len()).any(|window| window == MENU_ENTRY),
            255 => return false,
            _ => rest = next,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn our_own_menu_names_the_pi() {
        assert!(menu_names_the_pi(BOOT_MENU));
        assert!(menu_names_the_pi(b"\x09\x17\x00\x00\x14Raspberry Pi Boot   \xff"));
        assert!(menu_names_the_pi(b"\x09\x19\x00\x01\x02PC\x00\x00\x11Raspberry Pi Boot"));
    }

    #[test]
    fn menus_without_the_entry_do_not() {
        for menu in [&b""[..], b"\x06\x01\x03\xff", b"\x09\x05\x00\x00\x02PC", b"\x0a\x11Raspberry Pi Boot"] {
            assert!(!menu_names_the_pi(menu), "{menu:?}");
        }
        // Behind the end, or longer than the option says.
        assert!(!menu_names_the_pi(b"\xff\x09\x14\x00\x00\x11Raspberry Pi Boot"));
        assert!(!menu_names_the_pi(b"\x09\x16\x00\x00\x11Raspberry Pi Boot"));
    }

    #[test]
    fn machine_identifiers_are_those_observed() {
        // CM4 of a published capture, as far as it goes: tag, revision a03141, end of the address.
        let cm4 = Client::Eeprom.machine(Model::Cm4, 0x1234_5678, [0xdc, 0xa6, 0x01, 0xf8, 0xde, 0xb9]);
        assert_eq!(cm4, *b"\x00\x34\x69\x50\x52\x41\x31\xa0\x00\x01\xf8\xde\xb9\x78\x56\x34\x12");
        let plus = Client::Bootcode.machine(Model::Pi3BPlus, 0xb66c_4c16, [0; 6]);
        assert_eq!(&plus[..9], b"\x00\x16\x4c\x6c\xb6\x16\x4c\x6c\xb6");
        assert_eq!(Client::Rom3B.machine(Model::Pi3B, 1, [0; 6]), CONSTANT_MACHINE);
        assert_eq!(Client::Eeprom.machine(Model::Pi5, 1, [0; 6])[1..5], *b"\x35\x69\x50\x52");
    }

    proptest! {
        #[test]
        fn any_option_43_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            menu_names_the_pi(&bytes);
        }
    }
}
