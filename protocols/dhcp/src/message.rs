//! One DHCP message: the BOOTP header, the cookie, and the options (RFC 2131 §2).
//!
//! ```text
//!  0                   1                   2                   3
//! +---------------+---------------+---------------+---------------+
//! |     op (1)    |   htype (1)   |   hlen (1)    |   hops (1)    |    0
//! +---------------+---------------+---------------+---------------+
//! |                            xid (4)                            |    4
//! +-------------------------------+-------------------------------+
//! |           secs (2)            |           flags (2)           |    8
//! +-------------------------------+-------------------------------+
//! |                          ciaddr  (4)                          |   12
//! |                          yiaddr  (4)                          |   16
//! |                          siaddr  (4)                          |   20
//! |                          giaddr  (4)                          |   24
//! |                          chaddr  (16)                         |   28
//! |                          sname   (64)                         |   44
//! |                          file    (128)                        |  108
//! +---------------------------------------------------------------+
//! |                 cookie 99.130.83.99 and options               |  236
//! +---------------------------------------------------------------+
//! ```

use crate::{
    MacAddr, Options,
    options::{OVERLOAD_FILE, OVERLOAD_SNAME, code},
};
use std::net::Ipv4Addr;

/// The port servers and relay agents listen on.
pub const SERVER_PORT: u16 = 67;
/// The port clients listen on.
pub const CLIENT_PORT: u16 = 68;
/// BOOTP's 236 octets and 64 of vendor area: shorter messages are dropped by old relays and clients (RFC 1542 §2.1).
pub const MIN_LENGTH: usize = 300;
/// What one untagged Ethernet frame carries after the IPv4 and UDP headers: 1500 - 20 - 8.
pub const MAX_OVER_ETHERNET: usize = 1472;

/// Fixed header and cookie.
const HEADER: usize = 240;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// RFC 2131 §2, figure 2: the leftmost bit of the flags asks for a broadcast answer.
const BROADCAST_FLAG: u16 = 0x8000;

/// Who is speaking: the BOOTP operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// 1, BOOTREQUEST: from a client.
    Request,
    /// 2, BOOTREPLY: from a server.
    Reply,
}

/// Option 53 (RFC 2132 §9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MessageType {
    /// Client looks for servers.
    Discover = 1,
    /// Server offers an address.
    Offer = 2,
    /// Client takes, confirms or extends an address.
    Request = 3,
    /// Client found the address in use.
    Decline = 4,
    /// Server grants.
    Ack = 5,
    /// Server refuses: the client must start over.
    Nak = 6,
    /// Client gives the address back.
    Release = 7,
    /// Client has an address and wants the other settings.
    Inform = 8,
}

impl MessageType {
    /// The type for an option 53 octet; none for those this crate does not speak.
    pub fn from_octet(octet: u8) -> Option<Self> {
        use MessageType::*;
        [Discover, Offer, Request, Decline, Ack, Nak, Release, Inform].into_iter().find(|t| *t as u8 == octet)
    }
}

/// Why bytes are not a DHCP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Ends within the header and cookie.
    #[error("{length} octets are too short for a DHCP message")]
    Short {
        /// What there was.
        length: usize,
    },
    /// Octet 0 is neither 1 nor 2.
    #[error("unknown operation {0} at offset 0")]
    Op(u8),
    /// Octets 236 to 239: plain BOOTP, or something else altogether.
    #[error("no DHCP cookie at offset 236")]
    Cookie,
}

/// Why a message cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The options fit neither the limit nor the unused `file` and `sname` fields.
    #[error("options do not fit a message of {limit} octets")]
    TooLong {
        /// The limit asked for.
        limit: usize,
    },
}

/// A DHCP message. Fields are named as in RFC 2131.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Request or reply.
    pub op: Op,
    /// Hardware type, 1 is Ethernet.
    pub htype: u8,
    /// Length of the hardware address as the sender claims it.
    pub hlen: u8,
    /// Relay agents passed.
    pub hops: u8,
    /// Transaction, chosen by the client. Not unique: every Pi 3 boot ROM sends 0x26f30339.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// Bit 15 asks for a broadcast answer.
    pub flags: u16,
    /// The address the client already answers to.
    pub ciaddr: Ipv4Addr,
    /// "Your address".
    pub yiaddr: Ipv4Addr,
    /// Next server (TFTP).
    pub siaddr: Ipv4Addr,
    /// Relay agent.
    pub giaddr: Ipv4Addr,
    /// Hardware address, `hlen` octets of it meaningful.
    pub chaddr: [u8; 16],
    /// Server name, or options when overloaded (then all zero here).
    pub sname: [u8; 64],
    /// Boot file name, or options when overloaded (then all zero here).
    pub file: [u8; 128],
    /// The options in their order, without pad, end and overload.
    pub options: Options,
}

impl Message {
    /// A message of a client with the Ethernet address `mac`; every other field is zero.
    pub fn request(mac: MacAddr, xid: u32) -> Self {
        let mut chaddr = [0; 16];
        for (to, from) in chaddr.iter_mut().zip(mac.0) {
            *to = from;
        }
        let zero = Ipv4Addr::UNSPECIFIED;
        Self {
            op: Op::Request,
            htype: 1,
            hlen: 6,
            hops: 0,
            xid,
            secs: 0,
            flags: 0,
            ciaddr: zero,
            yiaddr: zero,
            siaddr: zero,
            giaddr: zero,
            chaddr,
            sname: [0; 64],
            file: [0; 128],
            options: Options::default(),
        }
    }

    /// The empty reply to this request: transaction, flags, relay and hardware address are the client's (RFC 2131
    /// §4.3.1 table 3), the rest is zero.
    pub fn reply(&self) -> Self {
        let zero = Ipv4Addr::UNSPECIFIED;
        Self {
            op: Op::Reply,
            hops: 0,
            secs: 0,
            ciaddr: zero,
            yiaddr: zero,
            siaddr: zero,
            sname: [0; 64],
            file: [0; 128],
            options: Options::default(),
            ..self.clone()
        }
    }

    /// The client's Ethernet address; none when type or length say it is something else, or when no single station
    /// can own it.
    pub fn mac(&self) -> Option<MacAddr> {
        let [a, b, c, d, e, f, ..] = self.chaddr;
        let mac = MacAddr([a, b, c, d, e, f]);
        (self.htype == 1 && self.hlen == 6 && mac.is_station()).then_some(mac)
    }

    /// Whether the client asks for a broadcast answer.
    pub fn wants_broadcast(&self) -> bool {
        self.flags & BROADCAST_FLAG != 0
    }

    /// Sets or clears the request for a broadcast answer.
    pub fn set_broadcast(&mut self, wanted: bool) {
        self.flags = if wanted { self.flags | BROADCAST_FLAG } else { self.flags & !BROADCAST_FLAG };
    }

    /// Option 53, if known.
    pub fn message_type(&self) -> Option<MessageType> {
        self.options.message_type()
    }

    /// Reads a message.
    ///
    /// What follows the end option is ignored, and so is an option that runs past the end of its field: all before
    /// it counts. With option 52 the options of `file` and then `sname` follow those of the options field
    /// (RFC 3396 §5 gives that order), each field is read once, and an overload found inside them means nothing.
    ///
    /// # Errors
    /// When the header is incomplete, or is none of DHCP.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let short = DecodeError::Short { length: bytes.len() };
        let mut rest = Reader(bytes);
        let [op, htype, hlen, hops] = rest.array().ok_or(short)?;
        let op = match op {
            1 => Op::Request,
            2 => Op::Reply,
            other => return Err(DecodeError::Op(other)),
        };
        let xid = u32::from_be_bytes(rest.array().ok_or(short)?);
        let secs = u16::from_be_bytes(rest.array().ok_or(short)?);
        let flags = u16::from_be_bytes(rest.array().ok_or(short)?);
        let mut address = || rest.array::<4>().map(Ipv4Addr::from).ok_or(short);
        let (ciaddr, yiaddr, siaddr, giaddr) = (address()?, address()?, address()?, address()?);
        let chaddr = rest.array().ok_or(short)?;
        let mut sname = rest.array().ok_or(short)?;
        let mut file = rest.array().ok_or(short)?;
        if rest.array().ok_or(short)? != COOKIE {
            return Err(DecodeError::Cookie);
        }
        let mut options = Options::default();
        let overload = options.read_field(rest.0);
        if overload & OVERLOAD_FILE != 0 {
            options.read_field(&std::mem::replace(&mut file, [0; 128]));
        }
        if overload & OVERLOAD_SNAME != 0 {
            options.read_field(&std::mem::replace(&mut sname, [0; 64]));
        }
        Ok(Self {
            op,
            htype,
            hlen,
            hops,
            xid,
            secs,
            flags,
            ciaddr,
            yiaddr,
            siaddr,
            giaddr,
            chaddr,
            sname,
            file,
            options,
        })
    }

    /// Writes the message: options in their order, an end option, and zeros up to [`MIN_LENGTH`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.header();
        for chunk in self.options.chunks() {
            out.extend(chunk.octets());
        }
        out.push(code::END);
        out.resize(out.len().max(MIN_LENGTH), 0);
        out
    }

    /// As [`encode`](Self::encode), but at most `limit` octets (not less than 300): what does not fit the options
    /// field goes to `file` and then to `sname` (option 52, RFC 2132 §9.3) when the message leaves those unused.
    ///
    /// # Errors
    /// When even that is too small.
    pub fn encode_within(&self, limit: usize) -> Result<Vec<u8>, EncodeError> {
        let limit = limit.max(MIN_LENGTH);
        let plain = self.encode();
        if plain.len() <= limit {
            return Ok(plain);
        }
        // Three octets for option 52 itself and one for the end.
        let mut fields = [
            Field { used: Vec::new(), room: limit - HEADER - 3 - 1, flag: 0 },
            Field {
                used: Vec::new(),
                room: if self.file == [0; 128] { 127 } else { 0 },
                flag: OVERLOAD_FILE,
            },
            Field {
                used: Vec::new(),
                room: if self.sname == [0; 64] { 63 } else { 0 },
                flag: OVERLOAD_SNAME,
            },
        ];
        // RFC 3396 §5 reads the fields in this order, so an option may continue in the next one but must never go
        // back: `current` only grows.
        let mut fields_left = fields.iter_mut();
        let mut current = fields_left.next();
        for chunk in self.options.chunks() {
            loop {
                let field = current.as_mut().ok_or(EncodeError::TooLong { limit })?;
                if field.used.len() + chunk.length() <= field.room {
                    field.used.extend(chunk.octets());
                    break;
                }
                current = fields_left.next();
            }
        }
        let [main, file, sname] = fields;
        let overload =
            [&file, &sname].iter().filter(|f| !f.used.is_empty()).fold(0, |bits, field| bits | field.flag);
        let mut message = self.clone();
        file.finish(&mut message.file);
        sname.finish(&mut message.sname);
        let mut out = message.header();
        out.extend(main.used);
        out.extend([code::OVERLOAD, 1, overload, code::END]);
        out.resize(out.len().max(MIN_LENGTH), 0);
        Ok(out)
    }

    fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend([if self.op == Op::Request { 1 } else { 2 }, self.htype, self.hlen, self.hops]);
        out.extend(self.xid.to_be_bytes());
        out.extend(self.secs.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            out.extend(address.octets());
        }
        out.extend(self.chaddr);
        out.extend(self.sname);
        out.extend(self.file);
        out.extend(COOKIE);
        out
    }
}

/// One of the three places options can be in while a long message is written.
struct Field {
    used: Vec<u8>,
    room: usize,
    flag: u8,
}

impl Field {
    fn finish(&self, into: &mut [u8]) {
        if self.used.is_empty() {
            return;
        }
        for (to, from) in into.iter_mut().zip(self.used.iter().chain(&[code::END])) {
            *to = *from;
        }
    }
}

/// Takes fixed sizes off the front of a slice.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }
}

#[cfg(test)]
mod tests;
