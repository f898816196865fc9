//! Ethernet frames around DHCP messages, for packet sockets: an interface without an address can neither send from
//! 0.0.0.0 through a UDP socket nor receive what is sent to the address it is only being offered.
//!
//! ```text
//! | Ethernet, 14: to, from, type | IPv4, 20 | UDP, 8 | payload |
//! | Ethernet, 14: to, from, 0806 | ARP, 28 | padding to 60 |
//! ```
//!
//! *Not supported*: VLAN tags, IPv4 fragments (a DHCP message fits one frame), IPv4 options when writing.

use crate::MacAddr;
use std::net::{Ipv4Addr, SocketAddrV4};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// IEEE 802.3: 64 octets without the four of the check sequence.
const MIN_FRAME: usize = 60;
const PROTOCOL_UDP: u8 = 17;
/// As long a life as any; the Pi's own packets use 128 and 64.
const TTL: u8 = 64;

/// A UDP datagram and the stations it travels between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Ethernet source.
    pub source_mac: MacAddr,
    /// Ethernet destination.
    pub destination_mac: MacAddr,
    /// IPv4 address and UDP port of the sender.
    pub source: SocketAddrV4,
    /// IPv4 address and UDP port of the receiver.
    pub destination: SocketAddrV4,
    /// What UDP carries.
    pub payload: &'a [u8],
}

/// What is known about the UDP checksum of a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// It must be right, or zero (RFC 768: not computed).
    Verify,
    /// The kernel vouches for the frame: `PACKET_AUXDATA` says `TP_STATUS_CSUMNOTREADY` (a neighbour on this host left
    /// the sum to hardware that is not there) or `TP_STATUS_CSUM_VALID`.
    Vouched,
}

/// Why a frame holds no datagram for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A header or the payload runs past the end of the frame.
    #[error("frame ends early")]
    Short,
    /// Not IPv4, or not UDP.
    #[error("not a UDP datagram")]
    NotUdp,
    /// A part of a datagram.
    #[error("a fragment")]
    Fragment,
    /// IPv4 header checksum.
    #[error("wrong IPv4 header checksum")]
    HeaderChecksum,
    /// UDP checksum.
    #[error("wrong UDP checksum")]
    UdpChecksum,
    /// The payload is longer than a frame can carry.
    #[error("payload too long for one frame")]
    TooLong,
}

impl<'a> Datagram<'a> {
    /// Reads an Ethernet frame.
    ///
    /// # Errors
    /// When it is not a whole, intact UDP datagram.
    pub fn decode(frame: &'a [u8], checksum: Checksum) -> Result<Self, FrameError> {
        let (ethernet, packet) = frame.split_first_chunk::<ETHERNET>().ok_or(FrameError::Short)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ethernet;
        if u16::from_be_bytes([t0, t1]) != ETHERTYPE_IPV4 {
            return Err(FrameError::NotUdp);
        }
        let (source_ip, destination_ip, segment) = ipv4(packet)?;
        let (udp, _) = segment.split_first_chunk::<UDP>().ok_or(FrameError::Short)?;
        let [sp0, sp1, dp0, dp1, l0, l1, c0, c1] = *udp;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let segment = segment.get(..length).ok_or(FrameError::Short)?;
        let payload = segment.get(UDP..).ok_or(FrameError::Short)?;
        let stated = u16::from_be_bytes([c0, c1]);
        // The Pi 3 boot ROM sends zero.
        if checksum == Checksum::Verify
            && stated != 0
            && !udp_sum_is_right(source_ip, destination_ip, segment)
        {
            return Err(FrameError::UdpChecksum);
        }
        Ok(Self {
            source_mac: MacAddr([s0, s1, s2, s3, s4, s5]),
            destination_mac: MacAddr([d0, d1, d2, d3, d4, d5]),
            source: SocketAddrV4::new(source_ip, u16::from_be_bytes([sp0, sp1])),
            destination: SocketAddrV4::new(destination_ip, u16::from_be_bytes([dp0, dp1])),
            payload,
        })
    }

    /// Writes the frame, both checksums computed: Pi 4 and 5 count and drop what has a wrong one.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when the lengths do not fit their 16 bits.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let udp_length = u16::try_from(UDP + self.payload.len()).map_err(|_| FrameError::TooLong)?;
        let total = udp_length.checked_add(20).ok_or(FrameError::TooLong)?;
        let (source, destination) = (self.source.ip().octets(), self.destination.ip().octets());

        let mut header = Vec::with_capacity(IPV4);
        header.extend([0x45, 0]);
        header.extend(total.to_be_bytes());
        // Identification 0 and "don't fragment" (RFC 6864 §4.1), checksum still 0.
        header.extend([0, 0, 0x40, 0, TTL, PROTOCOL_UDP, 0, 0]);
        header.extend(source);
        header.extend(destination);
        let sum = finish(add(0, &header)).to_be_bytes();
        header.splice(10..12, sum);

        let mut segment = Vec::with_capacity(UDP + self.payload.len());
        segment.extend(self.source.port().to_be_bytes());
        segment.extend(self.destination.port().to_be_bytes());
        segment.extend(udp_length.to_be_bytes());
        segment.extend([0, 0]);
        segment.extend(self.payload);
        // RFC 768: a sum of zero is sent as all ones.
        let sum =
            match finish(add(pseudo_header(*self.source.ip(), *self.destination.ip(), udp_length), &segment))
            {
                0 => 0xffff,
                sum => sum,
            };
        segment.splice(6..8, sum.to_be_bytes());

        let mut frame = ethernet(self.destination_mac, self.source_mac, ETHERTYPE_IPV4);
        frame.extend(header);
        frame.extend(segment);
        frame.resize(frame.len().max(MIN_FRAME), 0);
        Ok(frame)
    }
}

/// An ARP frame (RFC 826), as far as it says who asks or who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Question or answer.
    pub operation: ArpOperation,
    /// The station that speaks.
    pub sender_mac: MacAddr,
    /// Its address, 0.0.0.0 in a probe (RFC 5227 §2.1.1).
    pub sender: Ipv4Addr,
    /// The station spoken to, zero in a question.
    pub target_mac: MacAddr,
    /// The address asked about.
    pub target: Ipv4Addr,
}

/// ARP's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArpOperation {
    /// 1: who has it?
    Request,
    /// 2: I have it.
    Reply,
}

impl Arp {
    /// The question who has `target`, asked by `sender` (0.0.0.0: a probe that changes no cache).
    pub fn who_has(target: Ipv4Addr, sender: Ipv4Addr, sender_mac: MacAddr) -> Self {
        Self { operation: ArpOperation::Request, sender_mac, sender, target_mac: MacAddr([0; 6]), target }
    }

    /// Reads an Ethernet frame; none when it is not ARP for IPv4 over Ethernet.
    pub fn decode(frame: &[u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_first_chunk::<ETHERNET>()?;
        let [.., t0, t1] = *ethernet;
        let (head, rest) = packet.split_first_chunk::<8>()?;
        let [0, 1, 8, 0, 6, 4, 0, operation] = *head else { return None };
        let (sender_mac, rest) = rest.split_first_chunk::<6>()?;
        let (sender, rest) = rest.split_first_chunk::<4>()?;
        let (target_mac, rest) = rest.split_first_chunk::<6>()?;
        let (target, _) = rest.split_first_chunk::<4>()?;
        let operation = match operation {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            _ => return None,
        };
        (u16::from_be_bytes([t0, t1]) == ETHERTYPE_ARP).then_some(Self {
            operation,
            sender_mac: MacAddr(*sender_mac),
            sender: (*sender).into(),
            target_mac: MacAddr(*target_mac),
            target: (*target).into(),
        })
    }

    /// Writes the frame: a question to all stations, an answer to its target.
    pub fn encode(&self) -> Vec<u8> {
        let (to, operation) = match self.operation {
            ArpOperation::Request => (MacAddr::BROADCAST, 1),
            ArpOperation::Reply => (self.target_mac, 2),
        };
        let mut frame = ethernet(to, self.sender_mac, ETHERTYPE_ARP);
        frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(self.sender_mac.0);
        frame.extend(self.sender.octets());
        frame.extend(self.target_mac.0);
        frame.extend(self.target.octets());
        frame.resize(MIN_FRAME, 0);
        frame
    }
}

fn ethernet(to: MacAddr, from: MacAddr, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(600);
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// Source, destination and payload of an intact IPv4 packet that carries UDP.
fn ipv4(packet: &[u8]) -> Result<(Ipv4Addr, Ipv4Addr, &[u8]), FrameError> {
    let (fixed, _) = packet.split_first_chunk::<IPV4>().ok_or(FrameError::Short)?;
    let [version, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *fixed;
    if version >> 4 != 4 || protocol != PROTOCOL_UDP {
        return Err(FrameError::NotUdp);
    }
    // The lower 13 bits are the offset, 0x2000 is "more fragments".
    if u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
        return Err(FrameError::Fragment);
    }
    let header_length = usize::from(version & 0x0f) * 4;
    let header = packet.get(..header_length).filter(|h| h.len() >= IPV4).ok_or(FrameError::Short)?;
    if finish(add(0, header)) != 0 {
        return Err(FrameError::HeaderChecksum);
    }
    let total = usize::from(u16::from_be_bytes([l0, l1]));
    let segment = packet.get(header_length..total).ok_or(FrameError::Short)?;
    Ok((Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3), segment))
}

fn udp_sum_is_right(source: Ipv4Addr, destination: Ipv4Addr, segment: &[u8]) -> bool {
    u16::try_from(segment.len())
        .is_ok_and(|length| finish(add(pseudo_header(source, destination, length), segment)) == 0)
}

/// RFC 768: addresses, protocol and length count as if they preceded the segment.
fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> u64 {
    let sum = add(0, &source.octets());
    add(sum, &destination.octets()) + u64::from(PROTOCOL_UDP) + u64::from(length)
}

/// RFC 1071: the running sum of 16-bit words; an odd octet counts as the upper half of the last.
fn add(sum: u64, bytes: &[u8]) -> u64 {
    let (words, odd) = bytes.as_chunks::<2>();
    let odd = odd.first().map_or(0, |octet| u64::from(*octet) << 8);
    words.iter().fold(sum + odd, |sum, word| sum + u64::from(u16::from_be_bytes(*word)))
}

/// The carries folded in, and the complement.
fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests;
