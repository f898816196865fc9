//! One transfer: its machine, its socket, and what became of it.
//!
//! A block costs four system calls: wait, receive, send, and the receive that finds nothing more. Nothing is
//! allocated per block, and the buffers are on the stack, not in the task, so that a waiting transfer is small.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;

use tftp::server::{Output, State, Transfer};
use tftp::{BlockSize, Packet};
use tokio::net::UdpSocket;
use tokio::sync::Notify;

/// Runs a transfer to its end.
///
/// # Errors
/// When the socket itself fails.
pub async fn run(
    transfer: &mut Transfer,
    content: &[u8],
    socket: &UdpSocket,
    repeated: &Notify,
) -> io::Result<State> {
    send_pending(transfer, content, socket);
    let far = Instant::now();
    let timer = tokio::time::sleep_until(transfer.deadline().unwrap_or(far).into());
    tokio::pin!(timer);
    while let Some(deadline) = transfer.deadline() {
        // Every acknowledgement moves the deadline away; the timer is left where it was until it fires.
        if timer.deadline() > deadline.into() || timer.is_elapsed() {
            timer.as_mut().reset(deadline.into());
        }
        tokio::select! {
            // Readiness is a level: it is still there at the next turn if another arm wins this one.
            ready = socket.readable() => {
                ready?;
                receive_all(transfer, content, socket);
            }
            () = &mut timer => transfer.expire(Instant::now()),
            // A notification that another arm outruns is kept as a permit.
            () = repeated.notified() => transfer.request_repeated(Instant::now()),
        }
        send_pending(transfer, content, socket);
    }
    Ok(transfer.state())
}

/// Handles what has arrived, block by block.
fn receive_all(transfer: &mut Transfer, content: &[u8], socket: &UdpSocket) {
    let mut buffer = [0; RECEIVE];
    // A flood leaves at the limit, so that other transfers get their turn.
    for _ in 0..RECEIVED_PER_TURN {
        match socket.try_recv(&mut buffer) {
            Ok(length) => {
                // What cannot be read is stray, and changes nothing.
                if let Ok(packet) = Packet::decode(&buffer[..length]) {
                    transfer.receive(&packet, Instant::now());
                    send_pending(transfer, content, socket);
                }
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => transfer.unreachable(),
            // Nothing more now; any other error of a datagram socket belongs to one datagram.
            Err(_) => return,
        }
    }
}

/// Sends what the machine wants sent. A datagram the socket does not take counts as lost on the way.
fn send_pending(transfer: &mut Transfer, content: &[u8], socket: &UdpSocket) {
    while let Some(output) = transfer.transmit() {
        let result = match output {
            Output::Data { block, offset, length } => send_block(content, block, offset, length, socket),
            Output::OptionAcknowledgement(options) => {
                let mut datagram = Vec::with_capacity(64);
                Packet::OptionAcknowledgement(options).encode(&mut datagram);
                socket2::SockRef::from(socket).send(&datagram)
            }
        };
        if result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            transfer.unreachable();
        }
    }
}

fn send_block(content: &[u8], block: u16, offset: u64, length: u16, socket: &UdpSocket) -> io::Result<usize> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let length = usize::from(length);
    // The machine stays within the length it was given, which is the content's.
    let Some(payload) = start.checked_add(length).and_then(|end| content.get(start..end)) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let mut datagram = [0; HEADER + BlockSize::ETHERNET.get() as usize];
    let Some((datagram, _)) = datagram.split_at_mut_checked(HEADER + length) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let (header, body) = datagram.split_at_mut(HEADER);
    header[1] = DATA;
    header[2..].copy_from_slice(&block.to_be_bytes());
    body.copy_from_slice(payload);
    // Past the runtime, which would not believe a new socket to be writable before its next turn.
    socket2::SockRef::from(socket).send(datagram)
}

/// A socket of its own for one client, from the address that was asked.
///
/// # Errors
/// No descriptor or port left, or no way to the client.
pub fn socket(local: SocketAddr, client: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind(SocketAddr::new(local.ip(), 0))?;
    socket.connect(client)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Operation and block number.
const HEADER: usize = 4;
/// Operation DATA.
const DATA: u8 = 3;
/// An ERROR with a long text; acknowledgements have 4 bytes.
const RECEIVE: usize = 520;
/// One in lock-step; a few when a client repeats itself.
const RECEIVED_PER_TURN: usize = 16;
