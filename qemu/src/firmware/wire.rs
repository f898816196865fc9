//! The board's end of the cable: UDP over IPv4 over Ethernet, and ARP, as far as boot code speaks them.
//!
//! There is no task and no timer but the caller's: a datagram is taken straight from the switch's queue by the one
//! who waits for it. What arrives meanwhile for somebody else is dropped, as boot code does.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::time::Duration;

use dhcp::MacAddr;
use dhcp::frame::{Arp, ArpOperation, Checksum, Datagram};
use tokio::time::{Instant, timeout_at};

use crate::switch::SwitchPort;

/// The switch is gone, and the boot with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cable was pulled out of the switch")]
pub struct CableError;

/// How the boot code writes its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The Pi 3's ROM: TTL 128, identification 0, no UDP checksum.
    Rom,
    /// Everybody else.
    Ordinary,
}

/// The plug, and the address once there is one.
pub(super) struct Wire<'p> {
    port: &'p mut SwitchPort,
    mac: MacAddr,
    pub(super) dialect: Dialect,
    /// Ours, once a lease is taken.
    pub(super) address: Option<Ipv4Addr>,
    /// The Pi 3's ROM falls silent once it speaks TFTP.
    pub(super) answers_arp: bool,
}

/// A datagram that is for us.
pub(super) struct Received {
    frame: Vec<u8>,
    payload: Range<usize>,
    pub(super) source: SocketAddrV4,
    pub(super) destination_port: u16,
}

impl Received {
    pub(super) fn payload(&self) -> &[u8] {
        self.frame.get(self.payload.clone()).unwrap_or_default()
    }
}

impl<'p> Wire<'p> {
    pub(super) fn new(port: &'p mut SwitchPort, mac: [u8; 6]) -> Wire<'p> {
        Wire { port, mac: MacAddr(mac), dialect: Dialect::Ordinary, address: None, answers_arp: true }
    }

    /// Sends one datagram.
    pub(super) async fn send(
        &mut self,
        source_port: u16,
        to: (MacAddr, SocketAddrV4),
        payload: &[u8],
    ) -> Result<(), CableError> {
        let source = SocketAddrV4::new(self.address.unwrap_or(Ipv4Addr::UNSPECIFIED), source_port);
        let datagram =
            Datagram { source_mac: self.mac, destination_mac: to.0, source, destination: to.1, payload };
        // Nothing a boot sends comes near the length of a frame.
        let Ok(mut frame) = datagram.encode() else { return Ok(()) };
        if self.dialect == Dialect::Rom {
            speak_like_the_rom(&mut frame);
        }
        self.port.to_switch.send(frame).await.map_err(|_| CableError)
    }

    /// The next datagram for us, or `None` at `deadline`. Questions for our address are answered on the way.
    ///
    /// What is already in the queue is handed over even after the deadline, so that a stall of this program is not
    /// taken for a silent server; frames for others do not hold the deadline up.
    pub(super) async fn receive(&mut self, deadline: Instant) -> Result<Option<Received>, CableError> {
        loop {
            let Some(frame) = self.next_frame(deadline).await? else { return Ok(None) };
            if let Some(received) = self.take(frame) {
                return Ok(Some(received));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    /// The station that has `address`, asked every second; `None` at `deadline`.
    pub(super) async fn resolve(
        &mut self,
        address: Ipv4Addr,
        deadline: Instant,
    ) -> Result<Option<MacAddr>, CableError> {
        let own = self.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        while Instant::now() < deadline {
            let question = Arp::who_has(address, own, self.mac).encode();
            self.port.to_switch.send(question).await.map_err(|_| CableError)?;
            let repeat_at = deadline.min(Instant::now() + ARP_REPEAT);
            while Instant::now() < repeat_at {
                let Some(frame) = self.next_frame(repeat_at).await? else { break };
                if let Some(arp) = Arp::decode(&frame)
                    && arp.operation == ArpOperation::Reply
                    && arp.sender == address
                    && arp.sender_mac.is_station()
                {
                    return Ok(Some(arp.sender_mac));
                }
            }
        }
        Ok(None)
    }

    /// One frame that reached our plug and is for our MAC address or for all; ARP questions are answered.
    async fn next_frame(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>, CableError> {
        loop {
            let frame = match self.port.from_switch.try_recv() {
                Ok(frame) => frame,
                // Cancelling `recv` loses nothing.
                Err(_) => match timeout_at(deadline, self.port.from_switch.recv()).await {
                    Ok(frame) => frame.ok_or(CableError)?,
                    Err(_) => return Ok(None),
                },
            };
            let is_ours = frame.get(..6).is_some_and(|to| to == self.mac.0 || to == MacAddr::BROADCAST.0);
            if let Some(answer) = self.arp_answer(&frame).filter(|_| is_ours) {
                self.port.to_switch.send(answer).await.map_err(|_| CableError)?;
            } else if is_ours {
                return Ok(Some(frame));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    fn arp_answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let address = self.address.filter(|_| self.answers_arp)?;
        let arp = Arp::decode(frame)?;
        if arp.operation != ArpOperation::Request || arp.target != address {
            return None;
        }
        let operation = ArpOperation::Reply;
        let (target_mac, target) = (arp.sender_mac, arp.sender);
        Some(Arp { operation, sender_mac: self.mac, sender: address, target_mac, target }.encode())
    }

    /// Only whole datagrams with correct checksums: the EEPROM counts and drops others.
    fn take(&self, frame: Vec<u8>) -> Option<Received> {
        let datagram = Datagram::decode(&frame, Checksum::Verify).ok()?;
        let to = *datagram.destination.ip();
        // Before there is an address, a server may already send to the one it offers (RFC 2131 §4.1).
        if self.address.is_some_and(|own| own != to) && to != Ipv4Addr::BROADCAST {
            return None;
        }
        let (source, destination_port) = (datagram.source, datagram.destination.port());
        let start = datagram.payload.as_ptr().addr() - frame.as_ptr().addr();
        let payload = start..start + datagram.payload.len();
        Some(Received { frame, payload, source, destination_port })
    }
}

/// A question lost on the way is asked again after this.
const ARP_REPEAT: Duration = Duration::from_secs(1);

/// TTL 128 instead of 64 and no fragment flags, with the header checksum corrected (RFC 1624); UDP checksum 0.
fn speak_like_the_rom(frame: &mut [u8]) {
    let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, ip @ ..] = frame else { return };
    let Some((header, udp)) = ip.split_at_mut_checked(20) else { return };
    let [_, _, _, _, _, _, flags, _, ttl, _, sum_high, sum_low, ..] = header else { return };
    *flags = 0;
    *ttl = 128;
    [*sum_high, *sum_low] = [0, 0];
    let sum: u32 = header.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    if let [_, _, _, _, _, _, _, _, _, _, sum_high, sum_low, ..] = header {
        [*sum_high, *sum_low] = sum.to_be_bytes();
    }
    if let [_, _, _, _, _, _, high, low, ..] = udp {
        [*high, *low] = [0, 0];
    }
}
