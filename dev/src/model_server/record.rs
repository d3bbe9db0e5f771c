//! What really happened: every call, and the tokens that were made for it. It is the truth against which others' counts are
//! judged.

use std::collections::{BTreeMap, VecDeque};
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Calls that are kept; totals are of all.
const KEPT: usize = 50_000;

/// Tokens of one call, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Tokens {
    /// All of the prompt, once it was read: those of the cache, those written to it, and the others.
    pub input: u64,
    /// Those of the prompt that came from the prefix cache.
    pub cached: u64,
    /// Those of the prompt that were written to the cache at a price.
    pub cache_written: u64,
    /// All that were made, whether or not they reached the client.
    pub output: u64,
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        self.input += other.input;
        self.cached += other.cached;
        self.cache_written += other.cache_written;
        self.output += other.output;
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// The answer was written to its end.
    Complete,
    /// The answer is an error, and no model was asked.
    Refused,
    /// The client left before that.
    ClientLeft,
    /// A fault ended it: a reset, a close, an error event.
    Cut,
}

/// One call. It holds no secret: neither the key, nor values of headers, nor the body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Its number, from 1, in the order of arrival.
    pub number: u64,
    /// The number of its connection, from 1.
    pub connection: u64,
    /// Milliseconds from the server's start to its arrival.
    pub arrived: u64,
    /// Its method.
    pub method: String,
    /// Its path, without query.
    pub path: String,
    /// The model that it names.
    pub model: Option<String>,
    /// The first 16 hexadecimal digits of the SHA-256 of its key.
    pub key: Option<String>,
    /// The names of its headers, in the order of arrival.
    pub headers: Vec<String>,
    /// Bytes of its body.
    pub body_bytes: u64,
    /// The first 16 hexadecimal digits of the SHA-256 of its body.
    pub body_hash: String,
    /// Whether it asks for a stream.
    pub stream: bool,
    /// Which canaries it holds, by their place in the settings.
    pub canaries: Vec<usize>,
    /// The status of the answer, once there is one.
    pub status: Option<u16>,
    /// The rule that befell it.
    pub rule: Option<u64>,
    /// The tokens that were made for it.
    pub tokens: Tokens,
    /// Events that were sent.
    pub events: u64,
    /// How it ended; none while it goes on.
    pub end: Option<End>,
    /// Milliseconds from the server's start to its end.
    pub ended: Option<u64>,
}

/// Sums over all calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Calls that have arrived.
    pub calls: u64,
    /// Calls that go on.
    pub open: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that are open.
    pub open_connections: u64,
    /// Calls that have ended, by how.
    pub ends: BTreeMap<End, u64>,
    /// Their tokens, and those of calls that go on.
    pub tokens: Tokens,
    /// The same by model.
    pub models: BTreeMap<String, Tokens>,
}

/// The record of one server. A clone is the same.
#[derive(Clone, Debug)]
pub(super) struct Record {
    started: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    calls: VecDeque<Call>,
    totals: Totals,
}

impl Record {
    pub fn new() -> Self {
        Self { started: Instant::now(), state: Arc::default() }
    }

    /// Milliseconds since the server's start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.iter().cloned().collect()
    }

    pub fn totals(&self) -> Totals {
        let state = self.lock();
        let mut totals = state.totals.clone();
        totals.open = totals.calls - totals.ends.values().sum::<u64>();
        totals
    }

    /// A connection opens. Returns its number.
    pub fn connected(&self) -> u64 {
        let mut state = self.lock();
        state.totals.connections += 1;
        state.totals.open_connections += 1;
        state.totals.connections
    }

    pub fn disconnected(&self) {
        self.lock().totals.open_connections -= 1;
    }

    /// A call arrives. Dropping what is returned before it was ended says that the client has left.
    pub fn arrived(&self, connection: u64, method: &str, path: &str, headers: Vec<String>, key: Option<&str>) -> OpenCall {
        let arrived = self.now();
        let mut state = self.lock();
        state.totals.calls += 1;
        let number = state.totals.calls;
        if state.calls.len() == KEPT {
            state.calls.pop_front();
        }
        state.calls.push_back(Call {
            number,
            connection,
            arrived,
            method: method.to_owned(),
            path: path.to_owned(),
            model: None,
            key: key.map(|key| hash(key.as_bytes())),
            headers,
            body_bytes: 0,
            body_hash: String::new(),
            stream: false,
            canaries: Vec::new(),
            status: None,
            rule: None,
            tokens: Tokens::default(),
            events: 0,
            end: None,
            ended: None,
        });
        drop(state);
        OpenCall { record: self.clone(), number, ended: false }
    }

    fn change<T>(&self, number: u64, change: impl FnOnce(&mut Call) -> T) -> Option<T> {
        self.lock().call(number).map(change)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The call with this number, if it is still kept.
    fn call(&mut self, number: u64) -> Option<&mut Call> {
        let first = self.calls.front()?.number;
        let index = usize::try_from(number.checked_sub(first)?).ok()?;
        self.calls.get_mut(index)
    }
}

/// The first 16 hexadecimal digits of the SHA-256, as the record names keys and bodies.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A call that goes on.
#[derive(Debug)]
pub(super) struct OpenCall {
    record: Record,
    number: u64,
    ended: bool,
}

impl OpenCall {
    /// Notes something of the call.
    pub fn note(&self, change: impl FnOnce(&mut Call)) {
        self.record.change(self.number, change);
    }

    /// Notes tokens that were made for it.
    pub fn made(&self, tokens: Tokens) {
        let mut state = self.record.lock();
        let mut model = None;
        if let Some(call) = state.call(self.number) {
            call.tokens += tokens;
            model.clone_from(&call.model);
        }
        state.totals.tokens += tokens;
        if let Some(model) = model {
            *state.totals.models.entry(model).or_default() += tokens;
        }
    }

    /// It has ended; what is said later does not count.
    pub fn end(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let ended = self.record.now();
        let mut state = self.record.lock();
        *state.totals.ends.entry(end).or_default() += 1;
        if let Some(call) = state.call(self.number) {
            call.end = Some(end);
            call.ended = Some(ended);
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.end(End::ClientLeft);
    }
}
