//! One attempt at a backend: good at the first content of a stream or at the end of a plain answer, bad with a kind of failure
//! before.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::{HeaderMap, StatusCode, header};
use quartermaster_core::decide::gateway::plan::Server;
use quartermaster_core::decide::request::classify::{classify, classify_event, for_client};
use quartermaster_core::decide::request::failure::{Failure, FailureKind};
use quartermaster_core::decide::request::meter::{Asked, Close, Meter};
use quartermaster_core::decide::request::plain_answer::{self, PlainAnswer};
use quartermaster_core::decide::request::remaining_limits;
use quartermaster_core::decide::request::usage::{Metered, Usage};
use tokio::time::{Instant, timeout_at};

use super::forward::{self, SendError, Sending};
use super::request_body::{Part, Room};
use crate::sources::connect::{CallError, Connector};
use crate::sources::direct::{Upstream, chunk};

/// Bytes of the body of an error that are read, to class it and to pass it on.
const LARGEST_ERROR: usize = 64 << 10;
/// Time for the body of an error: its status is known already.
const ERROR_BODY: Duration = Duration::from_secs(5);
/// Bytes of a plain answer. Embeddings of 2,048 texts, the most that OpenAI takes, have 75 MB as decimal numbers.
const LARGEST_ANSWER: usize = 128 << 20;

/// Of a stream that ended before anything came.
const WITHOUT_CONTENT: &str = "the stream ended without content";
/// Of an answer that cannot be read.
const UNREADABLE_ENCODING: &str = "the answer has an encoding that nobody asked for";

/// An attempt that is good.
pub enum Good {
    /// A stream whose first content has come.
    Stream {
        /// The backend's answer, of which the rest is still to be read.
        upstream: Upstream,
        /// What looks on.
        meter: Box<Meter>,
        /// What goes on to the client first.
        ready: Vec<Bytes>,
    },
    /// A plain answer.
    Plain {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: HeaderMap,
        /// Its body.
        body: Bytes,
        /// The room that the body takes.
        part: Part,
        /// What it used.
        metered: Metered,
    },
}

/// An attempt that failed.
pub struct Bad {
    /// How.
    pub failure: Failure,
    /// The answer that said so, where it is to be passed on as it is if the failure is the caller's own.
    pub answer: Option<(StatusCode, HeaderMap, Bytes)>,
    /// What it cost all the same.
    pub metered: Metered,
    /// What happened, where no status says it. It holds no secret and nothing of a call.
    pub error: Option<String>,
}

/// Boxed: a failure is rare, and larger than what is good.
type Attempted = Result<Good, Box<Bad>>;

impl Bad {
    /// A failure that no answer told of.
    pub fn of(kind: FailureKind, error: &str, metered: Metered) -> Box<Self> {
        let failure = Failure { kind, retry_after: None };
        Box::new(Self { failure, answer: None, metered, error: Some(error.to_owned()) })
    }

    /// A failure that an answer told of.
    fn told(failure: Failure, answer: Option<(StatusCode, HeaderMap, Bytes)>, metered: Metered) -> Box<Self> {
        Box::new(Self { failure, answer, metered, error: None })
    }
}

/// What an attempt costs of which nothing was sent, or which was refused.
pub const NOTHING: Metered = Metered::Exact(Usage { input: 0, cached_input: 0, cache_write: 0, output: 0 });

/// Makes an attempt. `heard` is told the backend's status, and for how long nothing is left of the key's limits, where a good answer
/// says that: what an error says of it is in its failure.
pub async fn make(
    connector: &Connector,
    sending: Sending<'_>,
    asked: Asked,
    room: &Room,
    deadline: Instant,
    heard: impl FnOnce(StatusCode, Option<Duration>),
) -> Attempted {
    let sent = timeout_at(deadline, forward::send(connector, sending)).await;
    let response = match sent.map_err(|_| Bad::of(FailureKind::Timeout, "no answer in time", Metered::Unknown))? {
        Ok(response) => response,
        Err(error) => {
            let bad = match error {
                SendError::NoSecret => Bad::of(FailureKind::KeyRejected, &error.to_string(), NOTHING),
                SendError::NoAddress => Bad::of(FailureKind::Unavailable, &error.to_string(), NOTHING),
                // The call may have been sent, and worked on.
                SendError::Call(CallError::Reach(_) | CallError::WaitForAnswer(_)) => {
                    Bad::of(FailureKind::Unavailable, &error.to_string(), Metered::Unknown)
                }
                SendError::Call(_) => Bad::of(FailureKind::Unavailable, &error.to_string(), NOTHING),
            };
            return Err(bad);
        }
    };
    let limited = remaining_limits::wait(response.headers(), jiff::Timestamp::now()).filter(|_| response.status().is_success());
    heard(response.status(), limited);
    if !response.status().is_success() {
        return Err(refused(response, asked.server, deadline).await);
    }
    if !is_plain_text(response.headers()) {
        return Err(Bad::of(FailureKind::Unavailable, UNREADABLE_ENCODING, Metered::Unknown));
    }
    if is_stream(response.headers()) {
        stream(response, asked, deadline).await
    } else {
        plain(response, asked, room, deadline).await
    }
}

fn is_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Whether nothing is left of an encoding. None was asked for; the common one was undone all the same.
fn is_plain_text(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// An answer with an error's status. Of a body that cannot be read nobody knows that it is the caller's fault.
async fn refused(mut response: Upstream, server: Server, deadline: Instant) -> Box<Bad> {
    let mut body = Vec::new();
    let until = deadline.min(Instant::now() + ERROR_BODY);
    let readable = is_plain_text(response.headers());
    while readable
        && body.len() < LARGEST_ERROR
        && let Ok(Ok(Some(data))) = timeout_at(until, chunk(&mut response)).await
    {
        body.extend_from_slice(data.get(..LARGEST_ERROR.saturating_sub(body.len())).unwrap_or(&data));
    }
    let failure = classify(server, response.status().as_u16(), response.headers(), &body, jiff::Timestamp::now());
    if failure.kind == FailureKind::CallerFault && !readable {
        return Bad::of(FailureKind::Unavailable, UNREADABLE_ENCODING, NOTHING);
    }
    let body = (failure.kind == FailureKind::CallerFault).then(|| for_client(body.into())).flatten();
    let answer = body.map(|body| (response.status(), std::mem::take(response.headers_mut()), body));
    Bad::told(failure, answer, NOTHING)
}

/// Waits for the first content of a stream.
async fn stream(mut upstream: Upstream, asked: Asked, deadline: Instant) -> Attempted {
    let mut meter = Box::new(Meter::new(asked));
    let mut ready = Vec::new();
    loop {
        let bad = match timeout_at(deadline, chunk(&mut upstream)).await {
            Ok(Ok(Some(data))) => {
                meter.push(&data, &mut ready);
                None
            }
            Ok(Ok(None)) => {
                let rest = meter.end(Close::Clean);
                ready.extend((!rest.is_empty()).then_some(rest));
                Some((FailureKind::Unavailable, WITHOUT_CONTENT))
            }
            Ok(Err(_)) => {
                let rest = meter.end(Close::Broken);
                ready.extend((!rest.is_empty()).then_some(rest));
                Some((FailureKind::Unavailable, "the stream broke before its first content"))
            }
            Err(_) => Some((FailureKind::Timeout, "no content in time")),
        };
        if meter.has_content() {
            return Ok(Good::Stream { upstream, meter, ready });
        }
        if let Some((failure, error)) = meter.failure(jiff::Timestamp::now()).zip(meter.error()) {
            let answer = as_status(&failure, error);
            return Err(Bad::told(failure, answer, meter.usage()));
        }
        // An end that says nothing is no answer, whatever the connection does then.
        let bad = bad.or_else(|| meter.is_terminated().then_some((FailureKind::Unavailable, WITHOUT_CONTENT)));
        if let Some((kind, error)) = bad {
            return Err(Bad::of(kind, error, meter.usage()));
        }
    }
}

/// Reads a plain answer to its end: it is good or bad as a whole.
async fn plain(mut response: Upstream, asked: Asked, room: &Room, deadline: Instant) -> Attempted {
    let mut part = room.part();
    let mut first = Bytes::new();
    let mut whole: Vec<u8> = Vec::new();
    let mut length = 0;
    loop {
        let data = match timeout_at(deadline, chunk(&mut response)).await {
            Ok(Ok(Some(data))) => data,
            Ok(Ok(None)) => break,
            Ok(Err(_)) => return Err(Bad::of(FailureKind::Unavailable, "the answer broke off", Metered::Unknown)),
            Err(_) => return Err(Bad::of(FailureKind::Timeout, "no whole answer in time", Metered::Unknown)),
        };
        length += data.len();
        if length > LARGEST_ANSWER || !part.grow_to(length) {
            return Err(Bad::of(FailureKind::Unavailable, "the answer is larger than what can be held", Metered::Unknown));
        }
        if length == data.len() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&data);
    }
    let body = if whole.is_empty() { first } else { Bytes::from(whole) };
    match plain_answer::read(asked.operation, &body) {
        PlainAnswer::Good(metered) => {
            let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
            Ok(Good::Plain { status, headers, body, part, metered })
        }
        PlainAnswer::Error(error) => {
            let failure = classify_event(asked.server, &error, jiff::Timestamp::now());
            let answer = as_status(&failure, &error);
            Err(Bad::told(failure, answer, NOTHING))
        }
        PlainAnswer::Unreadable => Err(Bad::of(FailureKind::Unavailable, "the answer cannot be read", Metered::Unknown)),
    }
}

/// What an error in an answer of status 200 becomes where it is the caller's own.
fn as_status(failure: &Failure, error: &Bytes) -> Option<(StatusCode, HeaderMap, Bytes)> {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"))]);
    (failure.kind == FailureKind::CallerFault).then(|| (StatusCode::BAD_REQUEST, headers, error.clone()))
}
