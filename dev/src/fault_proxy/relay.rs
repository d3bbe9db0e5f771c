//! Relaying one request: to the API server, to the fault that befalls it, and back.

use std::error::Error as StdError;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Incoming};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::events::OpenWatch;
use super::lists::Lists;
use super::record::Record;
use super::request::{Request, Verb};
use super::rules::{Action, Rules};

/// Why a connection is ended without a response.
pub(super) type Abort = Box<dyn StdError + Send + Sync>;
type Answer = UnsyncBoxBody<Bytes, Abort>;

/// Kills the operator and starts the next one.
pub(super) struct Supervisor {
    /// Returns when the operator is dead.
    pub kill: Box<dyn Fn() + Send + Sync>,
    /// Starts another one.
    pub start_again: Box<dyn Fn() + Send + Sync>,
}

/// What all connections of a proxy share.
#[derive(Clone)]
pub(super) struct Relay {
    /// A client without credentials of its own: those of the operator pass through.
    pub api_server: Client,
    pub rules: Rules,
    pub record: Record,
    pub lists: Lists,
    pub supervisor: Arc<Mutex<Option<Arc<Supervisor>>>>,
}

impl Relay {
    /// Answers one request. An error ends the connection without a response. `socket` is the connection's.
    pub async fn answer(self, request: http::Request<Incoming>, socket: Arc<OwnedFd>) -> Result<Response<Answer>, Abort> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let about = Request::of(&head.method, &head.uri, &head.headers, &body);
        let arrival = self.record.arrived(&about, &body);
        let fault = self.rules.action(&about);
        let mut path = head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
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
            Some((_, Action::Stale { before })) if about.verb == Verb::List => return stale(self.lists.before(&path, *before)),
            Some((_, Action::ShortPages(size))) => path = with_limit(&path, *size),
            Some((_, Action::Delay(time))) => tokio::time::sleep(*time).await,
            Some((id, Action::Hang)) => self.rules.removed(*id).await,
            _ => {}
        }
        let mut forwarded = http::Request::builder().method(head.method).uri(&path).body(Body::from(body.to_vec()))?;
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
        if about.verb == Verb::Watch && matches!(fault, None | Some((_, Action::Stale { .. }))) {
            let open = OpenWatch::new(body, self.rules, about, arrival);
            return Ok(Response::from_parts(head, StreamBody::new(stream::unfold(open, OpenWatch::next)).boxed_unsync()));
        }
        if about.verb == Verb::List && fault.is_none() && head.status.is_success() {
            let body = body.collect().await.map_err(Abort::from)?.to_bytes();
            self.lists.keep(&path, body.clone());
            return Ok(Response::from_parts(head, whole(body)));
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
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let rules = self.rules.clone();
        if let Some(supervisor) = supervisor {
            // Killing and waiting for the end blocks. It is done when the connection of the killed one breaks, too.
            let killed = tokio::task::spawn_blocking(move || {
                (supervisor.kill)();
                // Nothing of the next one arrives before.
                rules.killed();
                (supervisor.start_again)();
            });
            let _ = killed.await;
        }
    }
}

/// A body that is known as a whole.
fn whole(body: Bytes) -> Answer {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// A list from the past. A test that asks for one that was never made is wrong, and should see so.
fn stale(body: Option<Bytes>) -> Result<Response<Answer>, Abort> {
    let Some(body) = body else { return status(500, None) };
    let mut response = Response::new(whole(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The path and query of a list, in pages of this size.
fn with_limit(path: &str, size: u32) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut parameters = form_urlencoded::Serializer::new(String::new());
    parameters.extend_pairs(form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "limit"));
    format!("{path}?{}", parameters.append_pair("limit", &size.to_string()).finish())
}

/// A refusal as the API server writes it.
pub(super) fn refusal(code: u16) -> Value {
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
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("a fault was injected: {reason}"), "reason": reason, "code": code,
    })
}

fn status(code: u16, retry_after: Option<u32>) -> Result<Response<Answer>, Abort> {
    let mut response = Response::new(whole(refusal(code).to_string().into()));
    *response.status_mut() = StatusCode::from_u16(code)?;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    Ok(response)
}
