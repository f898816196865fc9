//! A machine whose root comes over the network: lease, connection, root, and then for ever the keeper.
//!
//! | task | owns | ends |
//! |---|---|---|
//! | the loop of [`run`] | decisions, the device, addresses | at SIGTERM |
//! | `Network::watch` | links; a `lease::keep` task each | never |
//! | `hotplug::watch` | module tables | when the root is mounted |
//! | a dial, a mount, a watch of the connection | one future each | with its event |
//!
//! Everything reaches the loop as an [`Event`] through one channel. After the root is mounted nothing here opens a
//! file of it: this process must run on while the root is away.

use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use dhcp::client::Lease;
use nix::sys::mman::{MlockAllFlags, mlockall};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, spawn_local};

use crate::cmdline::Cmdline;
use crate::device::{self, Device};
use crate::facts::{self, Found, Timeline};
use crate::keeper::{self, Input, Keeper, Output};
use crate::lease::is_better;
use crate::link::{Link, Links};
use crate::network::{Network, News};
use crate::report::{Level, Reporter};
use crate::root::{self, RootError};
use crate::session::{DialError, Session, dial};
use crate::{Stop, awaitable, hotplug, with_source};

/// What the root needs besides the network; the module default of 16 devices would cost memory for nothing.
const MODULES: [(&str, &str); 3] = [("nbd", "nbds_max=1 max_part=0"), ("squashfs", ""), ("overlay", "")];
/// Events are handled as they come; a full channel merely makes their senders wait.
const EVENTS: usize = 64;
/// Only for what cannot be blamed on the device: memory, or a kernel without overlayfs.
const MOUNT_AGAIN: Duration = Duration::from_secs(5);

enum Event {
    News(News),
    Drivers,
    Dialled(Result<Session, DialError>),
    Lost,
    MountDue,
    Mounted(Result<(), RootError>),
}

struct Node {
    cmdline: Cmdline,
    server: SocketAddrV4,
    report: Rc<Reporter>,
    timeline: Timeline,
    links: Links,
    chosen: Option<(Link, Lease)>,
    keeper: Keeper,
    device: Option<Device>,
    connected: bool,
    mounted: bool,
    dialled: Option<Session>,
    watch: Option<AbortHandle>,
    hotplug: AbortHandle,
    events: mpsc::Sender<Event>,
}

/// Runs until SIGTERM.
///
/// # Errors
/// When the kernel lacks what nothing can be done without.
pub async fn run(
    cmdline: Cmdline,
    server: SocketAddrV4,
    report: Rc<Reporter>,
    mut stop: Stop,
) -> io::Result<()> {
    let (events, mut inbox) = mpsc::channel(EVENTS);
    let (news, mut from_network) = mpsc::channel(EVENTS);
    let previous = if root::is_mounted() { facts::previous() } else { None };
    spawn_local(Network::new(previous, news, Rc::clone(&report))?.watch());
    let forward = events.clone();
    spawn_local(async move {
        while let Some(news) = from_network.recv().await {
            let _ = forward.send(Event::News(news)).await;
        }
    });
    // The network gets going first: modules take a while, and so do carrier and lease.
    tokio::task::yield_now().await;
    let mut node = Node::new(cmdline, server, report, events)?;
    loop {
        node.drain();
        let now = Instant::now();
        let deadlines = [node.keeper.deadline(), node.report.remind(now)];
        let due = deadlines.into_iter().flatten().min().unwrap_or(now + Duration::from_secs(3600));
        tokio::select! {
            // The channel keeps what is not received now.
            Some(event) = inbox.recv() => node.handle(event),
            () = tokio::time::sleep_until(due.into()) => node.keeper.expire(Instant::now()),
            () = stop.requested() => break,
        }
    }
    node.let_go();
    Ok(())
}

impl Node {
    fn new(
        cmdline: Cmdline,
        server: SocketAddrV4,
        report: Rc<Reporter>,
        events: mpsc::Sender<Event>,
    ) -> io::Result<Self> {
        let drivers = Rc::new(Notify::new());
        let loaded = Rc::clone(&drivers);
        let hotplug_report = Rc::clone(&report);
        let hotplug = spawn_local(async move { hotplug::watch(&MODULES, loaded, hotplug_report).await });
        let ready = events.clone();
        spawn_local(async move {
            drivers.notified().await;
            let _ = ready.send(Event::Drivers).await;
        });
        let now = Instant::now();
        let mut node = Self {
            cmdline,
            server,
            report,
            timeline: Timeline::from_environment(),
            links: Links::open()?,
            chosen: None,
            keeper: Keeper::new(now),
            device: None,
            connected: false,
            mounted: false,
            dialled: None,
            watch: None,
            hotplug: hotplug.abort_handle(),
            events,
        };
        node.adopt(now)?;
        Ok(node)
    }

    /// Takes over from an earlier process of ours that died: the device, its connection and the root live on in
    /// the kernel.
    fn adopt(&mut self, now: Instant) -> io::Result<()> {
        let Some(size) = device::attached_size() else { return Ok(()) };
        let mut device = Device::open(&self.cmdline.image)?;
        if !root::is_mounted() {
            root::unmount();
            return device.disconnect();
        }
        self.keeper = Keeper::adopted(size, now);
        self.device = Some(device);
        (self.connected, self.mounted) = (true, true);
        let (server, events) = (self.server, self.events.clone());
        let watch = spawn_local(async move {
            // The descriptor died with its owner; the connection can still be seen.
            while device::has_connection_to(server) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let _ = events.send(Event::Lost).await;
        });
        self.watch = Some(watch.abort_handle());
        self.settle();
        self.report.ready(format_args!("keeping the root on {} from {} again", device::PATH, self.server));
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::News(News::Carrier) => self.timeline.record("link"),
            Event::News(News::Missing(what)) if self.chosen.is_none() && !self.mounted => {
                self.report.waiting_for(&what, now);
            }
            Event::News(News::Missing(_)) => {}
            Event::News(News::Lease(link, lease)) => self.leased(link, *lease, now),
            Event::Drivers => self.drivers_loaded(now),
            Event::Dialled(Ok(session)) => {
                let size = session.export.size;
                self.dialled = Some(session);
                self.keeper.receive(Input::Dialled(Some(size)), now);
            }
            Event::Dialled(Err(error)) => {
                self.report.obstacle(&with_source(&error));
                self.keeper.receive(Input::Dialled(None), now);
            }
            Event::Lost => self.keeper.receive(Input::Lost, now),
            Event::MountDue => self.mount(),
            Event::Mounted(outcome) => self.mount_ended(outcome, now),
        }
    }

    fn leased(&mut self, link: Link, lease: Lease, now: Instant) {
        let current = self.chosen.as_ref();
        let extended = current.is_some_and(|(of, _)| of.index == link.index);
        if !extended && !is_better(&lease, current.map(|(_, lease)| lease), self.cmdline.server) {
            return;
        }
        self.timeline.record("lease");
        // What is in place already is not touched: connections run over it.
        let same = current.is_some_and(|(_, old)| {
            extended && (old.address, old.prefix, &old.routes) == (lease.address, lease.prefix, &lease.routes)
        });
        if !same {
            self.configure(&link, &lease);
        }
        self.take_name(lease.host_name.as_deref());
        self.chosen = Some((link, lease));
        self.start(now);
    }

    /// Adds address and routes. An address the link had before stays: the connection to the root may use it.
    fn configure(&mut self, link: &Link, lease: &Lease) {
        let Lease { address, prefix, server, .. } = lease;
        self.report.log(Level::Info, format_args!("{}: {address}/{prefix} from {server}", link.name));
        let complain = |what: &str, outcome: io::Result<()>| {
            if let Err(error) = outcome {
                self.report.log(Level::Error, format_args!("{}: cannot set {what}: {error}", link.name));
            }
        };
        complain("the address", self.links.add_address(link.index, *address, *prefix));
        // RFC 2132 §5.1: at least 68; RFC 791: every host takes 576.
        if let Some(mtu) = lease.mtu.filter(|mtu| *mtu >= 576) {
            complain("the MTU", self.links.set_mtu(link.index, mtu));
        }
        for route in &lease.routes {
            let outcome = self.links.add_route(link.index, route.destination, route.prefix, route.router);
            complain("a route", outcome);
        }
    }

    /// The machine is called what the head calls it (RFC 2132 §3.14); it may call it otherwise with a later lease.
    fn take_name(&self, name: Option<&str>) {
        let Some(name) = name.filter(|name| nix::unistd::gethostname().is_ok_and(|old| old != **name)) else {
            return;
        };
        match nix::unistd::sethostname(name) {
            Ok(()) => self.report.log(Level::Info, format_args!("this machine is {name}")),
            Err(error) => self.report.log(Level::Warning, format_args!("cannot be called {name}: {error}")),
        }
    }

    fn drivers_loaded(&mut self, now: Instant) {
        if self.device.is_none() {
            match Device::open(&self.cmdline.image) {
                Ok(device) => self.device = Some(device),
                Err(error) => {
                    self.report.log(Level::Error, format_args!("no network block device: {error}"));
                    let events = self.events.clone();
                    spawn_local(async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        let _ = events.send(Event::Drivers).await;
                    });
                }
            }
        }
        self.start(now);
    }

    /// Begins to dial once there is both a network and a driver.
    fn start(&mut self, now: Instant) {
        if self.chosen.is_some() && self.device.is_some() && !self.connected {
            self.report.waiting_for(&format!("the root from {}", self.server), now);
            self.keeper.receive(Input::Start, now);
        }
    }

    /// Does what the keeper decides.
    fn drain(&mut self) {
        while let Some(output) = self.keeper.transmit() {
            match output {
                Output::Dial => {
                    let (events, server, name) =
                        (self.events.clone(), self.server, self.cmdline.image.clone());
                    spawn_local(async move {
                        let _ = events.send(Event::Dialled(dial(server, &name).await)).await;
                    });
                }
                Output::HandOver => {
                    let taken = self.hand_over();
                    self.keeper.receive(Input::HandedOver(taken), Instant::now());
                }
                Output::HangUp => self.dialled = None,
                Output::Say(news) => self.say(news),
            }
        }
    }

    fn hand_over(&mut self) -> bool {
        let (Some(device), Some(session)) = (self.device.as_mut(), self.dialled.take()) else { return false };
        let outcome = match self.connected {
            true => device.reconfigure(&session.stream),
            false => device.connect(&session.stream, &session.export),
        };
        let watched = outcome.and_then(|()| {
            self.connected = true;
            awaitable(device::end_of(&session.stream)?)
        });
        match watched {
            Ok(end) => {
                self.watch_connection(end, session.stream);
                true
            }
            Err(error) => {
                self.report.obstacle(&format!("the kernel refuses the connection: {error}"));
                false
            }
        }
    }

    fn watch_connection(&mut self, end: AsyncFd<OwnedFd>, stream: TcpStream) {
        let events = self.events.clone();
        let watch = spawn_local(async move {
            let _ = end.readable().await;
            drop(stream);
            let _ = events.send(Event::Lost).await;
        });
        if let Some(old) = self.watch.replace(watch.abort_handle()) {
            old.abort();
        }
    }

    fn say(&mut self, news: keeper::News) {
        match news {
            keeper::News::Lost => {
                self.report
                    .log(Level::Warning, format_args!("lost the root server {}; I/O waits", self.server));
                self.report.waiting_for(&format!("the root from {}", self.server), Instant::now());
            }
            keeper::News::Up { after, failures } => {
                let text = format!(
                    "root attached from {} after {} ms, {failures} failed tries",
                    self.server,
                    after.as_millis()
                );
                self.report.log(Level::Info, &text);
                self.report.status(&text);
                self.timeline.record("attached");
                match self.mounted {
                    true => self.report.done_waiting(),
                    false => self.mount(),
                }
            }
            keeper::News::WrongSize { expected, found } => self.report.obstacle(&format!(
                "the server has another image under this name ({found} bytes instead of {expected})"
            )),
        }
    }

    fn mount(&mut self) {
        let events = self.events.clone();
        spawn_local(async move {
            let outcome = tokio::task::spawn_blocking(|| root::mount_all(device::PATH)).await;
            if let Ok(outcome) = outcome {
                let _ = events.send(Event::Mounted(outcome)).await;
            }
        });
    }

    fn mount_ended(&mut self, outcome: Result<(), RootError>, now: Instant) {
        let error = match outcome {
            Ok(()) => return self.rooted(),
            Err(error) => error,
        };
        self.report.obstacle(&with_source(&error));
        if !error.is_the_devices_fault() {
            let events = self.events.clone();
            spawn_local(async move {
                tokio::time::sleep(MOUNT_AGAIN).await;
                let _ = events.send(Event::MountDue).await;
            });
            return;
        }
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
        if let Some(Err(error)) = self.device.as_mut().map(Device::disconnect) {
            self.report.log(Level::Error, format_args!("cannot let go of {}: {error}", device::PATH));
        }
        self.connected = false;
        self.keeper.receive(Input::Rejected, now);
    }

    fn rooted(&mut self) {
        self.mounted = true;
        self.timeline.record("root");
        let Some((link, lease)) = &self.chosen else { return };
        let by = link.name.clone();
        let found = Found::Nbd { interface: by.clone(), mac: link.mac, address: lease.address };
        if let Err(error) = facts::write(&self.cmdline, &found, &self.timeline) {
            self.report.log(Level::Error, format_args!("cannot write the machine's facts: {error}"));
        }
        self.settle();
        self.report.ready(format_args!("root on {} from {} by {by}", device::PATH, self.server));
    }

    /// From here on the machine stands or falls with this process: it gives back what it needs no longer, and
    /// may neither be paged out nor killed for memory.
    fn settle(&mut self) {
        self.hotplug.abort();
        if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
            self.report.log(Level::Warning, format_args!("cannot lock memory: {error}"));
        }
        if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
            self.report.log(Level::Warning, format_args!("cannot be exempt from the OOM killer: {error}"));
        }
    }

    /// The end of the machine, when init has unmounted the root. While it is still mounted this is only the end of
    /// this process, and the next one adopts the device.
    fn let_go(mut self) {
        if !self.connected || root::is_mounted() {
            return;
        }
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
        let Some(mut device) = self.device.take() else { return };
        let (done, finished) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            root::unmount();
            let _ = done.send(device.disconnect());
        });
        if finished.recv_timeout(LET_GO_LIMIT).is_err() {
            self.report.log(Level::Warning, "the device does not let go; leaving it");
        }
    }
}

/// init waits no longer for this process either.
const LET_GO_LIMIT: Duration = Duration::from_millis(900);
