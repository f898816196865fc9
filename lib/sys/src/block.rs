//! Block devices and the file system that grows on them (`include/uapi/linux/fs.h`, `blkpg.h`, `fs/ext4/ioctl.c`).

use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_char, c_int, c_longlong, c_void};

mod request {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_none!(blkrrpart, 0x12, 95);
    nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), super::BlkpgArgument);
    nix::ioctl_write_ptr!(ext4_resize_fs, b'f', 16, u64);
}

/// `BLKPG_RESIZE_PARTITION`: change a partition's length while it is in use.
const RESIZE_PARTITION: c_int = 3;

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: c_int,
    flags: c_int,
    data_length: c_int,
    data: *const c_void,
}

/// `struct blkpg_partition`.
#[repr(C)]
struct BlkpgPartition {
    start: c_longlong,
    length: c_longlong,
    number: c_int,
    device_name: [c_char; 64],
    volume_name: [c_char; 64],
}

/// Size of a block device in bytes (`BLKGETSIZE64`).
///
/// # Errors
/// `ENOTTY` when the descriptor is not a block device.
pub fn block_device_size(device: BorrowedFd<'_>) -> nix::Result<u64> {
    let mut bytes = 0;
    // SAFETY: `bytes` outlives the call and is as large as the size_t the kernel writes on a 64-bit machine.
    unsafe { request::blkgetsize64(device.as_raw_fd(), &mut bytes) }?;
    Ok(bytes)
}

/// Has the kernel read a disk's partition table again (`BLKRRPART`).
///
/// # Errors
/// `EBUSY` while a partition of the disk is in use: then [`resize_partition`] is the call to make.
pub fn reread_partition_table(disk: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { request::blkrrpart(disk.as_raw_fd()) }.map(drop)
}

/// Tells the kernel the new length of partition `number` (from 1) of `disk`, in bytes, even while it is mounted
/// (`BLKPG_RESIZE_PARTITION`). `start_bytes` must be the start it has already.
///
/// # Errors
/// `EBUSY` when it would overlap another partition, `ENXIO` when there is none of that number, `EINVAL` for a number
/// or length the kernel's types cannot hold.
pub fn resize_partition(
    disk: BorrowedFd<'_>,
    number: u32,
    start_bytes: u64,
    length_bytes: u64,
) -> nix::Result<()> {
    let invalid = |_| nix::errno::Errno::EINVAL;
    let partition = BlkpgPartition {
        start: c_longlong::try_from(start_bytes).map_err(invalid)?,
        length: c_longlong::try_from(length_bytes).map_err(invalid)?,
        number: c_int::try_from(number).map_err(invalid)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let argument = BlkpgArgument {
        operation: RESIZE_PARTITION,
        flags: 0,
        data_length: c_int::try_from(size_of::<BlkpgPartition>()).map_err(invalid)?,
        data: (&raw const partition).cast(),
    };
    // SAFETY: both structures have the kernel's layout, outlive the call, and the kernel only reads them.
    unsafe { request::blkpg(disk.as_raw_fd(), &argument) }.map(drop)
}

/// Grows the mounted ext4 file system that `mount_point` belongs to, to `blocks` file system blocks
/// (`EXT4_IOC_RESIZE_FS`).
///
/// # Errors
/// `ENOTTY` when it is not ext4, `EPERM` without `CAP_SYS_RESOURCE`, `EINVAL` when the device is smaller.
pub fn resize_ext4(mount_point: BorrowedFd<'_>, blocks: u64) -> nix::Result<()> {
    // SAFETY: the kernel reads one u64 that outlives the call.
    unsafe { request::ext4_resize_fs(mount_point.as_raw_fd(), &blocks) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::os::fd::AsFd;

    fn null() -> std::fs::File {
        std::fs::File::open("/dev/null").expect("every Linux has /dev/null")
    }

    #[test]
    fn a_character_device_has_no_block_device_size() {
        assert_eq!(block_device_size(null().as_fd()), Err(Errno::ENOTTY));
    }

    #[test]
    fn a_character_device_has_no_partition_table() {
        assert_eq!(reread_partition_table(null().as_fd()), Err(Errno::ENOTTY));
        assert_eq!(resize_partition(null().as_fd(), 1, 0, 4096), Err(Errno::ENOTTY));
    }

    #[test]
    fn a_length_beyond_the_kernels_type_is_refused_before_the_call() {
        assert_eq!(resize_partition(null().as_fd(), 1, 0, u64::MAX), Err(Errno::EINVAL));
    }

    #[test]
    fn a_character_device_is_not_ext4() {
        assert_eq!(resize_ext4(null().as_fd(), 1), Err(Errno::ENOTTY));
    }

    #[test]
    fn structures_have_the_sizes_of_the_kernels_64_bit_abi() {
        assert_eq!(size_of::<BlkpgArgument>(), 24);
        assert_eq!(size_of::<BlkpgPartition>(), 152);
    }
}
