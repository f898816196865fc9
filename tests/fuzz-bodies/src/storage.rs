//! What `storage` reads off a card: the partition table and the superblock.

use crate::input::Input;

#[allow(dead_code)]
#[path = "../../../services/storage/src/ext4.rs"]
mod ext4;
#[allow(dead_code)]
#[path = "../../../services/storage/src/table.rs"]
mod table;

/// A partition that grows keeps its beginning, ends on the disk, covers no other, and grows once.
pub fn partition_table(data: &[u8]) {
    let mut input = Input(data);
    let number = input.u8() % 6;
    let disk = input.u64() >> (input.u8() % 64);
    let mut sector: table::Sector = input.array();
    if input.u8() & 1 == 0 {
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
    }
    let Ok(old) = table::extent(&sector, number) else { return };
    let Ok(Some((new, extent))) = table::grown(&sector, number, disk) else { return };
    assert!(extent.start == old.start && extent.length > old.length);
    assert!(extent.start + extent.length <= disk);
    assert_eq!(table::extent(&new, number), Ok(extent));
    assert_eq!(table::grown(&new, number, disk), Ok(None), "growing does not end");
    let changed: Vec<usize> = (0..sector.len()).filter(|at| sector[*at] != new[*at]).collect();
    let field = 446 + 16 * (usize::from(number) - 1) + 12;
    assert!(changed.iter().all(|at| (field..field + 4).contains(at)), "{changed:?}");
    for other in (1..=4).filter(|other| *other != number) {
        if let Ok(other) = table::extent(&new, other) {
            assert!(other.start + other.length <= extent.start, "{other:?} is covered by {extent:?}");
        }
    }
}

/// Any superblock is read or refused.
pub fn ext4_superblock(data: &[u8]) {
    let mut block = [0; ext4::LENGTH];
    for (to, from) in block.iter_mut().zip(data) {
        *to = *from;
    }
    let _ = ext4::Superblock::parse(&block);
}
