//! Request and response heads: what is let in, what is taken out, what is put in. Pure.
//!
//! RFC 9110 §7.6.1 (fields of one connection only), §7.6.3 (`Via`), §7.8 (`Upgrade`); RFC 9112 §3.2 (request target and
//! `Host`), §6 (length of a message); RFC 7239 (`Forwarded`).

use std::net::{IpAddr, SocketAddr};

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode, Uri, Version, request, response};

/// What a request asks of the proxy, once it has been let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// The authority the client named, by request target or `Host`.
    host: Authority,
    /// The protocol the client wants to change to.
    upgrade: Option<HeaderValue>,
    /// Asking twice does the same as asking once (RFC 9110 §9.2.2).
    pub(crate) idempotent: bool,
}

impl Admitted {
    /// The client asks for another protocol, and the answer may be 101.
    pub(crate) fn wants_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }
}

/// Why a request is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("CONNECT and TRACE are not served here")]
    Method,
    #[error("the request names no host, or more than one")]
    Host,
    #[error("the host or the target of the request is malformed")]
    Target,
    #[error("the length of the request is ambiguous")]
    Length,
}

impl Refusal {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host | Self::Target | Self::Length => StatusCode::BAD_REQUEST,
        }
    }
}

/// Decides whether a request may be passed on. `has_body` is what hyper made of its length.
pub(crate) fn admit(head: &request::Parts, has_body: bool) -> Result<Admitted, Refusal> {
    // TRACE would show a client what the proxy adds; CONNECT is for forward proxies.
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::Method);
    }
    // hyper refuses lengths that differ and lets the coding win over a length (RFC 9112 §6.3, both allowed), removing
    // the latter. What it leaves must be one of the two.
    let headers = &head.headers;
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    if lengths > 1 || (lengths == 1 && headers.contains_key(TRANSFER_ENCODING)) {
        return Err(Refusal::Length);
    }
    // A coding that this proxy would take away without undoing it.
    if headers
        .get(TRANSFER_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || headers.get_all(TRANSFER_ENCODING).iter().count() > 1
    {
        return Err(Refusal::Length);
    }
    let host = authority(&head.uri, headers)?;
    let may_upgrade = head.version == Version::HTTP_11 && !has_body && names(headers, &UPGRADE);
    let upgrade = headers.get(UPGRADE).filter(|protocol| may_upgrade && is_passed_on(protocol)).cloned();
    let idempotent =
        matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE);
    Ok(Admitted { host, upgrade, idempotent })
}

/// h2c would put a protocol between client and back end that this proxy does not check.
fn is_passed_on(protocol: &HeaderValue) -> bool {
    protocol
        .to_str()
        .is_ok_and(|text| !text.split(',').any(|one| one.trim().to_ascii_lowercase().starts_with("h2c")))
}

/// RFC 9112 §3.2.2: a host in the target goes before the `Host` field, which must be there all the same.
fn authority(target: &Uri, headers: &HeaderMap) -> Result<Authority, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Refusal::Host) };
    if target.scheme().is_some_and(|scheme| *scheme != Scheme::HTTP) {
        return Err(Refusal::Target);
    }
    let host = match target.authority() {
        Some(authority) => authority.clone(),
        None => Authority::try_from(host.as_bytes()).map_err(|_| Refusal::Target)?,
    };
    let has_user = host.as_str().contains('@');
    if has_user || host.host().is_empty() { Err(Refusal::Target) } else { Ok(host) }
}

/// Makes of a client's head the one that a back end gets.
pub(crate) fn to_backend(head: &mut request::Parts, admitted: &Admitted, client: IpAddr, id: &str) {
    // Back ends get the origin form, `/path?query`, or `*` of OPTIONS (RFC 9112 §3.2.1, §3.2.4).
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(path);
    head.version = Version::HTTP_11;
    let headers = &mut head.headers;
    remove_connection_fields(headers);
    // The proxy answers `100 Continue` itself, once a back end is there to take the body.
    headers.remove(EXPECT);
    for name in FORWARDING {
        headers.remove(name);
    }
    let host = admitted.host.as_str();
    let client = client.to_canonical();
    insert(headers, HOST, host);
    insert(headers, X_FORWARDED_FOR, &client.to_string());
    insert(headers, X_FORWARDED_PROTO, "http");
    insert(headers, X_FORWARDED_HOST, host);
    // RFC 7239 §6: an IPv6 address is in brackets and quotes.
    let node = match client {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    insert(headers, FORWARDED, &format!("for={node};host=\"{host}\";proto=http"));
    insert(headers, X_REQUEST_ID, id);
    if let Ok(via) = HeaderValue::from_str("1.1 bramble") {
        headers.append(VIA, via);
    }
    if let Some(protocol) = &admitted.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
}

/// Makes of a back end's head the one that the client gets. A 101 keeps the fields that make it one.
pub(crate) fn to_client(head: &mut response::Parts) {
    let upgrade =
        head.headers.get(UPGRADE).filter(|_| head.status == StatusCode::SWITCHING_PROTOCOLS).cloned();
    // RFC 9112 §6.3: the coding wins over a length, which could only mislead the next reader.
    if head.headers.contains_key(TRANSFER_ENCODING) {
        head.headers.remove(CONTENT_LENGTH);
    }
    remove_connection_fields(&mut head.headers);
    head.version = Version::HTTP_11;
    if let Some(protocol) = upgrade {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol);
    }
}

/// RFC 9110 §7.6.1: the fields that `Connection` names, and those known to be of one connection only.
fn remove_connection_fields(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .filter(|name| *name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in CONNECTION_FIELDS {
        headers.remove(name);
    }
}

/// The options of all `Connection` fields.
fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let fields = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    fields.flat_map(|value| value.split(',')).map(str::trim)
}

fn names(headers: &HeaderMap, option: &HeaderName) -> bool {
    tokens(headers).any(|token| token.eq_ignore_ascii_case(option.as_str()))
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Addresses, authorities and ids of this proxy hold nothing that a value may not.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The address a connection is counted under and reported as.
pub(crate) fn client_of(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What only this proxy may say; a client's own claims are dropped, under every name in common use.
const FORWARDING: [HeaderName; 8] = [
    FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PROTO,
    X_REQUEST_ID,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
];

const CONNECTION_FIELDS: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

#[cfg(test)]
mod tests;
