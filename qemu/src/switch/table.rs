//! Which port an Ethernet address was last seen on.
//!
//! Bounded per port, so that one machine inventing addresses cannot make the switch forget the others: past the
//! limit an address is simply not learned, and frames to it are flooded, which is slow but correct. There is no
//! ageing: entries of a port go when its cable is cut or its plug pulled, which is when they become wrong.

use std::collections::HashMap;

use super::PortNumber;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Addresses learned per port. A board has one; a machine that bridges containers has some dozens.
pub const ADDRESSES_PER_PORT: usize = 64;

/// The learned addresses of one switch.
#[derive(Debug, Default)]
pub struct MacTable {
    ports: HashMap<Mac, PortNumber>,
    learned: HashMap<PortNumber, usize>,
}

impl MacTable {
    /// Notes that `mac` sends from `port`. Returns false when the port's share of the table is full.
    pub fn learn(&mut self, mac: Mac, port: PortNumber) -> bool {
        if self.ports.get(&mac) == Some(&port) {
            return true;
        }
        if self.learned.get(&port).copied().unwrap_or(0) >= ADDRESSES_PER_PORT {
            return false;
        }
        if let Some(before) = self.ports.insert(mac, port)
            && let Some(count) = self.learned.get_mut(&before)
        {
            *count -= 1;
        }
        *self.learned.entry(port).or_default() += 1;
        true
    }

    /// The port `mac` was last seen on.
    pub fn lookup(&self, mac: Mac) -> Option<PortNumber> {
        self.ports.get(&mac).copied()
    }

    /// Forgets everything learned from `port`.
    pub fn forget(&mut self, port: PortNumber) {
        if self.learned.remove(&port).is_some() {
            self.ports.retain(|_, learned_on| *learned_on != port);
        }
    }
}
