//! The filters of config.txt: `[pi4]`, `[0x1a2b3c4d]`, `[tryboot]` and the rest.
//!
//! A filter replaces an earlier one of the same kind; different kinds must all hold; `[all]` forgets them.

use crate::config::{Facts, number};

/// Which kinds of filters are in force and fail. Everything holds at the start of a file.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Conditions {
    none: bool,
    model_fails: bool,
    board_type_fails: bool,
    serial_fails: bool,
    gpio_fails: bool,
    display_fails: bool,
    tryboot_fails: bool,
    partition_fails: bool,
}

impl Conditions {
    /// Whether lines are for this board now.
    pub(crate) fn hold(&self) -> bool {
        !(self.none
            || self.model_fails
            || self.board_type_fails
            || self.serial_fails
            || self.gpio_fails
            || self.display_fails
            || self.tryboot_fails
            || self.partition_fails)
    }

    /// Takes in a filter line, given without its brackets.
    pub(crate) fn enter(&mut self, filter: &str, facts: &Facts) {
        let (name, value) = match filter.split_once('=') {
            Some((name, value)) => (name.trim(), value.trim()),
            None => (filter.trim(), ""),
        };
        match name {
            "all" => *self = Conditions::default(),
            "none" => self.none = true,
            "board-type" => self.board_type_fails = number(value) != Some(facts.model.board_type()),
            "tryboot" => self.tryboot_fails = !facts.tryboot,
            "boot_partition" | "partition" => self.partition_fails = number(value) != Some(facts.partition),
            // No monitor is attached to a virtual board.
            "EDID" | "HDMI:0" | "HDMI:1" => self.display_fails = true,
            serial if serial.starts_with("0x") => self.serial_fails = number(serial) != Some(facts.serial),
            pin if pin.starts_with("gpio") => {
                let level = pin.strip_prefix("gpio").and_then(number).map(pin_at_rest);
                self.gpio_fails = level.is_none() || number(value) != level;
            }
            // Firmware that does not know a board's name passes over what is meant for that board.
            model => self.model_fails = !facts.model.answers_to(model),
        }
    }
}

/// The level of a pin to which nothing is wired: pulled up from 0 to 8, down above (BCM2711 peripherals, §5.3).
fn pin_at_rest(pin: u32) -> u32 {
    u32::from(pin <= 8)
}
