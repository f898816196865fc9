//! Compression of kernel and initramfs, each for the one decoder that will read it.

use std::io::Read as _;

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

/// The initramfs as zstd.
///
/// # Errors
/// If zstd fails.
pub fn initramfs(archive: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut encoder = zstd::stream::read::Encoder::new(archive, ZSTD_LEVEL).context("zstd")?;
    encoder.read_to_end(&mut out).context("cannot compress the initramfs")?;
    Ok(out)
}

const ZSTD_LEVEL: i32 = 22;
