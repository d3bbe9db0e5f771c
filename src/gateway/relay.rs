//! The body of a streamed answer, from its first content on. It reads from the backend when the client has read: nothing is
//! buffered beyond the events before the first content and the one that is not yet complete.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use quartermaster_core::decide::request::error_event::KEEP_ALIVE;
use quartermaster_core::decide::request::failure::{Failure, FailureKind};
use quartermaster_core::decide::request::meter::{Close, Ending, Meter};
use reqwest::Response;
use tokio::time::{Instant, timeout, timeout_at};

use super::reply::{AnswerBody, Cut};
use super::settle::Settlement;

/// Silence after which a comment tells clients and proxies that the stream lives.
const COMMENT_AFTER: Duration = Duration::from_secs(15);
/// What a backend gets to say after an error.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// How long the rest of an answer is read after its last event, so that its connection can be used again.
const REST: Duration = Duration::from_secs(1);

/// A stream whose first content has come.
pub struct Relay {
    /// The backend's answer; none once it has ended.
    pub upstream: Option<Response>,
    /// What looks on.
    pub meter: Meter,
    /// What goes on to the client next.
    pub ready: VecDeque<Bytes>,
    /// How long the backend may be silent.
    pub idle: Duration,
    /// What the call comes to.
    pub settlement: Settlement,
    /// Since when the client was sent nothing.
    pub told: Instant,
    /// Since when the backend is waited for. It is not while the client has yet to read.
    pub waiting: Option<Instant>,
}

impl Relay {
    /// The body of the answer. It ends with the backend's last event, or with an event that says how it broke.
    pub fn into_body(self) -> AnswerBody {
        let frames = futures::stream::unfold(Some(self), |relay| async move {
            let mut relay = relay?;
            // A panic must not take the connection with it unseen: the client is told that the answer is cut.
            match AssertUnwindSafe(relay.next()).catch_unwind().await {
                Ok(Some(bytes)) => Some((Ok(Frame::data(bytes)), Some(relay))),
                Ok(None) => None,
                Err(_) => {
                    relay.settlement.panicked();
                    relay.upstream = None;
                    Some((Err(Cut), None))
                }
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.told = Instant::now();
                return Some(bytes);
            }
            let ending = self.meter.ending();
            let upstream = self.upstream.as_mut()?;
            if self.meter.is_terminated() {
                self.finish();
                return None;
            }
            let failed = ending == Some(Ending::Failed);
            let since = *self.waiting.get_or_insert_with(Instant::now);
            let silent_until = since + if failed { AFTER_ERROR.min(self.idle) } else { self.idle };
            let comment_at = self.told + COMMENT_AFTER;
            match timeout_at(silent_until.min(comment_at), upstream.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    self.waiting = None;
                    self.ready.extend(self.meter.push(&chunk));
                }
                Ok(Ok(None)) => self.close(Close::Clean, FailureKind::Unavailable, "the backend ended its answer early"),
                Ok(Err(_)) => self.close(Close::Broken, FailureKind::Unavailable, "the connection to the backend broke"),
                Err(_) if silent_until <= comment_at => {
                    self.close(Close::Broken, FailureKind::Timeout, "the backend has said nothing for too long");
                }
                // The rest of a line without end is going by.
                Err(_) if !self.meter.is_between_events() => self.told = Instant::now(),
                Err(_) => {
                    self.told = Instant::now();
                    return Some(Bytes::from_static(KEEP_ALIVE));
                }
            }
        }
    }

    /// The last event has come. What the connection does then is nobody's matter any more but of the next call, which can use it
    /// if it ends soon.
    fn finish(&mut self) {
        self.settle();
        if let Some(mut upstream) = self.upstream.take() {
            tokio::spawn(timeout(REST, async move { while let Ok(Some(_)) = upstream.chunk().await {} }));
        }
    }

    /// The backend says nothing more.
    fn close(&mut self, close: Close, kind: FailureKind, message: &str) {
        let rest = self.meter.end(close);
        if !rest.is_empty() {
            self.ready.push_back(rest);
        }
        self.upstream = None;
        if self.meter.ending().is_none() {
            self.ready.push_back(self.meter.error_event(kind, message));
            self.settlement.failed(&Failure { kind, retry_after: None }, self.meter.usage(), Some(message.to_owned()));
            self.settlement.ends("cut");
        } else {
            self.settle();
        }
    }

    /// What the call came to, when its stream has said how it ended.
    fn settle(&mut self) {
        let metered = self.meter.usage();
        let failed = match self.meter.ending() {
            Some(Ending::Complete) => None,
            Some(Ending::Failed) => Some("an error came within the stream"),
            Some(Ending::Unfinished) | None => Some("the stream ended without saying why"),
        };
        if let Some(error) = failed {
            let unknown = || Failure { kind: FailureKind::Unavailable, retry_after: None };
            let failure = self.meter.failure(jiff::Timestamp::now()).unwrap_or_else(unknown);
            self.settlement.failed(&failure, metered, Some(error.to_owned()));
            self.settlement.ends("cut");
        } else {
            self.settlement.succeeded(metered);
            self.settlement.ends("answered");
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.upstream.is_none() {
            return;
        }
        // The client has left, perhaps after the last event and before the end of the body.
        if self.meter.is_terminated() {
            self.settle();
        } else {
            self.settlement.left(self.meter.usage());
        }
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
