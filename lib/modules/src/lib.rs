//! Kernel modules: which one drives a device, what it depends on, and loading it.
//!
//! Reads the text files that depmod(8) writes and modprobe(8) reads, found in `/lib/modules/<release>/`:
//! `modules.dep`, `modules.alias`, `modules.softdep`, `modules.builtin`, and our own `modules.load` (one module
//! per line, optionally followed by parameters, loaded at every boot). Only files that ship are listed there.
//!
//! Shared by init (early boot), netroot (until the root is up), `devices` (afterwards), `storage` and the image
//! builder ([`Index`] alone, which does no I/O). [`Uevents`] tells of devices that come and go. One binary also answers to the name `modprobe`, because the
//! kernel asks for file systems and code pages by running `/sbin/modprobe -q -- NAME`.
//!
//! Not supported: the binary `*.bin` indexes, `modules.symbols`, `/etc/modprobe.d`, removal of modules.
//!
//! Every error is a value: a module that cannot be loaded never stops the others ([`Report`]).

mod fnmatch;
mod index;
mod load;
mod modprobe;
mod uevent;

pub use index::{Index, Softdep, name_of};
pub use load::{Error, Modules, Report};
pub use modprobe::modprobe;
pub use uevent::{Uevent, Uevents};

#[cfg(test)]
mod tests;
