//! What the cluster's state is told of a board.

use bus::Event;
use dhcp::{MessageType, server::Sighting};

/// The event for a sighting.
pub(crate) fn event(sighting: &Sighting) -> Event {
    let kind = match sighting.kind {
        MessageType::Discover => "discover",
        MessageType::Offer => "offer",
        MessageType::Request => "request",
        MessageType::Decline => "decline",
        MessageType::Ack => "ack",
        MessageType::Nak => "nak",
        MessageType::Release => "release",
        MessageType::Inform => "inform",
    };
    Event {
        mac: sighting.mac.to_string(),
        ip: sighting.address.map(|address| address.to_string()).unwrap_or_default(),
        serial: sighting.serial.map(|serial| format!("{serial:08x}")).unwrap_or_default(),
        detail: sighting.class.to_string(),
        ..Event::new(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dhcp::{MacAddr, server::Class};
    use std::net::Ipv4Addr;

    #[test]
    fn an_event_is_written_as_the_bus_documents_it() {
        let sighting = Sighting {
            kind: MessageType::Ack,
            mac: MacAddr([0xdc, 0xa6, 0x32, 1, 2, 3]),
            address: Some(Ipv4Addr::new(10, 77, 0, 11)),
            class: Class::PiEeprom,
            serial: Some(0xb6_6c4c),
        };
        let event = event(&sighting);
        let shown = [event.kind, event.mac, event.ip, event.serial, event.detail].join(" ");
        assert_eq!(shown, "ack dc:a6:32:01:02:03 10.77.0.11 00b66c4c pi-eeprom");
    }
}
