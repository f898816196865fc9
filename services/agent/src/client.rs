//! One kept connection to the head's API.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The head is on the same switch; a connection that takes longer will not come.
const CONNECT_TIME_OUT: Duration = Duration::from_secs(2);

/// The head's answers are short.
const ANSWER_MAX_BYTES: usize = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The head cannot be reached.
    #[error("cannot connect to the head at {head}")]
    Connect {
        /// Its address.
        head: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The head took too long.
    #[error("the head did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The connection broke.
    #[error("the connection to the head broke")]
    Broken(#[source] hyper::Error),
    /// The request could not be made.
    #[error("the request cannot be made")]
    Request(#[source] http::Error),
    /// The answer is too large or broke off.
    #[error("the head's answer cannot be read")]
    Answer,
    /// The head refused.
    #[error("the head answered {status}: {reason}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// Its reason.
        reason: String,
    },
}

/// A connection that is made when it is needed and kept while it works.
pub struct Client {
    head: SocketAddr,
    connection: Option<http1::SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of the head at this address; connects at the first request.
    pub fn new(head: SocketAddr) -> Self {
        Self { head, connection: None }
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// When there is no answer within `limit`, or it is not a success. The next request begins with a new connection if
    /// this one's is no longer good.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let outcome = tokio::time::timeout(limit, self.exchange(method, path, body)).await;
        let outcome = outcome.unwrap_or(Err(ClientError::TimedOut(limit)));
        if !matches!(outcome, Ok(_) | Err(ClientError::Refused { .. })) {
            self.connection = None;
        }
        outcome
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        connection.ready().await.map_err(ClientError::Broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.head.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(ClientError::Request)?;
        let response = connection.send_request(request).await.map_err(ClientError::Broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
        let body = body.map_err(|_| ClientError::Answer)?.to_bytes();
        self.connection = Some(connection);
        if status.is_success() {
            return Ok((status, body));
        }
        let reason = String::from_utf8_lossy(&body).chars().take(200).collect();
        Err(ClientError::Refused { status, reason })
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, ClientError> {
        let stream = connect(self.head).await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Broken)?;
        tokio::spawn(async move {
            // Its end shows at the next request.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// A TCP connection to the head.
///
/// # Errors
/// When there is none within two seconds.
pub async fn connect(head: SocketAddr) -> Result<TcpStream, ClientError> {
    let failed = |source| ClientError::Connect { head, source };
    let connecting = tokio::time::timeout(CONNECT_TIME_OUT, TcpStream::connect(head));
    let stream =
        connecting.await.map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}
