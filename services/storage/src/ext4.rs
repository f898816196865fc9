//! What is needed of ext4's superblock: whose file system it is, and how large it is. Bytes to types; no I/O.

/// Where the superblock begins, in bytes from the start of the partition.
pub const OFFSET: u64 = 1024;
/// How much of it is read.
pub const LENGTH: usize = 1024;

/// The label the image builder gives to the data partition.
const LABEL: &[u8] = b"bramble-data";

/// A file system of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Bytes of a block.
    pub block_size: u64,
    /// How many blocks it has.
    pub blocks: u64,
}

impl Superblock {
    /// Reads it; `None` when it is not ext4, not ours, or nonsense.
    ///
    /// Fields (little-endian): 0x04 `s_blocks_count_lo`, 0x18 `s_log_block_size`, 0x38 `s_magic`, 0x60
    /// `s_feature_incompat` (0x80: 64bit), 0x78 `s_volume_name`, 0x150 `s_blocks_count_hi`.
    pub fn parse(bytes: &[u8; LENGTH]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let label = bytes.get(0x78..0x88)?.split(|byte| *byte == 0).next()?;
        let exponent = u32_at(0x18)?;
        if bytes.get(0x38..0x3a)? != [0x53, 0xef] || label != LABEL || exponent > 6 {
            return None;
        }
        let high = if u32_at(0x60)? & 0x80 == 0 { 0 } else { u64::from(u32_at(0x150)?) };
        Some(Self { block_size: 1024 << exponent, blocks: high << 32 | u64::from(u32_at(4)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[4..8].copy_from_slice(&16384_u32.to_le_bytes());
        bytes[0x18] = 2;
        bytes[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        bytes[0x78..0x84].copy_from_slice(LABEL);
        bytes[0x150] = 1;
        bytes
    }

    #[test]
    fn size_and_block_size_are_read_with_and_without_64_bits() {
        let mut bytes = superblock();
        assert_eq!(Superblock::parse(&bytes), Some(Superblock { block_size: 4096, blocks: 16384 }));
        bytes[0x60] = 0x80;
        assert_eq!(Superblock::parse(&bytes).map(|found| found.blocks), Some((1 << 32) + 16384));
    }

    #[test]
    fn other_file_systems_and_other_peoples_are_not_ours() {
        assert_eq!(Superblock::parse(&[0; LENGTH]), None);
        for (at, value) in [(0x38, 0), (0x78, b'B'), (0x84, b'2'), (0x18, 7)] {
            let mut bytes = superblock();
            bytes[at] = value;
            assert_eq!(Superblock::parse(&bytes), None, "offset {at:#x}");
        }
    }
}
