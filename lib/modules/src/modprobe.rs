//! What the kernel runs when it wants a module: `/sbin/modprobe -q -- NAME` (kernel/module/kmod.c).

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::load::{Error, Modules};

/// Where modules are looked for: the root once there is one (it ships more of them), else the initramfs.
const ROOTS: [&str; 2] = ["/sysroot", "/"];

/// Loads every NAME among the arguments (options are ignored, the program's own name is not expected) and
/// returns the exit status: 0, or 1 when one could not be loaded. Says why unless `-q` is given.
pub fn modprobe(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.into_iter().filter_map(|arg| arg.into_string().ok()).collect();
    let quiet = args.iter().any(|arg| arg == "-q" || arg == "--quiet");
    let mut names = args.iter().filter(|arg| !arg.starts_with('-'));
    let outcome = open().and_then(|mut modules| names.try_for_each(|name| modules.load_request(name)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !quiet {
                eprintln!("modprobe: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn open() -> Result<Modules, Error> {
    let found = ROOTS.into_iter().find(|root| Path::new(root).join("lib/modules").is_dir());
    Modules::load_from(Path::new(found.unwrap_or("/")))
}
