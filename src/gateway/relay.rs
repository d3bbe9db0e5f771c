//! The body of a streamed answer, from its first content on. It reads from the backend when the client has read: nothing is
//! buffered beyond the events before the first content, a few KiB that came in one burst, and the event that is not yet complete.

use std::future::poll_fn;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use futures::FutureExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use quartermaster_core::decide::request::error_event::KEEP_ALIVE;
use quartermaster_core::decide::request::failure::{Failure, FailureKind};
use quartermaster_core::decide::request::meter::{Close, Ending, Meter};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::reply::{AnswerBody, Cut};
use super::settle::Settlement;
use crate::sources::direct::{Upstream, chunk};

/// Silence after which a comment tells clients and proxies that the stream lives.
const COMMENT_AFTER: Duration = Duration::from_secs(15);
/// What a backend gets to say after an error.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// How long the rest of an answer is read after its last event, so that its connection can be used again.
const REST: Duration = Duration::from_secs(1);
/// Bytes of a burst after which no more of it is looked for.
const BURST: usize = 16 << 10;

/// A stream whose first content has come.
pub struct Relay {
    /// The backend's answer; none once it has ended.
    pub upstream: Option<Upstream>,
    /// What looks on.
    pub meter: Meter,
    /// What goes on to the client next.
    pub ready: Vec<Bytes>,
    /// How long the backend may be silent.
    pub idle: Duration,
    /// What the call comes to.
    pub settlement: Settlement,
    /// Since when the client was sent nothing.
    pub told: Instant,
    /// Since when the backend is waited for. It is not while the client has yet to read.
    pub waiting: Option<Instant>,
    /// Goes off when something is due, or earlier: it is not set anew for each event.
    pub alarm: Option<Pin<Box<Sleep>>>,
}

impl Relay {
    /// The body of the answer. It ends with the backend's last event, or with an event that says how it broke.
    pub fn into_body(self) -> AnswerBody {
        // Boxed, for it is handed on with each piece.
        let frames = futures::stream::unfold(Some(Box::new(self)), |relay| async move {
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
            if let Some(bytes) = together(&mut self.ready) {
                self.told = Instant::now();
                return Some(bytes);
            }
            let ending = self.meter.ending();
            self.upstream.as_ref()?;
            if self.meter.is_terminated() {
                self.finish();
                return None;
            }
            let failed = ending == Some(Ending::Failed);
            let since = *self.waiting.get_or_insert_with(Instant::now);
            let silent_until = since + if failed { AFTER_ERROR.min(self.idle) } else { self.idle };
            let comment_at = self.told + COMMENT_AFTER;
            match self.read_until(silent_until.min(comment_at)).await {
                Some(read) => {
                    self.hear(read);
                    self.gather();
                }
                None if silent_until <= comment_at => {
                    self.close(Close::Broken, FailureKind::Timeout, "the backend has said nothing for too long");
                }
                // The rest of a line without end is going by.
                None if !self.meter.is_between_events() => self.told = Instant::now(),
                None => {
                    self.told = Instant::now();
                    return Some(Bytes::from_static(KEEP_ALIVE));
                }
            }
        }
    }

    /// What the backend says next; none if it says nothing until `due`.
    async fn read_until(&mut self, due: Instant) -> Option<io::Result<Option<Bytes>>> {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if due < alarm.deadline() {
            alarm.as_mut().reset(due);
        }
        let mut reading = std::pin::pin!(chunk(self.upstream.as_mut()?));
        poll_fn(|context| {
            loop {
                if let Poll::Ready(read) = reading.as_mut().poll(context) {
                    return Poll::Ready(Some(read));
                }
                ready!(alarm.as_mut().poll(context));
                if Instant::now() >= due {
                    return Poll::Ready(None);
                }
                alarm.as_mut().reset(due);
            }
        })
        .await
    }

    /// What the backend said, or how it ended.
    fn hear(&mut self, read: io::Result<Option<Bytes>>) {
        match read {
            Ok(Some(data)) => {
                self.waiting = None;
                self.meter.push(&data, &mut self.ready);
            }
            Ok(None) => self.close(Close::Clean, FailureKind::Unavailable, "the backend ended its answer early"),
            Err(_) => self.close(Close::Broken, FailureKind::Unavailable, "the connection to the backend broke"),
        }
    }

    /// Hears what the backend has said already: events that came together would go on one by one, each with a system call here and a
    /// wake of the client.
    fn gather(&mut self) {
        let mut bytes: usize = self.ready.iter().map(Bytes::len).sum();
        while bytes < BURST && !self.meter.is_terminated() {
            let Some(read) = self.upstream.as_mut().and_then(|upstream| chunk(upstream).now_or_never()) else { break };
            bytes += read.as_ref().ok().and_then(Option::as_ref).map_or(0, Bytes::len);
            self.hear(read);
        }
    }

    /// The last event has come. What the connection does then is nobody's matter any more but of the next call, which can use it
    /// if it ends soon.
    fn finish(&mut self) {
        self.settle();
        let Some(mut upstream) = self.upstream.take() else { return };
        let mut rest = Box::pin(async move { while let Ok(Some(_)) = chunk(&mut upstream).await {} });
        // Mostly it has come already.
        if rest.as_mut().now_or_never().is_none() {
            tokio::spawn(timeout(REST, rest));
        }
    }

    /// The backend says nothing more.
    fn close(&mut self, close: Close, kind: FailureKind, message: &str) {
        let rest = self.meter.end(close);
        if !rest.is_empty() {
            self.ready.push(rest);
        }
        self.upstream = None;
        if self.meter.ending().is_none() {
            self.ready.push(self.meter.error_event(kind, message));
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

/// Puts pieces together, of which only whole events may go on at once.
fn together(pieces: &mut Vec<Bytes>) -> Option<Bytes> {
    if pieces.len() < 2 {
        return pieces.pop();
    }
    let whole: Vec<u8> = pieces.concat();
    pieces.clear();
    Some(whole.into())
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
