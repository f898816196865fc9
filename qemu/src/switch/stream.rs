//! QEMU's `-netdev stream` framing: a big-endian length of 32 bits, then the frame (QEMU 7.2 `net/stream.c`,
//! `net_stream_receive` and `net_socket_rs`).

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// The longest length QEMU itself accepts (`NET_BUFSIZE`): a longer one means the stream is out of step.
pub const MAX_LENGTH: usize = 4096 + 65_536;

/// Bytes gathered into one write when frames have queued up.
const WRITE_BATCH_BYTES: usize = 32 * 1024;

/// A length that no peer in its right mind sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes is announced; the stream is out of step")]
pub struct Oversized(pub usize);

/// Takes a byte stream apart into frames.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
}

impl Deframer {
    /// Feeds bytes as they came and hands every completed frame to `deliver`.
    ///
    /// # Errors
    /// When a length is impossible. The stream cannot be used any more then.
    pub fn feed(&mut self, bytes: &[u8], mut deliver: impl FnMut(Vec<u8>)) -> Result<(), Oversized> {
        self.buffer.extend_from_slice(bytes);
        let mut rest = self.buffer.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > MAX_LENGTH {
                return Err(Oversized(length));
            }
            let Some((frame, after)) = after.split_at_checked(length) else { break };
            deliver(frame.to_vec());
            rest = after;
        }
        let used = self.buffer.len() - rest.len();
        self.buffer.drain(..used);
        Ok(())
    }
}

/// Appends a frame as the stream wants it.
pub fn encode(frame: &[u8], into: &mut Vec<u8>) {
    // Frames in the switch are at most MAX_FRAME_BYTES long, far below the cast's limit.
    into.extend_from_slice(&(frame.len() as u32).to_be_bytes());
    into.extend_from_slice(frame);
}

/// Reads frames until the peer closes.
///
/// # Errors
/// On a read error, or a stream out of step.
pub async fn read_frames(mut socket: OwnedReadHalf, mut deliver: impl FnMut(Vec<u8>)) -> io::Result<()> {
    let mut deframer = Deframer::default();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = socket.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        let bytes = chunk.get(..count).unwrap_or_default();
        deframer
            .feed(bytes, &mut deliver)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
}

/// Writes queued frames until the queue closes; one write carries all frames that are waiting.
///
/// # Errors
/// On a write error, which is how a killed QEMU shows.
pub async fn write_frames(mut socket: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    let mut batch = Vec::with_capacity(WRITE_BATCH_BYTES);
    while let Some(frame) = queue.recv().await {
        batch.clear();
        encode(&frame, &mut batch);
        while batch.len() < WRITE_BATCH_BYTES
            && let Ok(frame) = queue.try_recv()
        {
            encode(&frame, &mut batch);
        }
        socket.write_all(&batch).await?;
    }
    Ok(())
}
