//! DHCP as the boot code speaks it: an address, and who has the files.
//!
//! ```text
//!  EEPROM:       DISCOVER --> OFFER(s) --> REQUEST --> ACK      every 4 s, for 45 s
//!  Pi 3, both:   DISCOVER --> OFFER, and that is all            every 5 s, five times (ROM); every 1 s, a minute
//! ```
//!
//! What the OFFERs say may come from two servers: an address from one, the boot menu from a proxy.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcp::{CLIENT_PORT, MacAddr, Message, MessageType, Op, SERVER_PORT, code};
use pi_boot::Model;
use pi_boot::pxe::{
    CLIENT_ARCHITECTURE, CLIENT_INTERFACE, CONSTANT_TRANSACTION, Client, REPLY_CLASS, VENDOR_CLASS,
    menu_names_the_pi,
};
use tokio::time::Instant;

use super::wire::{CableError, Dialect, Wire};
use super::{Board, Progress, Settings, Violation};

/// Why there was no address, or nobody to ask for files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DhcpError {
    /// No OFFER of an address.
    #[error("no DHCP server offered an address: {discovers} DISCOVERs in vain")]
    NoOffer {
        /// DISCOVERs sent.
        discovers: u32,
    },
    /// An address was offered, but no boot menu and no option 66.
    #[error(
        "{address} was offered, but no OFFER says \"Raspberry Pi Boot\" in option 43 or has an address in option 66"
    )]
    NoBootServer {
        /// The address.
        address: Ipv4Addr,
    },
    /// The REQUEST was not answered.
    #[error("{address} was offered, and the REQUEST for it never answered")]
    NoAck {
        /// The address.
        address: Ipv4Addr,
    },
    /// The bug of the Pi 3B's ROM.
    #[error("OFFER after {0:?}: the boot ROM of a Pi 3B locks up when answered within a second")]
    AnsweredTooEarly(Duration),
}

/// What DHCP gave the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    /// Of the network; `None` if the server did not say.
    pub(super) mask: Option<Ipv4Addr>,
    pub(super) router: Option<Ipv4Addr>,
    /// Where the files are.
    pub(super) tftp_server: Ipv4Addr,
    pub(super) violation: Option<Violation>,
}

impl Lease {
    /// Whom to ask for the hardware address on the way to the TFTP server.
    pub(super) fn next_hop(&self) -> Ipv4Addr {
        let mask = self.mask.map_or(u32::MAX << 8, u32::from);
        let near = u32::from(self.address) & mask == u32::from(self.tftp_server) & mask;
        match self.router {
            Some(router) if !near => router,
            _ => self.tftp_server,
        }
    }
}

/// One exchange. The inner error is the server's silence or fault, the outer one a pulled cable.
pub(super) async fn acquire(
    wire: &mut Wire<'_>,
    board: &Board,
    client: Client,
    settings: &Settings,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Result<Lease, DhcpError>, CableError> {
    wire.address = None;
    wire.answers_arp = true;
    wire.dialect = if client == Client::Rom3B { Dialect::Rom } else { Dialect::Ordinary };
    let exchange = Exchange {
        board,
        client,
        settings,
        transaction: if client.takes_offers_unasked() { CONSTANT_TRANSACTION } else { random_u32() },
    };
    let lease = exchange.run(wire, progress).await?;
    if let Ok(lease) = &lease {
        wire.address = Some(lease.address);
        progress(Progress::Lease { address: lease.address, tftp_server: lease.tftp_server });
        if let Some(violation) = lease.violation {
            progress(Progress::Violation(violation));
        }
    }
    Ok(lease)
}

struct Exchange<'e> {
    board: &'e Board,
    client: Client,
    settings: &'e Settings,
    transaction: u32,
}

/// What the OFFERs said so far.
#[derive(Default)]
struct Offers {
    /// From who has an address.
    address: Option<Message>,
    /// From who has the boot menu; often the same.
    boot: Option<(Message, Ipv4Addr)>,
}

impl Exchange<'_> {
    async fn run(
        &self,
        wire: &mut Wire<'_>,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Result<Lease, DhcpError>, CableError> {
        let give_up_at = Instant::now() + self.total();
        let mut offers = Offers::default();
        let mut discovers = 0;
        while Instant::now() < give_up_at {
            discovers += 1;
            progress(Progress::Discover { attempt: discovers });
            let sent_at = Instant::now();
            self.broadcast(wire, &discover(self.board, self.client, self.transaction)).await?;
            let repeat_at = give_up_at.min(sent_at + self.pause());
            if !self.collect(wire, &mut offers, repeat_at, progress).await? {
                continue;
            }
            if self.client == Client::Rom3B && sent_at.elapsed() < LOCK_UP {
                return Ok(Err(DhcpError::AnsweredTooEarly(sent_at.elapsed())));
            }
            let (Some(address), Some((boot, tftp_server))) = (&offers.address, &offers.boot) else {
                continue;
            };
            if self.client.takes_offers_unasked() {
                return Ok(Ok(lease(address, *tftp_server, None)));
            }
            match self.request(wire, address, boot, *tftp_server, give_up_at).await? {
                Answer::Lease(lease) => return Ok(Ok(lease)),
                Answer::Refused => offers = Offers::default(),
                Answer::Silence => return Ok(Err(DhcpError::NoAck { address: address.yiaddr })),
            }
        }
        Ok(Err(match offers.address {
            Some(offer) => DhcpError::NoBootServer { address: offer.yiaddr },
            None => DhcpError::NoOffer { discovers },
        }))
    }

    /// Takes OFFERs until they say enough. `false` at the deadline.
    async fn collect(
        &self,
        wire: &mut Wire<'_>,
        offers: &mut Offers,
        deadline: Instant,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<bool, CableError> {
        while offers.address.is_none() || offers.boot.is_none() {
            let Some((source, offer)) = self.receive(wire, deadline).await? else { return Ok(false) };
            if offer.message_type() != Some(MessageType::Offer) || !self.accepts(&offer, source) {
                continue;
            }
            progress(Progress::Offer { server: source, address: offer.yiaddr });
            if offers.boot.is_none()
                && let Some(server) = self.tftp_server(&offer, source)
            {
                offers.boot = Some((offer.clone(), server));
            }
            if offers.address.is_none() && !offer.yiaddr.is_unspecified() {
                offers.address = Some(offer);
            }
        }
        Ok(true)
    }

    /// REQUEST until ACK or NAK.
    async fn request(
        &self,
        wire: &mut Wire<'_>,
        offer: &Message,
        boot: &Message,
        tftp_server: Ipv4Addr,
        give_up_at: Instant,
    ) -> Result<Answer, CableError> {
        let request = self.request_message(offer);
        while Instant::now() < give_up_at {
            self.broadcast(wire, &request).await?;
            let repeat_at = give_up_at.min(Instant::now() + self.pause());
            while let Some((source, reply)) = self.receive(wire, repeat_at).await? {
                match reply.message_type() {
                    Some(MessageType::Nak) => return Ok(Answer::Refused),
                    Some(MessageType::Ack) if !reply.yiaddr.is_unspecified() => {
                        let (server, violation) = match self.tftp_server(&reply, source) {
                            Some(server) => (server, None),
                            // A proxy's words were never in this server's OFFER.
                            None if boot.options.server_id() != offer.options.server_id() => {
                                (tftp_server, None)
                            }
                            None => (tftp_server, Some(Violation::AckForgetsBoot)),
                        };
                        return Ok(Answer::Lease(lease(&reply, server, violation)));
                    }
                    _ => {}
                }
            }
        }
        Ok(Answer::Silence)
    }

    /// The next reply to this board in this transaction, and the address it came from.
    async fn receive(
        &self,
        wire: &mut Wire<'_>,
        deadline: Instant,
    ) -> Result<Option<(Ipv4Addr, Message)>, CableError> {
        // Checked here too: what is for others, or not accepted, must not hold the deadline up.
        while Instant::now() < deadline {
            let Some(received) = wire.receive(deadline).await? else { break };
            if received.destination_port != CLIENT_PORT {
                continue;
            }
            let Ok(message) = Message::decode(received.payload()) else { continue };
            let ours = message.op == Op::Reply
                && message.xid == self.transaction
                && message.mac() == Some(MacAddr(self.board.mac));
            if ours {
                return Ok(Some((*received.source.ip(), message)));
            }
        }
        Ok(None)
    }

    /// What the Pi 3B's ROM checks beyond the others.
    fn accepts(&self, offer: &Message, source: Ipv4Addr) -> bool {
        if self.client != Client::Rom3B {
            return true;
        }
        let class_fits = offer.options.vendor_class().is_some_and(|class| class.starts_with(REPLY_CLASS));
        let mask = offer.options.subnet_mask().map_or(0, u32::from);
        let near = u32::from(offer.yiaddr) & mask == u32::from(source) & mask;
        offer.hops == 0 && class_fits && near && self.tftp_server(offer, source).is_some()
    }

    /// Where this reply sends us for files, if it does.
    fn tftp_server(&self, reply: &Message, source: Ipv4Addr) -> Option<Ipv4Addr> {
        let has_menu = reply.options.vendor_specific().is_some_and(menu_names_the_pi);
        // An address in dots, nothing behind it: a name cannot be resolved, and a NUL breaks old code.
        let dotted = reply.options.tftp_server_name().and_then(|name| name.parse().ok());
        let server_id = reply.options.server_id().unwrap_or(source);
        match self.client {
            // The ROM ignores siaddr and option 66.
            Client::Rom3B => has_menu.then_some(server_id),
            Client::Bootcode => has_menu.then(|| dotted.unwrap_or(server_id)),
            Client::Eeprom if dotted.is_some() => dotted,
            Client::Eeprom if !has_menu => None,
            Client::Eeprom if !reply.siaddr.is_unspecified() => Some(reply.siaddr),
            Client::Eeprom => Some(server_id),
        }
    }

    async fn broadcast(&self, wire: &mut Wire<'_>, message: &[u8]) -> Result<(), CableError> {
        let all = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
        wire.send(CLIENT_PORT, (MacAddr::BROADCAST, all), message).await
    }

    /// Not seen byte by byte in any capture; known is that option 60 is missing.
    fn request_message(&self, offer: &Message) -> Vec<u8> {
        let mut message = Message::request(MacAddr(self.board.mac), self.transaction);
        message.options.push_message_type(MessageType::Request);
        message.options.push_address(code::REQUESTED_ADDRESS, offer.yiaddr);
        if let Some(server) = offer.options.server_id() {
            message.options.push_address(code::SERVER_ID, server);
        }
        push_identity(&mut message, self.board, self.client);
        message.encode()
    }

    fn pause(&self) -> Duration {
        match self.client {
            Client::Rom3B => ROM_PAUSE,
            Client::Bootcode => BOOTCODE_PAUSE,
            Client::Eeprom => self.settings.dhcp_request_timeout,
        }
    }

    fn total(&self) -> Duration {
        match self.client {
            Client::Rom3B => ROM_PAUSE * ROM_DISCOVERS,
            Client::Bootcode => BOOTCODE_TOTAL,
            Client::Eeprom => self.settings.dhcp_timeout,
        }
    }
}

enum Answer {
    Lease(Lease),
    Refused,
    Silence,
}

/// The DISCOVER of a model's boot code, byte for byte.
pub(super) fn discover(board: &Board, client: Client, transaction: u32) -> Vec<u8> {
    let mut message = Message::request(MacAddr(board.mac), transaction);
    message.options.push_message_type(MessageType::Discover);
    push_identity(&mut message, board, client);
    message.options.push(code::VENDOR_CLASS, VENDOR_CLASS);
    message.encode()
}

/// Options 55, 93, 94 and 97, in this order.
fn push_identity(message: &mut Message, board: &Board, client: Client) {
    message.options.push(code::PARAMETER_REQUEST_LIST, client.parameter_request_list());
    message.options.push(code::CLIENT_ARCH, CLIENT_ARCHITECTURE);
    message.options.push(code::CLIENT_INTERFACE, CLIENT_INTERFACE);
    message.options.push(code::CLIENT_MACHINE, client.machine(board.model, board.serial, board.mac));
}

fn lease(reply: &Message, tftp_server: Ipv4Addr, violation: Option<Violation>) -> Lease {
    Lease {
        address: reply.yiaddr,
        mask: reply.options.subnet_mask(),
        router: reply.options.routers().first().copied(),
        tftp_server,
        violation,
    }
}

/// The DHCP client that speaks first on this model, and the one of `bootcode.bin`.
pub(super) fn client(model: Model, is_second: bool) -> Client {
    if is_second { Client::Bootcode } else { Client::first(model) }
}

/// A number nobody can guess, from the hasher's seed.
pub(super) fn random_u32() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

/// The Pi 3B's ROM asks five times, then never again until its power is cut.
const ROM_DISCOVERS: u32 = 5;
const ROM_PAUSE: Duration = Duration::from_secs(5);
const BOOTCODE_PAUSE: Duration = Duration::from_secs(1);
const BOOTCODE_TOTAL: Duration = Duration::from_secs(60);

/// An OFFER earlier than this locks the Pi 3B's ROM up.
const LOCK_UP: Duration = Duration::from_secs(1);
