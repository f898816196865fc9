//! What a service of the head has seen of a board.

use serde::{Deserialize, Serialize};
use zbus::zvariant::Type;

/// One observation. A text that is empty and a number that is 0 mean "not known".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct Event {
    /// What happened: `discover offer request ack nak release` of DHCP; `file missing probe failed` of TFTP;
    /// `attach detach` of NBD.
    pub kind: String,
    /// The head's `CLOCK_BOOTTIME` in microseconds when it was over. Filled in by the reporter if 0.
    pub at_us: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// The board's Ethernet address, lower case with colons.
    pub mac: String,
    /// The board's IPv4 address.
    pub ip: String,
    /// The board's serial number, 8 hex digits.
    pub serial: String,
    /// The file or export asked for.
    pub file: String,
    /// Payload bytes moved.
    pub bytes: u64,
    /// Anything else, for people: the client's class, an error.
    pub detail: String,
}

impl Event {
    /// An event of a kind; fill in the rest with struct update syntax or by hand.
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), ..Self::default() }
    }
}

/// Microseconds since the machine started, counting time asleep: the one clock that all services share.
pub fn boottime_us() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map(|time| {
            let time = std::time::Duration::from(time);
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
        })
        .unwrap_or(0)
}
