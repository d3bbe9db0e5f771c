//! The routing log: one JSON line a call, on standard output. Never a prompt, a key, or a label of the caller.
//!
//! Lines are written by a thread of their own: who reads standard output slowly must not hold up calls. Lines that it cannot
//! keep up with are lost, and counted.

use std::borrow::Cow;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use super::call_id::CallId;

/// Lines that wait to be written, at most.
const WAITING: usize = 8192;
/// How long lines are collected after some were written. Calls that end meanwhile need not wake the thread that writes, and share a
/// system call. Within this time a gateway ends a few hundred calls at most.
const COLLECTING: Duration = Duration::from_millis(10);
/// Bytes of a line of a call that met no failure.
const USUAL_LINE: usize = 512;
/// Bytes of lines that one system call writes: what a pipe holds.
const WRITTEN_AT_ONCE: usize = 64 << 10;

/// One call.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// When it ended.
    pub time: jiff::Timestamp,
    /// The id that errors of the gateway carry as well.
    pub id: CallId,
    /// The AgentPool that called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Arc<str>>,
    /// What was asked for.
    pub operation: &'static str,
    /// The ModelRoute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    /// The rule of it that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<str>>,
    /// The InferenceBackend that answered, or was tried last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Arc<str>>,
    /// Why this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// What was tried, in order.
    pub attempts: Vec<AttemptLine>,
    /// The status that the client got; none for one that had left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: &'static str,
    /// The TokenBudget that refused it; none where none did, or none alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_refused: Option<String>,
    /// Whether the answer was a stream.
    pub stream: bool,
    /// What all attempts together used; none where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// What that costs, in millionths of the currency; none where a price is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_micros: Option<u64>,
    /// From the request's head to its first content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_content_milliseconds: Option<u64>,
    /// From the request's head to the end.
    pub milliseconds: u64,
}

/// One attempt.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptLine {
    /// The InferenceBackend.
    pub backend: Arc<str>,
    /// The name of its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Arc<str>>,
    /// How it ended.
    pub outcome: &'static str,
    /// The backend's status, where it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What happened, where no status says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took.
    pub milliseconds: u64,
}

/// Tokens of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tokens {
    /// Of the prompt, those below included.
    pub input: u64,
    /// Of the prompt, served by the backend's prefix cache.
    pub cached_input: u64,
    /// Of the prompt, written into the backend's prefix cache.
    pub cache_write: u64,
    /// Of the answer, reasoning included.
    pub output: u64,
    /// Whether backends said so at the end of their answers. Else it is an upper bound: an answer ended early, or nobody said.
    pub exact: bool,
}

impl Tokens {
    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cached_input: self.cached_input.saturating_add(other.cached_input),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            output: self.output.saturating_add(other.output),
            exact: self.exact && other.exact,
        }
    }
}

/// Where lines go.
#[derive(Clone, Debug)]
pub struct RoutingLog(SyncSender<Vec<u8>>);

impl RoutingLog {
    /// Writes to `target`, in a thread that ends with the last clone of the log.
    pub fn new(target: impl Write + Send + 'static) -> (Self, JoinHandle<()>) {
        let (lines, waiting) = sync_channel(WAITING);
        let writing = std::thread::spawn(move || {
            // Who closes standard output wants no lines.
            let _closed = write(&waiting, &mut BufWriter::with_capacity(WRITTEN_AT_ONCE, target));
        });
        (Self(lines), writing)
    }

    /// Writes a line; `false` where it is lost.
    pub fn write(&self, line: &Line) -> bool {
        let mut text = Vec::with_capacity(USUAL_LINE);
        if serde_json::to_writer(&mut text, line).is_err() {
            return false;
        }
        text.push(b'\n');
        self.0.try_send(text).is_ok()
    }
}

fn write(waiting: &Receiver<Vec<u8>>, target: &mut impl Write) -> io::Result<()> {
    while let Ok(line) = waiting.recv() {
        target.write_all(&line)?;
        while let Ok(line) = waiting.try_recv() {
            target.write_all(&line)?;
        }
        target.flush()?;
        std::thread::sleep(COLLECTING);
    }
    Ok(())
}
