//! The table itself.

use std::time::Duration;

use crate::Capability::{
    Chown, DacOverride, DacReadSearch, Fowner, NetAdmin, NetBindService, NetRaw, SysAdmin, SysModule,
    SysPtrace, SysResource,
};
use crate::{BackOff, Capabilities, Directory, Limits, ROOT, Readiness, Role, Service, Stage, User};

/// As whom `agent` runs. init takes orders from root and from it: it carries the head's commands to init.
pub const AGENT_USER: User = User(109);

/// 0.1, 0.2, 0.4, 0.8 s, then failed: a service that is only quick to crash is back before anybody notices, one that
/// cannot work holds up the boot of those waiting for it by less than two seconds.
const USUAL_BACK_OFF: BackOff = BackOff {
    initial: Duration::from_millis(100),
    max: Duration::from_secs(5),
    limit: 5,
    window: Duration::from_secs(60),
    retry: Duration::from_secs(60),
};

/// The machine has no root without it: never slower than every 5 s, for ever.
const KEEPER_BACK_OFF: BackOff =
    BackOff { max: Duration::from_secs(5), limit: 8, retry: Duration::from_secs(5), ..USUAL_BACK_OFF };

/// A card may come up late: 0.5, 1, 2, 4 s, then the head goes on with what it has.
const STORAGE_BACK_OFF: BackOff = BackOff { initial: Duration::from_millis(500), ..USUAL_BACK_OFF };

/// A node's services come through the network: 150 boards that each read 6 MB from a head with 100 Mbit/s take 72 s.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// Enough to finish a transaction on a slow card; a node waits no longer than this for a service that hangs.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

const MIB: u64 = 1 << 20;

/// What a service with a few sockets needs, times four.
const SMALL: Limits =
    Limits { memory_max: Some(32 * MIB), tasks_max: 32, files_max: 256, oom_score_adjust: 0 };

/// One connection or two per node, at the ten thousand nodes of the largest cluster.
const MANY_CLIENTS: Limits =
    Limits { memory_max: Some(160 * MIB), tasks_max: 64, files_max: 24_576, oom_score_adjust: 0 };

/// What most rows have in common; the name, at least, differs.
const USUAL: Service = Service {
    name: "",
    role: Role::Both,
    stage: Stage::Root,
    after: &[],
    user: ROOT,
    capabilities: Capabilities::NONE,
    readiness: Readiness::Notify,
    back_off: USUAL_BACK_OFF,
    start_timeout: Some(START_TIMEOUT),
    stop_timeout: STOP_TIMEOUT,
    limits: SMALL,
    directories: &[],
};

/// Every row, in start order.
pub const TABLE: &[Service] = &[
    Service {
        name: "netroot",
        stage: Stage::Initramfs,
        // overlayfs works with the rights of whoever mounted it (Documentation/filesystems/overlayfs.rst,
        // "Permission model"), so a right taken from netroot is taken from every writer on the root.
        capabilities: Capabilities::ALL,
        back_off: KEEPER_BACK_OFF,
        // A node whose head is off waits for it; rebooting would not help, and ask the network more often.
        start_timeout: None,
        stop_timeout: Duration::from_secs(1),
        // It must live when everything else is being killed for memory: the root depends on it.
        limits: Limits { memory_max: None, oom_score_adjust: -1000, ..SMALL },
        directories: &[Directory { path: "/run/bramble", mode: 0o755 }],
        ..USUAL
    },
    Service {
        name: "storage",
        role: Role::Head,
        capabilities: Capabilities::of(&[
            Chown,
            DacOverride,
            Fowner,
            SysAdmin,    // mount, BLKPG
            SysModule,   // ext4, vfat
            SysResource, // EXT4_IOC_RESIZE_FS
        ]),
        readiness: Readiness::Exit,
        back_off: STORAGE_BACK_OFF,
        limits: Limits { memory_max: Some(64 * MIB), ..SMALL },
        ..USUAL
    },
    Service {
        name: "devices",
        user: User(100),
        capabilities: Capabilities::of(&[SysModule]),
        limits: Limits { memory_max: Some(64 * MIB), ..SMALL },
        ..USUAL
    },
    Service {
        name: "bus-broker",
        user: User(101),
        limits: Limits { files_max: 1024, oom_score_adjust: -500, ..SMALL },
        directories: &[Directory { path: "/run/dbus", mode: 0o755 }],
        ..USUAL
    },
    Service {
        name: "network",
        role: Role::Head,
        after: &["storage", "bus-broker"],
        user: User(102),
        capabilities: Capabilities::of(&[NetAdmin, NetBindService, NetRaw]),
        directories: &[Directory { path: "/run/bramble/network", mode: 0o755 }],
        ..USUAL
    },
    Service {
        name: "cluster",
        role: Role::Head,
        after: &["storage", "bus-broker"],
        user: User(103),
        limits: MANY_CLIENTS,
        directories: &[Directory { path: "/data/cluster", mode: 0o750 }],
        ..USUAL
    },
    Service {
        name: "nbd-server",
        role: Role::Head,
        after: &["storage", "bus-broker", "network"],
        user: User(104),
        // devtmpfs makes block devices readable to root alone.
        capabilities: Capabilities::of(&[DacReadSearch]),
        limits: Limits { oom_score_adjust: -500, ..MANY_CLIENTS },
        ..USUAL
    },
    Service {
        name: "tftp-server",
        role: Role::Head,
        after: &["storage", "bus-broker", "network"],
        user: User(105),
        capabilities: Capabilities::of(&[NetBindService]),
        limits: Limits { memory_max: Some(96 * MIB), files_max: 4096, ..SMALL },
        ..USUAL
    },
    Service {
        name: "dhcp-server",
        role: Role::Head,
        // Last of the boot servers: nobody is offered a boot that cannot be served.
        after: &["storage", "bus-broker", "network", "cluster", "nbd-server", "tftp-server"],
        user: User(106),
        capabilities: Capabilities::of(&[NetAdmin, NetBindService, NetRaw]),
        directories: &[Directory { path: "/data/dhcp", mode: 0o750 }],
        ..USUAL
    },
    Service {
        name: "load-balancer",
        role: Role::Head,
        after: &["storage", "bus-broker"],
        user: User(107),
        capabilities: Capabilities::of(&[NetBindService]),
        limits: MANY_CLIENTS,
        ..USUAL
    },
    Service {
        name: "web",
        role: Role::Node,
        user: User(108),
        capabilities: Capabilities::of(&[NetBindService]),
        limits: Limits { memory_max: Some(96 * MIB), tasks_max: 64, files_max: 4096, ..SMALL },
        ..USUAL
    },
    Service {
        name: "agent",
        // A node counts as ready when its agent says so, so the agent is the last to start.
        after: &["bus-broker", "web"],
        user: AGENT_USER,
        capabilities: Capabilities::of(&[
            DacOverride, // the check that reads the root's device, and the one that writes to `/`
            SysPtrace,   // the check that adds up the memory of all processes
        ]),
        ..USUAL
    },
];
