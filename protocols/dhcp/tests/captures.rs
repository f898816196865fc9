//! Messages captured from real firmware and a real server are read, and written back octet for octet.

use dhcp::{Message, MessageType, Op, server::Class};

/// Name and octets of each message of the capture file.
fn captures() -> Vec<(&'static str, Vec<u8>)> {
    let text = include_str!("captures/edk2.txt");
    let mut messages: Vec<(&str, Vec<u8>)> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            messages.push((name, Vec::new()));
            continue;
        }
        let octets = &mut messages.last_mut().expect("a name comes first").1;
        match line.strip_prefix("z ") {
            Some(count) => octets.resize(octets.len() + count.parse::<usize>().expect("a number"), 0),
            None => octets.extend(
                (0..line.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&line[at..at + 2], 16).expect("hex digits")),
            ),
        }
    }
    messages
}

#[test]
fn every_captured_message_is_written_back_octet_for_octet() {
    let captures = captures();
    assert!(captures.len() >= 9);
    for (name, octets) in captures {
        let message = Message::decode(&octets).expect(name);
        assert_eq!(message.encode(), octets, "{name}");
        assert_eq!(message.encode_within(octets.len()).expect(name), octets, "{name}");
    }
}

#[test]
fn captured_messages_mean_what_was_seen() {
    for (name, octets) in captures() {
        let message = Message::decode(&octets).expect(name);
        let kind = match name {
            _ if name.contains("discover") => MessageType::Discover,
            _ if name.contains("offer") => MessageType::Offer,
            _ if name.contains("request") => MessageType::Request,
            _ => MessageType::Ack,
        };
        assert_eq!(message.message_type(), Some(kind), "{name}");
        assert!(message.wants_broadcast(), "{name}");
        if message.op == Op::Request {
            let class = if name.contains("http") { Class::UefiHttp } else { Class::UefiPxe };
            assert_eq!(Class::of(&message), class, "{name}");
            assert_eq!(message.options.client_machine().expect(name)[..4], [0x44, 0x33, 0x22, 0x11]);
            // The item edk2's HTTP boot forgets to initialise.
            let zero = message.options.parameter_request_list().contains(&0);
            assert_eq!(zero, class == Class::UefiHttp, "{name}");
        } else {
            assert_eq!(message.options.server_id().expect(name).to_string(), "192.168.77.1");
            assert_eq!(message.options.lease_time(), Some(3600), "{name}");
        }
    }
}
