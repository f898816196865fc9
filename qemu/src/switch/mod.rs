//! The virtual cluster's Ethernet: a learning switch in user space.
//!
//! Purpose: connects boards to each other without any privilege on the host. A port is plugged either by code of this
//! process ([`Switch::plug`]: firmware models, tests) or by QEMU ([`Switch::listen`], `-netdev stream`), one after the
//! other, and keeps its number, name and impairments while plugs come and go.
//!
//! Specification: IEEE 802.1Q clauses 8.6 to 8.8, as far as a small unmanaged switch goes. *Not supported*: VLANs
//! (tags pass unread), spanning tree (there is one switch, so no loop), flow control, frames above 1522 bytes.
//!
//! Who does what: a frame is forwarded by whoever brought it, under one short lock, straight into the queue of the
//! port it is for; no task or timer stands between. Lock-step TFTP, thousands of round trips a boot, is why.
//! Tasks: per plug one reader and (QEMU) one writer, ended when the next plug comes or the peer goes; per listener one
//! acceptor, ended with the switch; per impaired direction one line, ended with the switch.
//!
//! How to watch it: [`Switch::counters`], and a capture per port.

mod capture;
mod impairment;
pub mod port;
pub mod stream;
mod table;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

pub use capture::Capture;
use impairment::{Chance, Pacer};
pub use impairment::{Impairment, LINE_FRAMES};
pub use port::{PORT_QUEUE_FRAMES, SwitchPort};
pub use table::{ADDRESSES_PER_PORT, Mac, MacTable};

/// The longest frame forwarded: 1500 bytes of payload, header, and a VLAN tag with room for another.
pub const MAX_FRAME_BYTES: usize = 1522;

/// Two addresses and a type.
const MIN_FRAME_BYTES: usize = 14;

/// A port of the switch, counted from 0 in the order of [`Switch::add_port`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortNumber(usize);

/// What a port has seen. "Received" is from the device, "sent" is to the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Frames the device put on its cable.
    pub received: u64,
    /// Frames that reached the device's queue.
    pub sent: u64,
    /// Frames dropped because the cable was cut.
    pub cut: u64,
    /// Frames dropped by the impairment's chance.
    pub lost: u64,
    /// Frames dropped because a queue was full.
    pub overrun: u64,
    /// Frames too short, too long, or from a group address.
    pub malformed: u64,
    /// Frames whose source was not learned because the port's share of the table was full.
    pub unlearned: u64,
}

/// The switch. Clones are handles to the same one; it ends with the last.
#[derive(Debug, Clone)]
pub struct Switch {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    seed: u64,
    ports: Vec<Port>,
    table: MacTable,
    /// Acceptors and lines; dropping the state ends them.
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Port {
    name: String,
    impairment: Impairment,
    is_cut: bool,
    counters: Counters,
    capture: Option<Capture>,
    plug: Option<Plug>,
    from_device: Direction,
    to_device: Direction,
}

/// What is plugged in: the queue towards it and the task that reads from it.
#[derive(Debug)]
struct Plug {
    queue: mpsc::Sender<Vec<u8>>,
    reader: AbortHandle,
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[derive(Debug)]
struct Direction {
    chance: Chance,
    pacer: Pacer,
    line: Option<mpsc::Sender<(Instant, Vec<u8>)>>,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    FromDevice,
    ToDevice,
}

impl Switch {
    /// A switch without ports. The seed decides which frames lossy ports lose.
    pub fn new(seed: u64) -> Self {
        let state = State { seed, ports: Vec::new(), table: MacTable::default(), tasks: JoinSet::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Adds a port with nothing plugged in.
    pub fn add_port(&self, name: &str) -> PortNumber {
        let mut state = self.lock();
        let number = state.ports.len();
        let seed = state.seed.wrapping_add((number as u64) << 1);
        let direction = |seed| Direction { chance: Chance::new(seed), pacer: Pacer::default(), line: None };
        state.ports.push(Port {
            name: name.to_owned(),
            impairment: Impairment::default(),
            is_cut: false,
            counters: Counters::default(),
            capture: None,
            plug: None,
            from_device: direction(seed),
            to_device: direction(seed + 1),
        });
        PortNumber(number)
    }

    /// Plugs in a device of this process, in place of whatever was there. Must be called within a tokio runtime.
    pub fn plug(&self, port: PortNumber) -> SwitchPort {
        let (to_switch, mut from_device) = mpsc::channel::<Vec<u8>>(PORT_QUEUE_FRAMES);
        let (queue, from_switch) = mpsc::channel(PORT_QUEUE_FRAMES);
        let switch = self.downgrade();
        let reader = tokio::spawn(async move {
            while let Some(frame) = from_device.recv().await {
                let Some(switch) = switch.upgrade() else { return };
                switch.receive(port, frame);
            }
        });
        self.lock().replace_plug(port, Some(Plug { queue, reader: reader.abort_handle() }));
        SwitchPort { to_switch, from_switch }
    }

    /// Plugs in a QEMU that has connected, in place of whatever was there.
    pub fn plug_stream(&self, port: PortNumber, socket: UnixStream) {
        let (read, write) = socket.into_split();
        let (queue, from_switch) = mpsc::channel(PORT_QUEUE_FRAMES);
        let switch = self.downgrade();
        // The writer ends by itself: its queue closes with the plug, and its socket fails when QEMU is gone.
        tokio::spawn(stream::write_frames(write, from_switch));
        let reader = tokio::spawn(async move {
            let deliver = |frame| {
                if let Some(switch) = switch.upgrade() {
                    switch.receive(port, frame);
                }
            };
            if let Err(error) = stream::read_frames(read, deliver).await {
                tracing::debug!(port = port.0, %error, "plug closed");
            }
        });
        self.lock().replace_plug(port, Some(Plug { queue, reader: reader.abort_handle() }));
    }

    /// Lets QEMU plug itself into `port` by connecting; the last one to connect has the port.
    pub fn listen(&self, port: PortNumber, listener: UnixListener) {
        let switch = self.downgrade();
        self.lock().tasks.spawn(async move {
            // Accepting fails for want of descriptors only; the board then sees no carrier, and the log says why.
            while let Ok((socket, _)) = listener.accept().await {
                let Some(switch) = switch.upgrade() else { return };
                switch.plug_stream(port, socket);
            }
            tracing::error!(port = port.0, "port does not accept plugs any more");
        });
    }

    /// Pulls out whatever is plugged into `port`.
    pub fn unplug(&self, port: PortNumber) {
        self.lock().replace_plug(port, None);
    }

    /// Cuts the cable of `port`, or mends it. What is plugged in stays so.
    pub fn set_cut(&self, port: PortNumber, is_cut: bool) {
        let mut state = self.lock();
        if let Some(entry) = state.ports.get_mut(port.0) {
            entry.is_cut = is_cut;
        }
        state.table.forget(port);
    }

    /// Whether the cable of `port` is cut.
    pub fn is_cut(&self, port: PortNumber) -> bool {
        self.lock().ports.get(port.0).is_some_and(|port| port.is_cut)
    }

    /// Gives `port` a worse or better cable; holds for frames from now on.
    pub fn set_impairment(&self, port: PortNumber, impairment: Impairment) {
        let mut state = self.lock();
        let State { ports, tasks, .. } = &mut *state;
        let Some(entry) = ports.get_mut(port.0) else { return };
        entry.impairment = impairment;
        if impairment.needs_line() {
            // Once there a line stays, so that frames can never overtake those still waiting in it.
            entry.from_device.line.get_or_insert_with(|| self.start_line(tasks, port, Way::FromDevice));
            entry.to_device.line.get_or_insert_with(|| self.start_line(tasks, port, Way::ToDevice));
        }
    }

    /// Writes what the device at `port` sends and receives into a capture file from now on.
    pub fn set_capture(&self, port: PortNumber, capture: Option<Capture>) {
        if let Some(port) = self.lock().ports.get_mut(port.0) {
            port.capture = capture;
        }
    }

    /// What `port` has seen so far.
    pub fn counters(&self, port: PortNumber) -> Counters {
        self.lock().ports.get(port.0).map(|port| port.counters).unwrap_or_default()
    }

    /// A port by its name.
    pub fn port(&self, name: &str) -> Option<PortNumber> {
        self.lock().ports.iter().position(|port| port.name == name).map(PortNumber)
    }

    /// A frame from the device at `port`.
    fn receive(&self, port: PortNumber, frame: Vec<u8>) {
        self.lock().receive(port, frame);
    }

    fn start_line(
        &self,
        tasks: &mut JoinSet<()>,
        port: PortNumber,
        way: Way,
    ) -> mpsc::Sender<(Instant, Vec<u8>)> {
        let (line, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(LINE_FRAMES);
        let switch = self.downgrade();
        tasks.spawn(async move {
            while let Some((due, frame)) = waiting.recv().await {
                sleep_until(due).await;
                let Some(switch) = switch.upgrade() else { return };
                match way {
                    Way::FromDevice => switch.lock().forward(port, frame),
                    Way::ToDevice => switch.lock().deliver(port, frame),
                }
            }
        });
        line
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that can panic, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn downgrade(&self) -> WeakSwitch {
        WeakSwitch(Arc::downgrade(&self.state))
    }
}

/// What tasks hold, so that the switch ends with its last handle and not with its last task.
struct WeakSwitch(Weak<Mutex<State>>);

impl WeakSwitch {
    fn upgrade(&self) -> Option<Switch> {
        self.0.upgrade().map(|state| Switch { state })
    }
}

impl State {
    fn replace_plug(&mut self, port: PortNumber, plug: Option<Plug>) {
        if let Some(entry) = self.ports.get_mut(port.0) {
            entry.plug = plug;
            self.table.forget(port);
        }
    }

    /// From the device onto its cable.
    fn receive(&mut self, port: PortNumber, frame: Vec<u8>) {
        let Some(entry) = self.ports.get_mut(port.0) else { return };
        entry.counters.received += 1;
        if let Some(capture) = &mut entry.capture {
            capture.frame(&frame);
        }
        if let Some(frame) = entry.travel(Way::FromDevice, frame) {
            self.forward(port, frame);
        }
    }

    /// From the cable to where it belongs.
    fn forward(&mut self, from: PortNumber, frame: Vec<u8>) {
        let Some(entry) = self.ports.get_mut(from.0) else { return };
        let Some(Header { destination, source }) = Header::of(&frame) else {
            entry.counters.malformed += 1;
            return;
        };
        if !self.table.learn(source, from) {
            entry.counters.unlearned += 1;
        }
        if is_link_local(destination) {
            return;
        }
        let known = if is_group(destination) { None } else { self.table.lookup(destination) };
        match known {
            Some(to) if to == from => {}
            Some(to) => self.send(to, frame),
            None => {
                for number in (0..self.ports.len()).map(PortNumber).filter(|number| *number != from) {
                    self.send(number, frame.clone());
                }
            }
        }
    }

    /// Out of the switch onto the cable of `to`.
    fn send(&mut self, to: PortNumber, frame: Vec<u8>) {
        let Some(entry) = self.ports.get_mut(to.0) else { return };
        if entry.plug.is_none() {
            return;
        }
        if let Some(frame) = entry.travel(Way::ToDevice, frame) {
            self.deliver(to, frame);
        }
    }

    /// From the cable into the device.
    fn deliver(&mut self, to: PortNumber, frame: Vec<u8>) {
        let Some(entry) = self.ports.get_mut(to.0) else { return };
        let Some(plug) = &entry.plug else { return };
        if let Some(capture) = &mut entry.capture {
            capture.frame(&frame);
        }
        match plug.queue.try_send(frame) {
            Ok(()) => entry.counters.sent += 1,
            Err(mpsc::error::TrySendError::Full(_)) => entry.counters.overrun += 1,
            // The device has gone; its place is taken by the next plug.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }
}

impl Port {
    /// Sends a frame through the cable: gives it back when it has arrived, keeps it when it is lost or delayed.
    fn travel(&mut self, way: Way, frame: Vec<u8>) -> Option<Vec<u8>> {
        if self.is_cut {
            self.counters.cut += 1;
            return None;
        }
        let direction = match way {
            Way::FromDevice => &mut self.from_device,
            Way::ToDevice => &mut self.to_device,
        };
        if direction.chance.happens(self.impairment.loss) {
            self.counters.lost += 1;
            return None;
        }
        let Some(line) = &direction.line else { return Some(frame) };
        let due = direction.pacer.due(Instant::now(), frame.len(), &self.impairment);
        if line.try_send((due, frame)).is_err() {
            self.counters.overrun += 1;
        }
        None
    }
}

struct Header {
    destination: Mac,
    source: Mac,
}

impl Header {
    fn of(frame: &[u8]) -> Option<Self> {
        if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&frame.len()) {
            return None;
        }
        let (destination, rest) = frame.split_first_chunk::<6>()?;
        let source = rest.first_chunk::<6>()?;
        // IEEE 802.3 clause 3.2.3: the group bit of a source address is always 0.
        (!is_group(*source)).then_some(Self { destination: *destination, source: *source })
    }
}

fn is_group(mac: Mac) -> bool {
    mac[0] & 1 == 1
}

/// Addresses a bridge never forwards (IEEE 802.1Q table 8-1): pause frames, spanning tree, LLDP.
fn is_link_local(mac: Mac) -> bool {
    matches!(mac, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
}
