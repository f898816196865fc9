//! What the head says about the cluster: `GET /api/v1/nodes` of its dashboard port.
//!
//! HTTP/1.0, so that an answer ends with the connection and needs no chunk decoding. Everything is bounded: the guest
//! is not trusted to be well. Fields that are missing or new do not matter.

use std::io;
use std::net::Ipv4Addr;

use api::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Ten thousand nodes are about this much JSON.
const ANSWER_LIMIT_BYTES: u64 = 16 << 20;

/// Why the head's word could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// No connection, or it broke.
    #[error("the head's API: {0}")]
    Connection(#[from] io::Error),
    /// Not 200.
    #[error("the head's API answers {0:?}")]
    Status(String),
    /// Not a list of nodes.
    #[error("the head's API: {0}")]
    Content(#[from] serde_json::Error),
}

/// Asks the head for all machines it knows. Takes as long as the head does: callers limit the time.
///
/// # Errors
/// When there is no answer, or not the one expected.
pub async fn nodes(port: u16) -> Result<Vec<Node>, HeadError> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let request = "GET /api/v1/nodes HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT_BYTES).read_to_end(&mut answer).await?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Vec<Node>, HeadError> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let (head, body) = answer.split_at_checked(end.map_or(answer.len(), |end| end + 4)).unwrap_or_default();
    let head = String::from_utf8_lossy(head);
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(HeadError::Status(status.to_owned()));
    }
    Ok(serde_json::from_slice(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_missing_fields_do_not_matter() {
        let answer = b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n\
            [{\"name\":\"node-1\",\"state\":\"ready\",\"colour\":\"red\"},{}]";
        let nodes = parse(answer).unwrap();
        assert_eq!(nodes.len(), 2);
        assert_eq!((nodes[0].name.as_str(), nodes[0].state.as_str()), ("node-1", "ready"));
        assert_eq!(nodes[1], Node::default());
    }

    #[test]
    fn anything_but_a_200_with_a_list_is_an_error() {
        assert!(matches!(parse(b""), Err(HeadError::Status(_))));
        assert!(matches!(parse(b"HTTP/1.1 503 Busy\r\n\r\n[]"), Err(HeadError::Status(_))));
        assert!(matches!(parse(b"HTTP/1.1 200 OK\r\n\r\n{"), Err(HeadError::Content(_))));
        assert!(matches!(parse(b"HTTP/1.1 200 OK\r\n"), Err(HeadError::Content(_))));
    }
}
