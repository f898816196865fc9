use super::*;
use crate::{MacAddr, Options, Route};

const MAC: MacAddr = MacAddr([0xdc, 0xa6, 0x32, 1, 2, 3]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// A client, the virtual clock, and what it sent last.
struct Bench {
    client: Client,
    start: Instant,
    now: Instant,
    sent: Vec<Output>,
}

impl Bench {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        let mut bench = Self { client: Client::new(config, 1, now), start: now, now, sent: Vec::new() };
        bench.wake();
        bench
    }

    fn bound(lease_time: u32) -> Self {
        let mut bench = Self::new(Config::new(MAC));
        bench.answer(MessageType::Offer, lease_time);
        bench.answer(MessageType::Ack, lease_time);
        assert_eq!(bench.client.state(), State::Bound);
        bench.sent.clear();
        bench
    }

    /// Jumps to the deadline and drains.
    fn wake(&mut self) {
        self.now = self.client.deadline().expect("the client waits for something");
        self.client.expire(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        self.sent.extend(std::iter::from_fn(|| self.client.transmit()));
    }

    fn input(&mut self, input: Input<'_>) {
        self.client.receive(input, self.now);
        self.drain();
    }

    fn reply(&self, message_type: MessageType, server: Ipv4Addr, lease_time: u32) -> Message {
        let mut message = Message::request(MAC, self.client.xid).reply();
        message.yiaddr = ADDRESS;
        message.options.push_message_type(message_type);
        message.options.push_address(code::SERVER_ID, server);
        message.options.push_u32(code::LEASE_TIME, lease_time);
        message.options.push_address(code::SUBNET_MASK, Ipv4Addr::new(255, 255, 0, 0));
        message.options.push_address(code::ROUTERS, SERVER);
        message
    }

    fn answer(&mut self, message_type: MessageType, lease_time: u32) {
        let message = self.reply(message_type, SERVER, lease_time);
        self.input(Input::Message(&message));
    }

    fn last(&self) -> &Output {
        self.sent.last().expect("something was sent")
    }

    fn elapsed(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }
}

fn options_of(output: &Output) -> &Options {
    match output {
        Output::Broadcast(message) | Output::Unicast { message, .. } => &message.options,
        other => panic!("no message: {other:?}"),
    }
}

#[test]
fn four_messages_make_a_lease() {
    let mut bench = Bench::new(Config::new(MAC));
    assert_eq!(options_of(bench.last()).message_type(), Some(MessageType::Discover));
    bench.answer(MessageType::Offer, 3600);
    let request = options_of(bench.last());
    assert_eq!(request.message_type(), Some(MessageType::Request));
    assert_eq!(request.requested_address(), Some(ADDRESS));
    assert_eq!(request.server_id(), Some(SERVER));
    bench.answer(MessageType::Ack, 3600);
    let Output::Configure(lease) = bench.last() else { panic!("{:?}", bench.last()) };
    assert_eq!((lease.address, lease.prefix, lease.server), (ADDRESS, 16, SERVER));
    assert_eq!(lease.routes, [Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, router: SERVER }]);
    assert_eq!(bench.client.deadline(), Some(bench.now + Duration::from_secs(1800)));
}

#[test]
fn discover_is_repeated_for_ever_and_ever_more_slowly() {
    let mut bench = Bench::new(Config::new(MAC));
    let mut last = bench.now;
    for try_number in 0..40 {
        bench.wake();
        let waited = (bench.now - last).as_secs_f64();
        let nominal = f64::from(1_u32 << try_number.min(6));
        assert!((0.74..1.26).contains(&(waited / nominal)), "try {try_number}: {waited} s");
        last = bench.now;
    }
    assert_eq!(bench.sent.len(), 41);
    let Output::Broadcast(message) = bench.last() else { panic!() };
    assert_eq!(u64::from(message.secs), bench.elapsed() as u64);
}

#[test]
fn two_seeds_make_two_transactions_and_two_rhythms() {
    let now = Instant::now();
    let [a, b] = [1, 2].map(|seed| {
        let mut client = Client::new(Config::new(MAC), seed, now);
        client.expire(now);
        (client.xid, client.deadline())
    });
    assert_ne!(a.0, b.0);
    assert_ne!(a.1, b.1);
}

#[test]
fn an_unanswered_request_ends_in_a_new_discover() {
    let mut bench = Bench::new(Config::new(MAC));
    bench.answer(MessageType::Offer, 60);
    for _ in 0..REQUEST_TRIES + 1 {
        bench.wake();
    }
    let types: Vec<_> = bench.sent.iter().map(|o| options_of(o).message_type().unwrap()).collect();
    use MessageType::{Discover, Request};
    assert_eq!(types, [Discover, Request, Request, Request, Request, Discover]);
}

#[test]
fn a_lease_is_renewed_at_t1_by_unicast_and_the_interface_told() {
    let mut bench = Bench::bound(3600);
    bench.wake();
    let Output::Unicast { message, server } = bench.last().clone() else { panic!("{:?}", bench.last()) };
    assert_eq!((server, message.ciaddr), (SERVER, ADDRESS));
    // RFC 2131 §4.3.6: neither option 50 nor 54 when renewing.
    assert!(!message.options.has(code::REQUESTED_ADDRESS) && !message.options.has(code::SERVER_ID));
    bench.answer(MessageType::Ack, 3600);
    assert!(matches!(bench.last(), Output::Configure(_)));
    assert_eq!(bench.client.deadline(), Some(bench.now + Duration::from_secs(1800)));
}

#[test]
fn a_silent_server_leads_to_rebinding_and_then_to_the_end_of_the_lease() {
    let mut bench = Bench::bound(3600);
    let bound_at = bench.now;
    let mut times = Vec::new();
    while bench.client.state() != State::Selecting {
        bench.wake();
        times.push(((bench.now - bound_at).as_secs(), bench.client.state()));
    }
    assert_eq!(times[0], (1800, State::Renewing));
    assert!(times.contains(&(3150, State::Rebinding)));
    assert_eq!(times.last(), Some(&(3600, State::Selecting)));
    assert!(times.len() < 20, "{times:?}");
    assert!(bench.sent.contains(&Output::Deconfigure(Ended::Expired)));
    assert_eq!(bench.client.lease(), None);
}

#[test]
fn a_short_lease_gets_several_tries_to_renew() {
    let mut bench = Bench::bound(20);
    while bench.client.state() != State::Selecting {
        bench.wake();
    }
    let tries = bench.sent.iter().filter(|o| matches!(o, Output::Unicast { .. })).count();
    assert!((3..12).contains(&tries), "{tries}");
}

#[test]
fn a_refusal_ends_the_lease_and_a_server_that_always_refuses_is_asked_ever_more_slowly() {
    let mut bench = Bench::bound(3600);
    bench.wake();
    bench.answer(MessageType::Nak, 0);
    assert_eq!(bench.sent.last(), Some(&Output::Deconfigure(Ended::Refused)));
    let from = bench.now;
    for _ in 0..8 {
        bench.wake();
        bench.answer(MessageType::Offer, 3600);
        bench.answer(MessageType::Nak, 0);
    }
    assert!(bench.now - from > Duration::from_secs(90), "{:?}", bench.now - from);
}

#[test]
fn messages_of_others_and_impossible_leases_are_ignored() {
    let mut bench = Bench::new(Config { server: Some(SERVER), ..Config::new(MAC) });
    let good = bench.reply(MessageType::Offer, SERVER, 60);
    let mut wrong =
        vec![bench.reply(MessageType::Offer, OTHER, 60), bench.reply(MessageType::Offer, SERVER, 0)];
    wrong.push(Message { xid: good.xid ^ 1, ..good.clone() });
    wrong.push(Message { op: Op::Request, ..good.clone() });
    wrong.push(Message { hlen: 5, ..good.clone() });
    wrong.push(Message { chaddr: [2; 16], ..good.clone() });
    for yiaddr in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1"] {
        wrong.push(Message { yiaddr: yiaddr.parse().unwrap(), ..good.clone() });
    }
    for code in [code::LEASE_TIME, code::SERVER_ID, code::MESSAGE_TYPE] {
        let mut message = good.clone();
        message.options.remove(code);
        wrong.push(message);
    }
    for message in &wrong {
        bench.input(Input::Message(message));
        assert_eq!(bench.client.state(), State::Selecting, "{message:?}");
    }
    bench.input(Input::Message(&good));
    assert!(matches!(bench.client.state(), State::Requesting { .. }));
    // An ACK that was never asked for, a NAK from another server, an ACK for another address.
    let ack = bench.reply(MessageType::Ack, SERVER, 60);
    bench.input(Input::Message(&Message { yiaddr: OTHER, ..ack.clone() }));
    bench.client.config.server = None;
    let nak = bench.reply(MessageType::Nak, OTHER, 60);
    bench.input(Input::Message(&nak));
    assert!(matches!(bench.client.state(), State::Requesting { .. }));
    bench.input(Input::Message(&ack));
    assert_eq!(bench.client.state(), State::Bound);
    bench.answer(MessageType::Nak, 0);
    bench.answer(MessageType::Offer, 60);
    assert_eq!(bench.client.state(), State::Bound);
}

#[test]
fn times_out_of_order_are_replaced_by_the_usual_fractions() {
    for (t1, t2) in [(50, 40), (0, 80), (40, 100), (90, 200)] {
        let mut bench = Bench::new(Config::new(MAC));
        let mut offer = bench.reply(MessageType::Offer, SERVER, 100);
        offer.options.push_u32(code::RENEWAL_TIME, t1);
        offer.options.push_u32(code::REBINDING_TIME, t2);
        bench.input(Input::Message(&offer));
        offer.options.set(code::MESSAGE_TYPE, [5]);
        bench.input(Input::Message(&offer));
        assert_eq!(bench.client.deadline(), Some(bench.now + Duration::from_secs(50)), "{t1} {t2}");
    }
}

#[test]
fn a_lease_for_ever_needs_no_waking() {
    assert_eq!(Bench::bound(u32::MAX).client.deadline(), None);
}

#[test]
fn a_link_that_was_away_asks_whether_the_lease_still_holds_and_keeps_it_when_nobody_answers() {
    let mut bench = Bench::bound(3600);
    bench.input(Input::Verify);
    let request = options_of(bench.last());
    assert_eq!(request.requested_address(), Some(ADDRESS));
    assert_eq!(request.server_id(), None);
    for _ in 0..REBOOT_TRIES {
        bench.wake();
    }
    assert_eq!(bench.client.state(), State::Bound);
    assert!(bench.client.lease().is_some());
    bench.input(Input::Verify);
    bench.answer(MessageType::Nak, 0);
    assert_eq!(bench.sent.last(), Some(&Output::Deconfigure(Ended::Refused)));
}

#[test]
fn an_address_remembered_from_before_is_asked_for_first() {
    let now = Instant::now();
    let mut client = Client::resume(Config::new(MAC), ADDRESS, 3, now);
    let first = client.transmit().unwrap();
    assert_eq!(options_of(&first).requested_address(), Some(ADDRESS));
    for _ in 0..REBOOT_TRIES {
        client.expire(client.deadline().unwrap());
    }
    assert_eq!(client.state(), State::Selecting);
}

#[test]
fn a_conflict_declines_the_address_and_waits_ten_seconds() {
    let mut bench = Bench::bound(3600);
    bench.input(Input::Conflict);
    let [Output::Broadcast(decline), Output::Deconfigure(Ended::GivenUp)] = &bench.sent[..] else {
        panic!("{:?}", bench.sent)
    };
    assert_eq!(decline.options.requested_address(), Some(ADDRESS));
    assert!(bench.client.deadline().unwrap() >= bench.now + AFTER_DECLINE);
}

#[test]
fn a_released_client_says_so_and_falls_silent() {
    let mut bench = Bench::bound(3600);
    bench.input(Input::Release);
    let [Output::Unicast { message, server: SERVER }, Output::Deconfigure(Ended::GivenUp)] = &bench.sent[..]
    else {
        panic!("{:?}", bench.sent)
    };
    assert_eq!((message.message_type(), message.ciaddr), (Some(MessageType::Release), ADDRESS));
    assert_eq!(bench.client.deadline(), None);
    bench.sent.clear();
    bench.input(Input::Verify);
    bench.answer(MessageType::Ack, 60);
    assert!(bench.sent.is_empty());
}
