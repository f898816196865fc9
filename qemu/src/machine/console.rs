//! A machine's console: everything the firmware model and the serial port say, in one bounded file.
//!
//! The file is written as the bytes come and never read back here: `bramble console` follows the file itself, also of a
//! cluster that is down. At the limit the file becomes `console.log.1` and a new one begins, so that a guest which prints
//! for ever costs at most twice the limit.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// A boot with all debugging on is about 1 MiB.
const LOG_LIMIT_BYTES: u64 = 8 << 20;

/// What is kept of the last line, for status tables.
const LAST_LINE_BYTES: usize = 160;

/// A handle to a console; clones write to the same file.
#[derive(Debug, Clone)]
pub struct Console {
    log: Arc<Mutex<Log>>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    written: u64,
    line: Vec<u8>,
    last: String,
    is_at_line_start: bool,
}

impl Console {
    /// Begins a new console log.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        let log = Log {
            path: path.to_owned(),
            file: File::create(path)?,
            written: 0,
            line: Vec::new(),
            last: String::new(),
            is_at_line_start: true,
        };
        Ok(Self { log: Arc::new(Mutex::new(log)) })
    }

    /// Writes a line of our own, recognisable by its `-- `.
    pub fn note(&self, text: &str) {
        let mut log = self.lock();
        let start = if log.is_at_line_start { "" } else { "\r\n" };
        log.append(format!("{start}-- {text}\r\n").as_bytes());
    }

    /// Forgets the last line: what the boot before said is not about this one.
    pub fn forget(&self) {
        let mut log = self.lock();
        log.line.clear();
        log.last.clear();
    }

    /// Writes what a serial port says until it closes.
    pub async fn pump(&self, mut from: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; 4096];
        // An error is the end just as a close is: the process at the other end is gone.
        while let Ok(count) = from.read(&mut chunk).await {
            match chunk.get(..count) {
                Some(bytes) if count > 0 => self.lock().write(bytes),
                _ => return,
            }
        }
    }

    /// The last line of the machine's own that said something, without control characters.
    pub fn last_line(&self) -> String {
        self.lock().last.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn write(&mut self, bytes: &[u8]) {
        self.append(bytes);
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.line.len() < LAST_LINE_BYTES => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.written > LOG_LIMIT_BYTES {
            self.rotate();
        }
        // A full disk loses console text, not machines.
        if self.file.write_all(bytes).is_ok() {
            self.written += bytes.len() as u64;
        }
        self.is_at_line_start = bytes.last() == Some(&b'\n');
    }

    fn end_line(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        let text: String = text.chars().filter(|character| !character.is_control()).collect();
        if !text.trim().is_empty() {
            self.last = text.trim().to_owned();
        }
        self.line.clear();
    }

    fn rotate(&mut self) {
        let older = self.path.with_extension("log.1");
        if fs::rename(&self.path, older).is_ok()
            && let Ok(file) = File::create(&self.path)
        {
            self.file = file;
        }
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_line_is_the_machines_and_free_of_control_characters() {
        let folder = tempfile::tempdir().unwrap();
        let console = Console::create(&folder.path().join("console.log")).unwrap();
        console.pump(&b"first\r\n\x1b[31msecond\x07\r\n\r\nunfinished"[..]).await;
        console.note("ours");
        assert_eq!(console.last_line(), "[31msecond");
        let log = fs::read_to_string(folder.path().join("console.log")).unwrap();
        assert!(log.ends_with("unfinished\r\n-- ours\r\n"), "{log:?}");
        console.forget();
        assert_eq!(console.last_line(), "");
    }

    #[tokio::test]
    async fn an_endless_line_costs_bounded_memory_and_the_log_bounded_space() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let console = Console::create(&path).unwrap();
        console.pump(tokio::io::repeat(b'x').take(3 * LOG_LIMIT_BYTES)).await;
        assert!(console.lock().line.len() <= LAST_LINE_BYTES);
        let sizes = ["log", "log.1"].map(|name| fs::metadata(path.with_extension(name)).unwrap().len());
        assert!(sizes.iter().all(|size| *size <= LOG_LIMIT_BYTES + 4096), "{sizes:?}");
    }
}
