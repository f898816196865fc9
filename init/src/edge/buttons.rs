//! The power button: any input device that has the key (`include/uapi/linux/input-event-codes.h`).
//!
//! Drivers come late and devices are pulled out, so `/dev` and `/dev/input` are watched, not searched once.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// `KEY_POWER`.
const KEY_POWER: u16 = 116;

/// `EV_KEY`.
const EV_KEY: u16 = 1;

/// `struct input_event`: two 64-bit words of time, u16 type, u16 code, i32 value.
const EVENT_BYTES: usize = 24;

/// Boards have one; the rest are keyboards with such a key. Further ones are ignored.
const DEVICES_MAX: usize = 8;

/// What changes in `/dev`, and the buttons in it.
#[derive(Debug)]
pub struct Buttons {
    watch: Option<Inotify>,
    devices: Vec<(String, File)>,
}

impl Buttons {
    /// Begins to watch. Without inotify only the devices of the start are known.
    pub fn new() -> Self {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        let mut buttons = Self { watch, devices: Vec::new() };
        buttons.look();
        buttons
    }

    /// Readable when something has changed in `/dev`.
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// The buttons, each readable when a key was pressed.
    pub fn devices(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.devices.iter().map(|(_, device)| device.as_fd())
    }

    /// Forgets what changed and looks at what is there.
    pub fn look(&mut self) {
        if let Some(watch) = &self.watch {
            // What exactly has changed does not matter, everything is looked at.
            while watch.read_events().is_ok_and(|events| !events.is_empty()) {}
            for folder in ["/dev", "/dev/input"] {
                let _ = watch.add_watch(folder, AddWatchFlags::IN_CREATE);
            }
        }
        let names = fs::read_dir("/dev/input").into_iter().flatten().flatten();
        for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
            let known = self.devices.iter().any(|(device, _)| *device == name);
            if known || !name.starts_with("event") || self.devices.len() >= DEVICES_MAX {
                continue;
            }
            let keys = fs::read_to_string(format!("/sys/class/input/{name}/device/capabilities/key"));
            if !keys.is_ok_and(|keys| has_key(&keys, KEY_POWER)) {
                continue;
            }
            let path = format!("/dev/input/{name}");
            if let Ok(device) = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
                self.devices.push((name, device));
            }
        }
    }

    /// Reads what was pressed since; true if a power button was. Devices that are gone are dropped.
    pub fn pressed(&mut self) -> bool {
        let mut pressed = false;
        self.devices.retain_mut(|(_, device)| {
            let mut bytes = [0; EVENT_BYTES * 16];
            match device.read(&mut bytes) {
                Ok(count) => {
                    pressed |=
                        bytes.chunks_exact(EVENT_BYTES).take(count / EVENT_BYTES).any(is_power_pressed);
                    count > 0
                }
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            }
        });
        pressed
    }
}

/// sysfs prints a bit set as 64-bit words in hex, highest first, leading zero words left out.
fn has_key(words: &str, key: u16) -> bool {
    let word = words.split_ascii_whitespace().rev().nth(usize::from(key / 64));
    word.and_then(|word| u64::from_str_radix(word, 16).ok()).is_some_and(|word| word >> (key % 64) & 1 == 1)
}

fn is_power_pressed(event: &[u8]) -> bool {
    let [.., t0, t1, c0, c1, v0, v1, v2, v3] = event else { return false };
    let (kind, code) = (u16::from_ne_bytes([*t0, *t1]), u16::from_ne_bytes([*c0, *c1]));
    // 1: pressed; 0 is released, 2 is repeated.
    kind == EV_KEY && code == KEY_POWER && i32::from_ne_bytes([*v0, *v1, *v2, *v3]) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![0xaa; 16];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_press_of_the_power_key_counts() {
        assert!(is_power_pressed(&event(EV_KEY, KEY_POWER, 1)));
        for (kind, code, value) in [(1, 116, 0), (1, 116, 2), (1, 115, 1), (0, 116, 1)] {
            assert!(!is_power_pressed(&event(kind, code, value)));
        }
        assert!(!is_power_pressed(&[]));
    }

    #[test]
    fn sysfs_key_sets_are_read_highest_word_first() {
        assert!(has_key("10000000000000 0\n", KEY_POWER));
        assert!(has_key("ff 10000000000000 0\n", KEY_POWER));
        assert!(!has_key("10000000000000\n", KEY_POWER));
        assert!(!has_key("0 10000000000000 0 0\n", KEY_POWER));
        assert!(!has_key("", KEY_POWER) && !has_key("zz 0", KEY_POWER));
    }
}
