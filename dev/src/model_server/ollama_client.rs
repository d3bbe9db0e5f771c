//! Ollama's client, as far as a pod uses it: it asks the server that OLLAMA_HOST names, and prints as the real one does.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// What the client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Prints the models that the server has.
    List,
    /// Pulls a model.
    Pull,
    /// Fails unless the server has a model.
    Show,
}

/// Does it for a model.
///
/// # Errors
///
/// What the real client would print after `Error:`.
pub(super) async fn run(action: Action, server: SocketAddr, model: &str) -> Result<(), String> {
    let (method, path, body) = match action {
        Action::List => ("GET", "/api/tags", Value::Null),
        Action::Pull => ("POST", "/api/pull", json!({ "model": model })),
        Action::Show => ("POST", "/api/show", json!({ "model": model })),
    };
    let text = ask(server, method, path, &body).await.map_err(|error| format!("could not connect to a running Ollama: {error}"))?;
    // A pull answers with a line for each step, everything else with one.
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if let Some(error) = value.get("error").and_then(Value::as_str) {
            return Err(error.to_owned());
        }
        let told: Vec<&str> = match action {
            Action::List => {
                let models = value.get("models").and_then(Value::as_array).into_iter().flatten();
                models.filter_map(|model| model.get("name")?.as_str()).collect()
            }
            Action::Pull => value.get("status").and_then(Value::as_str).into_iter().collect(),
            Action::Show => vec![model],
        };
        for line in told {
            // Nobody reads it where a shell has closed it.
            let _ = writeln!(io::stdout(), "{line}");
        }
    }
    Ok(())
}

/// The body of an answer, whatever its status: errors are told in it.
async fn ask(
    server: SocketAddr,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(server).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let content = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", server.to_string())
        .header("Content-Type", "application/json")
        .body(Full::new(content))?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>(body)
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    let body = tokio::select! {
        body = &mut exchange => body?,
        ended = &mut connection => {
            ended?;
            exchange.as_mut().await?
        }
    };
    Ok(String::from_utf8_lossy(&body).into_owned())
}
