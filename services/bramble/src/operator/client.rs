//! Requests to the head's API.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// A head, and the token that it wants for orders.
pub struct Client {
    base: String,
    token: Option<String>,
    client: HyperClient<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client of the head at this URL.
    pub fn new(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        let base = url.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().with_context(|| format!("{url} is no URL"))?;
        if uri.scheme_str() != Some("http") || uri.host().is_none() {
            bail!("{url} is not the URL of a head: write http://HOST[:PORT]");
        }
        Ok(Self { base, token, client: HyperClient::builder(TokioExecutor::new()).build_http() })
    }

    /// A request with the head's address and the token filled in.
    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request
    }

    /// Sends a request as it is.
    pub async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<http::Response<hyper::body::Incoming>> {
        self.client.request(request).await.with_context(|| format!("no head answers at {}", self.base))
    }

    /// Sends a request and gives the answer's text.
    pub async fn send(&self, method: Method, path: &str, body: String) -> anyhow::Result<String> {
        let request = self
            .request(method, path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = self.exchange(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() {
            return Ok(text);
        }
        bail!("{}", reason(status, &text));
    }
}

/// The reason in a refusal's JSON, or all there is.
pub fn reason(status: StatusCode, text: &str) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let reason = json.as_ref().and_then(|json| json.get("error")?.as_str());
    format!("{} ({status})", reason.unwrap_or(text.trim_end()))
}
