//! The walking cluster: a head and three nodes under QEMU, used, disturbed, and shut down.
//!
//! One cluster serves all steps; each leaves it ready. `cargo test -p tests --test cluster -- WORD` runs the steps whose
//! name contains the word (and the start and end).

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tests::{Cluster, Options, get};

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Boots on two emulated cores take some ten seconds; this is for a machine that is busy with other things.
const BOOT: Duration = Duration::from_secs(120);

type Step = (&'static str, fn(&Cluster) -> Result<()>);

const STEPS: &[Step] = &[
    ("three_requests_are_answered_by_three_nodes", three_requests_are_answered_by_three_nodes),
    ("the_api_tells_every_step_of_every_boot", the_api_tells_every_step_of_every_boot),
    ("orders_need_the_token", orders_need_the_token),
    ("the_root_is_nbd_and_the_image_is_the_heads", the_root_is_nbd_and_the_image_is_the_heads),
    (
        "a_node_reaches_beyond_the_head_under_the_heads_address",
        a_node_reaches_beyond_the_head_under_the_heads_address,
    ),
    ("a_foreign_client_introspects_a_nodes_bus", a_foreign_client_introspects_a_nodes_bus),
    ("userland_and_init_stay_within_their_memory", userland_and_init_stay_within_their_memory),
    (
        "what_is_written_to_the_root_is_gone_after_a_reboot",
        what_is_written_to_the_root_is_gone_after_a_reboot,
    ),
    ("a_killed_service_comes_back_and_keeps_its_log", a_killed_service_comes_back_and_keeps_its_log),
    ("killing_the_nbd_server_costs_no_read", killing_the_nbd_server_costs_no_read),
    ("a_node_cut_from_power_comes_back_as_itself", a_node_cut_from_power_comes_back_as_itself),
    ("rebooting_the_head_costs_no_read", rebooting_the_head_costs_no_read),
    ("everything_shuts_down_cleanly", everything_shuts_down_cleanly),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let begun = Instant::now();
    println!("\nrunning {} steps on one cluster", STEPS.len());
    let options = Options { name: "cluster", nodes: 3, config: "", arguments: vec!["--pcap".into()] };
    let cluster = match Cluster::up(options) {
        Ok(cluster) => cluster,
        Err(error) => {
            println!(
                "{error:#}\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out"
            );
            return ExitCode::FAILURE;
        }
    };
    println!("{}", cluster.printed.trim_end());
    let _ = std::io::stdout().flush();
    let (mut passed, mut failed, mut left_out) = (0, 0, 0);
    for (name, step) in STEPS {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            left_out += 1;
            continue;
        }
        print!("step {name} ... ");
        let _ = std::io::stdout().flush();
        let started = Instant::now();
        match step(&cluster) {
            Ok(()) => {
                passed += 1;
                println!("ok ({:.1} s)", started.elapsed().as_secs_f64());
            }
            Err(error) => {
                failed += 1;
                println!("FAILED ({:.1} s)\n    {error:#}", started.elapsed().as_secs_f64());
            }
        }
    }
    if failed > 0 {
        println!("consoles and captures are in {}", cluster.run_dir().display());
    }
    drop(cluster);
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {left_out} filtered out; \
         finished in {:.2}s",
        begun.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn three_requests_are_answered_by_three_nodes(cluster: &Cluster) -> Result<()> {
    let mut answered = BTreeSet::new();
    for _ in 0..3 {
        let answer = get(cluster.http, "/", None, Duration::from_secs(10))?;
        ensure!(answer.status == 200, "{answer:?}");
        let named =
            NODES.iter().find(|name| answer.body.contains(*name)).with_context(|| answer.body.clone())?;
        answered.insert(*named);
    }
    ensure!(answered.len() == 3, "only {answered:?} answered");
    Ok(())
}

fn the_api_tells_every_step_of_every_boot(cluster: &Cluster) -> Result<()> {
    for name in NODES {
        let node = cluster.node(name)?;
        let steps: BTreeSet<&str> = node.timeline.iter().map(|step| step.step.as_str()).collect();
        for step in
            ["discover", "offer", "ack", "file", "kernel", "init", "lease", "attached", "root", "ready"]
        {
            ensure!(steps.contains(step), "{name} has no step {step}: {steps:?}");
        }
        for file in ["config.txt", "cmdline.txt", "vmlinuz", "initramfs.img"] {
            let step = node.timeline.iter().find(|step| step.step == "file" && step.detail.ends_with(file));
            let step = step.with_context(|| format!("{name} fetched no {file}"))?;
            ensure!(step.bytes > 0 && step.duration_us > 0, "{step:?}");
        }
        ensure!(node.timeline.is_sorted_by_key(|step| step.at_us), "{:?}", node.timeline);
        ensure!(node.serial.len() == 8 && node.mac.len() == 17 && node.image.len() == 64, "{node:?}");
    }
    let page = get(cluster.dashboard, "/", None, Duration::from_secs(10))?;
    ensure!(page.status == 200 && page.body.contains("<title>Bramble</title>"), "{}", page.head);
    Ok(())
}

fn orders_need_the_token(cluster: &Cluster) -> Result<()> {
    let path = "/api/v1/nodes/node-1/logs/web";
    for token in [None, Some("wrong-wrong-wrong-wrong")] {
        let answer = get(cluster.dashboard, path, token, Duration::from_secs(10))?;
        ensure!(answer.status == 401, "{answer:?}");
    }
    cluster.ask("node-1", "logs/web").map(|_| ())
}

fn the_root_is_nbd_and_the_image_is_the_heads(cluster: &Cluster) -> Result<()> {
    let head = cluster.node("head")?;
    ensure!(head.root == "card", "{head:?}");
    for name in NODES {
        let info = cluster.order(name, "check", r#"{"check":"root-info"}"#)?;
        ensure!(info.contains("device /dev/nbd") && info.contains("overlay"), "{info}");
        let node = cluster.node(name)?;
        ensure!(node.root == "nbd" && node.image == head.image, "{node:?}");
    }
    Ok(())
}

/// A server on the workstation stands for one beyond the head: QEMU's user network leads to it at 10.0.2.2, and the capture of
/// the head's uplink shows whose address the packets carry.
fn a_node_reaches_beyond_the_head_under_the_heads_address(cluster: &Cluster) -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut request = [0; 1024];
        let _ = std::io::Read::read(&mut stream, &mut request)?;
        stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nbeyond")
    });
    let url = format!(r#"{{"check":"fetch","url":"http://10.0.2.2:{port}/"}}"#);
    let answer = cluster.order("node-2", "check", &url)?;
    ensure!(answer.contains("beyond"), "{answer}");
    server.join().expect("the server does not panic")?;
    let capture =
        std::fs::read(cluster.run_dir().join("head/uplink.pcap")).context("the capture of the uplink")?;
    let sources = sources_of_connections(&capture, port);
    let expected: BTreeSet<String> = ["10.0.2.15".to_owned()].into();
    ensure!(sources == expected, "connections to port {port} came from {sources:?}");
    Ok(())
}

/// Source addresses of the TCP SYNs to a port, from a pcap file of Ethernet frames.
fn sources_of_connections(capture: &[u8], port: u16) -> BTreeSet<String> {
    let mut sources = BTreeSet::new();
    let mut rest = capture.get(24..).unwrap_or_default();
    while let Some((head, after)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let Some((frame, next)) = after.split_at_checked(length) else { break };
        rest = next;
        if frame.len() < 54 || frame[12..14] != [0x08, 0x00] || frame[23] != 6 {
            continue;
        }
        let tcp = 14 + usize::from(frame[14] & 0x0f) * 4;
        let is_syn = frame.get(tcp + 13).is_some_and(|flags| flags & 0x12 == 0x02);
        if is_syn && frame.get(tcp + 2..tcp + 4) == Some(&port.to_be_bytes()) {
            sources.insert(format!("{}.{}.{}.{}", frame[26], frame[27], frame[28], frame[29]));
        }
    }
    sources
}

fn a_foreign_client_introspects_a_nodes_bus(cluster: &Cluster) -> Result<()> {
    if Command::new("busctl").arg("--version").output().is_err() {
        println!("skipped: needs busctl");
        return Ok(());
    }
    let bramble = tests::repository().join("target/tool/bramble");
    let socket = cluster.run_dir().join("bus.sock");
    let _ = std::fs::remove_file(&socket);
    let mut tunnel = Command::new(&bramble)
        .args(["bus", "node-1", "--listen"])
        .arg(&socket)
        .args(["--head", &format!("http://127.0.0.1:{}", cluster.dashboard), "--token", cluster.token()])
        .spawn()
        .with_context(|| bramble.display().to_string())?;
    let outcome = cluster.wait("busctl sees the agent", Duration::from_secs(20), |_| {
        let output = Command::new("busctl")
            .arg(format!("--address=unix:path={}", socket.display()))
            .args(["--no-pager", "introspect", "org.bramble.Agent", "/org/bramble/Service"])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text.contains("org.bramble.Service1") && text.contains("\"agent\""), "{output:?}");
        Ok(())
    });
    tunnel.kill()?;
    tunnel.wait()?;
    outcome
}

fn userland_and_init_stay_within_their_memory(cluster: &Cluster) -> Result<()> {
    for (name, limit_kib) in [("head", 40 * 1024), ("node-1", 16 * 1024)] {
        let text = cluster.order(name, "check", r#"{"check":"memory"}"#)?;
        let total: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("pss_total_kib "))
            .and_then(|number| number.parse().ok())
            .with_context(|| text.clone())?;
        ensure!(total <= limit_kib, "{name} uses {total} KiB:\n{text}");
        let init = text.lines().find(|line| line.contains("\tpid 1\t")).with_context(|| text.clone())?;
        let rss: u64 = init
            .split('\t')
            .find_map(|field| field.strip_prefix("rss_kib "))
            .and_then(|number| number.parse().ok())
            .with_context(|| init.to_owned())?;
        ensure!(rss <= 2048, "init of {name} has {rss} KiB");
    }
    Ok(())
}

fn what_is_written_to_the_root_is_gone_after_a_reboot(cluster: &Cluster) -> Result<()> {
    let before = cluster.node("node-3")?;
    cluster.order("node-3", "check", r#"{"check":"root-write"}"#)?;
    let there = cluster.order("node-3", "check", r#"{"check":"root-written"}"#)?;
    ensure!(there.starts_with("present"), "{there}");
    cluster.order("node-3", "reboot", "")?;
    await_next_boot(cluster, &before)?;
    let there = cluster.order("node-3", "check", r#"{"check":"root-written"}"#)?;
    ensure!(there.starts_with("absent"), "{there}");
    Ok(())
}

/// Waits until a machine is ready after one more boot than it had, and gives it.
fn await_next_boot(cluster: &Cluster, before: &api::Node) -> Result<api::Node> {
    let name = &before.name;
    cluster.wait(&format!("{name} boots again"), BOOT, |cluster| {
        let node = cluster.node(name)?;
        ensure!(
            node.boots > before.boots && node.state == "ready",
            "{} after {} boots",
            node.state,
            node.boots
        );
        Ok(node)
    })
}

fn a_killed_service_comes_back_and_keeps_its_log(cluster: &Cluster) -> Result<()> {
    for machine in ["head", "node-1"] {
        let rows = cluster.services(machine)?;
        for (service, state, pid, restarts) in rows {
            // Oneshots have no process; agent and cluster carry our own orders and come below.
            if state != "ready" || matches!(service.as_str(), "agent" | "cluster") {
                continue;
            }
            let log = cluster.ask(machine, &format!("logs/{service}"))?;
            cluster.order(machine, &format!("services/{service}/signal/9"), "")?;
            let what = format!("{service} of {machine} comes back");
            cluster.wait(&what, Duration::from_secs(30), |cluster| {
                let rows = cluster.services(machine)?;
                let row = rows.into_iter().find(|row| row.0 == service).context("the row is there")?;
                ensure!(row.1 == "ready" && row.2 != pid && row.3 == restarts + 1, "{row:?}");
                Ok(())
            })?;
            let after = cluster.ask(machine, &format!("logs/{service}"))?;
            let first = log.lines().next().unwrap_or("");
            ensure!(after.contains(first), "the log of {service} lost {first:?}");
        }
    }
    // The two that carry orders: killed by order, seen through what they do.
    for (machine, service) in [("node-1", "agent"), ("head", "agent"), ("head", "cluster")] {
        let before = cluster.services(machine)?;
        let restarts = |rows: &[(String, String, u32, u64)]| {
            rows.iter().find(|row| row.0 == service).map(|row| row.3).context("the row is there")
        };
        let count = restarts(&before)?;
        // The one that carries the answer is gone before it can.
        let _ = cluster.order(machine, &format!("services/{service}/signal/9"), "");
        cluster.wait(&format!("{service} of {machine} comes back"), Duration::from_secs(40), |cluster| {
            ensure!(restarts(&cluster.services(machine)?)? == count + 1, "not yet");
            Ok(())
        })?;
    }
    for name in NODES {
        cluster.wait_ready(name, BOOT)?;
    }
    cluster.wait("three answers again", Duration::from_secs(30), three_requests_are_answered_by_three_nodes)
}

/// Reads parts of the root that no cache has on every node, and does something meanwhile.
fn reads_survive(cluster: &Cluster, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    std::thread::scope(|scope| {
        let readers: Vec<_> = NODES
            .iter()
            .map(|name| {
                let body = r#"{"check":"root-read","mebibytes":12,"pause_ms":200}"#;
                scope.spawn(move || (*name, cluster.order(name, "check", body)))
            })
            .collect();
        std::thread::sleep(Duration::from_secs(2));
        let done = meanwhile();
        for reader in readers {
            let (name, outcome) = reader.join().expect("the reader does not panic");
            let text = outcome.with_context(|| format!("reading the root of {name}"))?;
            ensure!(text.contains("\nerrors 0\n"), "{name}: {text}");
        }
        done
    })?;
    for name in NODES {
        let console = cluster.console(name)?;
        for word in ["I/O error", "SQUASHFS error"] {
            ensure!(!console.contains(word), "{name} says {word}");
        }
    }
    Ok(())
}

fn killing_the_nbd_server_costs_no_read(cluster: &Cluster) -> Result<()> {
    reads_survive(cluster, || {
        for _ in 0..3 {
            cluster.order("head", "services/nbd-server/signal/9", "")?;
            std::thread::sleep(Duration::from_secs(2));
        }
        Ok(())
    })
}

fn a_node_cut_from_power_comes_back_as_itself(cluster: &Cluster) -> Result<()> {
    let before = cluster.node("node-2")?;
    cluster.run(&["power", "off", "node-2"])?;
    cluster.wait("the head misses node-2", Duration::from_secs(15), |cluster| {
        let node = cluster.node("node-2")?;
        ensure!(node.state == "lost", "{}", node.state);
        Ok(())
    })?;
    let answer = get(cluster.http, "/", None, Duration::from_secs(10))?;
    ensure!(answer.status == 200 && !answer.body.contains("node-2"), "{answer:?}");
    cluster.run(&["power", "on", "node-2"])?;
    let after = await_next_boot(cluster, &before)?;
    let identity =
        |node: &api::Node| (node.name.clone(), node.address.clone(), node.serial.clone(), node.mac.clone());
    ensure!(identity(&before) == identity(&after), "{before:?} is now {after:?}");
    Ok(())
}

/// The reads cannot be ordered through a head that reboots: they are begun before, and their result is in the node's own words
/// on its console and in its going on.
fn rebooting_the_head_costs_no_read(cluster: &Cluster) -> Result<()> {
    let before: Vec<_> = NODES.iter().map(|name| cluster.node(name)).collect::<Result<_>>()?;
    let head = cluster.node("head")?;
    std::thread::scope(|scope| -> Result<()> {
        for name in NODES {
            // The order's answer is lost with the head; the node carries it out all the same.
            let body = r#"{"check":"root-read","mebibytes":12,"pause_ms":300}"#;
            scope.spawn(move || cluster.order(name, "check", body));
        }
        std::thread::sleep(Duration::from_secs(2));
        cluster.order("head", "reboot", "")?;
        Ok(())
    })?;
    cluster.wait("the head is back", BOOT, |cluster| {
        let now = cluster.node("head")?;
        ensure!(now.state == "ready" && now.uptime_s < head.uptime_s, "{} for {} s", now.state, now.uptime_s);
        Ok(())
    })?;
    for node in &before {
        let now = cluster.wait_ready(&node.name, BOOT)?;
        ensure!(now.boots == node.boots && now.uptime_s > node.uptime_s, "{} was started again", node.name);
    }
    // Reads through the session that was made anew, and not one error from all that waited.
    reads_survive(cluster, || Ok(()))?;
    for name in NODES {
        let said = cluster.ask(name, "logs/agent")?;
        let outcomes: Vec<_> = said.lines().filter(|line| line.contains("check finished")).collect();
        ensure!(outcomes.iter().all(|line| line.contains("ok=true")), "{name}: {outcomes:?}");
        ensure!(!outcomes.is_empty(), "{name} finished no check: {said}");
    }
    cluster.wait("three answers again", Duration::from_secs(30), three_requests_are_answered_by_three_nodes)
}

fn everything_shuts_down_cleanly(cluster: &Cluster) -> Result<()> {
    let consoles = |cluster: &Cluster| -> Result<Vec<(&str, String)>> {
        ["head", "node-1", "node-2", "node-3"]
            .into_iter()
            .map(|name| Ok((name, cluster.console(name)?)))
            .collect()
    };
    let printed = cluster.down()?;
    for (name, console) in consoles(cluster)? {
        for said in ["init: services stopped", "init: root released", "init: power off"] {
            ensure!(console.contains(said), "{name} did not say {said:?}; down printed:\n{printed}");
        }
        let last_boot = console.rsplit("-- firmware: starting the kernel").next().unwrap_or(&console);
        let last_boot = last_boot.split_once('\n').map_or(last_boot, |(_, rest)| rest);
        for word in ["panic", "BUG", "error -", "unmount"] {
            let line =
                last_boot.lines().find(|line| line.contains(word) && !line.contains("Kernel command line"));
            if let Some(line) = line {
                bail!("{name} says {word:?}: {line}");
            }
        }
    }
    Ok(())
}
