//! Takes a table to the kernel through a netlink socket and waits for its word.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Table;
use super::encode::{self, Batch, NLMSGHDR_BYTES};

/// Why a table is not in force. The one before it then still is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("the kernel has no nftables socket")]
    Open(#[source] Errno),
    #[error("the kernel does not take the rules")]
    Send(#[source] Errno),
    #[error("the kernel does not say whether it took the rules")]
    Receive(#[source] Errno),
    #[error("the kernel refuses {subject}")]
    Refused {
        subject: String,
        #[source]
        reason: Errno,
    },
}

/// Puts `table` in the place of the one of the same name, all or nothing. Blocks for the few milliseconds it takes, and
/// for as long as the kernel needs to load its modules the first time.
///
/// # Errors
/// See [`ApplyError`].
pub(crate) fn apply(table: &Table) -> Result<(), ApplyError> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let netfilter = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, netfilter).map_err(ApplyError::Open)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_S)).map_err(ApplyError::Open)?;
    // Connected to the kernel, the socket takes nothing from other processes.
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(ApplyError::Open)?;
    let batch = encode::replacement(table);
    send(socket.as_raw_fd(), &batch.bytes, MsgFlags::empty()).map_err(ApplyError::Send)?;
    // Every message but the two ends of the batch is answered, after the commit or the first failure.
    let mut awaited = batch.subjects.len() - 2;
    let mut buffer = vec![0; 32 * 1024];
    while awaited > 0 {
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            received => received.map_err(ApplyError::Receive)?,
        };
        let answers = buffer.get(..length).unwrap_or_default();
        let count = read_answers(answers, &batch)?;
        awaited = awaited.saturating_sub(count);
    }
    Ok(())
}

/// Counts the consents in a datagram of answers.
fn read_answers(mut bytes: &[u8], batch: &Batch) -> Result<usize, ApplyError> {
    let mut count = 0;
    while let Some(header) = bytes.get(..NLMSGHDR_BYTES) {
        let word =
            |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
        let (Some(length), Some(sequence)) = (word(0), word(8)) else { break };
        let length = length as usize;
        if length < NLMSGHDR_BYTES || length > bytes.len() {
            break;
        }
        let kind = header.get(4..6).and_then(|kind| Some(u16::from_ne_bytes(kind.try_into().ok()?)));
        // struct nlmsgerr: a negative errno or 0, then the header of the message it is about.
        if kind == Some(NLMSG_ERROR)
            && let Some(code) = word(NLMSGHDR_BYTES)
        {
            let reason = (code as i32).wrapping_neg();
            if reason != 0 {
                let subject = batch.subjects.get(sequence as usize).cloned();
                let subject = subject.unwrap_or_else(|| "the rules".to_owned());
                return Err(ApplyError::Refused { subject, reason: Errno::from_raw(reason) });
            }
            count += 1;
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(count)
}

const NLMSG_ERROR: u16 = 2;
/// Loading nf_tables and its helpers from a card takes a second or two.
const ANSWER_S: i64 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sequence: u32, code: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(36u32.to_ne_bytes());
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend(0u16.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend([0; 16]);
        bytes
    }

    fn batch() -> Batch {
        Batch { bytes: Vec::new(), subjects: vec!["begin".into(), "table t".into(), "end".into()] }
    }

    #[test]
    fn consents_are_counted_and_a_refusal_names_its_subject() {
        let two = [answer(1, 0), answer(1, 0)].concat();
        assert_eq!(read_answers(&two, &batch()).expect("no refusal"), 2);
        let refused = read_answers(&[answer(1, 0), answer(1, -1)].concat(), &batch()).expect_err("a refusal");
        assert_eq!(refused.to_string(), "the kernel refuses table t");
        assert!(matches!(refused, ApplyError::Refused { reason: Errno::EPERM, .. }));
    }

    #[test]
    fn answers_cut_short_are_not_read_beyond_their_end() {
        let whole = answer(7, -22);
        for length in 0..20 {
            assert_eq!(read_answers(&whole[..length], &batch()).expect("nothing whole"), 0);
        }
        let refused = read_answers(&whole, &batch()).expect_err("a refusal");
        assert_eq!(refused.to_string(), "the kernel refuses the rules");
    }
}
