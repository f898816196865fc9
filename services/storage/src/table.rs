//! The partition table: one sector, four entries. Bytes to types and back; no I/O.
//!
//! ```text
//! | boot code, 440 | disk signature, 4 | 0, 2 | entries, 4 x 16 | 55 aa |
//! entry: | status | CHS, 3 | type | CHS, 3 | first sector u32 | sectors u32 |   little-endian
//! ```

/// Bytes of a sector, for every card and every table.
pub const SECTOR: u64 = 512;

/// The first sector of a disk.
pub type Sector = [u8; SECTOR as usize];

/// Partitions begin and end at multiples of this many sectors: 4 MiB, the largest erase block that cards report.
const ALIGNMENT: u64 = 8192;
/// Partition type of a Linux file system.
const LINUX: u8 = 0x83;
const ENTRIES: usize = 446;
const ENTRY: usize = 16;

/// Why the partition is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// No signature at the end of the sector.
    #[error("there is no partition table")]
    NoTable,
    /// The entry is empty or of another type.
    #[error("partition {0} is not a Linux partition")]
    NotLinux(u8),
    /// Something lies behind it.
    #[error("partition {0} is not the last one")]
    NotLast(u8),
}

/// A partition's place, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First sector.
    pub start: u64,
    /// How many.
    pub length: u64,
}

/// The place of a partition (from 1) as the table has it.
///
/// # Errors
/// When it is not a Linux partition.
pub fn extent(sector: &Sector, number: u8) -> Result<Extent, TableError> {
    if sector.get(510..) != Some(&[0x55, 0xaa]) {
        return Err(TableError::NoTable);
    }
    let (kind, extent) = entry(sector, number).ok_or(TableError::NotLinux(number))?;
    if kind != LINUX || extent.start == 0 || extent.length == 0 {
        return Err(TableError::NotLinux(number));
    }
    Ok(extent)
}

/// The table with a partition that reaches to the end of a disk of so many sectors, and its new place; `None` when it
/// does already, or when the disk ends before it. An MBR cannot say more than 2^32 sectors.
///
/// # Errors
/// When it is not the last partition, or not a Linux one.
pub fn grown(sector: &Sector, number: u8, disk: u64) -> Result<Option<(Sector, Extent)>, TableError> {
    let old = extent(sector, number)?;
    let others = (1..=4).filter(|other| *other != number).filter_map(|other| entry(sector, other));
    if others.into_iter().any(|(kind, other)| kind != 0 && other.start + other.length > old.start) {
        return Err(TableError::NotLast(number));
    }
    let end = disk.min(u64::from(u32::MAX)) / ALIGNMENT * ALIGNMENT;
    let length = end.saturating_sub(old.start);
    let (true, Ok(sectors)) = (length > old.length, u32::try_from(length)) else { return Ok(None) };
    let mut new = *sector;
    let at = ENTRIES + ENTRY * (usize::from(number) - 1) + 12;
    if let Some(field) = new.get_mut(at..at + 4) {
        field.copy_from_slice(&sectors.to_le_bytes());
    }
    Ok(Some((new, Extent { start: old.start, length })))
}

fn entry(sector: &Sector, number: u8) -> Option<(u8, Extent)> {
    let at = ENTRIES + ENTRY * usize::from(number.checked_sub(1).filter(|index| *index < 4)?);
    let number_at = |at: usize| Some(u64::from(u32::from_le_bytes(sector.get(at..at + 4)?.try_into().ok()?)));
    Some((*sector.get(at + 4)?, Extent { start: number_at(at + 8)?, length: number_at(at + 12)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 2048;

    fn card() -> Sector {
        let mut sector = [0; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector[440..444].copy_from_slice(b"BRAM");
        let partitions = [(0x0c, 4, 96), (0x83, 100, 64), (0x83, 164, 64), (0x83, 228, 64)];
        for (index, (kind, start, length)) in partitions.into_iter().enumerate() {
            put(&mut sector, index, kind, start * MIB, length * MIB);
        }
        sector
    }

    fn put(sector: &mut Sector, index: usize, kind: u8, start: u64, length: u64) {
        let at = ENTRIES + ENTRY * index;
        sector[at + 4] = kind;
        sector[at + 8..at + 12].copy_from_slice(&u32::try_from(start).expect("small").to_le_bytes());
        sector[at + 12..at + 16].copy_from_slice(&u32::try_from(length).expect("small").to_le_bytes());
    }

    #[test]
    fn the_last_partition_grows_to_the_aligned_end_and_nothing_else_changes() {
        let disk = 30_535_680; // A "16 GB" card.
        let (new, extent) = grown(&card(), 4, disk).expect("a table").expect("room");
        assert_eq!(extent.start, 228 * MIB);
        assert_eq!((extent.start + extent.length) % ALIGNMENT, 0);
        assert!(disk - (extent.start + extent.length) < ALIGNMENT);
        assert_eq!(super::extent(&new, 4), Ok(extent));
        let changed: Vec<usize> = (0..512).filter(|at| new[*at] != card()[*at]).collect();
        assert!(changed.iter().all(|at| (506..510).contains(at)), "{changed:?}");
        assert_eq!(grown(&new, 4, disk), Ok(None), "a second time there is nothing to do");
    }

    #[test]
    fn a_disk_without_room_or_smaller_than_its_table_leaves_the_partition_alone() {
        for disk in [0, 1, 228 * MIB, 291 * MIB, 292 * MIB, 292 * MIB + ALIGNMENT - 1] {
            assert_eq!(grown(&card(), 4, disk), Ok(None), "{disk}");
        }
    }

    #[test]
    fn a_disk_beyond_two_tebibytes_gives_what_the_table_can_say() {
        let (_, extent) = grown(&card(), 4, u64::MAX).expect("a table").expect("room");
        assert_eq!(extent.start + extent.length, (1 << 32) - ALIGNMENT);
    }

    #[test]
    fn strange_tables_are_refused() {
        assert_eq!(grown(&[0; 512], 4, 1 << 24), Err(TableError::NoTable));
        assert_eq!(grown(&card(), 1, 1 << 24), Err(TableError::NotLinux(1)));
        assert_eq!(grown(&card(), 3, 1 << 24), Err(TableError::NotLast(3)));
        assert_eq!(extent(&card(), 0), Err(TableError::NotLinux(0)));
        assert_eq!(extent(&card(), 5), Err(TableError::NotLinux(5)));
        let mut empty = card();
        put(&mut empty, 3, 0, 0, 0);
        assert_eq!(grown(&empty, 4, 1 << 24), Err(TableError::NotLinux(4)));
        let mut overlapping = card();
        put(&mut overlapping, 2, 0x83, 164 * MIB, 65 * MIB);
        assert_eq!(grown(&overlapping, 4, 1 << 24), Err(TableError::NotLast(4)));
        let mut protective = card();
        put(&mut protective, 0, 0xee, 1, u64::from(u32::MAX));
        assert_eq!(grown(&protective, 4, 1 << 24), Err(TableError::NotLast(4)), "a GPT's own");
    }
}
