//! The server against foreign clients, over a veth pair between two network namespaces of the test's own.
//!
//! ```text
//!   server's namespace  s0 10.77.0.1/16 ──── c0  client's namespace (udhcpc, dhclient, dhcpcd, frames of our own)
//! ```
//!
//! Every test starts itself again under unshare(1), as root there, so that no rights are needed here; the server is a
//! process of its own, so that it can be killed. What is missing is said: "skipped: needs X".

use clap::Parser;
use dhcp::{
    MacAddr, Message, MessageType, code,
    frame::{Arp, Checksum, Datagram},
};
use nix::{
    ifaddrs::getifaddrs,
    sched::{CloneFlags, setns},
    sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sockopt},
    sys::time::{TimeVal, TimeValLike},
};
use std::{
    fs::File,
    net::Ipv4Addr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const INSIDE: &str = "BRAMBLE_TEST_INSIDE";
const SERVE: &str = "BRAMBLE_TEST_SERVE";

#[test]
fn udhcpc_gets_an_address_keeps_it_and_gives_it_back() {
    inside("udhcpc_gets_an_address_keeps_it_and_gives_it_back", &["udhcpc"], || {
        let lab = Lab::new();
        let _server = lab.serve("");
        for _ in 0..2 {
            let lease = lab.udhcpc(&[]);
            assert_eq!(value(&lease, "ip"), "10.77.0.11");
            assert_eq!(value(&lease, "mask"), "16");
            assert_eq!(value(&lease, "router"), "10.77.0.1");
            assert_eq!(value(&lease, "broadcast"), "10.77.255.255");
            assert_eq!(value(&lease, "serverid"), "10.77.0.1");
            assert_eq!(value(&lease, "lease"), "60");
        }
        lab.set_mac("02:00:00:00:00:77");
        assert_eq!(value(&lab.udhcpc(&["-B", "-R"]), "ip"), "10.77.0.12");
    });
}

#[test]
fn a_server_that_was_killed_and_one_that_was_restarted_remember_every_board() {
    inside("a_server_that_was_killed_and_one_that_was_restarted_remember_every_board", &["udhcpc"], || {
        let lab = Lab::new();
        for (mac, address) in [
            ("02:00:00:00:00:01", "10.77.0.11"),
            ("02:00:00:00:00:02", "10.77.0.12"),
            ("02:00:00:00:00:01", "10.77.0.11"),
            ("02:00:00:00:00:03", "10.77.0.13"),
            ("02:00:00:00:00:02", "10.77.0.12"),
        ] {
            // Dropped, the server is killed with SIGKILL: right after its answer.
            let _server = lab.serve("");
            lab.set_mac(mac);
            assert_eq!(value(&lab.udhcpc(&[]), "ip"), address, "{mac}");
        }
    });
}

#[test]
fn dhclient_gets_an_address_asks_for_it_again_and_releases_it() {
    inside("dhclient_gets_an_address_asks_for_it_again_and_releases_it", &["dhclient"], || {
        let lab = Lab::new();
        let _server = lab.serve("");
        let script = lab.script("dhclient-script", "exit 0");
        let files = ["-lf", &lab.file("dhclient.leases"), "-pf", &lab.file("dhclient.pid"), "-sf", &script];
        for run in ["first", "init-reboot"] {
            let output = lab.client(&[&["dhclient", "-4", "-1", "-v"], &files[..], &["c0"]].concat());
            assert!(output.contains("DHCPACK of 10.77.0.11 from 10.77.0.1"), "{run}: {output}");
            assert_eq!(output.contains("DHCPDISCOVER"), run == "first", "{run}: {output}");
            if run == "first" {
                lab.client(&[&["dhclient", "-4", "-x"], &files[..], &["c0"]].concat());
            }
        }
        let output = lab.client(&[&["dhclient", "-4", "-r", "-v"], &files[..], &["c0"]].concat());
        assert!(output.contains("DHCPRELEASE of 10.77.0.11"), "{output}");
    });
}

#[test]
fn dhcpcd_gets_an_address() {
    inside("dhcpcd_gets_an_address", &["dhcpcd"], || {
        let lab = Lab::new();
        let _server = lab.serve("");
        // It keeps leases and a socket there; this mount namespace is ours.
        for folder in ["/var/lib/dhcpcd", "/run"] {
            run("mount", &["-t", "tmpfs", "none", folder]);
        }
        let script = lab.script("dhcpcd-script", "exit 0");
        let output = lab.client(&[
            "dhcpcd",
            "-4",
            "-1",
            "-B",
            "-d",
            "-t",
            "20",
            "--noarp",
            "-f",
            "/dev/null",
            "-c",
            &script,
            "c0",
        ]);
        assert!(output.contains("leased 10.77.0.11"), "{output}");
    });
}

#[test]
fn a_pi_is_answered_by_an_intact_frame_to_its_address_and_its_neighbour_entry_stands() {
    let name = "a_pi_is_answered_by_an_intact_frame_to_its_address_and_its_neighbour_entry_stands";
    inside(name, &[], || {
        let lab = Lab::new();
        let _server = lab.serve("--tftp 10.77.0.1");
        let wire = lab.wire();
        let mut discover = pi_discover(MacAddr([0xdc, 0xa6, 0x32, 0, 0, 1]));
        let (datagram, offer) = wire.ask(&discover);
        assert_eq!(datagram, ("10.77.0.1:67".parse().unwrap(), "10.77.0.11:68".parse().unwrap()));
        assert_eq!(offer.siaddr, Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(offer.options.vendor_specific(), Some(&dhcp::server::PI_VENDOR_OPTIONS[..]));
        assert_eq!(offer.options.tftp_server_name(), Some("10.77.0.1"));
        let neighbours = wait_for(|| run("ip", &["neigh", "show", "dev", "s0"]), "PERMANENT");
        assert!(neighbours.contains("10.77.0.11 lladdr dc:a6:32:00:00:01 PERMANENT"), "{neighbours}");

        // The Pi 4's REQUEST lacks option 60.
        discover.options.set(code::MESSAGE_TYPE, [MessageType::Request as u8]);
        discover.options.remove(code::VENDOR_CLASS);
        discover.options.push_address(code::REQUESTED_ADDRESS, offer.yiaddr);
        discover.options.push_address(code::SERVER_ID, Ipv4Addr::new(10, 77, 0, 1));
        let (_, ack) = wire.ask(&discover);
        assert_eq!(ack.message_type(), Some(MessageType::Ack));
        assert_eq!(ack.options.vendor_specific(), offer.options.vendor_specific());
    });
}

#[test]
fn a_pi_3_rom_is_answered_after_one_and_a_half_seconds_behind_an_arp_frame() {
    inside("a_pi_3_rom_is_answered_after_one_and_a_half_seconds_behind_an_arp_frame", &[], || {
        let lab = Lab::new();
        let _server = lab.serve("--tftp 10.77.0.1");
        let wire = lab.wire();
        let mut discover = pi_discover(MacAddr([0xb8, 0x27, 0xeb, 0, 0, 1]));
        discover.xid = 0x26f3_0339;
        discover.options.set(code::CLIENT_MACHINE, [&[0][..], &[0x44; 16]].concat());
        let asked = Instant::now();
        wire.send(&discover);
        let woken = wire
            .next(|frame| Arp::decode(frame).is_some_and(|arp| arp.target == Ipv4Addr::new(10, 77, 0, 11)));
        assert!(woken.is_some(), "an ARP frame comes first");
        assert!(wire.next(|frame| reply_in(frame).is_some()).is_some());
        let waited = asked.elapsed();
        assert!((1400..2000).contains(&waited.as_millis()), "{waited:?}");
    });
}

#[test]
fn a_storm_of_boards_is_answered_and_the_figures_printed() {
    inside("a_storm_of_boards_is_answered_and_the_figures_printed", &[], || {
        const BOARDS: u16 = 500;
        let lab = Lab::new();
        let _server = lab.serve("--tftp 10.77.0.1");
        let wire = lab.wire();
        let boards = || (1..=BOARDS).map(|n| MacAddr([2, 1, 0, 0, (n >> 8) as u8, n as u8]));
        for round in ["new", "known"] {
            let began = Instant::now();
            let mut addresses: Vec<Ipv4Addr> =
                boards().map(|mac| wire.ask(&pi_discover(mac)).1.yiaddr).collect();
            let each = began.elapsed() / u32::from(BOARDS);
            addresses.sort();
            addresses.dedup();
            assert_eq!(addresses.len(), usize::from(BOARDS));
            println!("{round} boards, one after another: {each:?} from DISCOVER to OFFER");
        }
        // All at once, with new addresses for all.
        let began = Instant::now();
        let fresh: Vec<MacAddr> = boards().map(|mac| MacAddr([2, 2, 0, 0, mac.0[4], mac.0[5]])).collect();
        let mut offered = std::collections::BTreeSet::new();
        while offered.len() < fresh.len() {
            for mac in fresh.iter().filter(|mac| !offered.contains(*mac)).take(100).collect::<Vec<_>>() {
                wire.send(&pi_discover(*mac));
            }
            while let Some(reply) = wire.next(|frame| reply_in(frame).is_some()) {
                offered.extend(reply_in(&reply).and_then(|(_, message)| message.mac()));
                if offered.len() % 100 == 0 {
                    break;
                }
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{} of {BOARDS} have an offer", offered.len());
        }
        println!("{BOARDS} new boards, 100 at a time: {:?} in all", began.elapsed());
    });
}

#[test]
fn a_full_disk_is_said_and_boards_get_their_addresses_all_the_same() {
    inside("a_full_disk_is_said_and_boards_get_their_addresses_all_the_same", &[], || {
        let lab = Lab::new();
        let disk = lab.file("disk");
        std::fs::create_dir(&disk).expect("the folder is ours");
        run("mount", &["-t", "tmpfs", "-o", "size=4k", "none", &disk]);
        std::fs::write(format!("{disk}/fill"), [0; 4096]).expect("there is room for this");
        let server = lab.serve_with(&format!("{disk}/leases"), "");
        let (_, offer) = lab.wire().ask(&pi_discover(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!(offer.yiaddr, Ipv4Addr::new(10, 77, 0, 11));
        wait_for(|| lab.log(), "No space left on device");
        // Room again: within ten seconds the journal is whole.
        std::fs::remove_file(format!("{disk}/fill")).expect("it was made above");
        wait_for(|| lab.log(), "whole again");
        drop(server);
        let journal = std::fs::read_to_string(format!("{disk}/leases")).expect("the journal is there");
        assert!(journal.starts_with("10.77.0.11 02:00:00:00:00:01 "), "{journal:?}");
        run("umount", &[&disk]);
    });
}

#[test]
fn a_server_whose_interface_goes_away_ends_with_an_error() {
    inside("a_server_whose_interface_goes_away_ends_with_an_error", &[], || {
        let lab = Lab::new();
        let mut server = lab.serve("");
        run("ip", &["link", "del", "s0"]);
        wait_for(|| lab.log(), "interface s0 is gone");
        assert!(!server.0.wait().expect("it is our child").success());
    });
}

#[test]
fn what_cannot_work_is_said_in_one_line() {
    inside("what_cannot_work_is_said_in_one_line", &[], || {
        let lab = Lab::new();
        let refused = |arguments: &str| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (context, _stop) = service::Context::for_test("dhcp-server");
            let error =
                runtime.block_on(dhcp_server::run(parse(arguments), context)).expect_err("it cannot work");
            format!("{error:#}")
        };
        let rest = format!("--pool 10.77.0.11-10.77.0.99 --leases {}", lab.file("other"));
        assert_eq!(
            refused(&format!("--interface none --address 10.77.0.1/16 {rest}")),
            "interface none is not there or does not have the address 10.77.0.1"
        );
        assert_eq!(
            refused(&format!("--interface s0 --address 10.77.0.2/16 {rest}")),
            "interface s0 is not there or does not have the address 10.77.0.2"
        );
        let _server = lab.serve("");
        let error = refused(&format!("--interface s0 --address 10.77.0.1/16 {rest}"));
        assert_eq!(error, "cannot listen on UDP port 67 of s0: Address already in use (os error 98)");
    });
}

/// Not a test of its own: the server's process.
#[test]
fn server_process() {
    let Ok(arguments) = std::env::var(SERVE) else { return };
    assert_eq!(
        service::main("dhcp-server", |context| dhcp_server::run(parse(&arguments), context)),
        std::process::ExitCode::SUCCESS
    );
}

fn parse(arguments: &str) -> dhcp_server::Args {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: dhcp_server::Args,
    }
    Line::parse_from(std::iter::once("dhcp-server").chain(arguments.split_whitespace())).args
}

/// Runs `test` in namespaces of its own, or says what is missing.
fn inside(name: &str, tools: &[&str], test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let tools = ["ip", "unshare", "nsenter", "mount"].iter().chain(tools);
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    if let Some(missing) =
        tools.copied().find(|tool| !path.split(':').any(|folder| Path::new(folder).join(tool).exists()))
    {
        return println!("skipped: needs {missing}");
    }
    // Root needs no user namespace; with one, dhcpcd could not change to its own user.
    let user: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["--map-root-user"] };
    let spaces = [user, &["--net", "--mount"]].concat();
    if !Command::new("unshare")
        .args(&spaces)
        .arg("true")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
    {
        return println!("skipped: needs network namespaces (root, or user namespaces)");
    }
    let itself = std::env::current_exe().expect("a test has a path");
    let status = Command::new("unshare")
        .args(&spaces)
        .arg(itself)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("PATH", path)
        .status();
    assert!(status.expect("unshare is there").success());
}

/// The two namespaces and a folder for files.
struct Lab {
    folder: tempfile::TempDir,
    /// Keeps the client's namespace alive.
    holder: Child,
}

impl Lab {
    fn new() -> Self {
        let holder =
            Command::new("unshare").args(["--net", "sleep", "600"]).spawn().expect("unshare is there");
        let lab = Self { folder: tempfile::tempdir().expect("a folder"), holder };
        let own = std::fs::read_link("/proc/self/ns/net").expect("we have a namespace");
        while std::fs::read_link(lab.namespace()).is_ok_and(|theirs| theirs == own) {
            std::thread::sleep(Duration::from_millis(5));
        }
        run("ip", &["link", "add", "s0", "type", "veth", "peer", "name", "c0"]);
        run("ip", &["addr", "add", "10.77.0.1/16", "dev", "s0"]);
        run("ip", &["link", "set", "s0", "up"]);
        run("ip", &["link", "set", "c0", "netns", &lab.holder.id().to_string()]);
        lab.client(&["ip", "link", "set", "c0", "up"]);
        lab
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn script(&self, name: &str, body: &str) -> String {
        let path = self.file(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("the folder is ours");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("the file is ours");
        path
    }

    /// Starts a server and waits until it is ready.
    fn serve(&self, more: &str) -> Server {
        self.serve_with(&self.file("leases"), more)
    }

    fn serve_with(&self, leases: &str, more: &str) -> Server {
        let log = self.file("server.log");
        let arguments = format!(
            "--interface s0 --address 10.77.0.1/16 --pool 10.77.0.11-10.77.9.254 --leases {leases} --lease-time 60 {more}"
        );
        let child = Command::new(std::env::current_exe().expect("a test has a path"))
            .args(["--exact", "server_process", "--nocapture"])
            .env(SERVE, arguments)
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("the folder is ours"))
            .spawn()
            .expect("we can start ourselves");
        let server = Server(child);
        wait_for(|| self.log(), "ready:");
        server
    }

    /// What the last server said.
    fn log(&self) -> String {
        std::fs::read_to_string(self.file("server.log")).unwrap_or_default()
    }

    /// Runs a command in the client's namespace; what it printed.
    fn client(&self, command: &[&str]) -> String {
        let net = format!("--net={}", self.namespace().display());
        run("nsenter", &[&[net.as_str(), "timeout", "30"], command].concat())
    }

    fn set_mac(&self, mac: &str) {
        self.client(&["ip", "link", "set", "c0", "address", mac]);
    }

    /// What udhcpc tells its script of its lease.
    fn udhcpc(&self, more: &[&str]) -> String {
        let result = self.file("lease");
        let script = self.script("udhcpc-script", &format!("test \"$1\" = bound && env >{result}; exit 0"));
        self.client(
            &[&["udhcpc", "-f", "-n", "-q", "-i", "c0", "-t", "5", "-T", "1", "-s", &script], more].concat(),
        );
        std::fs::read_to_string(&result).expect("udhcpc was bound")
    }

    fn wire(&self) -> Wire {
        Wire::new(self.namespace())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A server's process; killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A packet socket at the client's end.
struct Wire(OwnedFd);

impl Wire {
    fn new(namespace: PathBuf) -> Self {
        // A namespace belongs to a thread: this one ends, the socket stays where it was made.
        let made = std::thread::spawn(move || {
            setns(File::open(namespace).expect("the namespace is there"), CloneFlags::CLONE_NEWNET)
                .expect("it is ours");
            let all = SockProtocol::EthAll;
            let socket = socket::socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all);
            let socket = socket.expect("we are root here");
            let link =
                getifaddrs().expect("interfaces").find(|i| i.interface_name == "c0" && i.address.is_some());
            let link = link.and_then(|i| i.address?.as_link_addr().copied()).expect("c0 is an Ethernet");
            socket::bind(socket.as_raw_fd(), &link).expect("c0 is up");
            socket
        });
        let socket = made.join().expect("the socket was made");
        socket::setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(3)).expect("a plain option");
        Self(socket)
    }

    fn send(&self, message: &Message) {
        let frame = Datagram {
            source_mac: message.mac().expect("a board has one"),
            destination_mac: MacAddr::BROADCAST,
            source: "0.0.0.0:68".parse().expect("an address"),
            destination: "255.255.255.255:67".parse().expect("an address"),
            payload: &message.encode(),
        };
        let frame = frame.encode().expect("it fits");
        socket::send(self.0.as_raw_fd(), &frame, MsgFlags::empty()).expect("c0 is up");
    }

    /// The next frame that is wanted; none after three seconds of silence.
    fn next(&self, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        loop {
            let length = socket::recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
            if wanted(&buffer[..length]) {
                return Some(buffer[..length].to_vec());
            }
        }
    }

    /// The answer to a message: sender and receiver, and what it says.
    fn ask(&self, message: &Message) -> ((std::net::SocketAddrV4, std::net::SocketAddrV4), Message) {
        self.send(message);
        let frame = self.next(|frame| reply_in(frame).is_some_and(|(_, reply)| reply.mac() == message.mac()));
        let frame = frame.expect("an answer");
        assert_eq!(frame[..6], message.mac().expect("a board has one").0, "unicast, as it asked");
        reply_in(&frame).expect("just seen")
    }
}

/// A DHCP reply in a frame whose checksums are right.
fn reply_in(frame: &[u8]) -> Option<((std::net::SocketAddrV4, std::net::SocketAddrV4), Message)> {
    let datagram = Datagram::decode(frame, Checksum::Verify).ok()?;
    let message = Message::decode(datagram.payload).ok()?;
    (message.op == dhcp::Op::Reply).then_some(((datagram.source, datagram.destination), message))
}

fn pi_discover(mac: MacAddr) -> Message {
    let mut message = Message::request(mac, 0x1234_5678);
    message.options.push_message_type(MessageType::Discover);
    message.options.push_u16(code::CLIENT_ARCH, 0);
    message.options.push(code::VENDOR_CLASS, "PXEClient:Arch:00000:UNDI:002001");
    message
}

/// Runs a command to its good end; what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("it can be started");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

fn wait_for(look: impl Fn() -> String, wanted: &str) -> String {
    let began = Instant::now();
    loop {
        let text = look();
        if text.contains(wanted) {
            return text;
        }
        assert!(began.elapsed() < Duration::from_secs(15), "no {wanted:?} in {text:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `name=value` of an environment.
fn value<'a>(environment: &'a str, name: &str) -> &'a str {
    let mut lines = environment.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
}
