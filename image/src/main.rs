//! `image build`: makes the image, see the crate's library.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use image::build::{self, Options};

/// Builds Bramble's SD card image and what nodes boot from.
#[derive(Debug, Parser)]
#[command(name = "image")]
enum Command {
    /// Build everything that is out of date, and list it.
    Build(BuildArgs),
}

#[derive(Debug, clap::Args)]
struct BuildArgs {
    /// Take the kernel from this folder (an unpacked package, or where modules_install and dtbs_install wrote to).
    #[arg(long, value_name = "DIR")]
    kernel: Option<PathBuf>,
    /// Debian suite of the kernel. 6.12 of trixie has no Ethernet on the Pi 5.
    #[arg(long, value_enum, default_value = "trixie-backports")]
    kernel_suite: Suite,
    /// How the image's programs are compiled.
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
    /// Folder for the results. Default: out/ in the checkout.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use only what was fetched before.
    #[arg(long)]
    offline: bool,
    /// Ask Debian for newer packages than those of the last build.
    #[arg(long, conflicts_with = "offline")]
    refresh: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Suite {
    TrixieBackports,
    Trixie,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Profile {
    Release,
    Quick,
}

fn main() -> ExitCode {
    let Command::Build(args) = Command::parse();
    match run(args) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut line = format!("image: {error:#}").replace('\n', " ");
            if line.contains("No space left on device") {
                line += "; free some space or choose another folder with --out";
            }
            eprintln!("{line}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: BuildArgs) -> Result<image::report::Report> {
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let repository = here
        .ancestors()
        .find(|folder| folder.join("image/modules.toml").exists())
        .map(Path::to_owned)
        .context("run this inside a checkout of Bramble")?;
    let mtime = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().context("SOURCE_DATE_EPOCH is not a number of seconds")?,
        Err(std::env::VarError::NotPresent) => 0,
        Err(error) => bail!("SOURCE_DATE_EPOCH: {error}"),
    };
    build::build(&Options {
        out: args.out.unwrap_or_else(|| repository.join("out")),
        repository,
        kernel: args.kernel,
        suite: match args.kernel_suite {
            Suite::TrixieBackports => "trixie-backports".to_owned(),
            Suite::Trixie => "trixie".to_owned(),
        },
        profile: match args.profile {
            Profile::Release => "release".to_owned(),
            Profile::Quick => "quick".to_owned(),
        },
        offline: args.offline,
        refresh: args.refresh,
        mtime,
    })
}
