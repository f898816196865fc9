//! What the firmware accepts as a kernel: an arm64 `Image`, raw or as one gzip member.
//!
//! Kernel documentation, arch/arm64/booting: the header has "ARM\x64" at byte 56. An EFI zboot image, a U-Boot image
//! and a 32-bit zImage have not.

use libdeflater::Decompressor;

/// Why a file is no kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The magic number is missing.
    #[error("not an arm64 Image: the magic number at byte 56 is missing")]
    NotAnImage,
    /// The length a gzip file states behind its data.
    #[error(
        "the gzip file says it unpacks to {bytes} bytes; more than {UNPACKED_BYTES_MAX} are not accepted"
    )]
    TooLarge {
        /// Stated.
        bytes: usize,
    },
    /// Damaged, cut short, or with something behind it.
    #[error("the gzip file cannot be unpacked")]
    Gzip,
}

/// Distribution kernels unpack to 30 to 60 MiB.
const UNPACKED_BYTES_MAX: usize = 256 << 20;

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// Unpacks if necessary and checks the header.
///
/// # Errors
/// When a board would not start the file.
pub(super) fn load(file: Vec<u8>) -> Result<Vec<u8>, KernelError> {
    let image = if file.starts_with(&GZIP_MAGIC) { unpack(&file)? } else { file };
    match image.get(56..60) {
        Some(b"ARM\x64") => Ok(image),
        _ => Err(KernelError::NotAnImage),
    }
}

fn unpack(file: &[u8]) -> Result<Vec<u8>, KernelError> {
    // RFC 1952 §2.3.1: the last four bytes are the length modulo 2^32.
    let (_, length) = file.split_last_chunk::<4>().ok_or(KernelError::Gzip)?;
    let bytes = u32::from_le_bytes(*length) as usize;
    if bytes > UNPACKED_BYTES_MAX {
        return Err(KernelError::TooLarge { bytes });
    }
    let mut image = vec![0; bytes];
    let written = Decompressor::new().gzip_decompress(file, &mut image).map_err(|_| KernelError::Gzip)?;
    image.truncate(written);
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::tests::{gzip, image};

    #[test]
    fn raw_and_gzipped_images_are_kernels() {
        assert_eq!(load(image(4096)), Ok(image(4096)));
        assert_eq!(load(gzip(&image(100_000))), Ok(image(100_000)));
    }

    #[test]
    fn other_files_are_not() {
        let mut zboot = image(4096);
        zboot[56..60].fill(0);
        for file in [Vec::new(), vec![0; 59], b"<html>404</html>".repeat(10), zboot.clone(), gzip(&zboot)] {
            assert_eq!(load(file), Err(KernelError::NotAnImage));
        }
    }

    #[test]
    fn damaged_or_boastful_gzip_is_refused() {
        let whole = gzip(&image(100_000));
        let mut boastful = whole.clone();
        let length = boastful.len();
        boastful[length - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(load(boastful), Err(KernelError::TooLarge { bytes: u32::MAX as usize }));
        for cut in [3, 10, length / 2, length - 1] {
            assert!(load(whole[..cut].to_vec()).is_err(), "cut at {cut}");
        }
        let mut flipped = whole;
        flipped[length / 2] ^= 0x55;
        assert!(load(flipped).is_err());
    }
}
