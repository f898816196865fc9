//! Printing a console log, and what is added to it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// As good as at once for a reader, and nothing for a processor.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Prints a machine's console log; with `follow`, until interrupted. The cluster need not be running.
pub async fn print(run_dir: &Path, name: &str, follow: bool) -> io::Result<()> {
    // A name is a folder of the run directory, never a path out of it.
    if name.contains('/') || name.starts_with('.') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "that is not the name of a machine"));
    }
    let path = run_dir.join(name).join("console.log");
    let mut file = File::open(&path)?;
    loop {
        copy(&mut file)?;
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        // A new boot of the cluster, or a full log, is a new file or an emptied one.
        let Ok(now) = std::fs::metadata(&path) else { continue };
        let open = file.metadata()?;
        if now.ino() != open.ino() {
            copy(&mut file)?;
            file = File::open(&path)?;
        } else if now.len() < io::Seek::stream_position(&mut file)? {
            io::Seek::rewind(&mut file)?;
        }
    }
}

fn copy(file: &mut File) -> io::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    let mut output = io::stdout().lock();
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return output.flush();
        }
        output.write_all(chunk.get(..count).unwrap_or_default())?;
    }
}
