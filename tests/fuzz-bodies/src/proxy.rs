//! Request and response heads on their way through the load balancer.

use std::net::{IpAddr, Ipv4Addr};

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use crate::load_balancer::head;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// A back end sees one host, the client's true address and nothing that belongs to another connection; so does a client
/// of a back end's answer. The input is a head as text: method, target, then `name: value` lines.
pub fn proxy_head(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let (method, target) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut fields = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            fields.append(name, value);
        }
    }
    answer(method, &fields);
    let Ok(request) = Request::builder().method(method).uri(target).body(()) else { return };
    let mut request = request.into_parts().0;
    request.headers = fields;
    let Ok(admitted) = head::admit(&request, false) else { return };
    head::to_backend(&mut request, &admitted, CLIENT, "id");
    assert!(request.uri.authority().is_none() && request.uri.scheme().is_none(), "{}", request.uri);
    let headers = &request.headers;
    assert_eq!(headers.get_all(HOST).iter().count(), 1);
    assert!(headers.get_all(CONTENT_LENGTH).iter().count() <= 1);
    for (name, value) in
        [("x-forwarded-for", "192.0.2.7"), ("x-request-id", "id"), ("x-forwarded-proto", "http")]
    {
        assert_eq!(headers.get_all(name).iter().collect::<Vec<_>>(), [value], "{name}");
    }
    assert_eq!(headers.get_all("forwarded").iter().count(), 1);
    is_of_this_connection(headers, admitted.wants_upgrade());
}

fn answer(method: &[u8], fields: &HeaderMap) {
    let status = match method.first() {
        Some(b'1') => StatusCode::SWITCHING_PROTOCOLS,
        _ => StatusCode::OK,
    };
    let mut response = Response::new(()).into_parts().0;
    (response.status, response.headers) = (status, fields.clone());
    let upgrades = status == StatusCode::SWITCHING_PROTOCOLS && fields.contains_key(UPGRADE);
    head::to_client(&mut response);
    is_of_this_connection(&response.headers, upgrades);
}

fn is_of_this_connection(headers: &HeaderMap, upgrades: bool) {
    for name in ["keep-alive", "proxy-connection", "te", "proxy-authorization"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert!(!headers.contains_key(TRANSFER_ENCODING));
    assert_eq!(headers.contains_key(UPGRADE), upgrades);
    assert_eq!(headers.get(CONNECTION).map(HeaderValue::as_bytes), upgrades.then_some(&b"upgrade"[..]));
}
