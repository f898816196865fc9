//! Lines and files of text: settings, facts, the kernel command line, requests to init, depmod's tables.

use config::{Config, Machine};
use modules::{Index, Uevent, name_of};

use crate::request::{REQUEST_MAX, Request, may_send};

#[allow(dead_code)]
#[path = "../../../services/netroot/src/cmdline.rs"]
mod cmdline;

fn lossy(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// Settings that are accepted make sense; of those that are not, every mistake has a place in the file.
pub fn config_toml(data: &[u8]) {
    let text = lossy(data);
    match Config::parse(&text) {
        Ok(config) => {
            let cluster = &config.cluster;
            assert!(cluster.first_node <= cluster.last_node && (8..=29).contains(&cluster.prefix));
            for node in [cluster.first_node, cluster.last_node] {
                assert!(cluster.contains(node) && node != cluster.broadcast());
            }
            assert!(!(cluster.first_node..=cluster.last_node).contains(&cluster.address));
            assert_eq!(cluster.node_number(cluster.first_node), Some(1));
            assert!(cluster.lease_time.as_secs() >= 120);
            assert!(config.api.token.is_none_or(|token| (16..=128).contains(&token.len())));
        }
        Err(errors) => {
            assert!(!errors.mistakes.is_empty());
            let lines: Vec<&str> = text.split('\n').collect();
            for mistake in errors.mistakes {
                let line = mistake.line.checked_sub(1).and_then(|line| lines.get(line));
                let columns = line.expect("a line of the file").chars().count() + 1;
                assert!((1..=columns).contains(&mistake.column), "{mistake}");
            }
        }
    }
}

/// Facts that are accepted make sense.
pub fn machine_facts(data: &[u8]) {
    if let Ok(machine) = Machine::parse(&lossy(data)) {
        assert!(machine.image.len() == 64 && machine.image.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert!(machine.serial.is_empty() || machine.serial.len() == 8);
        assert!(machine.events.keys().all(|key| !key.contains(['\n', '='])));
    }
}

/// A command line that is accepted makes sense, and line ends at its borders do not matter.
pub fn kernel_command_line(data: &[u8]) {
    let text = lossy(data);
    let Ok(line) = cmdline::Cmdline::parse(&text) else { return };
    assert!(line.image.len() == 64 && line.image == line.image.to_ascii_lowercase());
    assert!(line.serial.is_none_or(|serial| serial.len() == 8));
    match line.root {
        cmdline::Root::Card { partition, .. } => assert!(partition > 0),
        cmdline::Root::Nbd(_) => assert!(line.server.is_some()),
    }
}

/// A request names what was asked for, and only the two users with a right to it may command.
pub fn init_request(data: &[u8]) {
    let line = &data[..data.len().min(REQUEST_MAX)];
    let Ok(request) = Request::parse(line) else { return };
    let name = match request {
        Request::Logs(name) | Request::Wish(_, name) => name,
        Request::Signal(name, number) => {
            assert!((1..=31).contains(&number));
            name
        }
        Request::Services | Request::Shutdown(_) => "none",
    };
    assert!(!name.is_empty() && !name.contains(|letter: char| letter.is_ascii_whitespace()), "{name:?}");
    assert_eq!(may_send(request, 65_534), !request.is_command());
    assert!(may_send(request, 0));
}

/// Whatever is in depmod's tables: a plan loads each module once and only modules that ship, dependencies before.
pub fn module_files(data: &[u8]) {
    let text = lossy(data);
    let mut files = text.split('\u{1}');
    let mut file = || files.next().unwrap_or_default();
    let index =
        Index::default().dep(file()).alias(file().to_owned()).softdep(file()).builtin(file()).listed(file());
    let question = file();
    if let Some(event) = Uevent::parse(question.as_bytes()) {
        let _ = event.new_modalias().map(|modalias| index.resolve(modalias).len());
    }
    let mut names: Vec<&str> = index.resolve(question);
    names.extend(index.load_list().iter().map(|(name, _)| name.as_str()));
    let asked = name_of(question);
    names.push(&asked);
    for name in names {
        let plan = index.plan(name);
        let mut once = plan.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), plan.len(), "{plan:?}");
        assert!(plan.iter().all(|name| index.path(name).is_some()));
        assert_eq!(plan.contains(&name), index.path(name).is_some());
    }
}
