//! The broker with clients that nobody here wrote: busctl (systemd) and gdbus (GLib).

use std::process::{Command, Output};
use std::time::Duration;

use clap::Parser;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: bus_broker::Args,
}

/// Runs a foreign client against a broker with one service of ours on it; `None` when the client is not installed.
fn ask(client: &str, arguments: &[&str]) -> Option<Output> {
    if Command::new(client).arg("--help").output().is_err() {
        eprintln!("skipped: needs {client}");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("unix:path={}/bus", folder.path().display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let line = Line::try_parse_from(["test", "--listen", &address]).expect("the arguments are right");
        let (context, stop) = service::Context::for_test("bus-broker");
        let broker = tokio::spawn(bus_broker::run(line.args, context));
        let mut connection = None;
        for _ in 0..100 {
            match bus::connect_to(&address, "dhcp-server").await {
                Ok(open) => {
                    connection = Some(open);
                    break;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        assert!(connection.is_some(), "a service cannot connect to the broker");
        let arguments: Vec<String> = arguments.iter().map(|a| a.replace("ADDRESS", &address)).collect();
        let output = tokio::process::Command::new(client).args(&arguments).kill_on_drop(true).output();
        let output = tokio::time::timeout(Duration::from_secs(10), output).await.expect("the client ends");
        stop.send(true).expect("the broker listens");
        broker.await.expect("the broker does not panic").expect("the broker ends well");
        Some(output.expect("the client runs"))
    })
}

#[test]
fn busctl_lists_and_introspects_a_service() {
    let Some(list) = ask("busctl", &["--address=ADDRESS", "--no-pager", "list"]) else { return };
    let text = String::from_utf8_lossy(&list.stdout);
    assert!(text.contains("org.bramble.DhcpServer"), "{list:?}");
    let shown = ask(
        "busctl",
        &["--address=ADDRESS", "--no-pager", "introspect", "org.bramble.DhcpServer", "/org/bramble/Service"],
    )
    .expect("busctl was there a moment ago");
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.contains("org.bramble.Service1") && text.contains("\"dhcp-server\""), "{shown:?}");
}

#[test]
fn gdbus_introspects_a_service() {
    let Some(shown) = ask(
        "gdbus",
        &[
            "introspect",
            "--address",
            "ADDRESS",
            "--dest",
            "org.bramble.DhcpServer",
            "--object-path",
            "/org/bramble/Service",
        ],
    ) else {
        return;
    };
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.contains("org.bramble.Service1"), "{shown:?}");
}
