//! Files in memory, read once and shared by all transfers.
//!
//! A file is known by device, inode, length and times, not by name: a replaced file is another one, and transfers
//! that run keep the old one whole. What nobody uses goes when space is needed, or after [`IDLE`]: a boot storm
//! needs 20 MiB, the weeks after it none.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The bytes of a file. Cheap to clone.
pub type Content = Arc<Vec<u8>>;

/// Files in memory. May be used by many threads.
#[derive(Debug)]
pub struct Cache {
    limit: u64,
    shelf: Mutex<HashMap<Identity, Entry>>,
}

/// Why a file is not in memory.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No cache of this size can hold it.
    #[error("larger than all memory for files")]
    TooLarge,
    /// All of the memory is used by files that are being sent.
    #[error("no memory for files left")]
    Full,
    /// The medium failed, or the file shrank while it was read.
    #[error("cannot read")]
    Read(#[from] std::io::Error),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Locked while it is read, so that a thousand boards read a file once.
type Slot = Arc<Mutex<Option<Content>>>;

#[derive(Debug)]
struct Entry {
    slot: Slot,
    used: Instant,
}

impl Cache {
    /// Never holds more than `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { limit, shelf: Mutex::default() }
    }

    /// The content of an open regular file. Blocks while it is read.
    ///
    /// # Errors
    /// When there is no room, or the medium fails.
    pub fn content(&self, file: File, now: Instant) -> Result<Content, ReadError> {
        let metadata = file.metadata()?;
        let identity = Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let slot = self.slot(&identity, now)?;
        let mut content = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = &*content {
            return Ok(content.clone());
        }
        match read(file, identity.length) {
            Ok(bytes) => Ok(content.insert(Arc::new(bytes)).clone()),
            Err(error) => {
                self.shelf().remove(&identity);
                Err(error.into())
            }
        }
    }

    /// Forgets what nobody has used for [`IDLE`].
    pub fn forget_idle(&self, now: Instant) {
        self.shelf().retain(|_, entry| entry.is_used() || now.saturating_duration_since(entry.used) < IDLE);
    }

    /// Finds or makes the file's place, and room for it.
    fn slot(&self, identity: &Identity, now: Instant) -> Result<Slot, ReadError> {
        let mut shelf = self.shelf();
        if let Some(entry) = shelf.get_mut(identity) {
            entry.used = now;
            return Ok(entry.slot.clone());
        }
        if identity.length > self.limit {
            return Err(ReadError::TooLarge);
        }
        let mut held: u64 = shelf.keys().map(|held| held.length).sum();
        while held + identity.length > self.limit || shelf.len() >= FILES {
            let oldest =
                shelf.iter().filter(|(_, entry)| !entry.is_used()).min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(oldest, _)| oldest.clone()) else { return Err(ReadError::Full) };
            held -= oldest.length;
            shelf.remove(&oldest);
        }
        let slot = Slot::default();
        shelf.insert(identity.clone(), Entry { slot: slot.clone(), used: now });
        Ok(slot)
    }

    fn shelf(&self) -> MutexGuard<'_, HashMap<Identity, Entry>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Being read, or being sent.
    fn is_used(&self) -> bool {
        match self.slot.try_lock() {
            Ok(content) => {
                Arc::strong_count(&self.slot) > 1
                    || content.as_ref().is_some_and(|content| Arc::strong_count(content) > 1)
            }
            Err(_) => true,
        }
    }
}

fn read(file: File, length: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(length).read_to_end(&mut bytes)?;
    // A shorter file would break the length that was already promised to boards.
    if bytes.len() as u64 != length { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}

/// Longer than any pause between two boards of one storm.
pub const IDLE: Duration = Duration::from_secs(60);

/// Places, so that empty files cannot fill the memory either. A boot partition has a hundred.
const FILES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn open(file: &tempfile::NamedTempFile) -> File {
        File::open(file.path()).unwrap()
    }

    #[test]
    fn file_is_read_once_and_shared() {
        let (cache, now, file) = (Cache::new(100), Instant::now(), file(b"abc"));
        let first = cache.content(open(&file), now).unwrap();
        let second = cache.content(open(&file), now).unwrap();
        assert_eq!(*first, b"abc");
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn changed_file_is_read_anew_while_old_transfers_keep_theirs() {
        let (cache, now, mut file) = (Cache::new(100), Instant::now(), file(b"abc"));
        let old = cache.content(open(&file), now).unwrap();
        file.write_all(b"def").unwrap();
        assert_eq!(*cache.content(open(&file), now).unwrap(), b"abcdef");
        assert_eq!(*old, b"abc");
    }

    #[test]
    fn unused_files_make_room_and_used_ones_do_not() {
        let (cache, now) = (Cache::new(100), Instant::now());
        let (one, two, three) = (file(&[1; 60]), file(&[2; 60]), file(&[3; 101]));
        let held = cache.content(open(&one), now).unwrap();
        assert!(matches!(cache.content(open(&two), now), Err(ReadError::Full)));
        drop(held);
        assert_eq!(cache.content(open(&two), now).unwrap().len(), 60);
        assert!(matches!(cache.content(open(&three), now), Err(ReadError::TooLarge)));
    }

    #[test]
    fn idle_files_are_forgotten_but_not_while_they_are_sent() {
        let (cache, now, file) = (Cache::new(100), Instant::now(), file(b"abc"));
        let held = cache.content(open(&file), now).unwrap();
        cache.forget_idle(now + IDLE * 2);
        assert_eq!(cache.shelf().len(), 1);
        drop(held);
        cache.forget_idle(now + IDLE / 2);
        assert_eq!(cache.shelf().len(), 1);
        cache.forget_idle(now + IDLE);
        assert_eq!(cache.shelf().len(), 0);
    }
}
