//! The firmware model against real servers on a kernel's network stack: dnsmasq, which boots real boards every day, and
//! our own.
//!
//! Each test starts itself again in a network namespace with a pair of virtual Ethernets: the servers are on one
//! end, the board is plugged into the other through a packet socket.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use qemu::firmware::{Board, Model, Violation, boot_from_network};
use qemu::switch::{PORT_QUEUE_FRAMES, SwitchPort};
use tokio::sync::mpsc;

const SERIAL: u32 = 0x1a2b_3c4d;
/// Larger than a distribution's kernel with its initramfs: what is measured is the lock-step.
const KERNEL_BYTES: usize = 16 << 20;

#[test]
fn every_model_boots_from_dnsmasq() {
    if !inside_a_namespace("every_model_boots_from_dnsmasq", &["dnsmasq"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let root = format!("--tftp-root={}", folder.path().display());
    let _server = start(Command::new("dnsmasq").args([
        "--no-daemon",
        "--conf-file=/dev/null",
        "--user=root",
        "--pid-file=",
        "--port=0",
        "--interface=head",
        "--leasefile-ro",
        "--dhcp-range=10.77.0.11,10.77.0.50",
        // Addresses are offered without trying for three seconds whether somebody has them.
        "--no-ping",
        // Only for the board whose ROM needs it: dnsmasq delays one answer after the other, and a backlog of
        // those to a board that asks every second would reach into the next board's boot.
        "--dhcp-mac=set:rom,dc:a6:32:00:00:04",
        "--dhcp-reply-delay=tag:rom,2",
        "--pxe-service=0,Raspberry Pi Boot",
        "--enable-tftp",
        &root,
    ]));
    boot_all();
}

#[test]
fn every_model_boots_from_our_own_servers_without_a_violation() {
    let Some(bramble) = bramble() else {
        println!("skipped: needs bramble: cargo build -p bramble");
        return;
    };
    if !inside_a_namespace("every_model_boots_from_our_own_servers_without_a_violation", &[]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path());
    let _dhcp = start(Command::new(&bramble).args(["dhcp-server", "--interface", "head"]).args([
        "--address=10.77.0.1/16",
        "--pool=10.77.0.11-10.77.0.50",
        "--tftp=10.77.0.1",
        &format!("--leases={}", folder.path().join("leases").display()),
    ]));
    let _tftp = start(Command::new(&bramble).args(["tftp-server", "--root"]).arg(folder.path()));
    let violations = boot_all();
    // A loaded machine may be late with a refusal; the other rules do not depend on time.
    let rules: Vec<_> = violations.iter().filter(|one| !matches!(one, Violation::LateRefusal(_))).collect();
    assert!(rules.is_empty(), "{rules:?}");
}

/// Boots one board of each generation, and the one with the bugs; returns what the servers did wrong.
fn boot_all() -> Vec<Violation> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut violations = Vec::new();
    for (number, model) in (1..).zip([Model::Pi4, Model::Pi5, Model::Pi3BPlus, Model::Pi3B]) {
        let mut port = plug_into("board");
        let board =
            Board { name: "node".to_owned(), mac: [0xdc, 0xa6, 0x32, 0, 0, number], serial: SERIAL, model };
        let begin = Instant::now();
        let mut shown = Vec::new();
        let mut show = |progress| shown.push(progress);
        let files = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), boot_from_network(&mut port, &board, &mut show))
                .await
        });
        let files = files.expect("a boot takes less than a minute").unwrap_or_else(|error| {
            panic!("{model:?}: {error}\n{shown:?}");
        });
        assert_eq!(files.kernel.len(), KERNEL_BYTES);
        let kernel = files.trace.iter().find(|entry| entry.path.ends_with("vmlinuz")).unwrap();
        println!("{model:?}: {:?} in all, kernel of 16 MiB in {:?}", begin.elapsed(), kernel.elapsed);
        violations.extend(files.trace.iter().flat_map(|entry| entry.violations.clone()));
    }
    println!("violations: {violations:?}");
    violations
}

fn lay_out(root: &Path) {
    let folder = root.join(format!("{SERIAL:08x}"));
    fs::create_dir(&folder).unwrap();
    let mut kernel = vec![0; KERNEL_BYTES];
    kernel[56..60].copy_from_slice(b"ARM\x64");
    let config = b"arm_64bit=1\nkernel=vmlinuz\ninitramfs initramfs.img followkernel\n";
    fs::write(root.join("bootcode.bin"), [3; 52_000]).unwrap();
    let files: [(&str, &[u8]); 8] = [
        ("config.txt", config),
        ("cmdline.txt", b"bramble.role=node\n"),
        ("vmlinuz", &kernel),
        ("initramfs.img", &[7; 1468 * 100]),
        ("start.elf", &[1; 100_000]),
        ("fixup.dat", &[1; 5_000]),
        ("start4.elf", &[1; 100_000]),
        ("fixup4.dat", &[1; 5_000]),
    ];
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
    for model in Model::ALL {
        fs::write(folder.join(model.device_tree().downstream), b"\xd0\x0d\xfe\xed").unwrap();
    }
}

/// `BRAMBLE_BINARY`, or the program under the same target directory as this test.
fn bramble() -> Option<PathBuf> {
    let path = match std::env::var_os("BRAMBLE_BINARY") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe().ok()?.parent()?.parent()?.join("bramble"),
    };
    let help = Command::new(&path).args(["tftp-server", "--help"]).output().ok()?;
    let knows_the_services = String::from_utf8_lossy(&help.stdout).contains("--root");
    knows_the_services.then_some(path)
}

/// `true` in the namespace; outside it runs the test there, and returns `false` once it has passed or cannot be run.
fn inside_a_namespace(test: &str, tools: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        for command in ["link add head type veth peer name board", "addr add 10.77.0.1/16 dev head"] {
            ip(command);
        }
        for name in ["lo", "head", "board"] {
            ip(&format!("link set {name} up"));
        }
        return true;
    }
    let exists = |tool: &&str| Command::new(tool).arg("--version").output().is_ok();
    if let Some(missing) = ["unshare", "ip"].iter().chain(tools).find(|tool| !exists(tool)) {
        println!("skipped: needs {missing}");
        return false;
    }
    let mine = if nix::unistd::geteuid().is_root() { "--net" } else { "--map-root-user" };
    let namespace = |program: &Path| {
        let mut command = Command::new("unshare");
        command.args([mine, "--net"]).arg(program);
        command
    };
    if !namespace(Path::new("true")).status().is_ok_and(|status| status.success()) {
        println!("skipped: needs the right to make a network namespace");
        return false;
    }
    let status = namespace(&std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
    false
}

const INSIDE: &str = "FIRMWARE_TEST_INSIDE";

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// A server, stopped when dropped.
struct Server(Child);

fn start(command: &mut Command) -> Server {
    let server = Server(command.stdin(Stdio::null()).spawn().unwrap());
    // Until it listens, boards repeat themselves; that is no part of what is measured.
    thread::sleep(Duration::from_millis(700));
    server
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A board's plug in a network interface. Its threads end with the process or with the plug.
fn plug_into(interface: &str) -> SwitchPort {
    let link: LinkAddr = getifaddrs()
        .unwrap()
        .filter(|one| one.interface_name == interface)
        .find_map(|one| one.address?.as_link_addr().copied())
        .unwrap();
    let fd: OwnedFd =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
    bind(fd.as_raw_fd(), &link).unwrap();
    let fd = Arc::new(fd);
    let (to_switch, mut from_board) = mpsc::channel::<Vec<u8>>(PORT_QUEUE_FRAMES);
    let (to_board, from_switch) = mpsc::channel(PORT_QUEUE_FRAMES);
    let sender = fd.clone();
    thread::spawn(move || {
        while let Some(frame) = from_board.blocking_recv() {
            send(sender.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok(length) = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let mut frame = buffer[..length].to_vec();
            leave_out_udp_checksum(&mut frame);
            if to_board.blocking_send(frame).is_err() {
                return;
            }
        }
    });
    SwitchPort { to_switch, from_switch }
}

/// The kernel leaves the sum to the other end's hardware, and a virtual Ethernet has none.
fn leave_out_udp_checksum(frame: &mut [u8]) {
    if frame.len() >= 42 && frame[12..14] == [8, 0] && frame[14] == 0x45 && frame[23] == 17 {
        frame[40..42].fill(0);
    }
}
