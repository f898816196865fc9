//! What resolv.conf(5) should say, from the leases of the uplinks.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

/// The part of a lease that concerns names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) servers: Vec<Ipv4Addr>,
    pub(crate) domains: Vec<String>,
}

/// The file's text. Leases are in order of preference; what a server sent is not believed to be well-formed.
pub(crate) fn text<'a>(leases: impl Iterator<Item = &'a Names> + Clone) -> String {
    let mut text = String::from("# Written by the network service from the leases of the uplinks.\n");
    let mut domains: Vec<&str> = Vec::new();
    for domain in leases.clone().flat_map(|names| &names.domains) {
        let domain = domain.trim_end_matches('.');
        if is_domain(domain) && !domains.contains(&domain) && domains.len() < DOMAINS_MAX {
            domains.push(domain);
        }
    }
    if !domains.is_empty() {
        let _ = writeln!(text, "search {}", domains.join(" "));
    }
    let mut servers: Vec<Ipv4Addr> = Vec::new();
    for &server in leases.flat_map(|names| &names.servers) {
        let usable = !server.is_unspecified() && !server.is_multicast() && !server.is_broadcast();
        if usable && !servers.contains(&server) && servers.len() < SERVERS_MAX {
            servers.push(server);
            let _ = writeln!(text, "nameserver {server}");
        }
    }
    text
}

/// RFC 1123 §2.1 letters, in labels of up to 63; the whole fits a name.
fn is_domain(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(legal);
    text.len() <= 253 && text.split('.').all(label)
}

/// Replaces the file so that a reader sees the old text or the new one.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path)
}

/// resolv.conf(5): MAXNS and the six domains that old readers stop at.
const SERVERS_MAX: usize = 3;
const DOMAINS_MAX: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(servers: &[[u8; 4]], domains: &[&str]) -> Names {
        Names {
            servers: servers.iter().map(|&octets| octets.into()).collect(),
            domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
        }
    }

    fn lines(leases: &[Names]) -> Vec<String> {
        text(leases.iter()).lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn servers_and_domains_of_all_leases_are_merged_in_order() {
        let leases = [
            names(&[[192, 168, 1, 1], [9, 9, 9, 9]], &["home.arpa."]),
            names(&[[192, 168, 1, 1], [1, 1, 1, 1], [8, 8, 8, 8]], &["home.arpa", "example.org"]),
        ];
        assert_eq!(
            lines(&leases),
            [
                "search home.arpa example.org",
                "nameserver 192.168.1.1",
                "nameserver 9.9.9.9",
                "nameserver 1.1.1.1"
            ]
        );
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn nothing_a_server_sends_becomes_another_line() {
        let leases = [names(
            &[[0, 0, 0, 0], [224, 0, 0, 1], [255, 255, 255, 255]],
            &["a\nnameserver 6.6.6.6", "a b", "", "..", "x".repeat(64).as_str(), "fine.example"],
        )];
        assert_eq!(lines(&leases), ["search fine.example"]);
    }
}
