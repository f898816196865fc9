//! Kernel modules: init_module(2).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_int;

/// `MODULE_INIT_COMPRESSED_FILE`: the kernel decompresses the file itself (`CONFIG_MODULE_DECOMPRESS`).
const COMPRESSED_FILE: c_int = 4;

/// What the file given to [`finit_module`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleFile {
    /// An ELF object (`.ko`).
    Plain,
    /// An ELF object compressed in the one format this kernel was built for (`.ko.xz` in Debian's).
    Compressed,
}

/// Loads a kernel module from an open file, with its parameters (`"debug=1"`, or empty).
///
/// # Errors
/// `EEXIST` when it is loaded already, `ENOENT` for a symbol nobody provides, `ENODEV` when the driver finds no
/// hardware, `EOPNOTSUPP` when the kernel cannot decompress, `EPERM` without `CAP_SYS_MODULE`.
pub fn finit_module(file: BorrowedFd<'_>, parameters: &CStr, kind: ModuleFile) -> nix::Result<()> {
    let flags = match kind {
        ModuleFile::Plain => 0,
        ModuleFile::Compressed => COMPRESSED_FILE,
    };
    // SAFETY: the kernel reads a NUL-terminated string that outlives the call; the rest are integers.
    let answer =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), flags) };
    nix::errno::Errno::result(answer).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_file_that_is_no_module_is_refused() {
        let file = std::fs::File::open("/dev/null").expect("every Linux has /dev/null");
        assert!(finit_module(file.as_fd(), c"", ModuleFile::Plain).is_err());
        assert!(finit_module(file.as_fd(), c"", ModuleFile::Compressed).is_err());
    }
}
