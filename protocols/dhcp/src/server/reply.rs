//! What an answer contains, by class: the one place where firmware quirks become octets.

use super::{Class, Settings, Subnet};
use crate::{Message, MessageType, code};
use std::net::Ipv4Addr;

/// Option 43 for a Pi: PXE discovery control 3 (sub-option 6), menu prompt without time-out (10), and a boot menu whose
/// one entry of type 0 bears the name the firmware looks for (9).
pub const PI_VENDOR_OPTIONS: [u8; 32] = *b"\x06\x01\x03\
    \x0a\x04\x00PXE\
    \x09\x14\x00\x00\x11Raspberry Pi Boot\
    \xff";

/// An OFFER or an ACK of a lease on `address`. `router` is the one of the client's link.
pub(super) fn lease(
    request: &Message,
    kind: MessageType,
    address: Ipv4Addr,
    class: Class,
    subnet: &Subnet,
    settings: &Settings,
) -> Message {
    let mut reply = request.reply();
    reply.yiaddr = address;
    // RFC 2131 table 3: only an ACK repeats it; a DISCOVER has none to repeat.
    if kind == MessageType::Ack {
        reply.ciaddr = request.ciaddr;
    }
    reply.options.push_message_type(kind);
    reply.options.push_address(code::SERVER_ID, settings.server);
    let seconds = settings.lease_seconds();
    reply.options.push_u32(code::LEASE_TIME, seconds);
    reply.options.push_u32(code::RENEWAL_TIME, seconds / 2);
    reply.options.push_u32(code::REBINDING_TIME, seconds - seconds / 8);
    network(&mut reply, subnet);
    match class {
        Class::Pi3Rom | Class::Pi3 | Class::PiEeprom => pi(&mut reply, request, settings),
        Class::UefiPxe => uefi_pxe(&mut reply, settings),
        Class::UefiHttp => uefi_http(&mut reply, settings),
        Class::Plain => host(&mut reply, Some(address), settings),
    }
    echo(&mut reply, request, class);
    reply
}

/// The answer to INFORM (RFC 2131 §4.3.5): settings, but neither an address nor times.
pub(super) fn inform(request: &Message, subnet: &Subnet, settings: &Settings) -> Message {
    let mut reply = request.reply();
    reply.ciaddr = request.ciaddr;
    reply.options.push_message_type(MessageType::Ack);
    reply.options.push_address(code::SERVER_ID, settings.server);
    network(&mut reply, subnet);
    host(&mut reply, None, settings);
    echo(&mut reply, request, Class::Plain);
    reply
}

/// A refusal (RFC 2131 table 3).
pub(super) fn nak(request: &Message, settings: &Settings) -> Message {
    let mut reply = request.reply();
    reply.options.push_message_type(MessageType::Nak);
    reply.options.push_address(code::SERVER_ID, settings.server);
    // RFC 2131 §4.3.2: a relay agent is to broadcast it, for the client's address is wrong.
    reply.set_broadcast(reply.wants_broadcast() || !request.giaddr.is_unspecified());
    echo(&mut reply, request, Class::Plain);
    reply
}

fn network(reply: &mut Message, subnet: &Subnet) {
    reply.options.push_address(code::SUBNET_MASK, subnet.mask());
    reply.options.push_address(code::BROADCAST_ADDRESS, subnet.broadcast());
    if let Some(router) = subnet.router {
        reply.options.push_address(code::ROUTERS, router);
    }
}

fn host(reply: &mut Message, address: Option<Ipv4Addr>, settings: &Settings) {
    reply.options.push_addresses(code::DNS_SERVERS, &settings.dns_servers);
    reply.options.push_addresses(code::NTP_SERVERS, &settings.ntp_servers);
    if let Some(name) = address.and_then(|address| settings.host_name(address)) {
        reply.options.push(code::HOST_NAME, name);
    }
}

/// ROMs take the server from option 54, old `bootcode.bin` from 66, EEPROMs from 66 or siaddr: they all say the same.
fn pi(reply: &mut Message, request: &Message, settings: &Settings) {
    let Some(boot) = &settings.boot else { return };
    reply.siaddr = boot.tftp;
    reply.options.push(code::VENDOR_CLASS, "PXEClient");
    // Dotted, without a NUL: some bootcode.bin chokes on one.
    reply.options.push(code::TFTP_SERVER_NAME, boot.tftp.to_string());
    if let Some(id) = request.options.get(code::CLIENT_MACHINE) {
        reply.options.push(code::CLIENT_MACHINE, id);
    }
    reply.options.push(code::VENDOR_SPECIFIC, PI_VENDOR_OPTIONS);
}

/// edk2, measured: with option 60 and no 43 it asks port 4011 and gives up; with the Pi's 43 it cancels. A boot file and
/// neither of them is right.
fn uefi_pxe(reply: &mut Message, settings: &Settings) {
    let Some(boot) = &settings.boot else { return };
    let Some(file) = boot.file.as_deref().filter(|file| !is_url(file)) else { return };
    reply.siaddr = boot.tftp;
    reply.options.push(code::BOOT_FILE_NAME, file);
}

/// edk2, measured: a URL counts only together with option 60.
fn uefi_http(reply: &mut Message, settings: &Settings) {
    let Some(file) = settings.boot.as_ref().and_then(|boot| boot.file.as_deref()) else { return };
    if is_url(file) {
        reply.options.push(code::BOOT_FILE_NAME, file);
        reply.options.push(code::VENDOR_CLASS, "HTTPClient");
    }
}

fn is_url(file: &str) -> bool {
    file.starts_with("http://") || file.starts_with("https://")
}

/// What must come back as it came: the client identifier (RFC 6842; no firmware sends one), and last of all what the
/// relay agent added (RFC 3046 §2.2).
fn echo(reply: &mut Message, request: &Message, class: Class) {
    let client_id = request.options.get(code::CLIENT_ID).filter(|_| !class.is_pi());
    for (code, value) in [(code::CLIENT_ID, client_id), (code::RELAY_AGENT, request.options.relay_agent())] {
        if let Some(value) = value {
            reply.options.push(code, value);
        }
    }
}
