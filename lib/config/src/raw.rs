//! From TOML to resolved settings: every key, its type, range and default.

use std::net::Ipv4Addr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Collector, ConfigErrors};
use crate::settings::{Api, Cluster, Config, Interface, Level, Log, Uplink, mask};

/// 10.77.0.0/16 has room for 65,000 boards and is seldom used in houses and offices.
const DEFAULT_ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 77, 0, 1), 16);

/// node-1 is ten addresses above the head, which leaves room for switches and power controllers.
const FIRST_NODE_AFTER_HEAD: u32 = 10;

/// Long enough that a head may be away for half an hour before a node even asks.
const DEFAULT_LEASE_TIME_S: i64 = 3600;

pub(crate) fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let mut mistakes = Collector::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        mistakes.add(error.span().map_or(0, |span| span.start), error.message().trim());
    }
    let mut root = Section { name: "", table: table.get_ref(), known: Vec::new() };
    let cluster = root.section("cluster", &mut mistakes, cluster);
    let uplink = root.section("uplink", &mut mistakes, |section, mistakes| Uplink {
        interface: interface(section, mistakes),
    });
    let api = root.section("api", &mut mistakes, |section, mistakes| Api { token: token(section, mistakes) });
    let log = root.section("log", &mut mistakes, |section, mistakes| Log { level: level(section, mistakes) });
    root.refuse_unknown(&mut mistakes);
    if let (Interface::Named(one), Interface::Named(other)) = (&cluster.interface, &uplink.interface)
        && one == other
    {
        let place = root.offset_of("uplink").unwrap_or(0);
        mistakes.add(place, "cluster and uplink cannot be the same interface");
    }
    mistakes.finish()?;
    Ok(Config { cluster, uplink, api, log })
}

fn cluster(section: &mut Section<'_, '_>, mistakes: &mut Collector<'_>) -> Cluster {
    let (address, prefix) = section
        .string("address", mistakes, |text| {
            let (address, prefix) = text.split_once('/')?;
            let (address, prefix) = (address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok()?);
            let host = u32::from(address) & !mask(prefix);
            let usable = (8..=29).contains(&prefix) && host != 0 && host != !mask(prefix);
            (usable && address.is_private()).then_some((address, prefix))
        })
        .or_mistake(
            mistakes,
            "must be a private IPv4 address with prefix length 8 to 29, such as \"10.77.0.1/16\"",
        )
        .unwrap_or(DEFAULT_ADDRESS);
    let broadcast = u32::from(address) | !mask(prefix);
    // A network of fewer than 64 addresses has none to spare.
    let distance = if prefix <= 26 { FIRST_NODE_AFTER_HEAD } else { 1 };
    let default_first = u32::from(address).saturating_add(distance);
    let inside = |node: Ipv4Addr| {
        (u32::from(node) ^ u32::from(address)) & mask(prefix) == 0
            && u32::from(node) & !mask(prefix) != 0
            && u32::from(node) != broadcast
    };
    let (first_node, last_node) = section
        .string("nodes", mistakes, |text| {
            let (first, last) = text.split_once('-')?;
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            let around_head = (first..=last).contains(&address);
            (inside(first) && inside(last) && first <= last && !around_head).then_some((first, last))
        })
        .or_mistake(
            mistakes,
            "must be a range FIRST-LAST inside the cluster's network that leaves out the head's address",
        )
        .unwrap_or((Ipv4Addr::from(default_first), Ipv4Addr::from(broadcast - 1)));
    if first_node > last_node {
        let place = section.offset_of("address").unwrap_or(0);
        mistakes.add(
            place,
            "cluster.address leaves no room for nodes after it: choose a lower one, or give cluster.nodes",
        );
    }
    let lease_time_s = section.integer("lease-time", mistakes, 120..=604_800).unwrap_or(DEFAULT_LEASE_TIME_S);
    Cluster {
        interface: interface(section, mistakes),
        address,
        prefix,
        first_node,
        last_node,
        lease_time: Duration::from_secs(lease_time_s.unsigned_abs()),
    }
}

fn interface(section: &mut Section<'_, '_>, mistakes: &mut Collector<'_>) -> Interface {
    section
        .string("interface", mistakes, |text| {
            // Linux: IFNAMSIZ is 16 with the final NUL; no slash, colon or white space.
            let legal = !text.is_empty()
                && text.len() <= 15
                && text.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':')
                && text != "."
                && text != "..";
            legal.then(|| Interface::Named(text.to_owned()))
        })
        .or_mistake(mistakes, "must be the name of an interface, such as \"eth0\"")
        .unwrap_or(Interface::Automatic)
}

fn token(section: &mut Section<'_, '_>, mistakes: &mut Collector<'_>) -> Option<String> {
    section
        .string("token", mistakes, |text| {
            let legal = (16..=128).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
            legal.then(|| text.to_owned())
        })
        .or_mistake(mistakes, "must be 16 to 128 printable characters without blanks")
}

fn level(section: &mut Section<'_, '_>, mistakes: &mut Collector<'_>) -> Level {
    section
        .string("level", mistakes, |text| text.parse().ok())
        .or_mistake(mistakes, "must be error, warn, info, debug or trace")
        .unwrap_or(Level::Info)
}

/// One table of the file while its keys are being taken out.
struct Section<'a, 't> {
    name: &'static str,
    table: &'a DeTable<'t>,
    known: Vec<&'static str>,
}

/// A string that was given: its place, and what it meant if anything.
struct Given<T> {
    key: String,
    offset: usize,
    value: Option<T>,
}

trait OrMistake<T> {
    fn or_mistake(self, mistakes: &mut Collector<'_>, rule: &str) -> Option<T>;
}

impl<T> OrMistake<T> for Option<Given<T>> {
    fn or_mistake(self, mistakes: &mut Collector<'_>, rule: &str) -> Option<T> {
        let given = self?;
        if given.value.is_none() {
            mistakes.add(given.offset, format!("{} {rule}", given.key));
        }
        given.value
    }
}

impl<'a, 't> Section<'a, 't> {
    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    fn offset_of(&self, key: &str) -> Option<usize> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(name, _)| name.span().start)
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn section<T>(
        &mut self,
        key: &'static str,
        mistakes: &mut Collector<'_>,
        read: impl FnOnce(&mut Section<'_, '_>, &mut Collector<'_>) -> T,
    ) -> T {
        let empty = DeTable::new();
        let table = match self.take(key) {
            None => &empty,
            Some(value) => value.get_ref().as_table().unwrap_or_else(|| {
                mistakes.add(value.span().start, format!("{key} must be a section: write [{key}]"));
                &empty
            }),
        };
        let mut section = Section { name: key, table, known: Vec::new() };
        let value = read(&mut section, mistakes);
        section.refuse_unknown(mistakes);
        value
    }

    fn string<T>(
        &mut self,
        key: &'static str,
        mistakes: &mut Collector<'_>,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Given<T>> {
        let value = self.take(key)?;
        let offset = value.span().start;
        match value.get_ref().as_str() {
            Some(text) => Some(Given { key: self.path(key), offset, value: read(text) }),
            None => {
                mistakes.add(offset, format!("{} must be a text in quotes", self.path(key)));
                None
            }
        }
    }

    fn integer(
        &mut self,
        key: &'static str,
        mistakes: &mut Collector<'_>,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        let value = self.take(key)?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|integer| i64::from_str_radix(integer.as_str(), integer.radix()).ok())
            .filter(|number| range.contains(number));
        if number.is_none() {
            let (from, to) = (range.start(), range.end());
            mistakes.add(
                value.span().start,
                format!("{} must be a whole number from {from} to {to}", self.path(key)),
            );
        }
        number
    }

    fn refuse_unknown(&self, mistakes: &mut Collector<'_>) {
        for (name, _) in self.table {
            if !self.known.contains(&name.get_ref().as_ref()) {
                let known = self.known.join(", ");
                let path = self.path(name.get_ref());
                mistakes.add(name.span().start, format!("unknown key {path}; known here: {known}"));
            }
        }
    }
}
