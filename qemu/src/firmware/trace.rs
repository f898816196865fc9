//! What was asked for during a boot, what came of it, and where the server broke a rule boards rely on.

use std::time::Duration;

/// One request for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEntry {
    /// As asked for, with every prefix.
    pub path: String,
    /// What came of it.
    pub outcome: Outcome,
    /// From the request to the last byte, or to the refusal.
    pub elapsed: Duration,
    /// Rules the server broke in this transfer; always empty for a card.
    pub violations: Vec<Violation>,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There is no such file, or as good as none.
    Missing,
    /// It was only asked whether the file exists, and it does.
    Exists,
    /// The whole file, this many bytes.
    Read(u64),
}

/// What a TFTP server must not do, though this board coped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A missing file was refused late: the boards wait for it again and again.
    #[error("a missing file was refused after {0:?} only")]
    LateRefusal(Duration),
    /// RFC 1350 §4 wants a fresh port per transfer; firmware mixes up transfers otherwise.
    #[error("the transfer came from port {0}, as the one before or the requests")]
    PortReused(u16),
    /// The OACK said another length than came.
    #[error("tsize said {announced} bytes, {sent} were sent")]
    WrongSize {
        /// `tsize`.
        announced: u64,
        /// What came.
        sent: u64,
    },
    /// `tsize` or `blksize` was asked for and not acknowledged.
    #[error("an option that every Pi asks for was not acknowledged")]
    OptionNotAcknowledged,
    /// No OACK at all: the firmware takes every file of such a server for missing.
    #[error("the server does not acknowledge options")]
    NoOptionAcknowledgement,
    /// The OFFER had the boot menu or option 66, the ACK has neither: the server looked for option 60 in the REQUEST.
    #[error("the ACK lacks what the OFFER said about booting")]
    AckForgetsBoot,
}

/// Later than this a refusal is a violation. The server only has to look up a name.
pub(super) const REFUSAL_LATE_AFTER: Duration = Duration::from_millis(50);
