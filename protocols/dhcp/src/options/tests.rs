use super::*;
use crate::testing::{hex, unhex};

fn with(code: u8, value: &str) -> Options {
    let mut options = Options::default();
    options.push(code, unhex(value));
    options
}

#[test]
fn options_keep_the_order_they_were_pushed_in() {
    let mut options = Options::default();
    for code in [97, 53, 1, 254, 3] {
        options.push(code, [code]);
    }
    options.set(53, [9]);
    options.remove(254);
    let order: Vec<(u8, u8)> = options.iter().map(|(code, value)| (code, value[0])).collect();
    assert_eq!(order, [(97, 97), (53, 9), (1, 1), (3, 3)]);
}

#[test]
fn a_value_of_the_wrong_length_is_absent() {
    for wrong in ["", "01", "010203", "0102030405"] {
        let all: Vec<Options> = [50, 51, 57, 97].map(|code| with(code, wrong)).into();
        assert_eq!(all[0].requested_address(), None, "{wrong}");
        assert_eq!(all[1].lease_time(), None, "{wrong}");
        assert_eq!(all[2].max_message_size(), None, "{wrong}");
        assert_eq!(all[3].client_machine(), None, "{wrong}");
        assert!(with(3, wrong).routers().is_empty());
    }
    assert_eq!(with(53, "0101").message_type(), None);
    assert_eq!(with(53, "09").message_type(), None);
    assert_eq!(with(53, "05").message_type(), Some(MessageType::Ack));
}

#[test]
fn a_parameter_request_list_may_hold_option_number_zero() {
    // edk2's HTTP boot, measured: 27 items, "3b 3c 00 43 61".
    assert_eq!(with(55, "3b3c004361").parameter_request_list(), [59, 60, 0, 67, 97]);
}

#[test]
fn a_mask_with_holes_has_no_prefix() {
    assert_eq!(with(1, "ffff0000").prefix(), Some(16));
    assert_eq!(with(1, "00000000").prefix(), Some(0));
    assert_eq!(with(1, "ffffffff").prefix(), Some(32));
    assert_eq!(with(1, "ff00ff00").prefix(), None);
}

#[test]
fn text_loses_its_trailing_nul_and_may_hold_no_control_characters() {
    assert_eq!(with(67, "626f6f7400").boot_file_name(), Some("boot"));
    assert_eq!(with(12, "00").host_name(), None);
    assert_eq!(with(12, "611b5b324a").host_name(), None);
    assert_eq!(with(12, "ff").host_name(), None);
}

#[test]
fn classless_routes_are_read_and_written_as_in_rfc_3442() {
    let wire = "00 0a000001 08 0a 0a110101 18 0a1b81 0a1b8101 20 c0a80101 00000000";
    let routes = with(121, wire).classless_routes();
    let shown: Vec<String> =
        routes.iter().map(|r| format!("{}/{} {}", r.destination, r.prefix, r.router)).collect();
    assert_eq!(
        shown,
        [
            "0.0.0.0/0 10.0.0.1",
            "10.0.0.0/8 10.17.1.1",
            "10.27.129.0/24 10.27.129.1",
            "192.168.1.1/32 0.0.0.0"
        ]
    );
    let mut options = Options::default();
    options.push_classless_routes(&routes);
    assert_eq!(hex(options.get(121).unwrap()), hex(&unhex(wire)));
    // Host bits are cleared; a prefix above 32 or a cut entry spoils the option.
    assert_eq!(with(121, "0c0aff 0a110101").classless_routes()[0].destination.to_string(), "10.240.0.0");
    assert!(with(121, "21 0a000000ff 0a110101").classless_routes().is_empty());
    assert!(with(121, "180a1b810a1b").classless_routes().is_empty());
}

#[test]
fn a_domain_search_list_follows_pointers_backwards_only() {
    // RFC 3397 §2's example: "eng.apple.com." and "marketing.apple.com." compressed.
    let example = "03656e67056170706c6503636f6d00 096d61726b6574696e67c004";
    assert_eq!(with(119, example).domain_search(), ["eng.apple.com", "marketing.apple.com"]);
    for hostile in
        ["c000", "0161c000", "0161c002", "c00200", "3f61", "4061", "8061", "0161", "02610000", "c0"]
    {
        let list = with(119, hostile).domain_search();
        assert!(list.is_empty(), "{hostile}: {list:?}");
    }
    let mut options = Options::default();
    options.push_domain_search(&["eng.apple.com", "bad..name", "a."]);
    assert_eq!(options.domain_search(), ["eng.apple.com", "a"]);
}
