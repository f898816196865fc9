//! Compression of kernel and initramfs, each for the one decoder that will read it.

use anyhow::{Context, Result};
use libdeflater::{CompressionLvl, Compressor};

/// The kernel as gzip, the only compression the Pi firmware undoes. libdeflate's strongest level is 4 % smaller
/// than `gzip -9`; at one lock-step round trip per block that is time. The header holds no name and no time.
///
/// # Errors
/// If libdeflate gives up, which it does not for a buffer of the size it asked for.
pub fn gzip(data: &[u8]) -> Result<Vec<u8>> {
    let mut compressor = Compressor::new(CompressionLvl::best());
    let mut out = vec![0; compressor.gzip_compress_bound(data.len())];
    let length = compressor.gzip_compress(data, &mut out).context("cannot compress the kernel")?;
    out.truncate(length);
    Ok(out)
}

/// The initramfs as zstd. xz would be 14 % smaller, but unpacking takes the kernel 0.09 s with zstd and 0.33 to 0.46 s
/// with xz (4.6 MB on `-M virt` under TCG), for 140 kB that the slowest boot ROM fetches in 0.07 s. The whole archive is
/// given at once so that the frame's window is no larger than it: with the level's own 128 MiB window the kernel
/// needs 0.45 s.
///
/// # Errors
/// If zstd fails.
pub fn initramfs(archive: &[u8]) -> Result<Vec<u8>> {
    zstd::bulk::compress(archive, ZSTD_LEVEL).context("cannot compress the initramfs")
}

const ZSTD_LEVEL: i32 = 22;
