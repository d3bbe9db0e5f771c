//! A call of a model, as a task asks for it: by the two variables that a pool with `modelRoutes` gives its agents, as a stream that
//! is read to its end, and once: a repeated call would hide one that failed.

use std::error::Error as StdError;
use std::time::Duration;

use clap::Args;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::task::Call;

/// Longest time for a whole answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// What the record says of a call that was answered to its end.
const ANSWERED: &str = "answered";

type Failure = Box<dyn StdError + Send + Sync>;

/// How an agent calls models.
#[derive(Debug, Clone, Args)]
pub(super) struct Models {
    /// Where models are called, such as http://quartermaster-gateway.demo.svc:4000/v1.
    #[arg(long, env = "OPENAI_BASE_URL", value_name = "URL")]
    openai_base_url: Option<String>,
    /// The key for that.
    #[arg(long, env = "OPENAI_API_KEY", value_name = "KEY", hide_env_values = true)]
    openai_api_key: Option<String>,
    /// A proxy on the way, which knows the names of Services.
    #[arg(long, env = "HTTP_PROXY", value_name = "URL")]
    http_proxy: Option<String>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// `answered`; else the status, `cut` for a stream that broke off, or why there was no answer.
    pub outcome: String,
    /// The backend that answered, as the gateway says.
    pub backend: Option<String>,
}

impl Models {
    /// Calls a model.
    pub(super) async fn ask(&self, call: &Call) -> Answer {
        let failed = |outcome: String| Answer { outcome, backend: None };
        match timeout(ANSWER_WITHIN, self.stream(call)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => failed(error.to_string()),
            Err(_) => failed("no answer in time".to_owned()),
        }
    }

    async fn stream(&self, call: &Call) -> Result<Answer, Failure> {
        let base = self.openai_base_url.as_deref().ok_or("OPENAI_BASE_URL is not set")?;
        let url = Url::parse(&format!("{}/chat/completions", base.trim_end_matches('/')))?;
        let proxy = self.http_proxy.as_deref().filter(|proxy| !proxy.is_empty()).map(Url::parse).transpose()?;
        let first = proxy.as_ref().unwrap_or(&url);
        let host = first.host_str().ok_or("the URL has no host")?;
        let stream = TcpStream::connect((host, first.port_or_known_default().unwrap_or(80))).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer.
        tokio::spawn(connection);
        let body = json!({ "model": call.model, "stream": true, "messages": [{ "role": "user", "content": call.prompt }] });
        let request = Request::post(if proxy.is_some() { url.as_str() } else { url.path() })
            .header(header::HOST, url.authority())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.openai_api_key.as_deref().unwrap_or_default()))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let backend = response.headers().get("x-quartermaster-backend").and_then(|name| name.to_str().ok()).map(str::to_owned);
        let body = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        let outcome = match status.is_success() {
            false => status.as_u16().to_string(),
            true if text.contains("data: [DONE]") && !text.contains("\"error\":") => ANSWERED.to_owned(),
            true => "cut".to_owned(),
        };
        Ok(Answer { outcome, backend })
    }
}
