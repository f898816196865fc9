//! Readiness and status, told to init through the inherited pipe.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

/// A status is one line of at most this many bytes; init keeps it in memory for every row.
const STATUS_MAX_BYTES: usize = 160;

#[derive(Clone, Debug)]
pub(crate) struct Notify {
    pipe: Option<Arc<File>>,
}

impl Notify {
    /// Takes the pipe that init left open, if init started us.
    pub(crate) fn from_environment() -> Self {
        let descriptor = std::env::var("BRAMBLE_NOTIFY_FD").ok().and_then(|text| text.parse::<i32>().ok());
        let pipe = descriptor.filter(|&number| number > 2).and_then(sys::adopt_descriptor).map(|pipe| {
            // Children of the service must not be able to speak for it.
            let _ = nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC));
            Arc::new(File::from(pipe))
        });
        Self { pipe }
    }

    pub(crate) fn standalone() -> Self {
        Self { pipe: None }
    }

    pub(crate) fn is_supervised(&self) -> bool {
        self.pipe.is_some()
    }

    pub(crate) fn ready(&self, name: &str, status: &str) {
        match &self.pipe {
            Some(_) => self.send(&format!("STATUS {}\nREADY\n", one_line(status))),
            None => eprintln!("{name}: ready: {status}"),
        }
    }

    pub(crate) fn status(&self, status: &str) {
        match &self.pipe {
            Some(_) => self.send(&format!("STATUS {}\n", one_line(status))),
            None => tracing::info!("{status}"),
        }
    }

    fn send(&self, lines: &str) {
        if let Some(pipe) = &self.pipe {
            // A full or closed pipe means init does not listen; the service goes on with its work.
            let _ = pipe.as_ref().write_all(lines.as_bytes());
        }
    }
}

/// Control characters would end the line early or reach a terminal; both are replaced.
fn one_line(status: &str) -> String {
    let mut line = String::new();
    for character in status.chars() {
        if line.len() + character.len_utf8() > STATUS_MAX_BYTES {
            break;
        }
        line.push(if character.is_control() { ' ' } else { character });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_never_holds_a_line_end_and_never_exceeds_its_limit() {
        let line = one_line(&"a\nbé\t".repeat(100));
        assert!(!line.contains(['\n', '\t']));
        assert!(line.len() <= STATUS_MAX_BYTES);
        assert!(line.starts_with("a bé "));
    }

    #[test]
    fn ready_and_status_reach_the_pipe_as_lines() {
        use std::io::Read;
        let (reader, writer) = nix::unistd::pipe().expect("a pipe can be made");
        let notify = Notify { pipe: Some(Arc::new(File::from(writer))) };
        notify.ready("x", "serving\n3 files");
        notify.status("idle");
        drop(notify);
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).expect("the pipe can be read");
        assert_eq!(text, "STATUS serving 3 files\nREADY\nSTATUS idle\n");
    }
}
