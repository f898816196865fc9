//! The head's root: a partition of the card, named by the signature of its disk.
//!
//! The signature is read from the disk itself: the name that Linux gives to a card differs between boards
//! (`mmcblk0`, `mmcblk1`, `sda`, `vda`), and older kernels do not announce `PARTUUID`.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// The device of a partition, `None` while there is none. Looks at every disk that sysfs shows.
pub fn find(sysfs: &Path, dev: &Path, disk: u32, partition: u8) -> Option<String> {
    let disks = fs::read_dir(sysfs.join("class/block")).ok()?.flatten();
    disks.filter(|entry| !entry.path().join("partition").exists()).find_map(|entry| {
        if signature(&dev.join(entry.file_name()))? != disk {
            return None;
        }
        let children = fs::read_dir(entry.path()).ok()?.flatten();
        let mut numbered = children.filter(|child| {
            let number = fs::read_to_string(child.path().join("partition")).ok();
            number.is_some_and(|number| number.trim().parse() == Ok(partition))
        });
        Some(dev.join(numbered.next()?.file_name()).to_string_lossy().into_owned())
    })
}

/// The disk signature of an MBR: four bytes at 440, where the last two bytes are 55 aa. A disk without medium, or
/// without a table, has none.
fn signature(device: &Path) -> Option<u32> {
    let mut sector = [0; 512];
    File::open(device).ok()?.read_exact(&mut sector).ok()?;
    let signature = u32::from_le_bytes(sector.get(440..444)?.try_into().ok()?);
    (sector.get(510..) == Some(&[0x55, 0xaa])).then_some(signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_is_found_by_the_signature_of_its_disk() {
        let base = std::env::temp_dir().join(format!("netroot-card-{}", std::process::id()));
        let (sysfs, dev) = (base.join("sys"), base.join("dev"));
        fs::create_dir_all(&dev).expect("temporary folder");
        for (disk, signature, partitions) in
            [("sda", 1_u32, ["sda1", "sda2"]), ("mmcblk0", 0xdead_beef, ["mmcblk0p1", "mmcblk0p2"])]
        {
            let mut sector = [0; 512];
            sector[440..444].copy_from_slice(&signature.to_le_bytes());
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
            fs::write(dev.join(disk), sector).expect("temporary file");
            for (number, name) in (1..).zip(partitions) {
                let folder = sysfs.join("class/block").join(disk).join(name);
                fs::create_dir_all(&folder).expect("temporary folder");
                fs::write(folder.join("partition"), format!("{number}\n")).expect("temporary file");
            }
        }
        fs::write(dev.join("empty"), "").expect("temporary file");
        fs::create_dir_all(sysfs.join("class/block/empty")).expect("temporary folder");
        let found = find(&sysfs, &dev, 0xdead_beef, 2);
        assert_eq!(found, Some(dev.join("mmcblk0p2").to_string_lossy().into_owned()));
        assert_eq!(find(&sysfs, &dev, 0xdead_beef, 3), None);
        assert_eq!(find(&sysfs, &dev, 2, 2), None);
        fs::remove_dir_all(base).expect("temporary folder");
    }
}
