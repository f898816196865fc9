//! A thousand random histories of boards, losses, restarts and power cuts: two boards never hold one address, and a
//! board keeps its address for as long as others are free.

use dhcp::{
    MacAddr, Message, MessageType, code,
    server::{Boot, Input, Output, Record, Reply, Server, Settings, Subnet},
};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

const HISTORIES: u64 = 1_000;
const STEPS: usize = 150;
const BOARDS: usize = 12;
const LEASE: Duration = Duration::from_secs(600);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A world: the server with its journal, and what every board believes.
struct World {
    seed: u64,
    random: u64,
    pool: usize,
    server: Server,
    now: Instant,
    /// What reached stable storage.
    journal: Vec<Record>,
    /// Who may use which address until when, by what has reached the boards.
    held: BTreeMap<MacAddr, (Ipv4Addr, Instant)>,
    offered: BTreeMap<MacAddr, Ipv4Addr>,
    /// The first address of each board, while no more boards than addresses have shown up and none was declined.
    numbers: BTreeMap<MacAddr, Ipv4Addr>,
    declined: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        // Half of the worlds have too few addresses.
        let pool = if seed.is_multiple_of(2) { BOARDS + 2 } else { BOARDS / 2 };
        Self {
            seed,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            pool,
            server: Server::new(settings(pool), [], now),
            now,
            journal: Vec::new(),
            held: BTreeMap::new(),
            offered: BTreeMap::new(),
            numbers: BTreeMap::new(),
            declined: false,
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn step(&mut self) {
        let board = self.below(BOARDS);
        let mac = MacAddr([2, 0, 0, 0, 0, board as u8]);
        match self.below(20) {
            0..=5 => self.send(discover(mac, board)),
            6..=9 => self.take_offer(mac),
            10..=12 => self.renew(mac),
            13 => self.reboot(mac),
            14 => self.release(mac),
            15 => self.decline(mac),
            16 => self.restart(),
            17 => self.power_cut_during(discover(mac, board)),
            _ => {
                let seconds = [0, 1, 30, 300, 700][self.below(5)];
                self.now += Duration::from_secs(seconds) + Duration::from_millis(1);
                self.server.expire(self.now);
                self.deliver();
            }
        }
        self.check();
    }

    fn send(&mut self, message: Message) {
        self.server.receive(Input::Message(&message), self.now);
        if self.below(5) == 0 {
            // The network duplicated it.
            self.server.receive(Input::Message(&message), self.now);
        }
        self.deliver();
    }

    /// Records reach the disk in order; answers reach boards, or are lost.
    fn deliver(&mut self) {
        while let Some(output) = self.server.transmit() {
            match output {
                Output::Store(record) => self.journal.push(record),
                Output::Reply(reply) if self.below(4) > 0 => self.arrived(&reply),
                _ => {}
            }
        }
    }

    fn arrived(&mut self, reply: &Reply) {
        let message = &reply.message;
        let mac = message.mac().expect("it was copied from the request");
        let until = self.now + LEASE;
        match message.message_type() {
            Some(MessageType::Offer) => {
                self.offered.insert(mac, message.yiaddr);
                self.keeps_its_number(mac, message.yiaddr);
                // A Pi 3 takes the address at once.
                if message.options.has(code::VENDOR_SPECIFIC) {
                    self.held.insert(mac, (message.yiaddr, until));
                }
            }
            Some(MessageType::Ack) => {
                self.keeps_its_number(mac, message.yiaddr);
                self.held.insert(mac, (message.yiaddr, until));
            }
            Some(MessageType::Nak) => drop(self.held.remove(&mac)),
            _ => {}
        }
    }

    fn keeps_its_number(&mut self, mac: MacAddr, address: Ipv4Addr) {
        let known = *self.numbers.entry(mac).or_insert(address);
        if self.pool >= BOARDS && !self.declined {
            assert_eq!(known, address, "history {}: {mac} changed its address", self.seed);
        }
    }

    fn take_offer(&mut self, mac: MacAddr) {
        let Some(address) = self.offered.get(&mac).copied() else { return };
        let mut message = request(mac, MessageType::Request);
        let chosen = if self.below(8) == 0 { Ipv4Addr::new(10, 77, 0, 2) } else { SERVER };
        message.options.push_address(code::SERVER_ID, chosen);
        message.options.push_address(code::REQUESTED_ADDRESS, address);
        self.send(message);
    }

    fn lease_of(&self, mac: MacAddr) -> Option<Ipv4Addr> {
        self.held.get(&mac).filter(|(_, until)| *until > self.now).map(|(address, _)| *address)
    }

    fn renew(&mut self, mac: MacAddr) {
        if let Some(ciaddr) = self.lease_of(mac) {
            self.send(Message { ciaddr, ..request(mac, MessageType::Request) });
        }
    }

    /// With whatever address the board remembers, however old.
    fn reboot(&mut self, mac: MacAddr) {
        if let Some((address, _)) = self.held.remove(&mac) {
            let mut message = request(mac, MessageType::Request);
            message.options.push_address(code::REQUESTED_ADDRESS, address);
            self.send(message);
        }
    }

    fn release(&mut self, mac: MacAddr) {
        if let Some(ciaddr) = self.lease_of(mac) {
            self.held.remove(&mac);
            self.send(Message { ciaddr, ..request(mac, MessageType::Release) });
        }
    }

    fn decline(&mut self, mac: MacAddr) {
        if let Some(address) = self.lease_of(mac) {
            self.held.remove(&mac);
            self.declined = true;
            let mut message = request(mac, MessageType::Decline);
            message.options.push_address(code::REQUESTED_ADDRESS, address);
            self.send(message);
        }
    }

    fn restart(&mut self) {
        self.server = Server::new(settings(self.pool), self.journal.clone(), self.now);
    }

    /// Power goes after the message came in: the record may or may not have reached the disk, the answer did not leave.
    fn power_cut_during(&mut self, message: Message) {
        self.server.receive(Input::Message(&message), self.now);
        let reaches_disk = self.below(2) == 0;
        while let Some(output) = self.server.transmit() {
            match output {
                Output::Store(record) if reaches_disk => self.journal.push(record),
                _ => {}
            }
        }
        self.restart();
    }

    fn check(&self) {
        let mut owners: BTreeMap<Ipv4Addr, MacAddr> = BTreeMap::new();
        for (mac, (address, until)) in &self.held {
            if *until > self.now
                && let Some(other) = owners.insert(*address, *mac)
            {
                panic!("history {}: {mac} and {other} both hold {address}", self.seed);
            }
        }
        assert!(self.server.bound() <= self.pool);
    }
}

fn settings(pool: usize) -> Settings {
    let link =
        Subnet::new(SERVER, 16, Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 10 + pool as u8));
    let mut settings = Settings::new(SERVER, link.expect("a sound subnet"), LEASE);
    settings.authoritative = true;
    settings.boot = Some(Boot { tftp: SERVER, file: None });
    settings
}

fn request(mac: MacAddr, kind: MessageType) -> Message {
    let mut message = Message::request(mac, 7);
    message.options.push_message_type(kind);
    message
}

/// A third of the boards are Pis, half of those Pi 3 ROMs.
fn discover(mac: MacAddr, board: usize) -> Message {
    let mut message = request(mac, MessageType::Discover);
    if board.is_multiple_of(3) {
        message.options.push_u16(code::CLIENT_ARCH, 0);
        message.options.push(code::VENDOR_CLASS, "PXEClient:Arch:00000:UNDI:002001");
        if board.is_multiple_of(6) {
            message.options.push(code::CLIENT_MACHINE, [&[0][..], &[0x44; 16]].concat());
        }
    }
    message
}

#[test]
fn two_boards_never_hold_one_address_and_a_board_keeps_its_own() {
    let mut leases = 0;
    for seed in 0..HISTORIES {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        leases += world.held.len();
    }
    assert!(leases > HISTORIES as usize * 3, "the histories are lively: {leases}");
}
