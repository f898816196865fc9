use super::*;
use http::{Request, Response};

type Fields = &'static [(&'static str, &'static str)];

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn request(target: &str, fields: &[(&str, &str)]) -> request::Parts {
    let mut builder = Request::builder().method("GET").uri(target).version(Version::HTTP_11);
    for (name, value) in fields {
        builder = builder.header(*name, *value);
    }
    builder.body(()).expect("a legal request").into_parts().0
}

fn passed_on(target: &str, fields: &[(&str, &str)]) -> request::Parts {
    let mut head = request(target, fields);
    let admitted = admit(&head, false).expect("the request is let in");
    to_backend(&mut head, &admitted, CLIENT, "id-1");
    head
}

fn all(head: &HeaderMap, name: &str) -> Vec<String> {
    head.get_all(name).iter().map(|value| value.to_str().expect("ASCII").to_owned()).collect()
}

#[test]
fn a_request_needs_exactly_one_well_formed_host() {
    let cases: [(&str, Fields, Refusal); 7] = [
        ("/", &[], Refusal::Host),
        ("/", &[("host", "a"), ("host", "b")], Refusal::Host),
        ("/", &[("host", "")], Refusal::Target),
        ("/", &[("host", "a b")], Refusal::Target),
        ("/", &[("host", "user@a")], Refusal::Target),
        ("https://a/", &[("host", "a")], Refusal::Target),
        ("http://user@a/", &[("host", "a")], Refusal::Target),
    ];
    for (target, fields, refusal) in cases {
        assert_eq!(admit(&request(target, fields), false), Err(refusal), "{target} {fields:?}");
    }
    assert!(admit(&request("/", &[("host", "[2001:db8::1]:8080")]), false).is_ok());
}

#[test]
fn connect_and_trace_are_refused() {
    for method in [Method::CONNECT, Method::TRACE] {
        let mut head = request("/", &[("host", "a")]);
        head.method = method;
        assert_eq!(admit(&head, false), Err(Refusal::Method));
    }
}

#[test]
fn an_ambiguous_length_is_refused() {
    let cases: [Fields; 4] = [
        &[("content-length", "3"), ("transfer-encoding", "chunked")],
        &[("content-length", "3"), ("content-length", "3")],
        &[("transfer-encoding", "gzip, chunked")],
        &[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")],
    ];
    for fields in cases {
        let mut head = request("/", &[("host", "a")]);
        for (name, value) in fields {
            let name = HeaderName::try_from(*name).expect("a legal name");
            head.headers.append(name, HeaderValue::from_str(value).expect("a legal value"));
        }
        assert_eq!(admit(&head, true), Err(Refusal::Length), "{fields:?}");
    }
}

#[test]
fn the_target_reaches_the_back_end_in_origin_form_and_its_host_wins() {
    let head = passed_on("http://one.example:8080/a?b=c", &[("host", "two.example")]);
    assert_eq!(head.uri.to_string(), "/a?b=c");
    assert_eq!(all(&head.headers, "host"), ["one.example:8080"]);
    assert_eq!(passed_on("http://one.example", &[("host", "x")]).uri.to_string(), "/");
    assert_eq!(passed_on("*", &[("host", "x")]).uri.to_string(), "*");
}

#[test]
fn a_clients_claims_about_forwarding_are_replaced() {
    let head = passed_on(
        "/",
        &[
            ("host", "a.example"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-request-id", "mine"),
        ],
    );
    assert_eq!(all(&head.headers, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(all(&head.headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&head.headers, "x-forwarded-host"), ["a.example"]);
    assert_eq!(all(&head.headers, "forwarded"), ["for=192.0.2.7;host=\"a.example\";proto=http"]);
    assert_eq!(all(&head.headers, "x-request-id"), ["id-1"]);
    assert!(!head.headers.contains_key("x-real-ip"));
}

#[test]
fn an_ipv6_client_is_quoted_and_a_mapped_one_is_ipv4() {
    for (client, expected) in [
        ("2001:db8::7", "for=\"[2001:db8::7]\";host=\"a\";proto=http"),
        ("::ffff:192.0.2.7", "for=192.0.2.7;host=\"a\";proto=http"),
    ] {
        let mut head = request("/", &[("host", "a")]);
        let admitted = admit(&head, false).expect("let in");
        to_backend(&mut head, &admitted, client.parse().expect("an address"), "id");
        assert_eq!(all(&head.headers, "forwarded"), [expected]);
    }
}

#[test]
fn fields_of_one_connection_do_not_pass() {
    let head = passed_on(
        "/",
        &[
            ("host", "a"),
            ("connection", "close, X-Secret"),
            ("connection", "keep-alive, host, content-length"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic eDp5"),
            ("proxy-connection", "keep-alive"),
            ("content-length", "0"),
            ("cookie", "stays=1"),
        ],
    );
    for name in ["connection", "x-secret", "keep-alive", "te", "proxy-authorization", "proxy-connection"] {
        assert!(!head.headers.contains_key(name), "{name}");
    }
    for name in ["host", "content-length", "cookie"] {
        assert!(head.headers.contains_key(name), "{name}");
    }
}

#[test]
fn an_upgrade_passes_but_not_to_h2c_nor_by_accident() {
    let websocket = [("host", "a"), ("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    let head = passed_on("/", &websocket);
    assert_eq!(all(&head.headers, "connection"), ["upgrade"]);
    assert_eq!(all(&head.headers, "upgrade"), ["websocket"]);
    assert!(!admit(&request("/", &websocket), true).expect("let in").wants_upgrade(), "with a body");
    for fields in [
        [("host", "a"), ("connection", "upgrade, http2-settings"), ("upgrade", "h2c")],
        [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket, H2C")],
        [("host", "a"), ("connection", "close"), ("upgrade", "websocket")],
    ] {
        let head = passed_on("/", &fields);
        assert!(
            !head.headers.contains_key("upgrade") && !head.headers.contains_key("connection"),
            "{fields:?}"
        );
    }
}

#[test]
fn via_is_added_to_what_was_there() {
    assert_eq!(all(&passed_on("/", &[("host", "a")]).headers, "via"), ["1.1 bramble"]);
    let through = passed_on("/", &[("host", "a"), ("via", "1.0 fred")]);
    assert_eq!(all(&through.headers, "via"), ["1.0 fred", "1.1 bramble"]);
}

#[test]
fn a_response_loses_connection_fields_and_an_untrue_length() {
    let mut head = Response::builder()
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("transfer-encoding", "chunked")
        .header("content-length", "5")
        .header("upgrade", "h3")
        .header("etag", "\"1\"")
        .body(())
        .expect("a legal response")
        .into_parts()
        .0;
    to_client(&mut head);
    assert_eq!(head.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["etag"]);
}

#[test]
fn a_101_keeps_what_makes_it_one() {
    let mut head = Response::builder()
        .status(101)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .body(())
        .expect("a legal response")
        .into_parts()
        .0;
    to_client(&mut head);
    assert_eq!(all(&head.headers, "upgrade"), ["websocket"]);
    assert_eq!(all(&head.headers, "connection"), ["upgrade"]);
}
