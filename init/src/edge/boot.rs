//! The first steps of a boot. Each is tried; none that fails ends the boot, and each failure says what it means.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;

use manifest::MachineRole;
use modules::Modules;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::kmsg::Kmsg;

struct Mount {
    kind: &'static str,
    target: &'static str,
    options: &'static str,
    flags: MsFlags,
    without: &'static str,
}

const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

const MOUNTS: [Mount; 5] = [
    // First, because the log is there.
    Mount {
        kind: "devtmpfs",
        target: "/dev",
        options: "mode=0755",
        flags: MsFlags::MS_NOSUID,
        without: "going on without devices",
    },
    Mount { kind: "proc", target: "/proc", options: "", flags: PLAIN, without: "going on as a node" },
    Mount {
        kind: "sysfs",
        target: "/sys",
        options: "",
        flags: PLAIN,
        without: "going on without modules by device",
    },
    Mount {
        kind: "tmpfs",
        target: "/run",
        // A service that fills it must not take the machine's memory with it.
        options: "mode=0755,size=20%,nr_inodes=4096",
        flags: PLAIN,
        without: "going on with /run in the initramfs",
    },
    Mount {
        kind: "cgroup2",
        target: "/sys/fs/cgroup",
        options: "",
        flags: PLAIN,
        without: "going on without limits",
    },
];

/// Mounts the kernel's own file systems and opens the log, in which everything that failed is then said.
pub fn mount_kernel_file_systems() -> Kmsg {
    let failures: Vec<(&Mount, Errno)> =
        MOUNTS.iter().filter_map(|step| step.mount().err().map(|error| (step, error))).collect();
    let kmsg = Kmsg::open();
    for (step, error) in failures {
        kmsg.say(3, &format!("init: mounting {}: {error}; {}", step.target, step.without));
    }
    kmsg
}

impl Mount {
    fn mount(&self) -> Result<(), Errno> {
        // Exists already in a well made initramfs; if it cannot be made, the mount says so.
        let _ = fs::create_dir_all(self.target);
        match mount(Some(self.kind), self.target, Some(self.kind), self.flags, Some(self.options)) {
            // devtmpfs, by a kernel built with DEVTMPFS_MOUNT.
            Err(Errno::EBUSY) => Ok(()),
            answer => answer,
        }
    }
}

/// Services of one machine also meet at 127.0.0.1, before there is any other network.
pub fn bring_loopback_up(kmsg: &Kmsg) {
    let up = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
        .and_then(|socket| sys::bring_loopback_up(socket.as_fd()));
    if let Err(error) = up {
        kmsg.say(3, &format!("init: loopback: {error}; going on without"));
    }
}

/// Loads the modules the image lists, then those of the devices found, from the initramfs.
pub fn load_modules(kmsg: &Kmsg) {
    let mut modules = match Modules::load_from(Path::new("/")) {
        Ok(modules) => modules,
        Err(error) => {
            return kmsg.say(3, &format!("init: no modules: {error}; going on with what the kernel has"));
        }
    };
    let listed = modules.load_listed();
    let found = modules.coldplug(Path::new("/sys"));
    for error in listed.errors.iter().chain(&found.errors).take(16) {
        kmsg.say(4, &format!("init: {error}; going on without it"));
    }
    kmsg.say(6, &format!("init: {} modules loaded", listed.loaded.len().saturating_add(found.loaded.len())));
}

/// What the kernel command line says this machine is. One that does not know is a node: it serves nobody wrongly.
pub fn machine_role(kmsg: &Kmsg) -> MachineRole {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    role_of(&line).unwrap_or_else(|| {
        kmsg.say(
            3,
            "init: no bramble.role=head or bramble.role=node on the kernel command line; going on as a node",
        );
        MachineRole::Node
    })
}

fn role_of(command_line: &str) -> Option<MachineRole> {
    let mut words = command_line.split_ascii_whitespace();
    words.find_map(|word| word.strip_prefix("bramble.role=")).and_then(MachineRole::from_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_who_a_machine_is() {
        assert_eq!(role_of("quiet bramble.role=head panic=10\n"), Some(MachineRole::Head));
        assert_eq!(role_of("bramble.role=node"), Some(MachineRole::Node));
        assert_eq!(role_of("xbramble.role=head"), None);
        assert_eq!(role_of("bramble.role=king"), None);
        assert_eq!(role_of(""), None);
    }
}
