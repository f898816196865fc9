//! Replies -> bytes. Payload that lies in a file goes from the page cache to the socket without passing this process.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use disk::Disk;
use nbd::transmission::{ReplyHead, ReplyStyle};
use nbd::{Command, ErrorNumber};
use rustix::fs::sendfile;
use rustix::net::{SendFlags, send};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Replies in the order they leave.
#[derive(Debug)]
pub struct Outbox {
    disk: Arc<dyn Disk>,
    replies: VecDeque<Reply>,
    sent_octets: u64,
}

/// One reply on its way.
#[derive(Debug)]
struct Reply {
    head: ReplyHead,
    head_sent: usize,
    body: Body,
}

/// The payload.
#[derive(Debug)]
pub enum Body {
    /// There is none.
    None,
    /// This range of the disk's file, which is in memory.
    Extent {
        /// First byte on the disk.
        offset: u64,
        /// Bytes left to send.
        left: u32,
    },
    /// These bytes, and after them more that have to be fetched.
    Pieces {
        /// Of the request, should the first piece fail.
        cookie: u64,
        /// Where the next piece is.
        offset: u64,
        /// Bytes in further pieces.
        left: u32,
        /// The piece now being sent.
        piece: Vec<u8>,
        /// How much of it is sent.
        sent: usize,
    },
}

/// Why sending stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing is left to send.
    All,
    /// The socket is full.
    Blocked,
    /// The first reply needs its next piece from the disk.
    NeedsPiece {
        /// Where it is.
        offset: u64,
        /// How long it is.
        length: u32,
    },
    /// It was the turn's share; others want theirs.
    Share,
}

impl Outbox {
    /// For a client of this disk.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, replies: VecDeque::new(), sent_octets: 0 }
    }

    /// Puts a reply behind the others.
    pub fn push(&mut self, head: ReplyHead, body: Body) {
        self.replies.push_back(Reply { head, head_sent: 0, body });
    }

    /// Replies that are not sent whole.
    pub fn len(&self) -> usize {
        self.replies.len()
    }

    /// Whether all replies are sent.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Bytes of payload sent so far.
    pub fn sent_octets(&self) -> u64 {
        self.sent_octets
    }

    /// The piece that [`Sent::NeedsPiece`] asked for.
    pub fn piece_read(&mut self, bytes: Vec<u8>) {
        if let Some(Reply { body: Body::Pieces { offset, left, piece, sent, .. }, .. }) =
            self.replies.front_mut()
        {
            *offset += bytes.len() as u64;
            *left = left.saturating_sub(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            (*piece, *sent) = (bytes, 0);
        }
    }

    /// The piece cannot be read.
    ///
    /// # Errors
    /// When the reply has begun: it cannot become an error any more.
    pub fn piece_failed(&mut self, style: ReplyStyle, error: ErrorNumber) -> io::Result<()> {
        match self.replies.front_mut() {
            Some(Reply { head, head_sent: 0, body: body @ Body::Pieces { .. } }) => {
                if let Body::Pieces { cookie, .. } = body {
                    *head = ReplyHead::error(style, Command::Read, *cookie, error);
                }
                *body = Body::None;
                Ok(())
            }
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Sends as much as the socket takes.
    ///
    /// # Errors
    /// The connection broke, or a file ended early: a reply that has begun cannot become an error.
    pub fn send(&mut self, stream: &TcpStream) -> io::Result<Sent> {
        let begin = self.sent_octets;
        while let Some(reply) = self.replies.front_mut() {
            if self.sent_octets - begin > SHARE {
                return Ok(Sent::Share);
            }
            match reply.send(stream, &*self.disk, &mut self.sent_octets) {
                Ok(Progress::Sent) => {}
                Ok(Progress::Done) => drop(self.replies.pop_front()),
                Ok(Progress::NeedsPiece { offset, length }) => {
                    return Ok(Sent::NeedsPiece { offset, length });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Sent::Blocked),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Sent::All)
    }
}

enum Progress {
    Sent,
    Done,
    NeedsPiece { offset: u64, length: u32 },
}

impl Reply {
    /// One system call's worth.
    fn send(&mut self, stream: &TcpStream, disk: &dyn Disk, octets: &mut u64) -> io::Result<Progress> {
        // The first piece comes before the head, which would promise what cannot be read.
        if let Body::Pieces { offset, left, piece, sent, .. } = &self.body
            && *sent == piece.len()
            && *left > 0
        {
            return Ok(Progress::NeedsPiece { offset: *offset, length: (*left).min(PIECE) });
        }
        let head = &self.head.as_bytes()[self.head_sent..];
        if !head.is_empty() {
            // MSG_MORE: head and payload share a segment.
            let more = if matches!(self.body, Body::None) { SendFlags::empty() } else { SendFlags::MORE };
            self.head_sent += transmit(stream, || Ok(send(stream, head, more | SendFlags::NOSIGNAL)?))?;
            return Ok(Progress::Sent);
        }
        match &mut self.body {
            Body::None => return Ok(Progress::Done),
            Body::Extent { left: 0, .. } => return Ok(Progress::Done),
            Body::Extent { offset, left } => {
                let extent = disk.extent(*offset, u64::from(*left)).ok_or(ErrorKind::UnexpectedEof)?;
                let mut position = extent.offset;
                let sent = transmit(stream, || {
                    Ok(sendfile(
                        stream,
                        extent.file,
                        Some(&mut position),
                        (*left as usize).min(SHARE as usize),
                    )?)
                })?;
                if sent == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                *offset += sent as u64;
                *left -= u32::try_from(sent).unwrap_or(*left).min(*left);
                *octets += sent as u64;
            }
            Body::Pieces { piece, sent, .. } if *sent < piece.len() => {
                let now = transmit(stream, || Ok(send(stream, &piece[*sent..], SendFlags::NOSIGNAL)?))?;
                *sent += now;
                *octets += now as u64;
            }
            Body::Pieces { .. } => return Ok(Progress::Done),
        }
        Ok(Progress::Sent)
    }
}

/// A system call that may find the socket full.
fn transmit(stream: &TcpStream, call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, call)
}

/// A connection's share before another one of its thread has its turn: some hundred microseconds.
const SHARE: u64 = 1024 * 1024;

/// As much of a disk that is no file as is in memory for one client.
const PIECE: u32 = 64 * 1024;
