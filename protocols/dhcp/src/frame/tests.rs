use super::*;
use crate::testing::{Random, hex, unhex};

const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const CLIENT_MAC: MacAddr = MacAddr([0xb8, 0x27, 0xeb, 1, 2, 3]);

fn offer(payload: &[u8]) -> Vec<u8> {
    Datagram {
        source_mac: SERVER_MAC,
        destination_mac: CLIENT_MAC,
        source: "10.77.0.1:67".parse().unwrap(),
        destination: "10.77.0.11:68".parse().unwrap(),
        payload,
    }
    .encode()
    .unwrap()
}

#[test]
fn a_frame_has_the_checksums_another_implementation_computes() {
    // Computed with an independent RFC 1071 sum in Python over the same addresses.
    let frame = offer(b"abc");
    assert_eq!(frame.len(), 60);
    assert_eq!(
        hex(&frame[..45]),
        "b827eb01020302000000000108004500001f00004000401126290a4d0001\
         0a4d000b00430044000b2649616263"
    );
}

#[test]
fn a_frame_read_back_is_the_datagram_written() {
    for length in [0, 1, 2, 300, 301, 1472] {
        let payload = vec![0xa5; length];
        let frame = offer(&payload);
        let read = Datagram::decode(&frame, Checksum::Verify).unwrap();
        assert_eq!(read.payload, payload);
        assert_eq!(read.source, "10.77.0.1:67".parse().unwrap());
        assert_eq!(read.destination_mac, CLIENT_MAC);
    }
}

#[test]
fn every_flipped_bit_of_the_packet_is_noticed_or_harmless() {
    let frame = offer(&[0x5a; 300]);
    for bit in 14 * 8..frame.len() * 8 {
        let mut broken = frame.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert!(Datagram::decode(&broken, Checksum::Verify).is_err(), "bit {bit}");
    }
}

#[test]
fn a_zero_checksum_and_one_the_kernel_vouches_for_are_accepted() {
    let mut frame = offer(b"payload");
    frame[40..42].copy_from_slice(&[0xde, 0xad]);
    assert_eq!(Datagram::decode(&frame, Checksum::Verify), Err(FrameError::UdpChecksum));
    assert!(Datagram::decode(&frame, Checksum::Vouched).is_ok());
    frame[40..42].copy_from_slice(&[0, 0]);
    assert!(Datagram::decode(&frame, Checksum::Verify).is_ok());
}

#[test]
fn every_cut_frame_is_refused() {
    let frame = offer(&[1; 300]);
    for length in 0..frame.len() {
        assert!(Datagram::decode(&frame[..length], Checksum::Vouched).is_err(), "{length}");
    }
}

#[test]
fn a_payload_that_fits_no_packet_is_refused() {
    let payload = vec![0; 65_508];
    let datagram = Datagram { payload: &payload, ..Datagram::decode(&offer(b""), Checksum::Verify).unwrap() };
    assert_eq!(datagram.encode(), Err(FrameError::TooLong));
}

#[test]
fn an_arp_question_goes_to_all_and_names_the_asker() {
    let arp = Arp::who_has("10.77.0.11".parse().unwrap(), "10.77.0.1".parse().unwrap(), SERVER_MAC);
    let frame = arp.encode();
    let wire =
        "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 0a4d0001 000000000000 0a4d000b";
    assert_eq!(frame[..42], unhex(wire));
    assert_eq!(frame.len(), 60);
    assert_eq!(Arp::decode(&frame), Some(arp));
    assert_eq!(Arp::decode(&frame[..41]), None);
    assert_eq!(Arp::decode(&offer(b"")), None);
}

#[test]
fn random_frames_never_panic() {
    let mut random = Random(42);
    for _ in 0..200_000 {
        let mut frame = offer(&[7; 40]);
        frame.truncate(random.below(frame.len()));
        for _ in 0..random.below(6) {
            if !frame.is_empty() {
                let at = random.below(frame.len());
                frame[at] = random.below(256) as u8;
            }
        }
        let _ = (Datagram::decode(&frame, Checksum::Vouched), Arp::decode(&frame));
    }
}
