//! DHCP messages and the frames around them.

use dhcp::frame::{Arp, Checksum, Datagram};
use dhcp::server::Class;
use dhcp::{MIN_LENGTH, Message, Options};

use crate::input::Input;

/// A message is written back so that it reads the same, within any limit it fits.
pub fn dhcp_message(data: &[u8]) {
    let mut input = Input(data);
    let limit = usize::from(input.u16());
    let Ok(message) = Message::decode(input.0) else { return };
    let encoded = message.encode();
    assert!(encoded.len() >= MIN_LENGTH);
    assert_eq!(Message::decode(&encoded).as_ref(), Ok(&message));
    if let Ok(encoded) = message.encode_within(limit) {
        assert!(encoded.len() <= limit.max(MIN_LENGTH), "{} octets for {limit}", encoded.len());
        assert_eq!(Message::decode(&encoded).as_ref(), Ok(&message));
    }
    let _ = (Class::of(&message), message.mac(), message.reply());
    read_options(&message.options);
}

fn read_options(options: &Options) {
    let octets: usize = options.iter().map(|(_, value)| value.len()).sum();
    assert!(options.parameter_request_list().len() <= octets);
    for text in [options.host_name(), options.domain_name(), options.boot_file_name()].into_iter().flatten() {
        assert!(!text.is_empty() && !text.chars().any(char::is_control), "{text:?}");
    }
    assert!(options.prefix().is_none_or(|prefix| prefix <= 32));
    assert!(options.interface_mtu().is_none_or(|mtu| mtu >= 68));
    assert!(options.max_message_size().is_none_or(|size| size >= 576));
    let _ = (options.client_arch(), options.client_machine(), options.client_id(), options.ntp_servers());

    let routes = options.classless_routes();
    assert!(routes.iter().all(|route| route.prefix <= 32));
    let mut again = Options::default();
    again.push_classless_routes(&routes);
    assert_eq!(again.classless_routes(), routes);

    let domains = options.domain_search();
    let mut again = Options::default();
    again.push_domain_search(&domains.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(again.domain_search(), domains);
}

/// What a frame carries lies inside of it, and a frame written for it carries the same.
pub fn dhcp_frame(data: &[u8]) {
    let verified = Datagram::decode(data, Checksum::Verify);
    let vouched = Datagram::decode(data, Checksum::Vouched);
    if verified.is_ok() {
        assert_eq!(verified, vouched);
    }
    if let Ok(datagram) = vouched {
        // Headers of Ethernet, IPv4 and UDP.
        assert!(datagram.payload.len() + 14 + 20 + 8 <= data.len());
        let frame = datagram.encode().expect("what came in a frame fits one");
        assert_eq!(Datagram::decode(&frame, Checksum::Verify), Ok(datagram));
    }
    if let Some(arp) = Arp::decode(data) {
        assert_eq!(Arp::decode(&arp.encode()), Some(arp));
    }
}
