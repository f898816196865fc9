//! Whole clusters around a stand-in for QEMU: this test program again, which speaks QMP and answers as a head would.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use fscommon::StreamSlice;
use mbrman::{CHS, MBRHeader, MBRPartitionEntry};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::control::{self, Reply, Request};

const IMAGE: &str = "5d41402abc4b2a76b9719d911017c592";
const LIMIT: Duration = Duration::from_secs(30);

/// Free ports at the moment of asking.
fn ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Settings of a cluster of a head alone, with a card and a stand-in beneath `folder`.
fn settings(folder: &TempDir) -> Settings {
    let path = folder.path();
    make_card(&path.join("head.img"));
    let stand_in = path.join("qemu");
    let test = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version 7.2.0' && exit\n\
         STAND_IN=\"$*\" exec '{}' --exact cluster::tests::stand_in_for_qemu --ignored --nocapture\n",
        test.display()
    );
    fs::write(&stand_in, script).unwrap();
    fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755)).unwrap();
    let [http, dashboard] = ports();
    Settings {
        nodes: 0,
        card_size_mib: 32,
        http,
        dashboard,
        qemu: stand_in,
        ..Settings::new(path.to_owned(), path.join("run"))
    }
}

/// The least card a Pi 4 boots from.
fn make_card(path: &Path) {
    let (start, length) = (1 << 20, 8 << 20);
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(start + length).unwrap();
    let mut table = MBRHeader::new([1, 2, 3, 4]);
    let sectors = |bytes: u64| (bytes / 512) as u32;
    *table.get_mut(1).unwrap() = MBRPartitionEntry {
        boot: 0,
        first_chs: CHS::empty(),
        sys: 0x0e,
        last_chs: CHS::empty(),
        starting_lba: sectors(start),
        sectors: sectors(length),
    };
    table.write_into(&mut file).unwrap();
    let slice = || StreamSlice::new(file.try_clone().unwrap(), start, start + length).unwrap();
    format_volume(slice(), FormatVolumeOptions::new()).unwrap();
    let volume = FileSystem::new(slice(), FsOptions::new()).unwrap();
    let mut kernel = vec![0; 1000];
    kernel[56..60].copy_from_slice(b"ARM\x64");
    let command_line = format!("bramble.role=head bramble.image={IMAGE}\n");
    let files: [(&str, &[u8]); 6] = [
        ("config.txt", b"arm_64bit=1\nkernel=vmlinuz\n"),
        ("cmdline.txt", command_line.as_bytes()),
        ("vmlinuz", &kernel),
        ("start4.elf", b"firmware"),
        ("fixup4.dat", b"firmware"),
        ("bcm2711-rpi-4-b.dtb", b"\xd0\x0d\xfe\xed"),
    ];
    for (name, content) in files {
        volume.root_dir().create_file(name).unwrap().write_all(content).unwrap();
    }
}

#[test]
#[ignore = "stands in for QEMU; the other tests run it"]
fn stand_in_for_qemu() {
    let Ok(arguments) = std::env::var("STAND_IN") else { return };
    let after =
        |name: &str| arguments.split(name).nth(1).unwrap().split([',', '-', ' ']).next().unwrap().to_owned();
    fs::write("stand-in.pid", std::process::id().to_string()).unwrap();
    println!("the kernel says hello");
    // The second forward is the dashboard's.
    let port =
        arguments.split("hostfwd=tcp:127.0.0.1:").nth(2).unwrap().split('-').next().unwrap().parse().unwrap();
    let (wish, wishes) = mpsc::channel::<&str>();
    let from_http = wish.clone();
    thread::spawn(move || serve_api(port, &from_http));

    let path = format!("{}{}", after("id=qmp,path="), "");
    let mut socket = UnixStream::connect(path).unwrap();
    writeln!(socket, r#"{{"QMP": {{"version": {{}}, "capabilities": []}}}}"#).unwrap();
    let reader = BufReader::new(socket.try_clone().unwrap());
    let mut answers = socket.try_clone().unwrap();
    thread::spawn(move || {
        for line in reader.lines() {
            let request: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            writeln!(answers, r#"{{"return": {{}}, "id": {}}}"#, request["id"]).unwrap();
            if request["execute"] == "system_powerdown" {
                println!("reboot: Power down");
                wish.send("guest-shutdown").unwrap();
            }
        }
    });
    let reason = wishes.recv().unwrap();
    if reason == "crash" {
        eprintln!("qemu-system-aarch64: out of luck");
        std::process::exit(3);
    }
    writeln!(socket, r#"{{"event": "SHUTDOWN", "data": {{"guest": true, "reason": "{reason}"}}}}"#).unwrap();
    std::process::exit(0);
}

fn serve_api(port: u16, wish: &mpsc::Sender<&str>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    loop {
        let mut stream = listener.accept().unwrap().0;
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        match line.split(' ').nth(1).unwrap() {
            "/reset" => wish.send("guest-reset").unwrap(),
            "/crash" => wish.send("crash").unwrap(),
            _ => {
                let head = api::Node {
                    name: "head".into(),
                    role: "head".into(),
                    state: "ready".into(),
                    root: "card".into(),
                    image: IMAGE.into(),
                    ..api::Node::default()
                };
                let body = serde_json::to_string(&[head]).unwrap();
                write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}").unwrap();
            }
        }
    }
}

/// Asks the stand-in for something a real head would come to by itself.
fn wish(settings: &Settings, path: &str) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, settings.dashboard)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let _ = stream.read(&mut [0]);
}

async fn reached(cluster: &Cluster, what: impl Fn(&Cluster) -> bool) {
    let wait = async {
        while !what(cluster) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(LIMIT, wait).await.is_ok(), "still {:?}", cluster.status());
}

#[tokio::test]
async fn a_head_comes_up_and_is_switched_off_by_its_button() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let cluster = Cluster::start(settings.clone()).await.unwrap();
    assert!(cluster.ready_within(LIMIT).await, "{:?}", cluster.status());
    let status = &cluster.status().machines[0];
    assert_eq!((status.state.as_str(), status.root.as_deref()), ("ready", Some("card")));
    assert_eq!(status.image.as_deref(), Some(IMAGE));
    assert!(status.ready_s.is_some());

    let second = Cluster::start(settings.clone()).await.unwrap_err().to_string();
    assert!(
        second.contains("already running") && second.contains(&std::process::id().to_string()),
        "{second}"
    );

    let mut lines = Vec::new();
    assert!(cluster.shut_down(|line| lines.push(line)).await);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("head  switched itself off") && lines[0].contains("Power down"), "{lines:?}");
    cluster.end().await;
    let run = &settings.run_dir;
    assert!(!run.join("head/card.img").exists() && !run.join("head/kernel").exists());
    assert!(fs::read_to_string(run.join("head/console.log")).unwrap().contains("the kernel says hello"));
    assert_eq!(fs::read(run.join("lock")).unwrap(), b"", "an orderly end leaves nothing to remark upon");
}

#[tokio::test]
async fn a_reset_goes_back_through_the_firmware() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let cluster = Cluster::start(settings.clone()).await.unwrap();
    assert!(cluster.ready_within(LIMIT).await, "{:?}", cluster.status());
    wish(&settings, "/reset");
    reached(&cluster, |cluster| cluster.machines()[0].snapshot().boots == 2).await;
    assert!(cluster.ready_within(LIMIT).await, "{:?}", cluster.status());
    let console = fs::read_to_string(settings.run_dir.join("head/console.log")).unwrap();
    assert_eq!(console.matches("firmware: starting the kernel").count(), 2, "{console}");
}

#[tokio::test]
async fn a_qemu_that_crashes_is_a_failed_machine_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let cluster = Cluster::start(settings.clone()).await.unwrap();
    assert!(cluster.ready_within(LIMIT).await, "{:?}", cluster.status());
    wish(&settings, "/crash");
    reached(&cluster, |cluster| cluster.status().stuck().is_some()).await;
    assert!(cluster.status().machines[0].detail.contains("out of luck"), "{:?}", cluster.status());
    // A failed machine can be started again.
    cluster.machines()[0].order(Order::Cycle).await.unwrap();
    assert!(cluster.ready_within(LIMIT).await, "{:?}", cluster.status());
}

#[tokio::test]
async fn dropping_a_cluster_pulls_every_cord() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let cluster = Cluster::start(settings.clone()).await.unwrap();
    assert!(cluster.ready_within(LIMIT).await, "{:?}", cluster.status());
    let pid = fs::read_to_string(settings.run_dir.join("stand-in.pid")).unwrap().parse().unwrap();
    assert!(kill(Pid::from_raw(pid), None).is_ok());
    drop(cluster);
    let gone = async {
        while kill(Pid::from_raw(pid), None).is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(LIMIT, gone).await.is_ok(), "QEMU outlives its cluster");
}

#[tokio::test]
async fn a_card_nothing_boots_from_is_a_failed_head_and_the_reason_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    File::create(settings.image()).unwrap().set_len(1 << 20).unwrap();
    let cluster = Cluster::start(settings).await.unwrap();
    reached(&cluster, |cluster| cluster.status().stuck().is_some()).await;
    let status = cluster.status();
    assert_eq!(status.machines[0].state, "failed");
    assert!(!status.machines[0].detail.is_empty());
    cluster.end().await;
}

#[tokio::test]
async fn remains_of_a_crash_are_remarked_upon_and_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    fs::create_dir_all(settings.run_dir.join("head")).unwrap();
    fs::write(settings.run_dir.join("lock"), "4194304\n").unwrap();
    for left in ["control.sock", "head/port.sock", "head/qmp.sock"] {
        drop(std::os::unix::net::UnixListener::bind(settings.run_dir.join(left)).unwrap());
    }
    let cluster = Cluster::start(settings).await.unwrap();
    assert!(cluster.remarks().iter().any(|remark| remark.contains("did not end in order")));
    assert!(cluster.ready_within(LIMIT).await, "{:?}", cluster.status());
}

#[tokio::test]
async fn kept_data_starts_from_the_card_of_the_run_before() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { keep_data: true, ..settings(&folder) };
    let card = settings.run_dir.join("head/card.img");
    let cluster = Cluster::start(settings.clone()).await.unwrap();
    assert_eq!(fs::metadata(&card).unwrap().len(), 32 << 20, "grown to the card's size");
    cluster.end().await;
    let mut file = File::options().append(true).open(&card).unwrap();
    file.write_all(b"written by the head").unwrap();
    let written = fs::metadata(&card).unwrap().len();
    let cluster = Cluster::start(settings).await.unwrap();
    assert_eq!(fs::metadata(&card).unwrap().len(), written);
    cluster.end().await;
}

#[test]
fn a_configuration_given_replaces_the_one_on_the_card() {
    let folder = tempfile::tempdir().unwrap();
    let card = folder.path().join("card.img");
    make_card(&card);
    for content in [&[b'x'; 5000][..], b"[cluster]\n"] {
        card::configure(&card, content).unwrap();
        let file = File::open(&card).unwrap();
        let slice = StreamSlice::new(file, 1 << 20, 9 << 20).unwrap();
        let volume = FileSystem::new(fscommon::BufStream::new(slice), FsOptions::new()).unwrap();
        let mut found = Vec::new();
        volume.root_dir().open_file("bramble.toml").unwrap().read_to_end(&mut found).unwrap();
        assert_eq!(found, content);
    }
    fs::write(&card, [0; 4096]).unwrap();
    assert!(card::configure(&card, b"").is_err(), "not a card");
}

#[tokio::test]
async fn a_start_that_is_refused_leaves_the_run_directory_free() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { qemu: "/nonexistent/qemu".into(), ..settings(&folder) };
    for _ in 0..2 {
        let error = Cluster::start(settings.clone()).await.unwrap_err();
        assert!(matches!(error, StartError::Preflight(PreflightError::Missing { .. })), "{error}");
        assert_eq!(fs::read(settings.run_dir.join("lock")).unwrap(), b"");
    }
}

/// A head that has failed is enough to talk about.
async fn served() -> (TempDir, Arc<Cluster>, tokio::sync::mpsc::Receiver<control::DownRequest>) {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    File::create(settings.image()).unwrap().set_len(1 << 20).unwrap();
    let cluster = Arc::new(Cluster::start(settings).await.unwrap());
    let (down, downs) = tokio::sync::mpsc::channel(1);
    control::serve(cluster.clone(), down).unwrap();
    (folder, cluster, downs)
}

async fn ask(folder: &TempDir, request: Request) -> Reply {
    control::ask(&folder.path().join("run"), &request, |_| {}).await.unwrap()
}

#[tokio::test]
async fn the_control_socket_answers_status_and_orders() {
    let (folder, cluster, _downs) = served().await;
    reached(&cluster, |cluster| cluster.status().stuck().is_some()).await;
    assert_eq!(ask(&folder, Request::Status).await, Reply::Status(cluster.status()));
    let order = |machine: &str, order| Request::Order { machine: machine.into(), order };
    assert_eq!(ask(&folder, order("head", Order::LinkDown)).await, Reply::Done("link down".into()));
    assert!(!cluster.status().machines[0].is_linked);
    assert_eq!(ask(&folder, order("head", Order::Off)).await, Reply::Done("power cut".into()));
    assert_eq!(cluster.machines()[0].snapshot().state, State::Off);
    let Reply::Error(error) = ask(&folder, order("node-9", Order::On)).await else {
        panic!("no such machine")
    };
    assert!(error.contains("node-9") && error.contains("head"), "{error}");
}

#[tokio::test]
async fn down_is_told_to_the_supervisor_and_its_progress_to_the_asker() {
    let (folder, _cluster, mut downs) = served().await;
    let run = folder.path().join("run");
    let asker = tokio::spawn(async move {
        let mut lines = Vec::new();
        let reply = control::ask(&run, &Request::Down, |line| lines.push(line)).await.unwrap();
        (lines, reply)
    });
    let request = downs.recv().await.unwrap();
    request.send(Reply::Progress("node-1  was off".into())).await.unwrap();
    request.send(Reply::Done("off".into())).await.unwrap();
    drop(request);
    let (lines, reply) = asker.await.unwrap();
    assert_eq!(lines, ["node-1  was off"]);
    assert_eq!(reply, Reply::Done("off".into()));
}

#[tokio::test]
async fn requests_that_are_not_understood_get_an_error_and_the_socket_lives_on() {
    let (folder, _cluster, _downs) = served().await;
    let long = [b"{\"command\":\"".to_vec(), vec![b'x'; 10_000]].concat();
    for bad in [&b"nonsense\n"[..], b"{\"command\":\"explode\"}\n", b"\xff\xfe\n", b"\n", &long] {
        let socket = folder.path().join("run/control.sock");
        let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        stream.write_all(bad).await.unwrap();
        let mut answer = String::new();
        // A connection closed on unread bytes is reset; the answer, if any came, is an error.
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with("{\"error\":"), "{answer}");
    }
    assert!(matches!(ask(&folder, Request::Status).await, Reply::Status(_)));
}

#[tokio::test]
async fn a_run_directory_without_a_supervisor_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("missing")] {
        let error = control::ask(&path, &Request::Status, |_| {}).await.unwrap_err();
        assert!(error.to_string().starts_with("no cluster is running in "), "{error}");
    }
}
