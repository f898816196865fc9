//! The client machine against the server machine on a virtual clock, over a network that loses, delays and duplicates.

use dhcp::{
    MacAddr, Message,
    client::{Client, Config, Ended, Output as Do, State},
    server::{Input, Output, Record, Server, Settings, Subnet},
};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const LEASE: Duration = Duration::from_secs(600);

/// One server, some clients, and the frames between them.
struct Network {
    random: u64,
    loss_percent: usize,
    server: Option<Server>,
    clients: Vec<Client>,
    start: Instant,
    now: Instant,
    /// By arrival and a number that keeps equal arrivals apart: to the server, or to a client.
    flying: BTreeMap<(Instant, u64), (Option<MacAddr>, Message)>,
    sent: u64,
    addresses: BTreeMap<MacAddr, Ipv4Addr>,
    bound_at: BTreeMap<MacAddr, Duration>,
    ended: Vec<Ended>,
}

impl Network {
    fn new(seed: u64, boards: u8, loss_percent: usize) -> Self {
        let start = Instant::now();
        let client = |n| Client::new(Config::new(mac(n)), seed * 1000 + u64::from(n), start);
        Self {
            random: seed | 1,
            loss_percent,
            server: Some(server(Vec::new(), start)),
            clients: (0..boards).map(client).collect(),
            start,
            now: start,
            flying: BTreeMap::new(),
            sent: 0,
            addresses: BTreeMap::new(),
            bound_at: BTreeMap::new(),
            ended: Vec::new(),
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % limit
    }

    /// Puts a frame on the wire: lost, once or twice, and out of order.
    fn fly(&mut self, to: Option<MacAddr>, message: Message) {
        let copies = if self.below(100) < self.loss_percent { 0 } else { 1 + self.below(10) / 9 };
        for _ in 0..copies {
            self.sent += 1;
            let arrival = self.now + Duration::from_micros(100 + self.below(3000) as u64);
            // Every message must survive the wire format, too.
            let message = Message::decode(&message.encode()).expect("what we write we read");
            self.flying.insert((arrival, self.sent), (to, message));
        }
    }

    /// Runs until `end`, jumping from event to event.
    fn run(&mut self, end: Duration) {
        loop {
            let timers = self.clients.iter().filter_map(Client::deadline);
            let arrivals = self.flying.keys().next().map(|(at, _)| *at);
            let servers = self.server.as_ref().and_then(Server::deadline);
            let next = timers.chain(arrivals).chain(servers).min();
            match next.filter(|next| *next <= self.start + end) {
                Some(next) => self.now = next.max(self.now),
                None => break,
            }
            self.step();
        }
        self.now = self.start + end;
    }

    fn step(&mut self) {
        while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                (None, message) => {
                    if let Some(server) = &mut self.server {
                        server.receive(Input::Message(&message), self.now);
                    }
                }
                (Some(to), message) => {
                    // mac() numbers the clients in its last octet.
                    if let Some(client) = self.clients.get_mut(usize::from(to.0[5])) {
                        client.receive(dhcp::client::Input::Message(&message), self.now);
                    }
                }
            }
            self.drain();
        }
        for client in &mut self.clients {
            client.expire(self.now);
        }
        if let Some(server) = &mut self.server {
            server.expire(self.now);
        }
        self.drain();
    }

    fn drain(&mut self) {
        let mut frames = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate() {
            let mac = mac(index as u8);
            while let Some(output) = client.transmit() {
                match output {
                    Do::Broadcast(message) | Do::Unicast { message, .. } => frames.push((None, message)),
                    Do::Configure(lease) => {
                        let known = self.addresses.insert(mac, lease.address).unwrap_or(lease.address);
                        assert_eq!(known, lease.address, "{mac} keeps its address");
                        self.bound_at.entry(mac).or_insert(self.now - self.start);
                    }
                    Do::Deconfigure(reason) => self.ended.push(reason),
                }
            }
        }
        while let Some(output) = self.server.as_mut().and_then(Server::transmit) {
            if let Output::Reply(reply) = output {
                frames.push((reply.message.mac(), reply.message));
            }
        }
        for (to, message) in frames {
            self.fly(to, message);
        }
    }

    fn assert_all_differ(&self) {
        let mut addresses: Vec<_> = self.addresses.values().collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), self.clients.len(), "everybody has an address of their own");
    }
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, n])
}

fn server(records: Vec<Record>, now: Instant) -> Server {
    let link = Subnet::new(SERVER, 16, Ipv4Addr::new(10, 77, 0, 11), Ipv4Addr::new(10, 77, 0, 250));
    let mut settings = Settings::new(SERVER, link.expect("a sound subnet"), LEASE);
    settings.authoritative = true;
    Server::new(settings, records, now)
}

#[test]
fn on_a_good_network_a_hundred_boards_have_leases_within_20_ms() {
    let mut network = Network::new(1, 100, 0);
    network.run(Duration::from_secs(10));
    network.assert_all_differ();
    let slowest = network.bound_at.values().max().expect("someone is bound");
    assert!(*slowest < Duration::from_millis(20), "{slowest:?}");
}

#[test]
fn with_a_fifth_of_all_frames_lost_everybody_is_bound_and_stays_so() {
    for seed in 1..20 {
        let mut network = Network::new(seed, 30, 20);
        network.run(Duration::from_secs(3 * 3600));
        network.assert_all_differ();
        // Eight tries to renew a lease, each failing with 0.2 + 0.8 * 0.2: one lease of 3,500 is lost, and the 30 boards
        // renew 1,080 times.
        assert!(network.ended.len() <= 3, "seed {seed}: {:?}", network.ended);
        assert!(network.clients.iter().filter(|client| client.lease().is_some()).count() >= 28);
    }
}

#[test]
fn a_server_that_is_away_for_less_than_half_a_lease_is_not_missed() {
    let mut network = Network::new(3, 20, 0);
    network.run(Duration::from_secs(290));
    let records: Vec<_> = network.server.take().expect("it runs").records().collect();
    network.run(Duration::from_secs(290 + 280));
    // Back, with its journal only.
    network.server = Some(server(records, network.now));
    network.run(Duration::from_secs(3600));
    assert_eq!(network.ended, []);
    network.assert_all_differ();
}

#[test]
fn a_server_that_lost_its_journal_lets_running_boards_keep_their_addresses() {
    let mut network = Network::new(4, 20, 0);
    network.run(Duration::from_secs(100));
    network.server = Some(server(Vec::new(), network.now));
    network.run(Duration::from_secs(3600));
    assert_eq!(network.ended, []);
    network.assert_all_differ();
}

#[test]
fn a_server_that_never_comes_back_ends_every_lease_at_its_time() {
    let mut network = Network::new(5, 5, 0);
    network.run(Duration::from_secs(10));
    let records: Vec<_> = network.server.take().expect("it runs").records().collect();
    network.run(Duration::from_secs(700));
    assert_eq!(network.ended, [Ended::Expired; 5]);
    network.server = Some(server(records, network.now));
    network.run(Duration::from_secs(900));
    assert!(network.clients.iter().all(|client| client.state() == State::Bound));
}
