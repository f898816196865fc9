use std::io::Write;

use super::*;

fn file_disk(content: &[u8], access: Access) -> (tempfile::NamedTempFile, FileDisk) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    let disk = FileDisk::open(file.path(), access).unwrap();
    (file, disk)
}

fn with_each_writable(test: impl Fn(&dyn Disk)) {
    let (_keep, file) = file_disk(&[7; 10_000], Access::ReadWrite);
    test(&file);
    test(&MemoryDisk::new(vec![7; 10_000]));
}

fn content(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn what_is_written_is_read_and_nothing_else_changes() {
    with_each_writable(|disk| {
        disk.write_at(b"abc", 4095).unwrap();
        disk.flush().unwrap();
        let bytes = content(disk);
        assert_eq!(&bytes[4094..4099], b"\x07abc\x07");
        assert_eq!(bytes.iter().filter(|byte| **byte != 7).count(), 3);
    });
}

#[test]
fn zeroed_ranges_read_as_zeroes_with_and_without_space() {
    for space in [Space::Release, Space::Keep] {
        with_each_writable(|disk| {
            disk.zero(100, 9000, space).unwrap();
            disk.zero(0, 0, space).unwrap();
            let bytes = content(disk);
            assert!(bytes[100..9100].iter().all(|byte| *byte == 0));
            assert!(bytes[..100].iter().chain(&bytes[9100..]).all(|byte| *byte == 7));
        });
    }
}

#[test]
fn discard_leaves_its_surroundings_alone() {
    with_each_writable(|disk| {
        disk.discard(4096, 4096).unwrap();
        let bytes = content(disk);
        assert!(bytes[..4096].iter().chain(&bytes[8192..]).all(|byte| *byte == 7));
    });
}

#[test]
fn ranges_beyond_the_end_are_refused_without_effect() {
    with_each_writable(|disk| {
        for (offset, length) in [(9_999u64, 2usize), (10_000, 1), (u64::MAX, 1), (0, 10_001)] {
            let far = |result: Result<(), DiskError>| matches!(result, Err(DiskError::OutOfRange { .. }));
            assert!(far(disk.read_at(&mut vec![0; length], offset)));
            assert!(far(disk.write_at(&vec![0; length], offset)));
            assert!(far(disk.discard(offset, length as u64)));
            assert!(far(disk.zero(offset, length as u64, Space::Keep)));
            assert!(disk.extent(offset, length as u64).is_none());
        }
        assert_eq!(content(disk), vec![7; 10_000]);
        disk.read_at(&mut [], 10_000).unwrap();
    });
}

#[test]
fn read_only_disk_refuses_every_change() {
    let (_keep, disk) = file_disk(&[7; 100], Access::ReadOnly);
    let refused = |result: Result<(), DiskError>| matches!(result, Err(DiskError::ReadOnly));
    assert!(refused(disk.write_at(b"x", 0)));
    assert!(refused(disk.discard(0, 1)));
    assert!(refused(disk.zero(0, 1, Space::Release)));
    assert!(disk.flush().is_ok());
}

#[test]
fn shortened_disk_ends_early_and_a_lengthened_one_does_not_exist() {
    let (_keep, disk) = file_disk(&[7; 100], Access::ReadOnly);
    let disk = disk.shortened_to(60).unwrap();
    assert_eq!(disk.size(), 60);
    assert!(disk.read_at(&mut [0; 2], 59).is_err());
    assert!(matches!(disk.shortened_to(61), Err(OpenError::TooShort { wanted: 61, available: 60 })));
}

#[test]
fn directories_and_devices_without_a_length_are_refused() {
    for path in ["/", "/dev/null"] {
        let refused = FileDisk::open(std::path::Path::new(path), Access::ReadOnly);
        assert!(matches!(refused, Err(OpenError::Kind)), "{path}");
    }
    let missing = FileDisk::open(std::path::Path::new("/no/such/file"), Access::ReadOnly);
    assert!(matches!(missing, Err(OpenError::Open(_))));
}

/// The smallest overlay: one page of its own above another disk.
#[derive(Debug)]
struct Patched<D> {
    below: D,
    page: MemoryDisk,
}

impl<D: Disk> Disk for Patched<D> {
    fn size(&self) -> u64 {
        self.below.size()
    }

    fn block_size(&self) -> u32 {
        4096
    }

    fn access(&self) -> Access {
        Access::ReadOnly
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.below.read_at(buffer, offset)?;
        for (byte, at) in buffer.iter_mut().zip(offset..4096) {
            self.page.read_at(std::slice::from_mut(byte), at)?;
        }
        Ok(())
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<(), DiskError> {
        Err(DiskError::ReadOnly)
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), DiskError> {
        Err(DiskError::ReadOnly)
    }

    fn zero(&self, _: u64, _: u64, _: Space) -> Result<(), DiskError> {
        Err(DiskError::ReadOnly)
    }

    fn extent(&self, offset: u64, length: u64) -> Option<Extent<'_>> {
        self.below.extent(offset, length).filter(|_| offset >= 4096)
    }
}

#[test]
fn layer_passes_on_what_it_does_not_answer_itself() {
    let (_keep, below) = file_disk(&[7; 10_000], Access::ReadOnly);
    let disk = Patched { below, page: MemoryDisk::new(vec![9; 4096]) };
    let bytes = content(&disk);
    assert!(bytes[..4096].iter().all(|byte| *byte == 9) && bytes[4096..].iter().all(|byte| *byte == 7));
    assert!(disk.extent(0, 8192).is_none());
    assert_eq!(disk.extent(4096, 4096).map(|extent| extent.offset), Some(4096));
}
