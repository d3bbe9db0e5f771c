//! Relaying one request: to the API server, to the fault that befalls it, and back.

use std::error::Error as StdError;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::sync::watch;

use super::record::Record;
use super::request::{Request, Verb};
use super::rules::{Action, Rules};

/// Why a connection is ended without a response.
pub(super) type Abort = Box<dyn StdError + Send + Sync>;
type Answer = UnsyncBoxBody<Bytes, Abort>;

/// Kills the operator, and returns when it is dead.
pub(super) type Kill = Arc<dyn Fn() + Send + Sync>;

/// What all connections of a proxy share.
#[derive(Clone)]
pub(super) struct Relay {
    /// A client without credentials of its own: those of the operator pass through.
    pub api_server: Client,
    pub rules: Rules,
    pub record: Record,
    pub kill: Arc<Mutex<Option<Kill>>>,
}

impl Relay {
    /// Answers one request. An error ends the connection without a response. `socket` is the connection's.
    pub async fn answer(self, request: http::Request<Incoming>, socket: Arc<OwnedFd>) -> Result<Response<Answer>, Abort> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let about = Request::of(&head.method, &head.uri, &head.headers);
        let (arrival, write) = self.record.arrived(&about, &body);
        let fault = self.rules.action(&about, write);
        if let Some((_, action)) = &fault {
            self.record.befell(arrival, action.clone());
        }
        match &fault {
            Some((_, Action::KillBefore)) => {
                self.kill().await;
                return Err("the operator was killed before its request".into());
            }
            Some((_, Action::Reset)) => {
                // With a linger time of zero, closing a socket resets the connection.
                rustix::net::sockopt::set_socket_linger(&*socket, Some(Duration::ZERO))?;
                return Err("the connection was reset".into());
            }
            Some((_, Action::Status { code, retry_after })) => return status(*code, *retry_after),
            Some((_, Action::Delay(time))) => tokio::time::sleep(*time).await,
            Some((id, Action::Hang)) => self.rules.removed(*id).await,
            _ => {}
        }
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut forwarded = http::Request::builder().method(head.method).uri(path).body(Body::from(body.to_vec()))?;
        for (name, value) in &head.headers {
            // A compressed body could not be told apart into events, and the other two are of this connection.
            if ![header::ACCEPT_ENCODING, header::HOST, header::CONNECTION].contains(name) {
                forwarded.headers_mut().append(name, value.clone());
            }
        }
        // In a task of its own: what was sent goes on when the operator that sent it dies.
        let response = tokio::spawn({
            let relay = self.clone();
            async move {
                let response = relay.api_server.send(forwarded).await?;
                relay.record.answered(arrival, response.status().as_u16());
                Ok::<_, Abort>(response)
            }
        })
        .await??;
        let (head, body) = response.into_parts();
        if about.verb == Verb::Watch && fault.is_none() {
            let open = OpenWatch { body, changes: self.rules.changes(), rules: self.rules, about, arrival };
            return Ok(Response::from_parts(head, StreamBody::new(stream::unfold(open, OpenWatch::next)).boxed_unsync()));
        }
        match fault {
            Some((_, Action::KillAfter)) => {
                self.kill().await;
                Err("the operator was killed after its request".into())
            }
            Some((_, Action::DropResponse)) => Err("the response was lost".into()),
            _ => Ok(Response::from_parts(head, body.map_err(Abort::from).boxed_unsync())),
        }
    }

    async fn kill(&self) {
        let kill = self.kill.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(kill) = kill {
            // Killing and waiting for the end blocks. It is done when the connection of the killed one breaks, too.
            let _ = tokio::task::spawn_blocking(move || kill()).await;
        }
    }
}

/// The response to a watch, relayed chunk by chunk.
struct OpenWatch {
    body: Body,
    changes: watch::Receiver<u64>,
    rules: Rules,
    about: Request,
    arrival: u64,
}

impl OpenWatch {
    async fn next(mut self) -> Option<(Result<Frame<Bytes>, Abort>, Self)> {
        loop {
            match self.rules.action_on_open_watch(&self.about, self.arrival) {
                Some(Action::EndWatches) => return None,
                Some(_) => {
                    // The rules live at least as long as self.
                    let _ = self.changes.changed().await;
                    continue;
                }
                None => {}
            }
            let frame = tokio::select! {
                _ = self.changes.changed() => continue,
                frame = self.body.frame() => frame?,
            };
            return Some((frame.map_err(Abort::from), self));
        }
    }
}

/// A refusal as the API server writes it.
fn status(code: u16, retry_after: Option<u32>) -> Result<Response<Answer>, Abort> {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let text = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("a fault was injected: {reason}"), "reason": reason, "code": code,
    })
    .to_string();
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code)?;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    Ok(response)
}
