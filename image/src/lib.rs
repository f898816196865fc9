//! Builds Bramble's images: from Debian's kernel and firmware and our three programs to `head.img`, which goes on an SD card,
//! and the files a head serves to its nodes.
//!
//! The build runs as an ordinary user, without loop devices or mounts: every format is written directly. It is
//! reproducible (equal inputs, equal bytes: sorted trees, fixed times and ids) and incremental (steps with
//! unchanged inputs are skipped). [`build`](mod@build) tells the order of the steps; [`contents`] and [`boot`] say what ships.
//!
//! Not supported: kernels compressed by their own packaging, other architectures than arm64, signing.

pub mod archive;
pub mod binaries;
pub mod boot;
pub mod build;
pub mod card;
pub mod compress;
pub mod contents;
pub mod cpio;
pub mod ext4;
pub mod fat;
pub mod file;
#[cfg(test)]
mod fixture;
pub mod kernel;
pub mod modinfo;
pub mod progress;
pub mod report;
pub mod selection;
pub mod sources;
pub mod squashfs;
pub mod stamp;
pub mod tool;
pub mod tree;
