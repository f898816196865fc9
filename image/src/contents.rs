//! What is inside: the trees of the initramfs and of the root file system.

use std::path::Path;

use anyhow::Result;

use crate::selection::Selection;
use crate::tree::Tree;

/// The initramfs: PID 1, the root finder, and what they need until the root is there.
pub fn initramfs(init: &[u8], netroot: &[u8], modules: &Selection) -> Tree {
    let mut tree = Tree::new();
    for folder in ["dev", "proc", "run", "sys", "sysroot"] {
        tree.directory(folder, 0o755);
    }
    // init/main.c opens /dev/console for PID 1 before anything could mount a devtmpfs.
    tree.char_device("dev/console", 0o600, 5, 1);
    tree.char_device("dev/null", 0o666, 1, 3);
    tree.file("init", 0o755, init);
    tree.file("sbin/netroot", 0o755, netroot);
    // The kernel calls /sbin/modprobe itself (kernel/module/kmod.c), and always in this root: only init leaves it.
    tree.symlink("sbin/modprobe", "netroot");
    modules.ship(&mut tree);
    tree
}

/// The root file system: the one multi-call binary, all modules, and `rootfs/` verbatim.
///
/// # Errors
/// If `rootfs` cannot be read.
pub fn root(bramble: &[u8], modules: &Selection, rootfs: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    for folder in ["boot", "data", "dev", "etc", "mnt", "proc", "run", "sys", "var"] {
        tree.directory(folder, 0o755);
    }
    tree.directory("root", 0o700);
    tree.directory("tmp", 0o1777);
    // D-Bus clients look for the system bus in /var/run (D-Bus specification, "Well-known Message Bus Instances").
    tree.symlink("var/run", "../run");
    tree.file("bin/bramble", 0o755, bramble);
    // For people; the kernel uses the one of the initramfs. The binary goes by the name it is called by.
    tree.symlink("sbin/modprobe", "../bin/bramble");
    modules.ship(&mut tree);
    tree.copy_from(rootfs)?;
    Ok(tree)
}
