//! Questions and orders to this machine's init, at `/run/init.sock`: a line there, an answer back.

use std::time::Duration;

use api::Service;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Where init listens.
const SOCKET: &str = "/run/init.sock";

/// A row's kept output is some ten KiB.
const ANSWER_MAX_BYTES: u64 = 256 * 1024;

/// init answers at once or not at all.
const TIME_OUT: Duration = Duration::from_secs(3);

/// Asks init. `Err` holds a reason for people.
pub async fn ask(request: &str) -> Result<String, String> {
    let exchange = async {
        let mut stream = UnixStream::connect(SOCKET).await?;
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = tokio::time::timeout(TIME_OUT, exchange)
        .await
        .map_err(|_| "init does not answer".to_owned())?
        .map_err(|error| format!("{SOCKET}: {error}"))?;
    match answer.strip_prefix("error: ") {
        Some(reason) => Err(reason.trim_end().to_owned()),
        None => Ok(answer),
    }
}

/// The rows of the service table; empty on a host without our init.
pub async fn services() -> Vec<Service> {
    ask("services").await.map(|answer| answer.lines().map(row).collect()).unwrap_or_default()
}

/// One row: `key=value` fields with tabs between.
fn row(line: &str) -> Service {
    let mut service = Service::default();
    for (key, value) in line.split('\t').filter_map(|field| field.split_once('=')) {
        match key {
            "name" => value.clone_into(&mut service.name),
            "state" => value.clone_into(&mut service.state),
            "status" => value.clone_into(&mut service.status),
            "pid" => service.pid = value.parse().unwrap_or(0),
            "restarts" => service.restarts = value.parse().unwrap_or(0),
            "since_us" => service.since_us = value.parse().unwrap_or(0),
            "memory_bytes" => service.memory_bytes = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    service
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_whatever_the_order_of_its_fields_and_new_fields_are_left_alone() {
        let line =
            "state=ready\tname=web\tpid=41\tnew=1\trestarts=2\tsince_us=900\tmemory_bytes=4096\tstatus=a = b";
        let expected = Service {
            name: "web".into(),
            state: "ready".into(),
            pid: 41,
            restarts: 2,
            since_us: 900,
            memory_bytes: 4096,
            status: "a = b".into(),
        };
        assert_eq!(row(line), expected);
    }
}
