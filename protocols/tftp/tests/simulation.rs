//! Both ends against each other on a virtual clock, over a network that loses, doubles and reorders.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use tftp::client::{Fetch, Outcome, Patience, Purpose};
use tftp::options::Limits;
use tftp::server::{Output, State, Transfer};
use tftp::{BlockSize, Options, Packet};

/// xorshift64*: the simulation's only source of chance, so that a seed is a whole run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn percent(&mut self, share: u64) -> bool {
        self.next() >> 33 & 0xffff < share * 65536 / 100
    }
}

#[derive(Clone, Copy)]
struct Weather {
    loss: u64,
    doubling: u64,
    /// The longest way; datagrams draw theirs, and so overtake each other.
    latency: Duration,
}

struct Link {
    chance: Chance,
    weather: Weather,
    flying: BTreeMap<(Instant, u64), Vec<u8>>,
    count: u64,
}

impl Link {
    fn send(&mut self, datagram: &[u8], now: Instant) {
        let copies = 1 + u64::from(self.chance.percent(self.weather.doubling));
        for _ in 0..copies {
            if self.chance.percent(self.weather.loss) {
                continue;
            }
            let way = self.weather.latency.as_nanos() as u64;
            let way = Duration::from_nanos(way / 4 + self.chance.next() % (way * 3 / 4));
            self.count += 1;
            self.flying.insert((now + way, self.count), datagram.to_vec());
        }
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.flying.keys().next().map(|(moment, _)| *moment)
    }

    fn arrivals(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let later = self.flying.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.flying, later).into_values().collect()
    }
}

struct Run {
    outcome: Outcome,
    received: Vec<u8>,
    server: Option<State>,
    datagrams: u64,
    took: Duration,
}

fn run(seed: u64, weather: Weather, file: &[u8], wish: Options, purpose: Purpose) -> Run {
    let link = |salt: u64| Link {
        chance: Chance(seed.wrapping_mul(0x9e37_79b9) ^ salt),
        weather,
        flying: BTreeMap::new(),
        count: 0,
    };
    let (mut up, mut down) = (link(0x1111), link(0x2222));
    let begin = Instant::now();
    let mut now = begin;
    let patience = Patience { file: Duration::from_secs(600), ..Patience::default() };
    let mut client = Fetch::new(b"kernel", wish, purpose, patience, now);
    let mut server: Option<Transfer> = None;
    let mut received = Vec::new();
    loop {
        for datagram in up.arrivals(now) {
            match (Packet::decode(&datagram).unwrap(), &mut server) {
                (Packet::ReadRequest(_), Some(transfer)) => transfer.request_repeated(now),
                (Packet::ReadRequest(request), server @ None) => {
                    *server =
                        Some(Transfer::new(file.len() as u64, &request.options, &Limits::default(), now));
                }
                (packet, Some(transfer)) => transfer.receive(&packet, now),
                (_, None) => {}
            }
        }
        for datagram in down.arrivals(now) {
            received.extend_from_slice(client.receive(4000, &datagram, now).unwrap_or_default());
        }
        client.expire(now);
        while let Some(output) = client.transmit() {
            up.send(&output.datagram, now);
        }
        if let Some(transfer) = &mut server {
            transfer.expire(now);
            while let Some(output) = transfer.transmit() {
                down.send(&encode(output, file), now);
            }
        }
        // A transfer that gave up is forgotten, and the next request begins another, as in the service.
        if client.outcome().is_none() && server.as_ref().is_some_and(|t| t.state() == State::GaveUp) {
            server = None;
        }
        let next = [
            client.deadline(),
            server.as_ref().and_then(Transfer::deadline),
            up.next_arrival(),
            down.next_arrival(),
        ];
        match next.into_iter().flatten().min() {
            Some(moment) => now = now.max(moment),
            None => break,
        }
    }
    Run {
        outcome: client.outcome().unwrap().clone(),
        received,
        server: server.map(|transfer| transfer.state()),
        datagrams: up.count + down.count,
        took: now - begin,
    }
}

fn encode(output: Output, file: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    match output {
        Output::OptionAcknowledgement(options) => {
            Packet::OptionAcknowledgement(options).encode(&mut datagram)
        }
        Output::Data { block, offset, length } => {
            let payload = &file[offset as usize..][..usize::from(length)];
            Packet::Data { block, payload }.encode(&mut datagram);
        }
    }
    datagram
}

fn wishes() -> [Options; 4] {
    let full =
        Options { block_size: Some(BlockSize::ETHERNET), transfer_size: Some(0), ..Options::default() };
    let windowed = |blocks| Options { window_size: NonZeroU16::new(blocks), ..full };
    [Options::default(), full, windowed(4), windowed(32)]
}

fn content(length: usize) -> Vec<u8> {
    let mut chance = Chance(length as u64 + 1);
    (0..length).map(|_| chance.next() as u8).collect()
}

const LAN: Weather = Weather { loss: 0, doubling: 0, latency: Duration::from_micros(400) };

#[test]
fn files_of_all_lengths_arrive_whole_whatever_the_network_does() {
    let weathers = [
        LAN,
        Weather { loss: 5, doubling: 0, latency: Duration::from_millis(2) },
        Weather { loss: 0, doubling: 30, latency: Duration::from_millis(40) },
        Weather { loss: 15, doubling: 15, latency: Duration::from_millis(300) },
    ];
    for length in [0, 1, 511, 512, 513, 1467, 1468, 1469, 2936, 30_000] {
        let file = content(length);
        for (index, wish) in wishes().into_iter().enumerate() {
            for weather in weathers {
                for seed in 1..=8 {
                    let run = run(seed, weather, &file, wish, Purpose::Read);
                    assert_eq!(run.outcome, Outcome::Complete, "length {length} wish {index} seed {seed}");
                    assert!(run.received == file, "length {length} wish {index} seed {seed}");
                }
            }
        }
    }
}

#[test]
fn file_beyond_65535_blocks_arrives_whole() {
    let file = content(65_537 * 512 + 17);
    for wish in [Options::default(), Options { window_size: NonZeroU16::new(32), ..Options::default() }] {
        let weather = Weather { doubling: 1, ..LAN };
        let run = run(1, weather, &file, wish, Purpose::Read);
        assert_eq!(run.outcome, Outcome::Complete);
        assert!(run.received == file);
    }
}

#[test]
fn quiet_network_carries_no_datagram_twice() {
    let file = content(100 * 1468);
    let run = run(1, LAN, &file, wishes()[1], Purpose::Read);
    // RRQ, OACK, ACK 0, and 101 blocks with their acknowledgements: the last block is empty.
    assert_eq!(run.datagrams, 3 + 2 * 101);
    assert_eq!(run.server, Some(State::Completed));
}

#[test]
fn doubled_datagrams_do_not_multiply() {
    let file = content(200 * 512);
    let weather = Weather { doubling: 50, ..LAN };
    let run = run(3, weather, &file, Options::default(), Purpose::Read);
    // Each doubled block may cost one more acknowledgement, each doubled acknowledgement nothing (about 2.6
    // datagrams per block come of 1.5 copies of each); the Sorcerer's Apprentice would double without end.
    assert!(run.datagrams < 201 * 4, "{}", run.datagrams);
}

#[test]
fn one_lost_datagram_in_twenty_costs_a_fraction_of_a_second_each() {
    let file = content(300 * 1468);
    let weather = Weather { loss: 5, doubling: 0, latency: Duration::from_millis(1) };
    let run = run(5, weather, &file, wishes()[1], Purpose::Read);
    assert!(run.took < Duration::from_secs(40), "{:?}", run.took);
}

#[test]
fn probe_learns_the_size_and_the_server_takes_it_for_an_answer() {
    let file = content(5000);
    let run = run(1, LAN, &file, wishes()[1], Purpose::Probe);
    assert_eq!(run.outcome, Outcome::Probed { size: Some(5000) });
    assert!(run.received.is_empty());
    assert_eq!(run.server, Some(State::Aborted(tftp::ErrorCode::NOT_DEFINED)));
}

#[test]
fn answers_from_a_strange_port_do_not_disturb() {
    let now = Instant::now();
    let mut client = Fetch::new(b"f", Options::default(), Purpose::Read, Patience::default(), now);
    client.transmit();
    let mut block = Vec::new();
    Packet::Data { block: 1, payload: &[7; 512] }.encode(&mut block);
    assert!(client.receive(4000, &block, now).is_some());
    assert_eq!(client.transmit().and_then(|output| output.port), Some(4000));
    assert!(client.receive(4001, &block, now).is_none());
    let refusal = client.transmit().unwrap();
    assert_eq!((refusal.port, refusal.datagram.get(3)), (Some(4001), Some(&5)));
    assert_eq!(client.outcome(), None);
}

#[test]
fn acknowledged_options_beyond_the_request_are_refused() {
    let now = Instant::now();
    for granted in [
        Options { block_size: Some(BlockSize::ETHERNET), ..Options::default() },
        Options { window_size: NonZeroU16::new(2), ..Options::default() },
        Options { transfer_size: Some(3), ..Options::default() },
    ] {
        let wish = Options { block_size: BlockSize::new(1024), ..Options::default() };
        let mut client = Fetch::new(b"f", wish, Purpose::Read, Patience::default(), now);
        client.transmit();
        let mut oack = Vec::new();
        Packet::OptionAcknowledgement(granted).encode(&mut oack);
        client.receive(4000, &oack, now);
        assert_eq!(client.outcome(), Some(&Outcome::Violation));
        assert_eq!(client.transmit().and_then(|output| output.datagram.get(3).copied()), Some(8));
    }
}

#[test]
fn silent_server_is_asked_every_two_seconds_and_given_up_after_thirty() {
    let now = Instant::now();
    let mut client = Fetch::new(b"f", Options::default(), Purpose::Read, Patience::default(), now);
    let mut requests = Vec::new();
    let mut moment = now;
    loop {
        while client.transmit().is_some() {
            requests.push((moment - now).as_secs());
        }
        let Some(deadline) = client.deadline() else { break };
        moment = deadline;
        client.expire(moment);
    }
    assert_eq!(client.outcome(), Some(&Outcome::TimedOut));
    assert_eq!(requests, (0..15).map(|step| step * 2).collect::<Vec<u64>>());
}
