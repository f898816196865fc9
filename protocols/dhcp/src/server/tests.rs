use super::*;
use crate::{
    code,
    testing::{hex, unhex},
};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 11);
const LEASE: Duration = Duration::from_secs(3600);

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn mac(n: u8) -> MacAddr {
    MacAddr([0xdc, 0xa6, 0x32, 0, 0, n])
}

fn settings(last: u8) -> Settings {
    let link = Subnet::new(SERVER, 16, FIRST, ip(last)).unwrap();
    let mut settings = Settings::new(SERVER, link, LEASE);
    settings.authoritative = true;
    settings.boot = Some(Boot { tftp: SERVER, file: None });
    settings.host_name_prefix = Some("node-".into());
    settings.set_dns_servers(&[SERVER]);
    settings
}

/// A server, the virtual clock, and what the server did last.
struct Bench {
    server: Server,
    now: Instant,
    done: Vec<Output>,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let now = Instant::now();
        Self { server: Server::new(settings, [], now), now, done: Vec::new() }
    }

    fn input(&mut self, message: &Message) {
        self.server.receive(Input::Message(message), self.now);
        self.drain();
    }

    fn drain(&mut self) {
        self.done = std::iter::from_fn(|| self.server.transmit()).collect();
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.server.expire(self.now);
        self.drain();
    }

    fn reply(&self) -> Option<&Reply> {
        self.done.iter().find_map(|output| match output {
            Output::Reply(reply) => Some(&**reply),
            _ => None,
        })
    }

    fn ask(&mut self, message: &Message) -> Option<(MessageType, Ipv4Addr)> {
        self.input(message);
        self.reply().map(|reply| (reply.message.message_type().unwrap(), reply.message.yiaddr))
    }

    /// A whole plain exchange; the address.
    fn acquire(&mut self, n: u8) -> Ipv4Addr {
        let (kind, address) = self.ask(&discover(n)).expect("an offer");
        assert_eq!(kind, MessageType::Offer);
        assert_eq!(self.ask(&select(n, address)), Some((MessageType::Ack, address)));
        address
    }
}

fn plain(n: u8, kind: MessageType) -> Message {
    let mut message = Message::request(mac(n), 0x1000 + u32::from(n));
    message.options.push_message_type(kind);
    message
}

fn discover(n: u8) -> Message {
    plain(n, MessageType::Discover)
}

fn select(n: u8, address: Ipv4Addr) -> Message {
    let mut message = plain(n, MessageType::Request);
    message.options.push_address(code::SERVER_ID, SERVER);
    message.options.push_address(code::REQUESTED_ADDRESS, address);
    message
}

fn reboot(n: u8, address: Ipv4Addr) -> Message {
    let mut message = plain(n, MessageType::Request);
    message.options.push_address(code::REQUESTED_ADDRESS, address);
    message
}

fn renew(n: u8, address: Ipv4Addr) -> Message {
    Message { ciaddr: address, ..plain(n, MessageType::Request) }
}

fn decline(n: u8, address: Ipv4Addr) -> Message {
    let mut message = plain(n, MessageType::Decline);
    message.options.push_address(code::REQUESTED_ADDRESS, address);
    message.options.push_address(code::SERVER_ID, SERVER);
    message
}

/// The Pi 4 EEPROM's DISCOVER.
fn pi4(n: u8) -> Message {
    let mut message = discover(n);
    message.options.push(55, unhex("01032b3c4243 8081828384858687"));
    message.options.push_u16(93, 0);
    message.options.push(94, [1, 2, 1]);
    message.options.push(97, unhex("00 34695052 4131a000 32000000 78563412").as_slice());
    message.options.push(60, "PXEClient:Arch:00000:UNDI:002001");
    message
}

fn pi3_rom(n: u8) -> Message {
    let mut message = pi4(n);
    message.xid = 0x26f3_0339;
    message.options.set(97, [&[0][..], &[0x44; 16]].concat());
    message
}

fn uefi(n: u8, vendor_class: &str, arch: u16) -> Message {
    let mut message = discover(n);
    message.set_broadcast(true);
    message.options.push_u16(93, arch);
    message.options.push(60, vendor_class);
    message
}

#[test]
fn a_pi_gets_the_offer_its_boot_rom_wants_byte_for_byte() {
    let mut bench = Bench::new(settings(99));
    bench.input(&pi4(1));
    let reply = bench.reply().unwrap();
    assert_eq!(reply.to, To::Station { address: FIRST, mac: mac(1) });
    let bytes = reply.message.encode();
    let header =
        "02010600 00001001 00000000 00000000 0a4d000b 0a4d0001 00000000 dca632000001 00000000000000000000";
    assert_eq!(hex(&bytes[..44]), hex(&unhex(header)));
    assert!(bytes[44..236].iter().all(|octet| *octet == 0), "file and sname are empty");
    let golden =
        "63825363 350102 36040a4d0001 330400000e10 3a0400000708 3b0400000c4e 0104ffff0000 1c040a4dffff
        03040a4d0001 3c09505845436c69656e74 420931302e37372e302e31
        611100346950524131a0003200000078563412
        2b200601030a040050584509140000115261737062657272792050692042 6f6f74ff ff";
    assert_eq!(hex(&bytes[236..]), hex(&unhex(golden)));
}

#[test]
fn the_reference_option_43_is_32_octets() {
    assert_eq!(hex(&PI_VENDOR_OPTIONS), "0601030a0400505845091400001152617370626572727920506920426f6f74ff");
}

#[test]
fn a_pi_4_request_without_option_60_gets_the_ack_its_discover_earned() {
    let mut bench = Bench::new(settings(99));
    bench.input(&pi4(1));
    let offered: Vec<(u8, Vec<u8>)> =
        bench.reply().unwrap().message.options.iter().map(|(c, v)| (c, v.to_vec())).collect();
    let mut request = select(1, FIRST);
    request.options.push(97, pi4(1).options.get(97).unwrap());
    bench.input(&request);
    let ack = &bench.reply().unwrap().message;
    for (code, value) in &offered[1..] {
        assert_eq!(ack.options.get(*code), Some(&value[..]), "option {code}");
    }
    // The running system's REQUEST is another transaction.
    let mut later = reboot(1, FIRST);
    later.xid = 9;
    bench.input(&later);
    let ack = &bench.reply().unwrap().message;
    assert!(!ack.options.has(43) && !ack.options.has(66));
    assert_eq!(ack.options.host_name(), Some("node-1"));
    assert_eq!(ack.options.dns_servers(), [SERVER]);
}

#[test]
fn the_serial_of_a_pi_4_is_reported_and_the_3b_rom_has_none() {
    let mut bench = Bench::new(settings(99));
    bench.input(&pi4(1));
    let seen: Vec<_> = bench
        .done
        .iter()
        .filter_map(|o| match o {
            Output::Seen(sighting) => {
                Some((sighting.kind, sighting.class, sighting.serial, sighting.address))
            }
            _ => None,
        })
        .collect();
    use MessageType::{Discover, Offer};
    assert_eq!(
        seen,
        [(Discover, Class::PiEeprom, None, None), (Offer, Class::PiEeprom, None, Some(FIRST))],
        "the address in option 97 is another board's"
    );
    let mut good = pi4(1);
    good.options.set(97, unhex("00 52506934 4131a000 32000001 78563412"));
    bench.input(&good);
    assert!(bench.done.iter().any(|o| matches!(o, Output::Seen(s) if s.serial == Some(0x1234_5678))));
    assert_eq!(class::serial(&pi3_rom(2), mac(2)), None);
    good.options.set(97, unhex("00 164c6cb6 164c6cb6 164c6cb6 164c6cb6"));
    assert_eq!(class::serial(&good, mac(1)), Some(0xb66c_4c16));
}

#[test]
fn a_pi_3_rom_is_answered_late_once_and_between_two_frames() {
    let mut bench = Bench::new(settings(99));
    bench.input(&pi3_rom(1));
    assert_eq!(bench.reply(), None);
    assert_eq!(bench.server.deadline(), Some(bench.now + PI3_ROM_DELAY));
    bench.advance(Duration::from_millis(500));
    bench.input(&pi3_rom(1));
    bench.advance(Duration::from_millis(1000));
    let kinds: Vec<_> = bench.done.iter().filter(|o| !matches!(o, Output::Seen(_))).collect();
    assert!(matches!(kinds[..], [Output::Wake(FIRST), Output::Reply(_)]), "{kinds:?}");
    bench.advance(WAKE_AFTER);
    assert_eq!(bench.done, [Output::Wake(FIRST)]);
    bench.advance(Duration::from_secs(4));
    assert_eq!(bench.reply(), None);
}

#[test]
fn a_delayed_offer_of_an_address_that_was_given_away_meanwhile_is_not_sent() {
    let mut bench = Bench::new(settings(99));
    bench.input(&pi3_rom(1));
    bench.input(&decline(1, FIRST));
    bench.advance(PI3_ROM_DELAY);
    assert_eq!(bench.reply(), None);
}

#[test]
fn two_pi_3_roms_with_one_transaction_number_get_two_addresses_at_the_offer() {
    let mut bench = Bench::new(settings(99));
    bench.input(&pi3_rom(1));
    bench.input(&pi3_rom(2));
    bench.advance(PI3_ROM_DELAY);
    let offers: Vec<_> = bench
        .done
        .iter()
        .filter_map(|o| match o {
            Output::Reply(reply) => Some((reply.message.mac().unwrap(), reply.message.yiaddr)),
            _ => None,
        })
        .collect();
    assert_eq!(offers, [(mac(1), FIRST), (mac(2), ip(12))]);
}

#[test]
fn delayed_answers_are_bounded_and_the_excess_counted() {
    let link = Subnet::new(SERVER, 16, FIRST, Ipv4Addr::new(10, 77, 99, 1)).unwrap();
    let mut bench = Bench::new(Settings::new(SERVER, link, LEASE));
    for n in 0..MAX_DELAYED as u32 + 5 {
        let mut message = pi3_rom(0);
        message.chaddr[3..6].copy_from_slice(&n.to_be_bytes()[1..]);
        bench.input(&message);
    }
    assert_eq!(bench.server.counters().delayed_dropped, 5);
}

#[test]
fn uefi_gets_what_edk2_was_measured_to_accept() {
    // Rows: vendor class, architecture, boot file; then options 60, 67, 43 and siaddr of the answer.
    let (pxe, http) = ("PXEClient:Arch:00011:UNDI:003000", "HTTPClient:Arch:00019:UNDI:003000");
    let none = Ipv4Addr::UNSPECIFIED;
    for (vendor_class, arch, file, opt60, opt67, siaddr) in [
        (pxe, 11, Some("boot.efi"), None, Some("boot.efi"), SERVER),
        (pxe, 7, Some("boot.efi"), None, Some("boot.efi"), SERVER),
        (pxe, 11, Some("http://x/boot.efi"), None, None, none),
        (pxe, 11, None, None, None, none),
        (http, 19, Some("http://x/boot.efi"), Some("HTTPClient"), Some("http://x/boot.efi"), none),
        (http, 19, Some("boot.efi"), None, None, none),
    ] {
        let mut settings = settings(99);
        settings.boot = Some(Boot { tftp: SERVER, file: file.map(str::to_owned) });
        let mut bench = Bench::new(settings);
        bench.input(&uefi(1, vendor_class, arch));
        let reply = bench.reply().unwrap();
        assert_eq!(reply.to, To::Broadcast);
        let options = &reply.message.options;
        let got = (options.text(60), options.boot_file_name(), options.has(43), reply.message.siaddr);
        assert_eq!(got, (opt60, opt67, false, siaddr), "{vendor_class} {file:?}");
    }
}

#[test]
fn classes_are_told_by_options_and_not_by_the_vendor_of_the_address() {
    let mut pftf = uefi(1, "PXEClient:Arch:00011:UNDI:003000", 11);
    assert_eq!(Class::of(&pftf), Class::UefiPxe);
    pftf.options.remove(93);
    assert_eq!(Class::of(&pftf), Class::Plain);
    assert_eq!(Class::of(&pi4(1)), Class::PiEeprom);
    assert_eq!(Class::of(&pi3_rom(1)), Class::Pi3Rom);
    let mut bootcode = pi3_rom(1);
    bootcode.options.set(97, unhex("00 164c6cb6 164c6cb6 164c6cb6 164c6cb6"));
    assert_eq!(Class::of(&bootcode), Class::Pi3);
    assert_eq!(Class::of(&discover(1)), Class::Plain);
    let mut ipxe = pi4(1);
    ipxe.options.set(60, "PXEClient:Arch:00000:UNDI:003016");
    assert_eq!(Class::of(&ipxe), Class::Plain);
}

#[test]
fn without_a_boot_server_a_pi_gets_a_lease_and_no_boot() {
    let mut bench = Bench::new(Settings { boot: None, ..settings(99) });
    bench.input(&pi4(1));
    let options = &bench.reply().unwrap().message.options;
    assert!(!options.has(43) && !options.has(60) && !options.has(66));
}

#[test]
fn boards_are_numbered_in_order_of_appearance_and_keep_their_number() {
    let mut bench = Bench::new(settings(99));
    assert_eq!([5, 3, 9].map(|n| bench.acquire(n)), [ip(11), ip(12), ip(13)]);
    bench.advance(LEASE * 100);
    assert_eq!([9, 3, 5, 7].map(|n| bench.acquire(n)), [ip(13), ip(12), ip(11), ip(14)]);
}

#[test]
fn a_repeated_discover_gets_the_same_offer_and_stores_once() {
    let mut bench = Bench::new(settings(99));
    let first = bench.ask(&discover(1));
    assert!(bench.done.contains(&Output::Store(Record { address: FIRST, mac: mac(1) })));
    assert_eq!(bench.ask(&discover(1)), first);
    assert!(!bench.done.iter().any(|o| matches!(o, Output::Store(_))));
}

#[test]
fn a_record_is_stored_before_the_offer_that_needs_it() {
    let mut bench = Bench::new(settings(99));
    bench.input(&discover(1));
    let store = bench.done.iter().position(|o| matches!(o, Output::Store(_))).unwrap();
    let reply = bench.done.iter().position(|o| matches!(o, Output::Reply(_))).unwrap();
    assert!(store < reply);
}

#[test]
fn a_restart_keeps_every_number_and_later_records_override_earlier_ones() {
    let now = Instant::now();
    let record = |last, n| Record { address: ip(last), mac: mac(n) };
    let outside = Record { address: Ipv4Addr::new(10, 78, 0, 1), mac: mac(9) };
    let records = [record(11, 1), record(12, 2), record(11, 3), record(14, 2), outside, record(1, 8)];
    let mut bench = Bench { server: Server::new(settings(99), records, now), now, done: Vec::new() };
    assert_eq!(bench.server.records().collect::<Vec<_>>(), [record(11, 3), record(14, 2)]);
    assert_eq!(bench.acquire(3), ip(11));
    assert_eq!(bench.acquire(2), ip(14));
    assert_eq!(bench.acquire(1), ip(12));
}

#[test]
fn an_exhausted_pool_is_said_once_a_minute_and_reuses_only_leases_that_are_over() {
    let mut bench = Bench::new(settings(12));
    bench.acquire(1);
    bench.advance(Duration::from_secs(10));
    bench.acquire(2);
    assert_eq!(bench.ask(&discover(3)), None);
    assert!(bench.done.contains(&Output::Exhausted(mac(3))));
    assert_eq!(bench.ask(&discover(4)), None);
    assert!(!bench.done.iter().any(|o| matches!(o, Output::Exhausted(_))));
    assert_eq!(bench.server.counters().exhausted, 2);
    bench.advance(LEASE - Duration::from_secs(10));
    assert_eq!(bench.ask(&discover(3)), Some((MessageType::Offer, ip(11))));
    // Board 1 is told that the address is no longer its own, and gets one as soon as there is one.
    assert_eq!(bench.ask(&renew(1, ip(11))).unwrap().0, MessageType::Nak);
    assert_eq!(bench.ask(&discover(1)), None);
}

#[test]
fn an_offer_nobody_took_is_given_to_somebody_else_before_any_lease_that_was() {
    let mut bench = Bench::new(settings(12));
    bench.acquire(1);
    bench.ask(&discover(2));
    bench.advance(LEASE + OFFER_HOLD);
    assert_eq!(bench.ask(&discover(3)), Some((MessageType::Offer, ip(12))));
}

#[test]
fn a_released_address_stays_the_boards_until_it_is_needed() {
    let mut bench = Bench::new(settings(12));
    bench.acquire(1);
    bench.acquire(2);
    assert_eq!(bench.ask(&Message { ciaddr: ip(11), ..plain(1, MessageType::Release) }), None);
    assert_eq!(bench.acquire(1), ip(11));
    bench.input(&Message { ciaddr: ip(11), ..plain(1, MessageType::Release) });
    assert_eq!(bench.acquire(3), ip(11));
    // Nobody releases another's address.
    bench.input(&Message { ciaddr: ip(12), ..plain(3, MessageType::Release) });
    assert_eq!(bench.ask(&discover(1)), None);
}

#[test]
fn every_kind_of_request_gets_its_answer() {
    use MessageType::{Ack, Nak};
    let foreign = Ipv4Addr::new(192, 168, 1, 5);
    let other_server = || {
        let mut message = select(1, ip(11));
        message.options.set(code::SERVER_ID, OTHER.octets());
        message
    };
    // Board 1 has .11, board 2 has .12; board 3 is unknown. Answers: authoritative, and not.
    let rows: [(&str, Message, Option<MessageType>, Option<MessageType>); 13] = [
        ("selecting, right", select(1, ip(11)), Some(Ack), Some(Ack)),
        ("selecting, wrong", select(1, ip(12)), Some(Nak), Some(Nak)),
        ("selecting, unknown", select(3, ip(12)), Some(Nak), Some(Nak)),
        ("selecting another server", other_server(), None, None),
        ("rebooting, right", reboot(1, ip(11)), Some(Ack), Some(Ack)),
        ("rebooting, wrong", reboot(1, ip(12)), Some(Nak), None),
        ("rebooting, wrong network", reboot(1, foreign), Some(Nak), None),
        ("rebooting, unknown and taken", reboot(3, ip(12)), Some(Nak), None),
        ("rebooting, unknown and free", reboot(3, ip(50)), Some(Ack), None),
        ("renewing, right", renew(1, ip(11)), Some(Ack), Some(Ack)),
        ("renewing, unknown and taken", renew(3, ip(11)), Some(Nak), None),
        ("renewing, unknown and free", renew(3, ip(50)), Some(Ack), None),
        ("neither 50 nor ciaddr", plain(1, MessageType::Request), None, None),
    ];
    for (name, message, with_authority, without) in rows {
        for (authoritative, expected) in [(true, with_authority), (false, without)] {
            let mut bench = Bench::new(Settings { authoritative, ..settings(99) });
            bench.acquire(1);
            bench.acquire(2);
            let got = bench.ask(&message).map(|(kind, _)| kind);
            assert_eq!(got, expected, "{name}, authoritative: {authoritative}");
            match got {
                Some(Nak) => assert_eq!(bench.reply().unwrap().to, To::Broadcast, "{name}"),
                Some(_) if !message.ciaddr.is_unspecified() => {
                    assert_eq!(bench.reply().unwrap().to, To::Client(message.ciaddr), "{name}");
                    assert_eq!(bench.reply().unwrap().message.ciaddr, message.ciaddr, "{name}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn an_adopted_address_is_stored_and_given_to_nobody_else() {
    let mut bench = Bench::new(settings(99));
    bench.input(&renew(3, ip(11)));
    assert!(bench.done.contains(&Output::Store(Record { address: ip(11), mac: mac(3) })));
    assert_eq!(bench.acquire(1), ip(12));
    // The server's own address is nobody's to keep.
    assert_eq!(bench.ask(&renew(4, SERVER)).unwrap().0, MessageType::Nak);
}

#[test]
fn a_declined_address_is_not_offered_again_for_an_hour() {
    let mut bench = Bench::new(settings(99));
    bench.acquire(1);
    bench.input(&decline(1, ip(11)));
    assert_eq!(bench.acquire(1), ip(12));
    assert_eq!(bench.acquire(2), ip(13));
    bench.advance(Duration::from_secs(3600));
    assert_eq!(bench.acquire(3), ip(11));
}

#[test]
fn a_board_that_declines_for_ever_ends_with_an_address_and_a_full_pool() {
    let mut bench = Bench::new(settings(99));
    let mut addresses = Vec::new();
    for _ in 0..200 {
        let address = bench.acquire(1);
        addresses.push(address);
        bench.input(&decline(1, address));
    }
    addresses.dedup();
    assert_eq!(addresses, [ip(11), ip(12), ip(13), ip(14)]);
    assert_eq!(bench.server.counters().declines_refused, 197);
    assert_eq!(bench.acquire(2), ip(15));
}

#[test]
fn many_boards_that_decline_set_a_quarter_of_the_pool_aside_at_most() {
    let mut bench = Bench::new(settings(30));
    for n in 0..100 {
        if let Some((_, address)) = bench.ask(&discover(n)) {
            bench.input(&decline(n, address));
        }
    }
    assert_eq!(bench.server.bound(), 15);
}

#[test]
fn nobody_declines_another_boards_address() {
    let mut bench = Bench::new(settings(99));
    bench.acquire(1);
    bench.input(&decline(2, ip(11)));
    bench.input(&decline(1, ip(12)));
    assert_eq!(bench.acquire(1), ip(11));
}

#[test]
fn inform_is_answered_with_settings_only_and_never_beyond_our_networks() {
    let mut bench = Bench::new(settings(99));
    bench.input(&Message { ciaddr: ip(200), ..plain(1, MessageType::Inform) });
    let reply = bench.reply().unwrap();
    assert_eq!(reply.to, To::Client(ip(200)));
    assert_eq!((reply.message.yiaddr, reply.message.ciaddr), (Ipv4Addr::UNSPECIFIED, ip(200)));
    assert!(!reply.message.options.has(code::LEASE_TIME));
    assert_eq!(reply.message.options.dns_servers(), [SERVER]);
    for elsewhere in [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::UNSPECIFIED] {
        assert_eq!(bench.ask(&Message { ciaddr: elsewhere, ..plain(1, MessageType::Inform) }), None);
    }
    assert_eq!(bench.server.bound(), 0);
}

#[test]
fn what_is_not_for_a_server_is_ignored_and_counted() {
    let mut bench = Bench::new(settings(99));
    let good = discover(1);
    let mut bootp = good.clone();
    bootp.options.remove(code::MESSAGE_TYPE);
    let hostile = [
        bootp,
        Message { op: Op::Reply, ..good.clone() },
        Message { hlen: 0, ..good.clone() },
        Message { hlen: 255, ..good.clone() },
        Message { htype: 6, ..good.clone() },
        Message { chaddr: [0xff; 16], ..good.clone() },
        Message { chaddr: [0; 16], ..good.clone() },
        Message { giaddr: Ipv4Addr::new(172, 16, 0, 1), ..good.clone() },
        plain(1, MessageType::Offer),
        plain(1, MessageType::Ack),
        plain(1, MessageType::Nak),
        plain(1, MessageType::Decline),
        plain(1, MessageType::Release),
    ];
    for message in &hostile {
        bench.input(message);
        assert_eq!(bench.done, [], "{message:?}");
    }
    assert_eq!(bench.server.counters().ignored, hostile.len() as u64);
    assert_eq!(bench.server.bound(), 0);
}

#[test]
fn a_pi_is_pinned_while_it_boots_and_let_go_after_five_minutes() {
    let mut bench = Bench::new(settings(99));
    bench.input(&pi4(1));
    assert!(bench.done.contains(&Output::Pin(Record { address: FIRST, mac: mac(1) })));
    bench.advance(Duration::from_secs(200));
    bench.input(&pi4(1));
    bench.advance(Duration::from_secs(100));
    assert_eq!(bench.done, [], "the second DISCOVER holds the entry for five minutes more");
    bench.advance(Duration::from_secs(200));
    assert_eq!(bench.done, [Output::Unpin(FIRST)]);
    assert_eq!(bench.server.deadline(), None);
}

#[test]
fn a_client_behind_a_relay_agent_gets_an_address_of_its_network_and_its_option_82_back() {
    let mut settings = settings(99);
    let far = |last| Ipv4Addr::new(10, 78, 0, last);
    settings.add_relayed(Subnet::new(far(0), 24, far(10), far(20)).unwrap()).unwrap();
    let overlapping = Subnet::new(far(0), 16, far(10), far(20)).unwrap();
    assert!(matches!(settings.add_relayed(overlapping), Err(SettingsError::Overlap(..))));
    let mut bench = Bench::new(settings);
    assert_eq!(bench.ask(&renew(1, far(10))), None, "its router is not known yet");
    let mut message = Message { giaddr: far(1), hops: 1, ..discover(1) };
    message.options.push(82, [1, 2, 3, 4]);
    bench.input(&message);
    let reply = bench.reply().unwrap();
    assert_eq!((reply.to, reply.message.yiaddr), (To::Relay(far(1)), far(10)));
    let options = &reply.message.options;
    assert_eq!(
        (options.routers(), options.subnet_mask()),
        (vec![far(1)], Some(Ipv4Addr::new(255, 255, 255, 0)))
    );
    assert_eq!(options.iter().last(), Some((82, &[1, 2, 3, 4][..])));
    assert_eq!(bench.ask(&renew(1, far(10))), Some((MessageType::Ack, far(10))));
    assert_eq!(bench.reply().unwrap().message.options.routers(), [far(1)]);
    // The same board carried to our own link is one board with one address.
    assert_eq!(bench.acquire(1), ip(11));
    assert_eq!(bench.server.bound(), 1);
}

#[test]
fn a_subnet_that_makes_no_sense_is_refused() {
    let new = |prefix, first, last| Subnet::new(SERVER, prefix, ip(first), ip(last)).map(|_| ());
    assert_eq!(new(31, 11, 12), Err(SettingsError::Prefix(31)));
    assert_eq!(new(0, 11, 12), Err(SettingsError::Prefix(0)));
    assert_eq!(new(24, 12, 11), Err(SettingsError::Empty { first: ip(12), last: ip(11) }));
    assert!(matches!(new(24, 0, 11), Err(SettingsError::Outside { .. })));
    assert!(matches!(new(24, 11, 255), Err(SettingsError::Outside { .. })));
    assert!(matches!(new(28, 11, 99), Err(SettingsError::Outside { .. })));
    let wide = Subnet::new(SERVER, 8, ip(1), Ipv4Addr::new(10, 99, 0, 1));
    assert!(matches!(wide, Err(SettingsError::TooLarge(_))));
    assert_eq!(new(24, 11, 254), Ok(()));
}

#[test]
fn no_answer_exceeds_what_the_client_takes() {
    let mut bench = Bench::new(settings(99));
    for (size, limit) in [(None, 800), (Some(0), 800), (Some(1200), 1424), (Some(65280), 1472)] {
        let mut message = discover(1);
        if let Some(size) = size {
            message.options.push_u16(code::MAX_MESSAGE_SIZE, size);
        }
        message.options.push(82, [7; 250]);
        bench.input(&message);
        let reply = bench.reply().unwrap();
        assert_eq!(reply.limit, limit);
        assert!(reply.message.encode_within(limit).unwrap().len() <= limit);
    }
}

#[test]
fn random_messages_never_break_the_server_and_its_work_per_message_is_bounded() {
    let mut random = crate::testing::Random(7);
    let mut bench = Bench::new(settings(40));
    let templates = [pi4(1), pi3_rom(2), discover(3), select(4, FIRST), renew(5, FIRST), decline(6, FIRST)];
    for _ in 0..200_000 {
        let mut bytes = templates[random.below(templates.len())].encode();
        bytes[33] = random.below(60) as u8;
        for _ in 0..random.below(4) {
            let at = [random.below(44), 240 + random.below(60)][random.below(2)];
            bytes[at] = random.below(256) as u8;
        }
        if let Ok(message) = Message::decode(&bytes) {
            bench.input(&message);
            assert!(bench.done.len() <= 7, "{:?}", bench.done);
        }
        if random.below(50) == 0 {
            bench.advance(Duration::from_secs(random.below(4000) as u64));
        }
        assert!(bench.server.bound() <= 30);
        assert!(bench.server.pins.len() <= 256 && bench.server.wakes.len() <= MAX_DELAYED);
    }
    // The server still serves.
    bench.advance(LEASE * 2);
    assert!(bench.ask(&discover(200)).is_some());
}
