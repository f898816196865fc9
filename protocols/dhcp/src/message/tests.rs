use super::*;
use crate::testing::{hex, unhex};

/// The Pi 3B boot ROM's DISCOVER after the 236 fixed octets.
const PI3_ROM: &str = "63825363 350101 370c2b3c43808182838485868742 5d020000 5e03010201
    61110044444444444444444444444444444444
    3c20505845436c69656e743a417263683a30303030303a554e44493a303032303031 ff";

fn pi3_rom_bytes() -> Vec<u8> {
    let mut bytes = unhex("01010600 26f30339 0000 0000");
    bytes.extend([0; 16]);
    bytes.extend(unhex("b827eb010203"));
    bytes.resize(236, 0);
    bytes.extend(unhex(PI3_ROM));
    bytes
}

#[test]
fn the_pi_3_discover_is_read_and_written_byte_for_byte() {
    let bytes = pi3_rom_bytes();
    let message = Message::decode(&bytes).unwrap();
    assert_eq!(bytes.len(), 320);
    assert_eq!(message.message_type(), Some(MessageType::Discover));
    assert_eq!(message.xid, 0x26f3_0339);
    assert_eq!(message.mac().unwrap().to_string(), "b8:27:eb:01:02:03");
    assert_eq!(message.options.client_arch(), [0]);
    assert_eq!(message.options.client_interface(), Some([1, 2, 1]));
    assert_eq!(message.options.client_machine(), Some([0x44; 16]));
    assert_eq!(message.options.vendor_class(), Some(&b"PXEClient:Arch:00000:UNDI:002001"[..]));
    assert_eq!(hex(&message.encode()), hex(&bytes));
}

#[test]
fn a_message_that_is_too_short_or_not_dhcp_is_refused_by_name() {
    let bytes = pi3_rom_bytes();
    for length in 0..240 {
        assert_eq!(Message::decode(&bytes[..length]), Err(DecodeError::Short { length }), "{length}");
    }
    let mut wrong = bytes.clone();
    wrong[0] = 3;
    assert_eq!(Message::decode(&wrong), Err(DecodeError::Op(3)));
    let mut wrong = bytes;
    wrong[236] = 0;
    assert_eq!(Message::decode(&wrong), Err(DecodeError::Cookie));
}

#[test]
fn a_message_cut_in_its_options_keeps_the_whole_options_before_the_cut() {
    let bytes = pi3_rom_bytes();
    for length in 240..bytes.len() {
        let cut = Message::decode(&bytes[..length]).unwrap();
        let whole = Message::decode(&bytes).unwrap();
        for (code, value) in cut.options.iter() {
            assert_eq!(whole.options.get(code), Some(value));
        }
    }
}

#[test]
fn a_hardware_address_of_another_kind_is_no_mac() {
    let good = Message::decode(&pi3_rom_bytes()).unwrap();
    for (htype, hlen) in [(1, 0), (1, 5), (1, 7), (1, 16), (1, 17), (1, 255), (6, 6), (0, 6)] {
        let message = Message { htype, hlen, ..good.clone() };
        assert_eq!(message.mac(), None, "type {htype} length {hlen}");
        assert_eq!(Message::decode(&message.encode()).unwrap(), message);
    }
    for first in [0x01, 0xff] {
        let mut chaddr = good.chaddr;
        chaddr[0] = first;
        assert_eq!(Message { chaddr, ..good.clone() }.mac(), None, "multicast {first:#x}");
    }
    assert_eq!(Message { chaddr: [0; 16], ..good }.mac(), None);
}

#[test]
fn a_reply_is_never_shorter_than_300_octets() {
    let reply = Message::decode(&pi3_rom_bytes()).unwrap().reply();
    let bytes = reply.encode();
    assert_eq!(bytes.len(), MIN_LENGTH);
    assert_eq!(bytes[240], code::END);
    assert!(bytes[241..].iter().all(|b| *b == 0));
}

#[test]
fn options_that_do_not_fit_overflow_into_file_and_then_sname() {
    let mut message = Message::request(MacAddr([2, 0, 0, 0, 0, 1]), 7).reply();
    message.options.push_message_type(MessageType::Ack);
    message.options.push(code::DOMAIN_NAME, [b'd'; 40]);
    message.options.push(code::HOST_NAME, [b'h'; 100]);
    message.options.push(code::BOOT_FILE_NAME, [b'b'; 50]);
    let bytes = message.encode_within(300).unwrap();
    assert_eq!(bytes.len(), 300);
    let main = unhex("350105 0f28").into_iter().chain([b'd'; 40]).chain([52, 1, 3, 255]).collect::<Vec<_>>();
    assert_eq!(hex(&bytes[240..240 + main.len()]), hex(&main));
    assert_eq!(bytes[108..110], [code::HOST_NAME, 100]);
    assert_eq!(bytes[44..46], [code::BOOT_FILE_NAME, 50]);
    assert_eq!(Message::decode(&bytes).unwrap(), message);

    message.sname[0] = b's';
    assert_eq!(message.encode_within(300), Err(EncodeError::TooLong { limit: 300 }));
    assert_eq!(message.encode_within(576).unwrap(), message.encode());
}

#[test]
fn an_overload_inside_an_overloaded_field_means_nothing() {
    let mut bytes = Message::request(MacAddr([2, 0, 0, 0, 0, 1]), 7).encode();
    bytes[240..244].copy_from_slice(&[52, 1, 1, 255]);
    bytes[108..115].copy_from_slice(&[52, 1, 3, 12, 1, b'n', 255]);
    bytes[44..48].copy_from_slice(&[15, 1, b'd', 255]);
    let message = Message::decode(&bytes).unwrap();
    assert_eq!(message.options.host_name(), Some("n"));
    assert_eq!(message.options.domain_name(), None);
    assert_eq!(message.file, [0; 128]);
    assert_eq!(message.sname[..3], [15, 1, b'd']);
}

#[test]
fn a_long_option_is_split_and_joined_again() {
    for length in [0, 1, 254, 255, 256, 510, 511, 900] {
        let mut message = Message::request(MacAddr([2, 0, 0, 0, 0, 1]), 7);
        let value: Vec<u8> = (0..length).map(|n: u32| n as u8).collect();
        message.options.push(code::VENDOR_SPECIFIC, &value);
        message.options.push(code::HOST_NAME, "after");
        let read = Message::decode(&message.encode()).unwrap();
        assert_eq!(read.options.vendor_specific(), Some(&value[..]), "{length}");
        assert_eq!(read, message);
    }
}

#[test]
fn a_million_random_messages_are_read_without_a_panic_and_survive_a_round_trip() {
    let mut random = crate::testing::Random(0x9e37_79b9_7f4a_7c15);
    let template = pi3_rom_bytes();
    for _ in 0..1_000_000 {
        let mut bytes = template.clone();
        bytes.truncate(200 + random.below(120));
        for _ in 0..random.below(12) {
            let at = random.below(bytes.len());
            // Most of the damage goes where the structure is.
            let at =
                if random.below(3) > 0 && bytes.len() > 240 { 240 + at % (bytes.len() - 240) } else { at };
            bytes[at] = random.below(256) as u8;
        }
        if let Ok(message) = Message::decode(&bytes) {
            assert_eq!(Message::decode(&message.encode()).unwrap(), message);
            let _ = (message.options.domain_search(), message.options.classless_routes(), message.mac());
        }
    }
}
