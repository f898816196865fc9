//! The DHCP server and client against peers that send anything, at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcp::client::{Client, Config, Input as ClientInput, Output as ClientOutput};
use dhcp::server::{Boot, Input as ServerInput, Output as ServerOutput, Server, Settings, Subnet};
use dhcp::{MacAddr, Message, MessageType, Op, code};

use crate::input::Input;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Small, so that it runs out.
const POOL: u8 = 6;

/// A message of the input: the header as given, or one that makes sense, and any options.
fn message(input: &mut Input<'_>, template: Message) -> Option<Message> {
    if input.u8() & 7 == 0 {
        return Message::decode(input.counted()).ok();
    }
    let mut message = template;
    if let Some(kind) = MessageType::from_octet(input.u8() & 7) {
        message.options.push_message_type(kind);
    }
    let choices = input.u8();
    if choices & 1 != 0 {
        message.options.push_address(code::SERVER_ID, SERVER);
    }
    if choices & 2 != 0 {
        message.options.push_address(code::REQUESTED_ADDRESS, nearby(input));
    }
    if choices & 4 != 0 {
        message.ciaddr = nearby(input);
    }
    if choices & 8 != 0 {
        message.yiaddr = nearby(input);
    }
    if choices & 16 != 0 {
        message.giaddr = if choices & 32 == 0 { Ipv4Addr::new(10, 78, 0, 1) } else { input.array().into() };
    }
    if choices & 64 != 0 {
        message.options.push_u32(code::LEASE_TIME, input.u32());
    }
    let mut bytes = message.encode();
    if choices & 128 != 0 {
        // Any options behind the ones above: the end option makes way.
        let end = 240 + message.options.iter().map(|(_, value)| 2 + value.len()).sum::<usize>();
        bytes.truncate(end);
        bytes.extend(input.counted());
    }
    Message::decode(&bytes).ok()
}

/// Addresses in and around the pool.
fn nearby(input: &mut Input<'_>) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, input.u8() % 32)
}

/// Whoever asks what: each answer fits its limit, no address has two owners, nothing is granted that was not stored
/// before, and time never stands still.
pub fn dhcp_server(data: &[u8]) {
    let mut input = Input(data);
    let mut now = Instant::now();
    let mut server = Server::new(settings(), [], now);
    let mut stored: BTreeMap<Ipv4Addr, MacAddr> = BTreeMap::new();
    while !input.is_empty() {
        let command = input.u8();
        if command & 3 == 0 {
            now += input.pause();
        } else if command & 3 == 1
            && let Some(deadline) = server.deadline()
        {
            now = now.max(deadline);
        }
        if command & 4 == 0 {
            let station = MacAddr([2, 0, 0, 0, 0, input.u8() % 12]);
            let xid = u32::from(input.u8());
            if let Some(message) = message(&mut input, Message::request(station, xid)) {
                server.receive(ServerInput::Message(&message), now);
            }
            drain_server(&mut server, &mut stored);
        }
        server.expire(now);
        drain_server(&mut server, &mut stored);
        assert!(server.deadline().is_none_or(|deadline| deadline > now), "a deadline that never passes");
    }
    let owners: BTreeSet<_> = server.records().map(|record| record.address).collect();
    assert_eq!(owners.len(), server.bound(), "an address with two owners");
    // A restart reads what was stored, and knows the same.
    let known = |server: &Server| -> BTreeMap<_, _> {
        server.records().map(|record| (record.address, record.mac)).collect()
    };
    let again = Server::new(settings(), server.records(), now);
    assert_eq!(known(&again), known(&server));
}

fn settings() -> Settings {
    let subnet = |net: u8| {
        let [first, last] = [11, 10 + POOL].map(|host| Ipv4Addr::new(10, net, 0, host));
        Subnet::new(Ipv4Addr::new(10, net, 0, 1), 24, first, last).expect("a pool in its network")
    };
    let mut settings = Settings::new(SERVER, subnet(77), Duration::from_secs(3600));
    settings.authoritative = true;
    settings.boot = Some(Boot { tftp: SERVER, file: Some("boot.efi".to_owned()) });
    settings.add_relayed(subnet(78)).expect("another network");
    settings
}

fn drain_server(server: &mut Server, stored: &mut BTreeMap<Ipv4Addr, MacAddr>) {
    while let Some(output) = server.transmit() {
        match output {
            ServerOutput::Store(record) => {
                stored.retain(|_, mac| *mac != record.mac || record.address.octets()[1] == 78);
                stored.insert(record.address, record.mac);
            }
            ServerOutput::Reply(reply) => {
                let bytes = reply.message.encode_within(reply.limit).expect("an answer fits its limit");
                let message = Message::decode(&bytes).expect("an answer is a message");
                assert_eq!((message.op, &message), (Op::Reply, &reply.message));
                assert_eq!(message.options.server_id(), Some(SERVER));
                let grants = matches!(message.message_type(), Some(MessageType::Offer | MessageType::Ack));
                if grants && !message.yiaddr.is_unspecified() {
                    assert_eq!(stored.get(&message.yiaddr).copied(), message.mac(), "{}", message.yiaddr);
                }
            }
            _ => {}
        }
        assert!(server.bound() <= 2 * usize::from(POOL));
    }
}

/// Whatever servers answer: a lease has its times in order, the client never spins, and what it sends can be read.
pub fn dhcp_client(data: &[u8]) {
    let mut input = Input(data);
    let mut now = Instant::now();
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let mut config = Config::new(mac);
    config.server = (input.u8() & 1 != 0).then_some(SERVER);
    let mut client = match input.u8() & 1 {
        0 => Client::new(config, 1, now),
        _ => Client::resume(config, nearby(&mut input), 1, now),
    };
    let mut asked = Message::request(mac, 0);
    while !input.is_empty() {
        match input.u8() & 15 {
            0 => client.receive(ClientInput::Verify, now),
            1 => client.receive(ClientInput::Conflict, now),
            2 if input.u8() & 7 == 0 => client.receive(ClientInput::Release, now),
            3 | 4 => now += input.pause(),
            5 | 6 => now = now.max(client.deadline().unwrap_or(now)),
            _ => {
                if let Some(message) = message(&mut input, asked.reply()) {
                    client.receive(ClientInput::Message(&message), now);
                }
            }
        }
        drain_client(&mut client, &mut asked);
        // What is due at once may make something else due at once, but not for ever.
        for _ in 0..3 {
            client.expire(now);
            drain_client(&mut client, &mut asked);
        }
        assert!(client.deadline().is_none_or(|deadline| deadline > now), "{:?}", client.state());
    }
}

fn drain_client(client: &mut Client, asked: &mut Message) {
    while let Some(output) = client.transmit() {
        match output {
            ClientOutput::Broadcast(message) | ClientOutput::Unicast { message, .. } => {
                assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message));
                *asked = message;
            }
            ClientOutput::Configure(lease) => {
                assert!((1..=32).contains(&lease.prefix) && !lease.address.is_unspecified());
                if let Some(times) = lease.lifetime {
                    assert!(times.renew <= times.rebind && times.rebind <= times.expires);
                }
                assert_eq!(client.lease(), Some(&lease));
            }
            ClientOutput::Deconfigure(_) => assert_eq!(client.lease(), None),
        }
    }
}
