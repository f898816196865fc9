//! File descriptors that were open before this program began.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that the process inherited, by its number. `None` when that number is not open.
///
/// Call it once for each number, before anything that might open or adopt it.
pub fn adopt_descriptor(number: RawFd) -> Option<OwnedFd> {
    if number < 0 || std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err() {
        return None;
    }
    // SAFETY: from_raw_fd(2's contract): the number is open (checked above) and owned by nobody else, which the caller
    // promises by calling once for each inherited number, at the start.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::IntoRawFd;

    #[test]
    fn an_open_number_is_adopted_and_a_closed_one_is_not() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let adopted = adopt_descriptor(OwnedFd::from(writer).into_raw_fd()).expect("the number is open");
        std::fs::File::from(adopted).write_all(b"x").expect("the pipe takes a byte");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("the pipe ends");
        assert_eq!(text, "x");
        assert!(adopt_descriptor(-1).is_none());
        assert!(adopt_descriptor(1_000_000).is_none());
    }
}
