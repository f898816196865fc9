//! One client: handshake, then requests in and replies out.
//!
//! The task does everything that does not block; what may block is a job on another thread, whose result comes back
//! through a channel. Each turn sends what the socket takes, reads what is there, and waits for more of either.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Event, Reporter};
use disk::{Access, Disk, DiskError, Extent, Space};
use nbd::export::{Durability, Export, Hole, Work};
use nbd::server::{Handshake, State};
use nbd::transmission::{ReplyHead, ReplyStyle, Request};
use nbd::{Command, ErrorNumber, MAXIMUM_PAYLOAD};
use rustix::io::ReadWriteFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::exports::Exports;
use crate::inbox::{Inbox, InboxError, Payload, Received};
use crate::outbox::{Body, Outbox, Sent};

/// Serves a client to its end, and reports that it came and went.
pub async fn run(mut stream: TcpStream, peer: SocketAddr, exports: Exports, reporter: Reporter) {
    let chosen = tokio::time::timeout(HANDSHAKE, handshake(&mut stream, &exports.described)).await;
    let (index, style) = match chosen {
        Ok(Ok(Some(chosen))) => chosen,
        // Whoever lists the exports and goes is no client.
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "handshake failed"),
        Err(_) => return tracing::debug!(%peer, "handshake took too long"),
    };
    let (Some(export), Some(disk)) = (exports.described.get(index), exports.disks.get(index)) else { return };
    let event =
        |kind: &str| Event { ip: peer.ip().to_string(), file: export.name.clone(), ..Event::new(kind) };
    tracing::debug!(%peer, export = export.name, "attached");
    reporter.report(event("attach"));
    let begin = Instant::now();
    let mut connection = Connection::new(stream, export, disk.clone(), style);
    let outcome = connection.serve().await;
    let detail = outcome.err().map(|error| error.to_string()).unwrap_or_default();
    let bytes = connection.outbox.sent_octets();
    tracing::debug!(%peer, export = export.name, bytes, detail, "detached");
    let duration_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    reporter.report(Event { bytes, duration_us, detail, ..event("detach") });
}

/// Until the client has chosen an export, or gone.
async fn handshake(
    stream: &mut TcpStream,
    exports: &Arc<[Export]>,
) -> io::Result<Option<(usize, ReplyStyle)>> {
    let mut machine = Handshake::new(exports.clone());
    let mut buffer = [0; 256];
    loop {
        while let Some(bytes) = machine.transmit() {
            stream.write_all(&bytes).await?;
        }
        match machine.state() {
            State::Chosen { export, style } => return Ok(Some((export, style))),
            State::Closed => return Ok(None),
            State::Running => {}
        }
        let wanted = machine.wanted().min(buffer.len());
        let length = stream.read(&mut buffer[..wanted]).await?;
        if length == 0 {
            return Ok(None);
        }
        machine.receive(&buffer[..length]);
    }
}

/// One client in transmission.
struct Connection<'a> {
    stream: TcpStream,
    export: &'a Export,
    disk: Arc<dyn Disk>,
    style: ReplyStyle,
    inbox: Inbox,
    payload: Option<(Payload, Durability)>,
    outbox: Outbox,
    /// Requests whose reply is not yet in the outbox.
    jobs: usize,
    /// The first reply's next piece is being read.
    fetching: bool,
    /// The payload's piece is being written.
    writing: bool,
    leaving: bool,
    finish: mpsc::UnboundedSender<Finished>,
    /// Holds at most one result per request in flight.
    finished: mpsc::UnboundedReceiver<Finished>,
}

/// What a job has come to.
enum Finished {
    Reply(ReplyHead, Body),
    Piece(Result<Vec<u8>, DiskError>),
    Written(Vec<u8>, Result<(), DiskError>),
}

/// Why a client is served no longer.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Inbox(#[from] InboxError),
    /// Nobody should read so much only to refuse it.
    #[error("a write of {0} bytes")]
    TooLong(u32),
    #[error("cannot send")]
    Send(#[from] io::Error),
}

impl<'a> Connection<'a> {
    fn new(stream: TcpStream, export: &'a Export, disk: Arc<dyn Disk>, style: ReplyStyle) -> Self {
        let (finish, finished) = mpsc::unbounded_channel();
        Self {
            stream,
            export,
            style,
            inbox: Inbox::new(disk.access()),
            payload: None,
            outbox: Outbox::new(disk.clone()),
            disk,
            jobs: 0,
            fetching: false,
            writing: false,
            leaving: false,
            finish,
            finished,
        }
    }

    /// Until the client says goodbye, or goes without.
    async fn serve(&mut self) -> Result<(), ServeError> {
        loop {
            let sent = self.outbox.send(&self.stream)?;
            if let Sent::NeedsPiece { offset, length } = sent {
                self.fetch(offset, length);
            }
            let received = self.receive()?;
            if self.leaving && self.jobs == 0 && self.outbox.is_empty() {
                return Ok(());
            }
            match (sent, received) {
                (Sent::Share, _) => tokio::task::yield_now().await,
                (_, true) => tokio::task::coop::consume_budget().await,
                (_, false) => self.wait(sent).await?,
            }
            while let Ok(finished) = self.finished.try_recv() {
                self.finish(finished)?;
            }
        }
    }

    /// Until there is something to do.
    async fn wait(&mut self, sent: Sent) -> Result<(), ServeError> {
        let readable = (self.may_receive() && !self.writing).then_some(Interest::READABLE);
        let writable = (sent == Sent::Blocked).then_some(Interest::WRITABLE);
        let interest = match (readable, writable) {
            (Some(readable), Some(writable)) => Some(readable | writable),
            (one, other) => one.or(other),
        };
        let ready = async {
            match interest {
                Some(interest) => self.stream.ready(interest).await.map(drop),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Readiness is a level: it is still there at the next turn.
            ready = ready => ready?,
            // Receiving from a channel takes all or nothing. The channel never ends, for we hold its other end.
            Some(finished) = self.finished.recv() => self.finish(finished)?,
        }
        Ok(())
    }

    /// A client at its limit is not read from: its own requests wait in its own socket.
    fn may_receive(&self) -> bool {
        !self.leaving && self.jobs + self.outbox.len() < IN_FLIGHT
    }

    /// Takes what is there. Says whether anything was.
    fn receive(&mut self) -> Result<bool, ServeError> {
        if !self.may_receive() || self.writing {
            return Ok(false);
        }
        if let Some((payload, durability)) = &mut self.payload {
            return match payload.receive(&self.stream)? {
                Received::Nothing => Ok(false),
                Received::Some => Ok(true),
                Received::Piece(piece) => {
                    let durable = *durability == Durability::Durable && payload.is_last();
                    let offset = payload.offset;
                    self.write(piece, offset, durable);
                    Ok(true)
                }
            };
        }
        let mut requests = Vec::new();
        let received = self.inbox.receive(&self.stream, &mut requests)?;
        for request in requests {
            self.request(request)?;
        }
        Ok(received)
    }

    fn request(&mut self, request: Request) -> Result<(), ServeError> {
        let Request { command, cookie, length, .. } = request;
        if command == Command::Write && length > MAXIMUM_PAYLOAD {
            return Err(ServeError::TooLong(length));
        }
        match self.export.admit(&request) {
            Err(error) => {
                if command == Command::Write && self.disk.access() == Access::ReadWrite {
                    self.inbox.skip(length);
                }
                self.outbox.push(ReplyHead::error(self.style, command, cookie, error), Body::None);
            }
            Ok(Work::Disconnect) => self.leaving = true,
            Ok(Work::Read { offset, length }) => self.read(cookie, offset, length),
            Ok(Work::Write { length: 0, .. }) => self.outbox.push(ReplyHead::done(cookie), Body::None),
            Ok(Work::Write { durability, .. }) => {
                self.payload = Some((Payload::new(request), durability));
                self.jobs += 1;
            }
            Ok(Work::Flush) => self.change(request, Durability::Visible, |disk| disk.flush()),
            Ok(Work::Trim { offset, length, durability }) => {
                self.change(request, durability, move |disk| disk.discard(offset, length.into()));
            }
            Ok(Work::Zero { offset, length, durability, hole }) => {
                let space = match hole {
                    Hole::Allowed => Space::Release,
                    Hole::Forbidden => Space::Keep,
                };
                self.change(request, durability, move |disk| disk.zero(offset, length.into(), space));
            }
        }
        Ok(())
    }

    fn read(&mut self, cookie: u64, offset: u64, length: u32) {
        let head = ReplyHead::data(self.style, cookie, offset, length);
        let whole = Body::Extent { offset, left: length };
        match self.disk.extent(offset, u64::from(length)) {
            _ if length == 0 => self.outbox.push(head, Body::None),
            Some(extent) if is_resident(extent, length) => self.outbox.push(head, whole),
            Some(_) => {
                let style = self.style;
                self.job(move |disk| match bring_in(disk, offset, length) {
                    Ok(()) => Finished::Reply(head, whole),
                    Err(error) => {
                        let error = number_of(&error);
                        Finished::Reply(ReplyHead::error(style, Command::Read, cookie, error), Body::None)
                    }
                });
                self.jobs += 1;
            }
            None => {
                let body = Body::Pieces { cookie, offset, left: length, piece: Vec::new(), sent: 0 };
                self.outbox.push(head, body);
            }
        }
    }

    fn fetch(&mut self, offset: u64, length: u32) {
        if !std::mem::replace(&mut self.fetching, true) {
            self.job(move |disk| {
                let mut piece = vec![0; length as usize];
                Finished::Piece(disk.read_at(&mut piece, offset).map(|()| piece))
            });
        }
    }

    fn write(&mut self, piece: Vec<u8>, offset: u64, durable: bool) {
        self.writing = true;
        self.job(move |disk| {
            let written = disk.write_at(&piece, offset);
            let written = if durable { written.and_then(|()| disk.flush()) } else { written };
            Finished::Written(piece, written)
        });
    }

    fn change<F>(&mut self, request: Request, durability: Durability, work: F)
    where
        F: FnOnce(&dyn Disk) -> Result<(), DiskError> + Send + 'static,
    {
        self.jobs += 1;
        let Request { command, cookie, .. } = request;
        let style = self.style;
        self.job(move |disk| {
            let flush = || if durability == Durability::Durable { disk.flush() } else { Ok(()) };
            let head = match work(disk).and_then(|()| flush()) {
                Ok(()) => ReplyHead::done(cookie),
                Err(error) => ReplyHead::error(style, command, cookie, number_of(&error)),
            };
            Finished::Reply(head, Body::None)
        });
    }

    fn job(&self, work: impl FnOnce(&dyn Disk) -> Finished + Send + 'static) {
        let (disk, finish) = (self.disk.clone(), self.finish.clone());
        tokio::task::spawn_blocking(move || {
            // Nobody listens when the client has gone meanwhile.
            let _ = finish.send(work(&*disk));
        });
    }

    fn finish(&mut self, finished: Finished) -> io::Result<()> {
        match finished {
            Finished::Reply(head, body) => {
                self.jobs -= 1;
                self.outbox.push(head, body);
            }
            Finished::Piece(read) => {
                self.fetching = false;
                match read {
                    Ok(piece) => self.outbox.piece_read(piece),
                    Err(error) => self.outbox.piece_failed(self.style, number_of(&error))?,
                }
            }
            Finished::Written(piece, written) => {
                self.writing = false;
                self.written(piece, written);
            }
        }
        Ok(())
    }

    fn written(&mut self, piece: Vec<u8>, written: Result<(), DiskError>) {
        let Some((mut payload, durability)) = self.payload.take() else { return };
        let Request { cookie, command, .. } = payload.request;
        let head = match written {
            Ok(()) if payload.written(piece) => {
                self.payload = Some((payload, durability));
                return;
            }
            Ok(()) => ReplyHead::done(cookie),
            Err(error) => {
                self.inbox.skip(payload.unread());
                ReplyHead::error(self.style, command, cookie, number_of(&error))
            }
        };
        self.jobs -= 1;
        self.outbox.push(head, Body::None);
    }
}

/// Whether the pages are in memory, judged by a byte of each [`PROBE`]: RWF_NOWAIT answers EAGAIN instead of waiting
/// for the medium. Pages that vanish in between cost a wait, no more.
fn is_resident(extent: Extent<'_>, length: u32) -> bool {
    let last = length.saturating_sub(1);
    (0..last).step_by(PROBE).chain([last]).all(|at| {
        let mut byte = [0];
        let mut buffers = [IoSliceMut::new(&mut byte)];
        let offset = extent.offset + u64::from(at);
        rustix::io::preadv2(extent.file, &mut buffers, offset, ReadWriteFlags::NOWAIT) == Ok(1)
    })
}

/// Reads the range for nothing but its being in memory afterwards.
fn bring_in(disk: &dyn Disk, offset: u64, length: u32) -> Result<(), DiskError> {
    let mut piece = vec![0; length.min(BROUGHT_IN) as usize];
    let mut done = 0;
    while done < length {
        let now = (length - done).min(BROUGHT_IN) as usize;
        disk.read_at(&mut piece[..now], offset + u64::from(done))?;
        done += now as u32;
    }
    Ok(())
}

fn number_of(error: &DiskError) -> ErrorNumber {
    match error {
        DiskError::ReadOnly => ErrorNumber::NotPermitted,
        DiskError::OutOfRange { .. } => ErrorNumber::Invalid,
        DiskError::InputOutput(error) => match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorNumber::NoSpace,
            io::ErrorKind::OutOfMemory => ErrorNumber::NoMemory,
            _ => ErrorNumber::InputOutput,
        },
    }
}

/// Requests of one client under way: half of what Linux sends at most (its queue depth is 128), and more than keeps
/// a card busy.
pub const IN_FLIGHT: usize = 64;

/// A slow client needs a few round trips; whoever takes longer is none.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Linux brings in and throws out about as much at a time (readahead).
const PROBE: usize = 128 * 1024;

/// The buffer that only the page cache's filling needs.
const BROUGHT_IN: u32 = 64 * 1024;
