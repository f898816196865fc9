//! Three network namespaces in a row: a node, the head, and the world beyond it.
//!
//! ```text
//!   node                     head                        world
//!   eth0 10.77.0.11 ──────── eth0   eth1 ─────────────── eth0 198.51.100.1, udhcpd
//! ```

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sched::{CloneFlags, setns};

/// Says why a test cannot run here, if it cannot.
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root");
    }
    let has = |tool: &str| Command::new(tool).arg("--help").output().is_ok();
    ["ip", "nft", "udhcpd", "ping"].into_iter().find(|tool| !has(tool))
}

/// The namespaces and what runs in them; all of it goes when dropped.
pub struct World {
    names: [String; 3],
    folder: tempfile::TempDir,
    dhcp: Option<Child>,
    head: Option<(tokio::sync::watch::Sender<bool>, JoinHandle<()>)>,
}

/// Which namespace.
#[derive(Clone, Copy)]
pub enum Place {
    Node,
    Head,
    Beyond,
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    network: network::Args,
}

impl World {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let tag = format!("bramble-{}-{number}", std::process::id());
        let names = ["node", "head", "world"].map(|part| format!("{tag}-{part}"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let world = Self { names, folder, dhcp: None, head: None };
        for name in &world.names {
            run(&["ip", "netns", "add", name]);
        }
        let [node, head, _] = &world.names;
        run(&[
            "ip", "link", "add", "eth0", "netns", node, "type", "veth", "peer", "name", "eth0", "netns", head,
        ]);
        world.plug();
        for place in [Place::Node, Place::Beyond] {
            world.ip(place, "link set lo up");
        }
        world.ip(Place::Node, "link set eth0 up");
        world.ip(Place::Node, "address add 10.77.0.11/16 dev eth0");
        world.ip(Place::Node, "route add default via 10.77.0.1");
        world
    }

    /// Plugs the cable between head and world in; the head's end is a new device.
    pub fn plug(&self) {
        let [_, head, beyond] = &self.names;
        run(&[
            "ip", "link", "add", "eth1", "netns", head, "type", "veth", "peer", "name", "eth0", "netns",
            beyond,
        ]);
        self.ip(Place::Beyond, "link set eth0 up");
        self.ip(Place::Beyond, "address add 198.51.100.1/24 dev eth0");
    }

    /// Starts a DHCP server beyond the head that leases one address.
    pub fn start_dhcp(&mut self, address: &str, lease_s: u32) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let text = format!(
            "start {address}\nend {address}\ninterface eth0\nmin_lease 1\nmax_leases 4\nlease_file {}\npidfile {}\n\
             option subnet 255.255.255.0\noption router 198.51.100.1\noption dns 198.51.100.53\n\
             option domain example.org\noption lease {lease_s}\n",
            path("leases"),
            path("pid"),
        );
        std::fs::write(path("udhcpd.conf"), text).expect("the configuration can be written");
        std::fs::write(path("leases"), "").expect("the leases can be written");
        let log = File::options().create(true).append(true).open(path("log")).expect("the log can be opened");
        let child = Command::new("ip")
            .args(["netns", "exec", self.name(Place::Beyond), "udhcpd", "-f", &path("udhcpd.conf")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log)
            .spawn();
        self.dhcp = Some(child.expect("udhcpd starts"));
    }

    pub fn stop_dhcp(&mut self) {
        if let Some(mut child) = self.dhcp.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the service in the head's namespace, in a thread of this process.
    pub fn start_head(&mut self) {
        let resolver = self.resolver().display().to_string();
        let line =
            ["network", "--cluster-interface", "eth0", "--address", "10.77.0.1/16", "--uplink", "eth1"];
        let line = Line::parse_from(line.iter().chain(&["--resolv-conf", resolver.as_str()]));
        let (ctx, stop) = service::Context::for_test("network");
        let thread = self.enter(Place::Head, move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(network::run(line.network, ctx)).expect("the service runs");
        });
        self.head = Some((stop, thread));
    }

    pub fn stop_head(&mut self) {
        if let Some((stop, thread)) = self.head.take() {
            let _ = stop.send(true);
            assert!(thread.join().is_ok(), "the service failed");
        }
    }

    pub fn resolver(&self) -> PathBuf {
        self.folder.path().join("resolv.conf")
    }

    /// Runs something on a thread that is in a namespace.
    pub fn enter<T: Send + 'static>(
        &self,
        place: Place,
        action: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace =
            File::open(format!("/run/netns/{}", self.name(place))).expect("the namespace is there");
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
            action()
        })
    }

    /// Runs a command in a namespace and returns what it says.
    pub fn exec(&self, place: Place, command: &str) -> String {
        let mut line = vec!["ip", "netns", "exec", self.name(place)];
        line.extend(command.split(' '));
        run(&line)
    }

    /// Runs ip(8) in a namespace.
    pub fn ip(&self, place: Place, command: &str) -> String {
        let mut line = vec!["ip", "-n", self.name(place)];
        line.extend(command.split(' '));
        run(&line)
    }

    /// Waits until a command in the head's namespace says something.
    pub fn await_head(&self, what: &str, command: &str, condition: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let said = self.exec(Place::Head, command);
            if condition(&said) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {command} says {said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn name(&self, place: Place) -> &str {
        &self.names[place as usize]
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.head.take() {
            let _ = stop.send(true);
            let _ = thread.join();
        }
        self.stop_dhcp();
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
    }
}

fn run(line: &[&str]) -> String {
    let output = Command::new(line[0]).args(&line[1..]).output().expect("the tool starts");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {error}", line.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
