//! A DHCP and TFTP server at the other end of the cable, with faults to order. It keeps what it saw.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use dhcp::frame::{Arp, ArpOperation, Checksum, Datagram};
use dhcp::{MacAddr, Message, MessageType, code};
use pi_boot::pxe::{BOOT_MENU, REPLY_CLASS};
use tftp::{ErrorCode, Packet};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::Files;
use crate::switch::{PORT_QUEUE_FRAMES, SwitchPort};

pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);
const PROXY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// What the server does wrong, or otherwise. The default is a good server.
#[derive(Default)]
pub(super) struct Behaviour {
    pub(super) no_dhcp: bool,
    /// Offers and acknowledgements without anything about booting.
    pub(super) no_boot_options: bool,
    /// Only the ACK lacks them.
    pub(super) forgets_at_ack: bool,
    /// Only option 66, as text.
    pub(super) only_option_66: bool,
    /// A second server sends the boot options with no address: before (`true`) or after the OFFER.
    pub(super) proxy_first: Option<bool>,
    /// How many REQUESTs are answered with NAK, or not at all.
    pub(super) naks: u32,
    pub(super) no_ack: bool,
    pub(super) offer_delay: Duration,
    /// Every n-th frame, in both directions together, is lost.
    pub(super) lose_every: Option<u32>,
    pub(super) duplicate: bool,
    /// Every n-th frame to the board has a bit turned somewhere.
    pub(super) corrupt_every: Option<u32>,
    pub(super) no_oack: bool,
    pub(super) no_blksize: bool,
    /// Grants blocks of this size.
    pub(super) block_size: Option<usize>,
    /// Falls silent in this file after so many blocks.
    pub(super) silent_after: Option<(&'static str, u64)>,
    /// Announces one byte more than it sends, for this file.
    pub(super) boasts: Option<&'static str>,
    pub(super) refusal_delay: Duration,
    pub(super) one_port: bool,
    /// Answers a DISCOVER, or a read, with datagrams that mean nothing, for ever.
    pub(super) flood: Option<Flood>,
}

#[derive(PartialEq, Eq)]
pub(super) enum Flood {
    AfterDiscover,
    AfterRead,
}

/// What the board sent.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) discovers: Vec<Message>,
    pub(super) requests: Vec<Message>,
    /// Source port, file, and the whole datagram.
    pub(super) reads: Vec<(u16, String, Vec<u8>)>,
    pub(super) early_terminates: u32,
    /// Whether each ARP question during a transfer was answered.
    pub(super) arp_answers: u32,
    pub(super) first_frame: Vec<u8>,
}

pub(super) struct FakeServer {
    files: BTreeMap<String, Vec<u8>>,
    behaviour: Behaviour,
    from_board: mpsc::Receiver<Vec<u8>>,
    to_board: mpsc::Sender<Vec<u8>>,
    transfers: BTreeMap<u16, Transfer>,
    next_port: u16,
    frames: u32,
    seen: Seen,
}

struct Transfer {
    name: String,
    content: Vec<u8>,
    block_size: usize,
    port: u16,
    /// Blocks sent.
    sent: u64,
    sent_at: Instant,
}

/// A server, and the plug for the board.
pub(super) fn start(files: Files, behaviour: Behaviour) -> (SwitchPort, tokio::task::JoinHandle<Seen>) {
    let (to_switch, from_board) = mpsc::channel(PORT_QUEUE_FRAMES);
    let (to_board, from_switch) = mpsc::channel(PORT_QUEUE_FRAMES);
    let server = FakeServer {
        files: files.into_iter().collect(),
        behaviour,
        from_board,
        to_board,
        transfers: BTreeMap::new(),
        next_port: 40_000,
        frames: 0,
        seen: Seen::default(),
    };
    (SwitchPort { to_switch, from_switch }, tokio::spawn(server.run()))
}

impl FakeServer {
    async fn run(mut self) -> Seen {
        while let Some(frame) = self.from_board.recv().await {
            if self.seen.first_frame.is_empty() {
                self.seen.first_frame.clone_from(&frame);
            }
            if self.is_lost() {
                continue;
            }
            if let Some(arp) = Arp::decode(&frame) {
                self.arp(arp).await;
                continue;
            }
            let datagram =
                Datagram::decode(&frame, Checksum::Verify).expect("the board sends correct frames");
            match datagram.destination.port() {
                67 => self.dhcp(Message::decode(datagram.payload).unwrap()).await,
                _ => self.tftp(datagram.source.port(), datagram.payload).await,
            }
        }
        self.seen
    }

    fn is_lost(&mut self) -> bool {
        self.frames += 1;
        self.behaviour.lose_every.is_some_and(|every| self.frames.is_multiple_of(every))
    }

    async fn frame(&mut self, mut frame: Vec<u8>) {
        if self.is_lost() {
            return;
        }
        if self.behaviour.corrupt_every.is_some_and(|every| self.frames.is_multiple_of(every)) {
            let at = self.frames as usize * 31 % frame.len();
            frame[at] ^= 1 << (self.frames % 8);
        }
        if self.behaviour.duplicate {
            let _ = self.to_board.send(frame.clone()).await;
        }
        // The board may have stopped and unplugged.
        let _ = self.to_board.send(frame).await;
    }

    async fn arp(&mut self, arp: Arp) {
        match arp.operation {
            ArpOperation::Reply => self.seen.arp_answers += 1,
            ArpOperation::Request if arp.target == SERVER => {
                let (target_mac, target) = (arp.sender_mac, arp.sender);
                let operation = ArpOperation::Reply;
                let answer = Arp { operation, sender_mac: SERVER_MAC, sender: SERVER, target_mac, target };
                self.frame(answer.encode()).await;
            }
            ArpOperation::Request => {}
        }
    }

    async fn dhcp(&mut self, message: Message) {
        let kind = message.message_type();
        if kind == Some(MessageType::Discover) {
            self.seen.discovers.push(message.clone());
        } else {
            self.seen.requests.push(message.clone());
        }
        if self.behaviour.flood == Some(Flood::AfterDiscover) {
            return self.flood(68).await;
        }
        if self.behaviour.no_dhcp {
            return;
        }
        if kind == Some(MessageType::Discover) {
            sleep(self.behaviour.offer_delay).await;
            if self.behaviour.proxy_first == Some(true) {
                self.proxy(&message).await;
            }
            self.reply(&message, MessageType::Offer, NODE).await;
            if self.behaviour.proxy_first == Some(false) {
                self.proxy(&message).await;
            }
        } else if self.behaviour.naks > 0 {
            self.behaviour.naks -= 1;
            self.reply(&message, MessageType::Nak, Ipv4Addr::UNSPECIFIED).await;
        } else if !self.behaviour.no_ack {
            self.reply(&message, MessageType::Ack, NODE).await;
        }
    }

    async fn reply(&mut self, request: &Message, kind: MessageType, yiaddr: Ipv4Addr) {
        let mut reply = request.reply();
        reply.yiaddr = yiaddr;
        reply.options.push_message_type(kind);
        reply.options.push_address(code::SERVER_ID, SERVER);
        reply.options.push_u32(code::LEASE_TIME, 3600);
        reply.options.push_address(code::SUBNET_MASK, Ipv4Addr::new(255, 255, 0, 0));
        let is_forgotten = self.behaviour.forgets_at_ack && kind == MessageType::Ack;
        if self.behaviour.only_option_66 {
            reply.options.push(code::TFTP_SERVER_NAME, SERVER.to_string());
        } else if !self.behaviour.no_boot_options && self.behaviour.proxy_first.is_none() && !is_forgotten {
            reply.siaddr = SERVER;
            reply.options.push(code::VENDOR_CLASS, REPLY_CLASS);
            reply.options.push(code::VENDOR_SPECIFIC, BOOT_MENU);
        }
        self.udp(68, 67, &reply.encode()).await;
    }

    /// A proxy gives no address, and is itself the server of the files.
    async fn proxy(&mut self, request: &Message) {
        let mut reply = request.reply();
        reply.options.push_message_type(MessageType::Offer);
        reply.options.push_address(code::SERVER_ID, PROXY);
        reply.options.push(code::VENDOR_CLASS, REPLY_CLASS);
        reply.options.push(code::VENDOR_SPECIFIC, BOOT_MENU);
        reply.siaddr = SERVER;
        self.udp(68, 67, &reply.encode()).await;
    }

    async fn tftp(&mut self, client: u16, payload: &[u8]) {
        match Packet::decode(payload).expect("the board sends packets") {
            Packet::ReadRequest(request) => {
                let name = String::from_utf8(request.file.to_vec()).unwrap();
                self.seen.reads.push((client, name.clone(), payload.to_vec()));
                let question = Arp::who_has(NODE, SERVER, SERVER_MAC).encode();
                self.frame(question).await;
                if self.behaviour.flood == Some(Flood::AfterRead) {
                    return self.flood(client).await;
                }
                self.read(client, name, request.options).await;
            }
            Packet::Acknowledgement { block } => self.data(client, block).await,
            Packet::Error { code: ErrorCode(0), message: b"Early terminate" } => {
                self.seen.early_terminates += 1;
                self.transfers.remove(&client);
            }
            Packet::Error { .. } => {}
            other => panic!("the board never sends {other:?}"),
        }
    }

    async fn read(&mut self, client: u16, name: String, asked: tftp::Options) {
        if !self.behaviour.one_port {
            self.next_port += 1;
        }
        let port = self.next_port;
        let mut packet = Vec::new();
        let Some(content) = self.files.get(&name).cloned() else {
            sleep_until(Instant::now() + self.behaviour.refusal_delay).await;
            let code = ErrorCode::FILE_NOT_FOUND;
            Packet::Error { code, message: b"File not found" }.encode(&mut packet);
            return self.udp(client, port, &packet).await;
        };
        let wished = asked.block_size.map(|size| usize::from(size.get()));
        let block_size = self.behaviour.block_size.filter(|_| wished.is_some()).or(wished).unwrap_or(512);
        let boast = u64::from(self.behaviour.boasts.is_some_and(|boast| name.ends_with(boast)));
        let size = content.len() as u64 + boast;
        let plain = asked.is_empty() || self.behaviour.no_oack;
        let mut granted =
            tftp::Options { transfer_size: asked.transfer_size.map(|_| size), ..tftp::Options::default() };
        let block_size = if self.behaviour.no_blksize || plain { 512 } else { block_size };
        if wished.is_some() && !self.behaviour.no_blksize {
            granted.block_size = tftp::BlockSize::new(block_size as u16);
        }
        self.transfers
            .insert(client, Transfer { name, content, block_size, port, sent: 0, sent_at: Instant::now() });
        if plain {
            return self.data(client, 0).await;
        }
        Packet::OptionAcknowledgement(granted).encode(&mut packet);
        self.udp(client, port, &packet).await;
    }

    /// The block behind the acknowledged one. The last one is sent again only after a pause, as RFC 1123 §4.2.3.1 wants.
    async fn data(&mut self, client: u16, acknowledged: u16) {
        let Some(transfer) = self.transfers.get_mut(&client) else { return };
        let silent = self.behaviour.silent_after.filter(|(name, _)| transfer.name.ends_with(name));
        if silent.is_some_and(|(_, blocks)| transfer.sent >= blocks) {
            return;
        }
        if acknowledged == transfer.sent as u16 {
            transfer.sent += 1;
        } else if acknowledged != (transfer.sent as u16).wrapping_sub(1)
            || transfer.sent_at.elapsed() < Duration::from_millis(100)
        {
            return;
        }
        transfer.sent_at = Instant::now();
        let start = (transfer.sent as usize - 1) * transfer.block_size;
        let whole = transfer.content.len();
        if start > whole {
            return;
        }
        let payload = transfer.content[start..whole.min(start + transfer.block_size)].to_vec();
        let port = transfer.port;
        let mut packet = Vec::new();
        Packet::Data { block: (start / transfer.block_size + 1) as u16, payload: &payload }
            .encode(&mut packet);
        self.udp(client, port, &packet).await;
    }

    /// Datagrams to the board's port and to another, and frames to nobody, until the board unplugs. From a thread of
    /// its own, so that the board never finds its queue empty for long.
    async fn flood(&mut self, port: u16) {
        let frames = [datagram(port, 9, b"junk"), datagram(9, 9, b"junk"), vec![0; 60]];
        let to_board = self.to_board.clone();
        let flood = move || while frames.iter().all(|frame| to_board.blocking_send(frame.clone()).is_ok()) {};
        tokio::task::spawn_blocking(flood).await.unwrap();
    }

    async fn udp(&mut self, to: u16, from: u16, payload: &[u8]) {
        self.frame(datagram(to, from, payload)).await;
    }
}

fn datagram(to: u16, from: u16, payload: &[u8]) -> Vec<u8> {
    let destination = if to == 68 { Ipv4Addr::BROADCAST } else { NODE };
    let destination_mac =
        if to == 68 { MacAddr::BROADCAST } else { MacAddr(super::board(super::Model::Pi4).mac) };
    let datagram = Datagram {
        source_mac: SERVER_MAC,
        destination_mac,
        source: SocketAddrV4::new(SERVER, from),
        destination: SocketAddrV4::new(destination, to),
        payload,
    };
    datagram.encode().unwrap()
}
