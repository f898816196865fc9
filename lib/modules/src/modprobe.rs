//! What the kernel runs when it wants a module: `/sbin/modprobe -q -- NAME` (kernel/module/kmod.c).
//!
//! The helper has the root folder of PID 1, whatever that is at the moment: the initramfs at first, the root later.
//! So the name must lead to a binary of ours in both.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::load::Modules;

/// Loads every NAME among the arguments (options are ignored, the program's own name is not expected) and
/// returns the exit status: 0, or 1 when one could not be loaded. Says why unless `-q` is given.
pub fn modprobe(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.into_iter().filter_map(|arg| arg.into_string().ok()).collect();
    let quiet = args.iter().any(|arg| arg == "-q" || arg == "--quiet");
    let mut names = args.iter().filter(|arg| !arg.starts_with('-'));
    let outcome = Modules::load_from(Path::new("/"))
        .and_then(|mut modules| names.try_for_each(|name| modules.load_request(name)));
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
