//! The DISCOVERs byte for byte, as captures and the vendor's documentation have them.

use pi_boot::pxe::{CONSTANT_TRANSACTION, Client};

use super::super::lease::discover;
use super::*;

/// The 236 fixed bytes and the cookie.
fn fixed_part(transaction: &str) -> String {
    format!("01010600{transaction}{zeros:0>40}dca6320136c2{zeros:0>404}63825363", zeros = "")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const VENDOR_CLASS: &str = "3c20505845436c69656e743a417263683a30303030303a554e44493a303032303031ff";

#[test]
fn pi_3b_rom_sends_its_320_bytes() {
    let bytes = discover(&board(Model::Pi3B), Client::first(Model::Pi3B), CONSTANT_TRANSACTION);
    let options = "350101\
        370c2b3c438081828384858687425d0200005e0301020161110044444444444444444444444444444444";
    assert_eq!(bytes.len(), 320);
    assert_eq!(hex(&bytes), fixed_part("26f30339") + options + VENDOR_CLASS);
}

#[test]
fn pi_3b_plus_rom_and_bootcode_send_322_bytes_with_the_serial_four_times() {
    for model in [Model::Pi3B, Model::Pi3BPlus] {
        let bytes = discover(&board(model), Client::Bootcode, CONSTANT_TRANSACTION);
        let options = "350101\
            370e2b3c4380818283848586874201035d0200005e030102016111004d3c2b1a4d3c2b1a4d3c2b1a4d3c2b1a";
        assert_eq!(bytes.len(), 322);
        assert_eq!(hex(&bytes), fixed_part("26f30339") + options + VENDOR_CLASS);
    }
    assert_eq!(Client::first(Model::Pi3BPlus), Client::Bootcode);
}

#[test]
fn pi_4_and_5_eeproms_send_322_bytes_with_their_tag() {
    let cases = [
        (Model::Pi4, "34695052", "1431c000"),
        (Model::Cm4, "34695052", "4131a000"),
        (Model::Pi5, "35695052", "7041c000"),
    ];
    for (model, tag, revision) in cases {
        let bytes = discover(&board(model), Client::first(model), 0x1234_5678);
        let options = format!(
            "350101370e01032b3c4243808182838485868\
             75d0200005e03010201611100{tag}{revision}320136c24d3c2b1a"
        );
        assert_eq!(bytes.len(), 322);
        assert_eq!(hex(&bytes), fixed_part("12345678") + &options + VENDOR_CLASS);
    }
}
