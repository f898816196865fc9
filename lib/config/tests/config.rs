//! What a person who edits `bramble.toml` meets.

use std::net::Ipv4Addr;

use config::{Config, Interface, Level};
use proptest::prelude::*;

/// All mistakes of a file, a line each.
fn mistakes(text: &str) -> String {
    Config::parse(text).expect_err("the file has mistakes").to_string()
}

#[test]
fn an_empty_file_and_the_sample_mean_the_defaults() {
    let config = Config::parse("").expect("empty is right");
    assert_eq!(config, Config::default());
    assert_eq!(config, Config::parse(config::SAMPLE).expect("the sample is right"));
    assert_eq!(config.cluster.address, Ipv4Addr::new(10, 77, 0, 1));
    assert_eq!(config.cluster.first_node, Ipv4Addr::new(10, 77, 0, 11));
    assert_eq!(config.cluster.last_node, Ipv4Addr::new(10, 77, 255, 254));
    assert_eq!(config.cluster.node_name(Ipv4Addr::new(10, 77, 0, 13)).as_deref(), Some("node-3"));
    assert_eq!(config.cluster.node_name(config.cluster.address), None);
    assert_eq!(config.log.level, Level::Info);
}

/// The sample documents every key with its default; uncommented, it must say what the defaults are.
#[test]
fn the_defaults_shown_in_the_sample_are_the_defaults() {
    let shown: String = config::SAMPLE
        .lines()
        .filter(|line| !line.starts_with("#interface") && !line.starts_with("#token"))
        .map(|line| {
            let key =
                line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
            format!("{}\n", key.unwrap_or(line))
        })
        .collect();
    assert!(
        shown.contains("\naddress = ") && shown.contains("\nlevel = ") && shown.contains("\nnodes = "),
        "{shown}"
    );
    assert_eq!(Config::parse(&shown).expect("the shown defaults are right"), Config::default());
}

#[test]
fn every_mistake_is_reported_at_once_with_line_and_column() {
    let text = "[cluster]\naddress = \"10.77.0.1\"\n  lease-time = 5\nadress = 1\n[uplink]\ninterface = 7\n[mail]\nx = 1\n";
    assert_eq!(
        mistakes(text),
        "bramble.toml:2:11: cluster.address must be a private IPv4 address with prefix length 8 to 29, such as \"10.77.0.1/16\"\n\
         bramble.toml:3:16: cluster.lease-time must be a whole number from 120 to 604800\n\
         bramble.toml:4:1: unknown key cluster.adress; known here: address, nodes, lease-time, interface\n\
         bramble.toml:6:13: uplink.interface must be a text in quotes\n\
         bramble.toml:7:2: unknown key mail; known here: cluster, uplink, api, log"
    );
}

#[test]
fn a_syntax_error_has_a_place_and_does_not_hide_the_other_mistakes() {
    let text = mistakes("[api]\ntoken = \"short\"\n[log]\nlevel = \n");
    assert!(text.contains("bramble.toml:2:9: api.token must be"), "{text}");
    assert!(text.contains("bramble.toml:4:"), "{text}");
}

#[test]
fn ranges_that_make_no_network_are_refused() {
    for (text, word) in [
        ("[cluster]\naddress = \"8.8.8.8/24\"", "private"),
        ("[cluster]\naddress = \"10.0.0.0/24\"", "private"),
        ("[cluster]\naddress = \"10.0.0.255/24\"", "private"),
        ("[cluster]\naddress = \"10.0.0.1/30\"", "prefix"),
        ("[cluster]\nnodes = \"10.77.0.1-10.77.0.9\"", "leaves out the head"),
        ("[cluster]\nnodes = \"10.77.0.20-10.77.0.11\"", "range"),
        ("[cluster]\nnodes = \"10.78.0.20-10.78.0.30\"", "inside"),
        ("[cluster]\ninterface = \"a/b\"", "interface"),
        ("[cluster]\ninterface=\"eth0\"\n[uplink]\ninterface=\"eth0\"", "same interface"),
        ("[cluster]\naddress = \"10.0.0.254/24\"", "no room"),
        ("cluster = 5", "section"),
        ("[log]\nlevel = \"loud\"", "level"),
    ] {
        assert!(mistakes(text).contains(word), "{text} -> {}", mistakes(text));
    }
}

#[test]
fn what_is_set_is_in_force() {
    let config = Config::parse(
        "[cluster]\naddress=\"192.168.9.1/24\"\ninterface=\"lan0\"\nlease-time=120\n[api]\ntoken=\"0123456789abcdef\"\n[log]\nlevel=\"debug\"",
    )
    .expect("all of it is right");
    assert_eq!(config.cluster.first_node, Ipv4Addr::new(192, 168, 9, 11));
    assert_eq!(config.cluster.last_node, Ipv4Addr::new(192, 168, 9, 254));
    assert_eq!(config.cluster.interface, Interface::Named("lan0".into()));
    assert_eq!(config.cluster.broadcast(), Ipv4Addr::new(192, 168, 9, 255));
    assert!(!format!("{config:?}").contains("0123456789abcdef"), "a token must not reach a log");
}

#[test]
fn a_file_full_of_nested_brackets_is_a_mistake_and_not_the_end_of_the_stack() {
    for nested in ["[", "{a=", "[[", "a."] {
        let text = format!("a={}", nested.repeat(60_000 / nested.len()));
        assert!(Config::parse(&text).is_err(), "{nested}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_every_mistake_has_a_place(text in "\\PC{0,200}|(\\[?[a-z]{1,7}\\]? ?=? ?[\"0-9a-z./-]{0,20}\n){0,12}") {
        if let Err(errors) = Config::parse(&text) {
            prop_assert!(!errors.mistakes.is_empty());
            prop_assert!(errors.mistakes.iter().all(|mistake| mistake.line >= 1 && mistake.column >= 1));
        }
    }
}
