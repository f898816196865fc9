//! Packet captures in the classic pcap format (draft-ietf-opsawg-pcap), one file per port.
//!
//! A capture shows what the device at the port sent and what it received: frames the cable lost on the way to it are
//! missing. Each frame is one `write`, so a capture can be followed while it grows and loses nothing when the
//! switch is killed. It stops at a size limit; a capture must never fill the disk of a cluster left running.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where a capture file stops growing.
const SIZE_LIMIT_BYTES: u64 = 1 << 30;

/// LINKTYPE_ETHERNET of the tcpdump.org registry.
const LINK_TYPE_ETHERNET: u32 = 1;

/// A capture file being written.
#[derive(Debug)]
pub struct Capture {
    file: File,
    written: u64,
    record: Vec<u8>,
}

impl Capture {
    /// Creates (or empties) a capture file.
    ///
    /// # Errors
    /// When the file cannot be created or written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        let mut header = Vec::with_capacity(24);
        header.extend(0xa1b2_3c4d_u32.to_le_bytes()); // nanosecond variant
        header.extend(2_u16.to_le_bytes());
        header.extend(4_u16.to_le_bytes());
        header.extend([0; 8]);
        header.extend(65_535_u32.to_le_bytes());
        header.extend(LINK_TYPE_ETHERNET.to_le_bytes());
        file.write_all(&header)?;
        Ok(Self { file, written: 0, record: Vec::new() })
    }

    /// Appends a frame. After a failed write or at the size limit the capture stays as it is: frames matter more.
    pub fn frame(&mut self, frame: &[u8]) {
        if self.written >= SIZE_LIMIT_BYTES {
            return;
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.record.clear();
        // The format's seconds are 32 bits wide, good until 2106.
        self.record.extend((time.as_secs() as u32).to_le_bytes());
        self.record.extend(time.subsec_nanos().to_le_bytes());
        self.record.extend(length);
        self.record.extend(length);
        self.record.extend_from_slice(frame);
        match self.file.write_all(&self.record) {
            Ok(()) => self.written += self.record.len() as u64,
            Err(_) => self.written = SIZE_LIMIT_BYTES,
        }
    }
}
