//! What differs between boards of one model: the boot loader in their EEPROM, and how it is set.

use std::time::Duration;

use tftp::BlockSize;

/// The knobs of a network boot. The defaults are those of the EEPROM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The release of the boot loader; without meaning for a Pi 3.
    pub eeprom: EepromDate,
    /// Between power and the first DISCOVER. A board's PHY needs about 3 s to find its link; the virtual cable none.
    pub link_wait: Duration,
    /// `DHCP_TIMEOUT`: for all of DHCP.
    pub dhcp_timeout: Duration,
    /// `DHCP_REQ_TIMEOUT`: for the answer to one DISCOVER or REQUEST.
    pub dhcp_request_timeout: Duration,
    /// `TFTP_FILE_TIMEOUT`: for one file.
    pub file_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            eeprom: EepromDate::CURRENT,
            link_wait: Duration::ZERO,
            dhcp_timeout: Duration::from_secs(45),
            dhcp_request_timeout: Duration::from_secs(4),
            file_timeout: Duration::from_secs(30),
        }
    }
}

/// The day a boot loader was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EepromDate {
    year: u16,
    month: u8,
    day: u8,
}

impl EepromDate {
    /// One without the limits below.
    pub const CURRENT: EepromDate = EepromDate::new(2025, 12, 8);

    /// A date; whether it exists does not matter, it is only compared.
    pub const fn new(year: u16, month: u8, day: u8) -> EepromDate {
        EepromDate { year, month, day }
    }

    /// Asked for by `blksize`: 1468 since 2022-10-03.
    pub(super) fn block_size(self) -> BlockSize {
        const OLD: BlockSize = BlockSize::new(1024).expect("1024 is between 8 and 65464");
        if self < EepromDate::new(2022, 10, 3) { OLD } else { BlockSize::ETHERNET }
    }

    /// Blocks a file may have: the counter rolls over since 2025-09-23 only.
    pub(super) fn blocks_max(self) -> u64 {
        if self < EepromDate::new(2025, 9, 23) { 65535 } else { u64::MAX }
    }
}
