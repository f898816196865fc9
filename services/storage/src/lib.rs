//! The head's card: boot partition at `/boot`, data partition grown and mounted at `/data`, configuration checked.
//!
//! A job with an end: it runs once at each start of the head, in this order, and every step has its answer to failure:
//!
//! | step | when it fails |
//! |---|---|
//! | mount partition 1 read-only at `/boot` | said; the last good configuration is used |
//! | grow partition 4 to the end of the card (first boot) | said; it keeps its size |
//! | mount partition 4 at `/data` | said; `/data` is in memory until the next boot, the machine keeps its network |
//! | grow the file system to the partition, online | said; it keeps its size |
//! | read `bramble.toml` | each mistake said with line and column; the last good one is used, or the defaults |
//!
//! Specifications: the MBR as the image builder writes it (ARCHITECTURE.md, "The SD card"), ext4's superblock
//! (Documentation/filesystems/ext4), `BLKPG_RESIZE_PARTITION`, `EXT4_IOC_RESIZE_FS`.
//! Not supported: GPT, checking or repairing a file system (the journal does what is done), other file systems.
//!
//! To watch it: `bramble logs storage`.

mod card;
mod ext4;
mod grow;
mod mounts;
mod settings;
mod table;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use card::Card;

/// Settings of `bramble storage`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take the disk from this machine's facts; the flags below have its defaults.
    #[arg(long, conflicts_with = "disk", required_unless_present = "disk")]
    machine: bool,
    /// Disk with the four partitions of a Bramble card.
    #[arg(long, value_name = "DEVICE")]
    disk: Option<PathBuf>,
    /// Where the boot partition is mounted.
    #[arg(long, value_name = "FOLDER", default_value = "/boot")]
    boot: PathBuf,
    /// Where the data partition is mounted.
    #[arg(long, value_name = "FOLDER", default_value = "/data")]
    data: PathBuf,
    /// Where the configuration in force is written.
    #[arg(long, value_name = "FILE", default_value = config::CONFIG_PATH)]
    config: PathBuf,
}

/// Does the job.
///
/// # Errors
/// When the card cannot be found at all, or the configuration in force cannot be written: nothing works then.
pub async fn run(args: Args, ctx: service::Context) -> anyhow::Result<()> {
    let reporter = ctx.clone();
    // Mounting may wait for a slow card; a request to stop must not.
    let work = tokio::task::spawn_blocking(move || work(&args, &reporter));
    tokio::select! {
        // Losing it means stopping: the mounts are init's to undo.
        () = ctx.shutdown() => Ok(()),
        outcome = work => outcome.context("the job broke off")?,
    }
}

fn work(args: &Args, ctx: &service::Context) -> anyhow::Result<()> {
    load_drivers();
    let card = match &args.disk {
        Some(disk) => Card::of_disk(disk)?,
        None => Card::of_partition(Path::new(&config::Machine::load()?.root_device))?,
    };
    let boot = mounts::boot(&card.partition(card::BOOT)?, &args.boot);
    if let Err(error) = &boot {
        tracing::error!("{error:#}");
    }
    let data = data(&card, &args.data);
    if let Err(error) = &data {
        tracing::error!("{error:#}; what is stored now is lost at the next start");
        mounts::memory(&args.data)?;
    }
    let source = settings::install(boot.is_ok().then_some(&args.boot), &args.data, &args.config)?;
    let place = if data.is_ok() { "on the card" } else { "IN MEMORY ONLY" };
    ctx.ready(format_args!("data {place}, settings: {source}"));
    Ok(())
}

/// Grows and mounts the data partition. Only a failure to mount is one; growing is reported.
fn data(card: &Card, target: &Path) -> anyhow::Result<()> {
    match grow::partition(card) {
        Ok(Some(bytes)) => tracing::info!(bytes, "data partition grown to the end of the card"),
        Ok(None) => {}
        Err(error) => tracing::error!("the data partition keeps its size: {error:#}"),
    }
    let device = card.partition(card::DATA)?;
    mounts::data(&device, target)?;
    match grow::file_system(&device, target) {
        Ok(Some(bytes)) => tracing::info!(bytes, "data file system grown"),
        Ok(None) => {}
        Err(error) => tracing::error!("the data file system keeps its size: {error:#}"),
    }
    Ok(())
}

/// The kernel would ask for them itself through modprobe; this saves it a process for each, and says why when one
/// is missing. On a machine with other means this fails and does not matter.
fn load_drivers() {
    let mut modules = match modules::Modules::load_from(Path::new("/")) {
        Ok(modules) => modules,
        Err(error) => return tracing::debug!("{error}"),
    };
    for name in ["vfat", "nls_cp437", "nls_ascii", "ext4"] {
        for error in modules.load(name, "").errors {
            tracing::warn!("{error}");
        }
    }
}
