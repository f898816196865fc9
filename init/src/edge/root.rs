//! Into the root and out of it again.
//!
//! PID 1 never executes itself again: its pages stay those of the initramfs, in RAM, and it changes only what `/`
//! means to it. The mount tree keeps the initramfs as its root, so the way back is a descriptor kept from the start.
//! PID 1 shares its root directory with the kernel's threads (both are clones of the first task with `CLONE_FS`), so
//! what the kernel looks up by path, firmware and `/sbin/modprobe`, is found in the root as well.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir};

use super::kmsg::Kmsg;

/// Where netroot mounts the root.
const SYSROOT: &str = "/sysroot";

/// What the root shows of the initramfs: the kernel's file systems and the one that services meet in.
const SHARED: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// The two roots of this machine.
#[derive(Debug)]
pub struct Roots {
    initramfs: OwnedFd,
    /// How many of [`SHARED`] are there already: a second try goes on where the first failed.
    shared: usize,
}

impl Roots {
    /// Remembers where the machine began.
    ///
    /// # Errors
    /// When there are no descriptors left, which cannot be at the start.
    pub fn new() -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { initramfs: open("/", flags, Mode::empty())?, shared: 0 })
    }

    /// The initramfs.
    pub fn initramfs(&self) -> BorrowedFd<'_> {
        self.initramfs.as_fd()
    }

    /// Makes `/sysroot` the root of this process.
    ///
    /// # Errors
    /// Whatever the kernel says; may be tried again.
    pub fn enter(&mut self) -> Result<(), Errno> {
        for folder in SHARED.iter().skip(self.shared) {
            let target = format!("{SYSROOT}{folder}");
            let _ = fs::create_dir(&target);
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(*folder), target.as_str(), None::<&str>, flags, None::<&str>)?;
            self.shared = self.shared.saturating_add(1);
        }
        // From here on modules come from the root; those of the initramfs only take up memory.
        let _ = fs::remove_dir_all("/lib/modules");
        chdir(SYSROOT)?;
        chroot(".")
    }

    /// Makes the initramfs the root of this process again. Touches nothing of the other root.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn leave(&self) -> Result<(), Errno> {
        fchdir(&self.initramfs)?;
        chroot(".")
    }
}

/// Takes down every mount but the kernel's own, latest first. To be run beside PID 1: it waits for devices.
///
/// What is still in use after a few tries is detached: invisible at once, gone when its last user is.
pub fn release(kmsg: &Kmsg) {
    for _ in 0..3 {
        if targets().iter().filter(|target| umount2(target.as_str(), MntFlags::empty()).is_err()).count() == 0
        {
            return;
        }
    }
    for target in targets() {
        kmsg.say(4, &format!("init: {target} is still in use: detached"));
        let _ = umount2(target.as_str(), MntFlags::MNT_DETACH);
    }
}

fn targets() -> Vec<String> {
    mounts_to_release(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// Mount points of `mountinfo` (proc_pid_mountinfo(5)) other than the kernel's file systems, latest first.
fn mounts_to_release(mountinfo: &str) -> Vec<String> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let kept = |point: &String| {
        point == "/"
            || SHARED.contains(&point.as_str())
            || point.starts_with("/sys/")
            || point.starts_with("/dev/")
            || point.starts_with("/proc/")
    };
    let mut points: Vec<String> = points.filter(|point| !kept(point)).collect();
    points.reverse();
    points
}

/// Space, tab, line end and backslash come as `\ooo`.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
1 1 0:2 / / rw - rootfs none rw
20 1 0:5 / /dev rw - devtmpfs devtmpfs rw
21 1 0:20 / /proc rw - proc proc rw
22 1 0:21 / /sys rw - sysfs sysfs rw
23 22 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
24 1 0:23 / /run rw - tmpfs tmpfs rw
25 24 43:0 / /run/netroot/lower ro - squashfs /dev/nbd0 ro
26 1 0:24 / /sysroot rw - overlay overlay rw
27 26 0:20 / /sysroot/proc rw - proc proc rw
28 26 179:4 / /sysroot/data\\040x rw - ext4 /dev/mmcblk0p4 rw
";

    #[test]
    fn everything_but_the_kernels_own_is_released_latest_first() {
        assert_eq!(
            mounts_to_release(MOUNTINFO),
            ["/sysroot/data x", "/sysroot/proc", "/sysroot", "/run/netroot/lower"]
        );
    }

    #[test]
    fn a_table_that_makes_no_sense_releases_nothing() {
        assert_eq!(mounts_to_release("x\n\n1 2 3\n"), Vec::<String>::new());
    }
}
