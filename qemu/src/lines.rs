//! Bounded lines: what the control socket and QMP are made of.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Reads one line of at most `limit` bytes, without its end. `None` at the end of the stream.
///
/// # Errors
/// On a read error, a line that is too long, or bytes that are not UTF-8.
pub async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), limit: u64) -> io::Result<Option<String>> {
    let mut line = String::new();
    if reader.take(limit).read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    if !line.ends_with('\n') && line.len() as u64 >= limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a line is longer than {limit} bytes"),
        ));
    }
    line.truncate(line.trim_end().len());
    Ok(Some(line))
}
