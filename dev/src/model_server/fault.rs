//! What can go wrong with a call, as a value: a test adds it to a running server, in Rust or as JSON.
//!
//! | to simulate | fault |
//! |---|---|
//! | any status, body and headers; a redirect; an empty 200; garbage in JSON's place; a scripted stream | `{"answer": {"status": 307, "headers": {"location": "/"}, "body": ""}}` |
//! | a refusal in the provider's own shape | `{"refuse": "quotaExhausted"}`, and the others of [`Refusal`] |
//! | a hang before the head, after it, after the first byte | `{"break": {"at": "head", "how": "hang"}}`, `"body"`, `{"bytes": 1}` |
//! | a slow start, a pause | `{"break": {"at": {"events": 3}, "how": {"pause": 500}}}` |
//! | a reset, a cut stream, an end that looks orderly | `"how": "reset"`, `"close"`, `"end"` |
//! | a pooled connection that closes as the next call arrives | `"match": {"reused": true}`, `{"break": {"at": "arrival", "how": "close"}}` |
//! | a trickle | `{"trickle": {"bytes": 10, "milliseconds": 50}}` |
//! | a 200 whose first event is an error; an error in the middle | `{"errorEvent": {"after": 0, "refusal": "overloaded"}}` |
//! | garbage or anything else within a stream | `{"insert": {"after": 2, "text": "data: {\n\n"}}` |
//! | bytes that are not HTTP | `{"raw": "garbage"}` |
//! | a wrong content length | `{"contentLength": 10}`, `{"contentLength": -10}` |
//! | a stream, or a line, without end | `"endlessStream"`, `"endlessLine"` |
//! | usage missing, usage in every chunk | `{"usage": "missing"}`, `{"usage": "everyEvent"}` |
//! | gzip that nobody asked for | `"gzip"` |
//! | further headers; one of 2 MB | `{"headers": {"values": {"x-ratelimit-remaining-requests": "0"}, "padding": 2097152}}` |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::Tokens;

/// What befalls a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Fault {
    /// This is answered, and no model is asked.
    Answer(Scripted),
    /// The provider refuses the call, in its own shape, and no model is asked.
    Refuse(Refusal),
    /// These bytes are written in place of an answer, and the connection ends.
    Raw(String),
    /// The answer stops at a place, or for a while.
    Break {
        /// The place.
        at: Place,
        /// What happens there.
        how: Break,
    },
    /// The bytes behind the head come in pieces.
    Trickle {
        /// Bytes of a piece.
        bytes: usize,
        /// Time between two pieces.
        milliseconds: u64,
    },
    /// The stream ends with an error event of the provider's form.
    ErrorEvent {
        /// Events before it.
        after: u64,
        /// What it says.
        refusal: Refusal,
    },
    /// A text stands between two events of the stream.
    Insert {
        /// Events before it.
        after: u64,
        /// The text, with line ends.
        text: String,
    },
    /// The whole answer says that it is this many bytes longer than it is.
    ContentLength(i64),
    /// The model never stops; streams only.
    EndlessStream,
    /// After the first event comes a line that never ends; streams only.
    EndlessLine,
    /// What becomes of the usage.
    Usage(UsageFault),
    /// The answer is compressed, whatever the client accepts.
    Gzip,
    /// The answer has further headers.
    Headers {
        /// Names and values.
        #[serde(default)]
        values: BTreeMap<String, String>,
        /// Length of the value of a header `x-padding`; 0: there is none.
        #[serde(default)]
        padding: usize,
    },
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Scripted {
    /// The status code.
    pub status: u16,
    /// Names and values; without a content type it is JSON.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body.
    #[serde(default)]
    pub body: String,
    /// The tokens that this answer stands for: the record counts them as made.
    #[serde(default)]
    pub tokens: Tokens,
}

/// A place in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Place {
    /// The call has arrived, and no model was asked.
    Arrival,
    /// Before the head. What is not a stream was made by then.
    Head,
    /// Between head and body.
    Body,
    /// After this many bytes of the body.
    Bytes(u64),
    /// After this many events of a stream.
    Events(u64),
}

/// What happens at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Break {
    /// Nothing more comes, and the connection stays, until the rule is removed or the client leaves.
    Hang,
    /// Nothing comes for this many milliseconds.
    Pause(u64),
    /// The connection is reset (TCP RST).
    Reset,
    /// The connection is closed (TCP FIN), without an end of the body.
    Close,
    /// The body ends as HTTP wants it, without the end that the API wants.
    End,
}

/// What becomes of the usage in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum UsageFault {
    /// There is none.
    Missing,
    /// Every event of the stream has it, as far as it is known.
    EveryEvent,
}

/// Why a provider refuses a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Refusal {
    /// The prompt is too long.
    ContextLength,
    /// The key is not accepted.
    KeyRejected,
    /// The key may not do this.
    Forbidden,
    /// What was paid for is used up.
    QuotaExhausted,
    /// A limit of spending that the customer has set is reached.
    SpendLimitReached,
    /// The balance is too low, in the words of a plain 400 where the provider has them.
    CreditTooLow,
    /// Too many calls; with the provider's hints, in seconds, and its headers about limits.
    RateLimited(u64),
    /// The model does not exist, or no longer.
    ModelGone,
    /// The server has too much to do.
    Overloaded,
    /// An error of the server.
    ServerError,
    /// A gateway before the server waited too long.
    Timeout,
    /// The request is wrong.
    InvalidRequest,
}

/// Which calls a rule is about. Without further words: all, except for those of the control endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Match {
    /// Only this path.
    pub path: Option<String>,
    /// Only this model.
    pub model: Option<String>,
    /// Only calls with this key, by the first characters of its SHA-256 as [`super::Call::key`] has them.
    pub key: Option<String>,
    /// Only calls that ask for a stream, or only those that do not.
    pub stream: Option<bool>,
    /// Only calls on a connection that had one before, or only those on a new one.
    pub reused: Option<bool>,
    /// Only calls whose body holds this text.
    pub containing: Option<String>,
    /// Not the first of them.
    pub skip: u64,
    /// No more than this many of them.
    pub times: Option<u64>,
}

/// A fault and the calls that it befalls. Of several rules that match a call, the first decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// The calls.
    #[serde(rename = "match", default)]
    pub which: Match,
    /// The fault.
    pub fault: Fault,
}
