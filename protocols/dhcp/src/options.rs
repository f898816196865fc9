//! The options of a message: an ordered list of (code, value), and typed views of those we use.
//!
//! Writers control the order completely: options are written as they were pushed. Readers see one value per code:
//! the parts of an option that occurs more than once are joined in order (RFC 3396 §7), so that a value may exceed
//! 255 octets. A typed view of a value with an impossible length is absent, as if the option had not been sent.

use crate::{MessageType, names};
use std::net::Ipv4Addr;

/// Option codes (RFC 2132 unless noted).
pub mod code {
    #![allow(missing_docs)]
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTERS: u8 = 3;
    pub const DNS_SERVERS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const INTERFACE_MTU: u8 = 26;
    pub const BROADCAST_ADDRESS: u8 = 28;
    pub const NTP_SERVERS: u8 = 42;
    pub const VENDOR_SPECIFIC: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETER_REQUEST_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_MESSAGE_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER_NAME: u8 = 66;
    pub const BOOT_FILE_NAME: u8 = 67;
    /// RFC 3046
    pub const RELAY_AGENT: u8 = 82;
    /// RFC 4578 §2.1
    pub const CLIENT_ARCH: u8 = 93;
    /// RFC 4578 §2.2
    pub const CLIENT_INTERFACE: u8 = 94;
    /// RFC 4578 §2.3
    pub const CLIENT_MACHINE: u8 = 97;
    /// RFC 3397
    pub const DOMAIN_SEARCH: u8 = 119;
    /// RFC 3442
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// Bits of option 52.
pub(crate) const OVERLOAD_FILE: u8 = 1;
pub(crate) const OVERLOAD_SNAME: u8 = 2;

/// A route of option 121.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination network, host bits clear.
    pub destination: Ipv4Addr,
    /// Length of the destination's prefix, 0 to 32.
    pub prefix: u8,
    /// Next hop; 0.0.0.0 means the network is on the link itself.
    pub router: Ipv4Addr,
}

/// Options in their order. At most one entry per code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// Appends an option. A second value of the same code continues the first, as it would on the wire. Pad, end and
    /// overload are the codec's business and are ignored.
    pub fn push(&mut self, code: u8, value: impl AsRef<[u8]>) {
        if matches!(code, code::PAD | code::END | code::OVERLOAD) {
            return;
        }
        match self.0.iter_mut().find(|(c, _)| *c == code) {
            Some((_, known)) => known.extend(value.as_ref()),
            None => self.0.push((code, value.as_ref().to_vec())),
        }
    }

    /// Replaces the value of an option where it stands, or appends it.
    pub fn set(&mut self, code: u8, value: impl AsRef<[u8]>) {
        match self.0.iter_mut().find(|(c, _)| *c == code) {
            Some((_, known)) => *known = value.as_ref().to_vec(),
            None => self.push(code, value),
        }
    }

    /// Takes an option out.
    pub fn remove(&mut self, code: u8) {
        self.0.retain(|(c, _)| *c != code);
    }

    /// Appends one address.
    pub fn push_address(&mut self, code: u8, address: Ipv4Addr) {
        self.push(code, address.octets());
    }

    /// Appends a list of addresses; nothing when it is empty (RFC 2132 wants at least one).
    pub fn push_addresses(&mut self, code: u8, addresses: &[Ipv4Addr]) {
        if !addresses.is_empty() {
            self.push(code, addresses.iter().flat_map(|a| a.octets()).collect::<Vec<_>>());
        }
    }

    /// Appends a 32-bit number, such as a time in seconds.
    pub fn push_u32(&mut self, code: u8, value: u32) {
        self.push(code, value.to_be_bytes());
    }

    /// Appends a 16-bit number.
    pub fn push_u16(&mut self, code: u8, value: u16) {
        self.push(code, value.to_be_bytes());
    }

    /// Appends option 53.
    pub fn push_message_type(&mut self, message_type: MessageType) {
        self.push(code::MESSAGE_TYPE, [message_type as u8]);
    }

    /// Appends option 119, uncompressed. Names that are no domain names are left out.
    pub fn push_domain_search(&mut self, domains: &[&str]) {
        let value: Vec<u8> = domains.iter().filter_map(|d| names::write(d)).flatten().collect();
        if !value.is_empty() {
            self.push(code::DOMAIN_SEARCH, value);
        }
    }

    /// Appends option 121.
    pub fn push_classless_routes(&mut self, routes: &[Route]) {
        let mut value = Vec::new();
        for route in routes {
            let prefix = route.prefix.min(32);
            value.push(prefix);
            value.extend(route.destination.octets().iter().take(usize::from(prefix.div_ceil(8))));
            value.extend(route.router.octets());
        }
        if !value.is_empty() {
            self.push(code::CLASSLESS_ROUTES, value);
        }
    }

    /// The whole value of an option.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.iter().find(|(c, _)| *c == code).map(|(_, value)| value.as_slice())
    }

    /// Whether the option is there.
    pub fn has(&self, code: u8) -> bool {
        self.get(code).is_some()
    }

    /// All options in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.0.iter().map(|(code, value)| (*code, value.as_slice()))
    }

    /// An option that is one address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.fixed::<4>(code).map(Ipv4Addr::from)
    }

    /// An option that is a list of addresses; empty when absent or when not a multiple of four octets.
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let (addresses, rest) = self.get(code).unwrap_or_default().as_chunks::<4>();
        if rest.is_empty() { addresses.iter().map(|a| Ipv4Addr::from(*a)).collect() } else { Vec::new() }
    }

    /// An option that is a 32-bit number.
    pub fn u32(&self, code: u8) -> Option<u32> {
        self.fixed(code).map(u32::from_be_bytes)
    }

    /// An option that is a 16-bit number.
    pub fn u16(&self, code: u8) -> Option<u16> {
        self.fixed(code).map(u16::from_be_bytes)
    }

    /// An option that is text. RFC 2132 §2: a trailing NUL is to be trimmed. Absent when it is empty, not UTF-8, or
    /// holds control characters: such text is a mistake or an attack on whoever prints it.
    pub fn text(&self, code: u8) -> Option<&str> {
        let text = std::str::from_utf8(self.get(code)?).ok()?.trim_end_matches('\0');
        (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
    }

    /// Option 53.
    pub fn message_type(&self) -> Option<MessageType> {
        let [octet] = self.fixed(code::MESSAGE_TYPE)?;
        MessageType::from_octet(octet)
    }

    /// Option 1 as given; use [`prefix`](Self::prefix) for a mask that makes sense.
    pub fn subnet_mask(&self) -> Option<Ipv4Addr> {
        self.address(code::SUBNET_MASK)
    }

    /// The prefix length of option 1; absent when the mask has holes.
    pub fn prefix(&self) -> Option<u8> {
        let mask = u32::from(self.subnet_mask()?);
        let ones = mask.leading_ones();
        (mask.count_ones() == ones).then_some(u8::try_from(ones).ok()?)
    }

    /// Option 3.
    pub fn routers(&self) -> Vec<Ipv4Addr> {
        self.addresses(code::ROUTERS)
    }

    /// Option 6.
    pub fn dns_servers(&self) -> Vec<Ipv4Addr> {
        self.addresses(code::DNS_SERVERS)
    }

    /// Option 12.
    pub fn host_name(&self) -> Option<&str> {
        self.text(code::HOST_NAME)
    }

    /// Option 15.
    pub fn domain_name(&self) -> Option<&str> {
        self.text(code::DOMAIN_NAME)
    }

    /// Option 26, octets; RFC 2132 §5.1 says at least 68.
    pub fn interface_mtu(&self) -> Option<u16> {
        self.u16(code::INTERFACE_MTU).filter(|mtu| *mtu >= 68)
    }

    /// Option 28.
    pub fn broadcast_address(&self) -> Option<Ipv4Addr> {
        self.address(code::BROADCAST_ADDRESS)
    }

    /// Option 42.
    pub fn ntp_servers(&self) -> Vec<Ipv4Addr> {
        self.addresses(code::NTP_SERVERS)
    }

    /// Option 43.
    pub fn vendor_specific(&self) -> Option<&[u8]> {
        self.get(code::VENDOR_SPECIFIC)
    }

    /// Option 50.
    pub fn requested_address(&self) -> Option<Ipv4Addr> {
        self.address(code::REQUESTED_ADDRESS)
    }

    /// Option 51, seconds; `u32::MAX` is for ever.
    pub fn lease_time(&self) -> Option<u32> {
        self.u32(code::LEASE_TIME)
    }

    /// Option 54.
    pub fn server_id(&self) -> Option<Ipv4Addr> {
        self.address(code::SERVER_ID)
    }

    /// Option 55; empty when absent. May hold any octet, 0 included.
    pub fn parameter_request_list(&self) -> &[u8] {
        self.get(code::PARAMETER_REQUEST_LIST).unwrap_or_default()
    }

    /// Option 57, octets; RFC 2132 §9.10 says at least 576, less counts as 576.
    pub fn max_message_size(&self) -> Option<u16> {
        self.u16(code::MAX_MESSAGE_SIZE).map(|size| size.max(576))
    }

    /// Option 58 (T1), seconds.
    pub fn renewal_time(&self) -> Option<u32> {
        self.u32(code::RENEWAL_TIME)
    }

    /// Option 59 (T2), seconds.
    pub fn rebinding_time(&self) -> Option<u32> {
        self.u32(code::REBINDING_TIME)
    }

    /// Option 60, octets: not every vendor keeps to text.
    pub fn vendor_class(&self) -> Option<&[u8]> {
        self.get(code::VENDOR_CLASS)
    }

    /// Option 61; RFC 2132 §9.14 says at least two octets.
    pub fn client_id(&self) -> Option<&[u8]> {
        self.get(code::CLIENT_ID).filter(|id| id.len() >= 2)
    }

    /// Option 66.
    pub fn tftp_server_name(&self) -> Option<&str> {
        self.text(code::TFTP_SERVER_NAME)
    }

    /// Option 67.
    pub fn boot_file_name(&self) -> Option<&str> {
        self.text(code::BOOT_FILE_NAME)
    }

    /// Option 82, the sub-options as they came: a server echoes them unread.
    pub fn relay_agent(&self) -> Option<&[u8]> {
        self.get(code::RELAY_AGENT)
    }

    /// Option 93: the architectures the client can run, in its order.
    pub fn client_arch(&self) -> Vec<u16> {
        let (archs, rest) = self.get(code::CLIENT_ARCH).unwrap_or_default().as_chunks::<2>();
        if rest.is_empty() { archs.iter().map(|a| u16::from_be_bytes(*a)).collect() } else { Vec::new() }
    }

    /// Option 94: type, major, minor.
    pub fn client_interface(&self) -> Option<[u8; 3]> {
        self.fixed(code::CLIENT_INTERFACE)
    }

    /// Option 97: the 16 octets of the machine identifier; only type 0 is defined (RFC 4578 §2.3).
    pub fn client_machine(&self) -> Option<[u8; 16]> {
        let [kind, id @ ..] = self.fixed::<17>(code::CLIENT_MACHINE)?;
        (kind == 0).then_some(id)
    }

    /// Option 119; empty when absent or malformed.
    pub fn domain_search(&self) -> Vec<String> {
        self.get(code::DOMAIN_SEARCH).and_then(names::read_all).unwrap_or_default()
    }

    /// Option 121; empty when absent or malformed. RFC 3442: when present, option 3 is to be ignored.
    pub fn classless_routes(&self) -> Vec<Route> {
        self.get(code::CLASSLESS_ROUTES).and_then(read_routes).unwrap_or_default()
    }

    fn fixed<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.get(code)?.try_into().ok()
    }

    /// Reads one options field up to its end option, its last whole option, or its end. Answers the value of option
    /// 52, 0 when it is not there.
    pub(crate) fn read_field(&mut self, field: &[u8]) -> u8 {
        let mut rest = field;
        let mut overload = 0;
        while let Some((code, after)) = rest.split_first() {
            rest = after;
            match *code {
                code::PAD => continue,
                code::END => break,
                _ => {}
            }
            let Some((length, after)) = rest.split_first() else { break };
            let Some((value, after)) = after.split_at_checked(usize::from(*length)) else { break };
            rest = after;
            match (*code, value) {
                (code::OVERLOAD, [bits]) => overload = *bits,
                _ => self.push(*code, value),
            }
        }
        overload
    }

    /// The options cut into what the wire can carry, at most 255 octets each.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk<'_>> {
        self.0.iter().flat_map(|(code, value)| {
            let empty = value.is_empty().then_some(&[][..]);
            empty.into_iter().chain(value.chunks(255)).map(|value| Chunk { code: *code, value })
        })
    }
}

/// One option as it stands on the wire; `value` has at most 255 octets.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    code: u8,
    value: &'a [u8],
}

impl<'a> Chunk<'a> {
    pub(crate) fn length(self) -> usize {
        2 + self.value.len()
    }

    pub(crate) fn octets(self) -> impl Iterator<Item = u8> + use<'a> {
        let length = u8::try_from(self.value.len()).unwrap_or(u8::MAX);
        [self.code, length].into_iter().chain(self.value.iter().copied())
    }
}

/// RFC 3442: prefix length, only the significant octets of the destination, router.
fn read_routes(value: &[u8]) -> Option<Vec<Route>> {
    let mut rest = value;
    let mut routes = Vec::new();
    while let Some((prefix, after)) = rest.split_first() {
        if *prefix > 32 {
            return None;
        }
        let (significant, after) = after.split_at_checked(usize::from(prefix.div_ceil(8)))?;
        let (router, after) = after.split_first_chunk::<4>()?;
        rest = after;
        let mut octets = [0; 4];
        for (to, from) in octets.iter_mut().zip(significant) {
            *to = *from;
        }
        // RFC 3442: the client MUST clear the host bits of a destination that has them set.
        let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
        routes.push(Route {
            destination: Ipv4Addr::from(u32::from_be_bytes(octets) & mask),
            prefix: *prefix,
            router: Ipv4Addr::from(*router),
        });
    }
    Some(routes)
}

#[cfg(test)]
mod tests;
