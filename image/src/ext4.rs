//! Makes the data partition: an empty ext4, small now, that can grow online to the size of any card.
//!
//! The writing is mke2fs (e2fsprogs): no crate makes an ext4 that the kernel's online resize accepts. Times, UUID
//! and hash seed are given, the feature list is spelled out and no configuration file is read, so that
//! equal inputs make equal bytes whatever the host.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::tool;

/// Formats `size` bytes at `offset` of the file `disk` as ext4 labelled `label`.
///
/// # Errors
/// If mke2fs is missing or refuses.
pub fn format(disk: &Path, offset: u64, size: u64, label: &str, uuid: &str, time: u32) -> Result<()> {
    let mut mke2fs = Command::new(tool::find("mke2fs", "e2fsprogs")?);
    mke2fs
        .env("MKE2FS_CONFIG", "/dev/null")
        // "0" means "not set" to libext2fs, hence the first second of 1970 at the earliest.
        .env("E2FSPROGS_FAKE_TIME", time.max(1).to_string())
        .env("SOURCE_DATE_EPOCH", time.max(1).to_string())
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "1"])
        .args(["-O", FEATURES, "-J", "size=8", "-L", label, "-U", uuid])
        .arg("-E")
        .arg(format!(
            "offset={offset},hash_seed={uuid},root_owner=0:0,resize={GROWN_BLOCKS},\
             lazy_itable_init=1,lazy_journal_init=0,nodiscard"
        ))
        .arg(disk)
        .arg(format!("{}k", size / 1024));
    tool::run(&mut mke2fs, "format the data partition")
}

/// Growth is online and in one call (`EXT4_IOC_RESIZE_FS`): `resize_inode` reserves descriptor blocks for it. `uninit_bg`'s
/// successor `metadata_csum` lets new groups stay uninitialised until used, so growing to 64 GiB takes 0.8 s under TCG, to 2 TiB 25 s.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,\
                        sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// 2 TiB in 4 KiB blocks: all that an MBR partition table can give to the partition. Costs 1 MiB of descriptor blocks.
const GROWN_BLOCKS: u32 = 536_870_911;
