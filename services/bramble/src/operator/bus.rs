//! The bus of a machine at a local socket: every connection becomes a tunnel through the head.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};

use super::client::{Client, reason};

/// Serves until interrupted.
pub async fn serve(client: Client, node: &str, listen: &Path) -> anyhow::Result<()> {
    let listener =
        UnixListener::bind(listen).with_context(|| format!("cannot listen at {}", listen.display()))?;
    println!("the bus of {node} is at unix:path={}; Ctrl-C ends", listen.display());
    let outcome = accept(&client, node, &listener).await;
    let _ = std::fs::remove_file(listen);
    outcome
}

async fn accept(client: &Client, node: &str, listener: &UnixListener) -> anyhow::Result<()> {
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            // A connection not accepted yet is refused by the end of the socket.
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let joined = open(client, node).await;
        match joined {
            Ok(tunnel) => {
                tokio::spawn(join(tunnel, stream));
            }
            Err(error) => eprintln!("bramble: {error:#}"),
        }
    }
}

async fn open(client: &Client, node: &str) -> anyhow::Result<hyper::upgrade::Upgraded> {
    let request = client
        .request(Method::GET, &format!("/api/v1/nodes/{node}/bus"))
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "bramble-bus")
        .body(Full::new(Bytes::new()))?;
    let response = client.exchange(request).await?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let body = response.into_body().collect().await?.to_bytes();
        bail!("{}", reason(status, &String::from_utf8_lossy(&body)));
    }
    hyper::upgrade::on(response).await.context("the tunnel broke")
}

async fn join(tunnel: hyper::upgrade::Upgraded, mut stream: UnixStream) {
    // Whichever side ends it, the client sees its connection end.
    let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(tunnel), &mut stream).await;
}
