//! Bytes from a client -> requests, and payload in pieces.
//!
//! Headers are read many at a time from clients that cannot write; from others one at a time, so that a payload goes
//! straight into its piece.

use std::io::{self, ErrorKind};

use nbd::Request;
use nbd::transmission::{BadMagic, REQUEST_BYTES};
use tokio::net::TcpStream;

/// What a client has sent so far.
#[derive(Debug)]
pub struct Inbox {
    header: [u8; REQUEST_BYTES],
    filled: usize,
    /// Bytes to read past: the payload of a refused write.
    skip: u64,
    batch: usize,
}

/// Why no more requests come.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The client is gone.
    #[error("the client closed the connection")]
    Closed,
    /// The stream is out of step.
    #[error(transparent)]
    Magic(#[from] BadMagic),
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
}

impl Inbox {
    /// For clients of a read-only export, whose requests come without payload, or of a writable one.
    pub fn new(access: disk::Access) -> Self {
        let batch = match access {
            disk::Access::ReadOnly => BATCH,
            disk::Access::ReadWrite => REQUEST_BYTES,
        };
        Self { header: [0; REQUEST_BYTES], filled: 0, skip: 0, batch }
    }

    /// Reads what is there and appends the requests in it. Says whether anything was there.
    ///
    /// # Errors
    /// When nothing more can come.
    pub fn receive(&mut self, stream: &TcpStream, requests: &mut Vec<Request>) -> Result<bool, InboxError> {
        let mut buffer = [0; BATCH];
        let limit = match self.skip {
            0 => self.batch - self.filled.min(self.batch - 1),
            skip => usize::try_from(skip).unwrap_or(usize::MAX).min(BATCH),
        };
        let Some(bytes) = read(stream, &mut buffer[..limit])? else { return Ok(false) };
        self.take(bytes, requests)?;
        Ok(true)
    }

    /// Reads past the payload of a write that was refused.
    pub fn skip(&mut self, bytes: u32) {
        self.skip += u64::from(bytes);
    }

    fn take(&mut self, mut bytes: &[u8], requests: &mut Vec<Request>) -> Result<(), BadMagic> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let now = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= now as u64;
                bytes = &bytes[now..];
                continue;
            }
            let now = (REQUEST_BYTES - self.filled).min(bytes.len());
            self.header[self.filled..][..now].copy_from_slice(&bytes[..now]);
            self.filled += now;
            bytes = &bytes[now..];
            if self.filled == REQUEST_BYTES {
                self.filled = 0;
                let request = Request::decode(&self.header)?;
                // A write to a read-only export: its payload is in this batch already.
                if self.batch == BATCH && request.command == nbd::Command::Write {
                    self.skip(request.length);
                }
                requests.push(request);
            }
        }
        Ok(())
    }
}

/// Payload of a write on its way to the disk, one piece after the other.
#[derive(Debug)]
pub struct Payload {
    /// The request it belongs to.
    pub request: Request,
    /// Where its next byte goes.
    pub offset: u64,
    /// Bytes that are not yet in a piece.
    left: u32,
    piece: Vec<u8>,
    filled: usize,
}

impl Payload {
    /// Of a request that is admitted and not empty.
    pub fn new(request: Request) -> Self {
        let mut payload =
            Self { request, offset: request.offset, left: request.length, piece: Vec::new(), filled: 0 };
        payload.next_piece();
        payload
    }

    /// Reads what is there. `Some` is a whole piece, to be given back by [`Self::written`].
    ///
    /// # Errors
    /// When the client is gone.
    pub fn receive(&mut self, stream: &TcpStream) -> Result<Received, InboxError> {
        let Some(bytes) = read(stream, &mut self.piece[self.filled..])? else { return Ok(Received::Nothing) };
        self.filled += bytes.len();
        if self.filled < self.piece.len() {
            return Ok(Received::Some);
        }
        Ok(Received::Piece(std::mem::take(&mut self.piece)))
    }

    /// The piece is on the disk. Says whether there is another one to read.
    pub fn written(&mut self, piece: Vec<u8>) -> bool {
        self.offset += piece.len() as u64;
        self.piece = piece;
        self.next_piece()
    }

    /// Whether the piece that was given out is the last one.
    pub fn is_last(&self) -> bool {
        self.left == 0
    }

    /// Bytes that will come but are not wanted any more.
    pub fn unread(&self) -> u32 {
        self.left
    }

    fn next_piece(&mut self) -> bool {
        let now = self.left.min(PIECE);
        self.left -= now;
        self.filled = 0;
        self.piece.resize(now as usize, 0);
        now > 0
    }
}

/// What came of a payload.
#[derive(Debug)]
pub enum Received {
    /// Nothing is there now.
    Nothing,
    /// A part of a piece.
    Some,
    /// A whole piece.
    Piece(Vec<u8>),
}

/// `None` when nothing is there now.
fn read<'a>(stream: &TcpStream, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, InboxError> {
    match stream.try_read(buffer) {
        Ok(0) => Err(InboxError::Closed),
        Ok(length) => Ok(Some(&buffer[..length])),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The requests of a full readahead and more.
const BATCH: usize = 36 * REQUEST_BYTES;

/// Bytes of payload in memory per writing client.
pub const PIECE: u32 = 64 * 1024;
