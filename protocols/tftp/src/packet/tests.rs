use std::num::{NonZeroU8, NonZeroU16};

use super::*;
use crate::options::BlockSize;

fn options(block: Option<u16>, size: Option<u64>, timeout: Option<u8>, window: Option<u16>) -> Options {
    Options {
        block_size: block.and_then(BlockSize::new),
        transfer_size: size,
        timeout: timeout.and_then(NonZeroU8::new),
        window_size: window.and_then(NonZeroU16::new),
    }
}

fn request(file: &[u8], mode: Mode, options: Options) -> Packet<'_> {
    Packet::ReadRequest(Request { file, mode, options })
}

#[test]
fn every_packet_survives_the_wire() {
    let all = options(Some(1468), Some(1 << 40), Some(3), Some(4));
    let packets = [
        request(b"0123abcd/start4.elf", Mode::Octet, all),
        request(b"", Mode::Netascii, Options::default()),
        Packet::WriteRequest(Request { file: b"x", mode: Mode::Other, options: Options::default() }),
        Packet::Data { block: 0, payload: b"" },
        Packet::Data { block: 65535, payload: b"abc" },
        Packet::Acknowledgement { block: 7 },
        Packet::Error { code: ErrorCode::FILE_NOT_FOUND, message: b"File not found" },
        Packet::OptionAcknowledgement(all),
        Packet::OptionAcknowledgement(Options::default()),
    ];
    for packet in packets {
        let mut wire = Vec::new();
        packet.encode(&mut wire);
        assert_eq!(Packet::decode(&wire), Ok(packet));
    }
}

#[test]
fn requests_of_boards_and_of_uefi_are_understood() {
    let cases: [(&[u8], Packet<'_>); 5] = [
        (b"\0\x01bootcode.bin\0octet\0", request(b"bootcode.bin", Mode::Octet, Options::default())),
        (
            b"\0\x01a/config.txt\0octet\0tsize\x000\0blksize\x001468\0",
            request(b"a/config.txt", Mode::Octet, options(Some(1468), Some(0), None, None)),
        ),
        (
            b"\0\x01boot.efi\0OCTET\0TSIZE\x000\0BlkSize\x001468\0windowsize\x004\0",
            request(b"boot.efi", Mode::Octet, options(Some(1468), Some(0), None, Some(4))),
        ),
        (
            b"\0\x01f\0octet\0multicast\0\0blksize\x0099999\0timeout\x00300\0",
            request(b"f", Mode::Octet, options(Some(65464), None, None, None)),
        ),
        // No final NUL, and no mode at all.
        (b"\0\x01f\0octet", request(b"f", Mode::Octet, Options::default())),
    ];
    for (wire, packet) in cases {
        assert_eq!(Packet::decode(wire), Ok(packet));
    }
}

#[test]
fn unusable_option_values_of_a_request_count_as_not_mentioned() {
    for value in ["", "7", "-1", "1e3", "0x200", " 512", "512 ", "18446744073709551616", "five"] {
        let wire = [b"\0\x01f\0octet\0blksize\0", value.as_bytes(), b"\0"].concat();
        assert_eq!(Packet::decode(&wire), Ok(request(b"f", Mode::Octet, Options::default())), "{value:?}");
    }
}

#[test]
fn first_of_two_equal_options_counts() {
    let wire = b"\0\x01f\0octet\0blksize\x001024\0blksize\x00512\0";
    let wanted = options(Some(1024), None, None, None);
    assert_eq!(Packet::decode(wire), Ok(request(b"f", Mode::Octet, wanted)));
}

#[test]
fn broken_packets_say_what_is_wrong() {
    let cases: [(&[u8], DecodeError); 10] = [
        (b"", DecodeError::CutShort { length: 0 }),
        (b"\0", DecodeError::CutShort { length: 1 }),
        (b"\0\x03\0", DecodeError::CutShort { length: 3 }),
        (b"\0\x04\x01", DecodeError::CutShort { length: 3 }),
        (b"\0\x05", DecodeError::CutShort { length: 2 }),
        (b"\x01\x01f\0octet\0", DecodeError::UnknownOperation(257)),
        (b"\0\x01file", DecodeError::Unterminated { offset: 2 }),
        (b"\0\x06blksize\x00512", DecodeError::Unterminated { offset: 10 }),
        (b"\0\x06blksize\x004\0", DecodeError::OptionValue),
        (b"\0\x06rollover\x000\0", DecodeError::UnknownOption),
    ];
    for (wire, error) in cases {
        assert_eq!(Packet::decode(wire), Err(error), "{wire:?}");
    }
}

#[test]
fn random_bytes_are_packets_or_errors_and_never_a_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..200_000 {
        let mut bytes = [0u8; 40];
        for chunk in bytes.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes());
        }
        // Mostly valid operations, and many NULs, so that the paths behind them are reached.
        bytes[0] = 0;
        bytes[1] %= 8;
        for byte in &mut bytes[2..] {
            if *byte < 40 {
                *byte = 0;
            }
        }
        let length = round % (bytes.len() + 1);
        if let Ok(packet) = Packet::decode(&bytes[..length]) {
            let mut wire = Vec::new();
            packet.encode(&mut wire);
            assert_eq!(Packet::decode(&wire), Ok(packet));
        }
    }
}
