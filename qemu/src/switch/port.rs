//! One port of the virtual switch, as seen by the device plugged into it.

use tokio::sync::mpsc;

/// Frames a port buffers in each direction before the switch drops (and counts) further ones.
///
/// 512 full-size frames are 768 KiB: more than any window a lock-step TFTP client or a booting node keeps open.
pub const PORT_QUEUE_FRAMES: usize = 512;

/// An in-process plug: whole Ethernet frames, without preamble or checksum.
#[derive(Debug)]
pub struct SwitchPort {
    /// Frames from the device into the switch.
    pub to_switch: mpsc::Sender<Vec<u8>>,
    /// Frames from the switch to the device. `None` means the switch is gone.
    pub from_switch: mpsc::Receiver<Vec<u8>>,
}
