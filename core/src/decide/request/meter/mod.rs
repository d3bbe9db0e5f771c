//! The meter of an answer that is streamed: what may go on to the client, whether content has come, whether the answer failed or is
//! complete, and what it cost.
//!
//! It looks on. It cannot cut the stream or change a byte of it, whatever it finds and whatever it does not understand; all that it
//! keeps back is the usage that only the gateway asked for: a chunk of nothing else, and the member of the chunks before it. OpenAI's
//! clients add up whatever usage they find.
//!
//! * [`chunks`]: chat completions and completions.
//! * [`member`]: where the usage stands in one of them.
//! * [`messages`]: Anthropic's messages.
//! * [`responses`]: OpenAI's responses.

mod chunks;
mod member;
mod messages;
mod responses;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use self::chunks::Chunks;
use self::messages::Messages;
use self::responses::Responses;
use super::answer_error;
use super::classify::classify_event;
use super::error_event::error_event;
use super::events::{Event, Part, Passage, Splitter};
use super::failure::{Failure, FailureKind};
use super::operation::Operation;
use super::usage::{Metered, Usage};
use crate::api::format::Format;
use crate::decide::gateway::plan::Server;

/// After this many bytes an answer counts as begun, whatever is in them: what comes before the content is kept in memory, so that
/// another attempt can take its place.
const MOST_BEFORE_CONTENT: usize = 1 << 20;

/// What an attempt asked a backend for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What answers.
    pub server: Server,
    /// What it was asked for.
    pub operation: Operation,
    /// Whether the client itself asked for usage in the stream (`stream_options.include_usage`). If not, a chunk that holds
    /// nothing else is kept from it.
    pub client_wants_usage: bool,
    /// Whether it also asked for the running count in every chunk (`stream_options.continuous_usage_stats`), which vLLM has, and of
    /// which the gateway asks it always. If not, that is cut out of the chunks.
    pub client_wants_running_usage: bool,
    /// Whether one choice for one prompt was asked for: no `n` or `best_of` above 1, no list of prompts. If not, the running counts
    /// of vLLM are those of one choice among several, and nobody says what a cut answer used.
    pub single_choice: bool,
    /// The most tokens of output that all choices together can have: see [`super::upper_bound`].
    pub most_output: u64,
}

/// How a stream ended, by what came in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the terminal event of its format, and with what has to stand before it.
    Complete,
    /// An error came in it.
    Failed,
    /// With `[DONE]`, and without a reason why it finished before.
    Unfinished,
}

/// How the connection to the backend ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// In order: the backend sent all that it had to send.
    Clean,
    /// By an error, or because we waited long enough.
    Broken,
}

/// What an event says, whatever its format.
#[derive(Debug, Default)]
struct Seen {
    /// It is content, or the end of an answer without any.
    content: bool,
    /// It is an error: its body.
    error: Option<Bytes>,
    /// It is the last of its format.
    terminal: bool,
    /// It holds nothing but usage.
    only_usage: bool,
    /// Where usage stands beside a choice, as a member of the data.
    usage_beside: Option<Range<usize>>,
}

/// The events of a format.
#[derive(Debug)]
enum Reader {
    Chunks(Chunks),
    Messages(Messages),
    Responses(Responses),
}

/// The meter of one streamed answer (`Content-Type: text/event-stream`, not encoded: bytes that are no such text go on unmetered).
#[derive(Debug)]
pub struct Meter {
    splitter: Splitter,
    state: State,
}

#[derive(Debug)]
struct State {
    asked: Asked,
    reader: Reader,
    /// Events with data so far.
    events: u64,
    content: bool,
    /// What has gone by without content.
    bytes_before_content: usize,
    error: Option<Bytes>,
    terminal: bool,
    /// Whether the last bytes that went on are no complete event.
    unfinished_event: bool,
    /// Whether the backend has ended the stream itself, and all that it sent has come.
    ended_in_order: bool,
}

impl Meter {
    /// A meter for the answer to an attempt.
    pub fn new(asked: Asked) -> Self {
        let reader = match asked.operation.format() {
            Some(Format::Messages) => Reader::Messages(Messages::default()),
            Some(Format::Responses) => Reader::Responses(Responses::default()),
            Some(Format::ChatCompletions | Format::Completions | Format::Embeddings) | None => Reader::Chunks(Chunks::default()),
        };
        Self {
            splitter: Splitter::default(),
            state: State {
                asked,
                reader,
                events: 0,
                content: false,
                bytes_before_content: 0,
                error: None,
                terminal: false,
                unfinished_event: false,
                ended_in_order: false,
            },
        }
    }

    /// Takes the next chunk of the answer, and adds to `forward` what goes on to the client now, together and in this order: whole events
    /// only, but for those that are too long to be held.
    pub fn push(&mut self, chunk: &Bytes, forward: &mut Vec<Bytes>) {
        let state = &mut self.state;
        self.splitter.push(chunk, forward, |part| state.part(part));
    }

    /// The backend's bytes have ended. What is left of them goes on too, but for the piece of an event that a broken connection
    /// left behind: it is no event, and would spoil the one that follows it.
    pub fn end(&mut self, close: Close) -> Bytes {
        self.state.ended_in_order = close == Close::Clean;
        let rest = self.splitter.rest();
        // Many servers forget the blank line after their last event.
        let passage = match (is_whole(&rest), close) {
            (true, _) => self.state.event(&rest),
            (false, Close::Clean) => Passage::Whole,
            (false, Close::Broken) => Passage::KeptBack,
        };
        let goes_on = passage.of(rest);
        self.state.unfinished_event |= !goes_on.is_empty();
        goes_on
    }

    /// Whether content has come: an attempt is good from then on, and no other takes its place. Content is text, reasoning, a
    /// refusal, a call of a tool, or the end of an answer without any of these; neither a role nor a ping is.
    pub fn has_content(&self) -> bool {
        self.state.content
    }

    /// The first error that came, as the body that an answer with an error status would have had. Before any content the attempt
    /// has failed with it; after it the client has been told, since the event went on like any other.
    pub fn error(&self) -> Option<&Bytes> {
        self.state.error.as_ref()
    }

    /// What failed by that error, as its kind is found in an answer of status 200.
    pub fn failure(&self, now: Timestamp) -> Option<Failure> {
        self.error().map(|error| classify_event(self.state.asked.server, error, now))
    }

    /// Whether the terminal event of the format has come, as a whole: nothing that matters follows, whatever the connection does.
    pub fn is_terminated(&self) -> bool {
        self.state.terminal && !self.splitter.is_passing()
    }

    /// How the stream ended; `None` while it has not. If that is still so when the connection has ended, the answer was cut and the
    /// client has to be told ([`Meter::error_event`]).
    pub fn ending(&self) -> Option<Ending> {
        let state = &self.state;
        let finished = match &state.reader {
            Reader::Chunks(chunks) => chunks.finished(),
            Reader::Messages(_) | Reader::Responses(_) => true,
        };
        match (&state.error, state.terminal) {
            _ if self.splitter.is_passing() => None,
            (Some(_), _) => Some(Ending::Failed),
            (None, true) if finished => Some(Ending::Complete),
            (None, true) => Some(Ending::Unfinished),
            (None, false) => None,
        }
    }

    /// What the answer cost, if it ended now.
    pub fn usage(&self) -> Metered {
        let state = &self.state;
        let complete = self.ending() == Some(Ending::Complete);
        let in_order = state.ended_in_order || state.error.is_some();
        let metered = match &state.reader {
            Reader::Chunks(chunks) => chunks.usage(&state.asked, complete, in_order),
            Reader::Messages(messages) => messages.usage(&state.asked),
            Reader::Responses(responses) => responses.usage(),
        };
        // What a backend refuses before any content costs nothing, unless it says otherwise.
        match metered {
            Metered::Bounded(_) | Metered::Unknown if state.error.is_some() && !state.content => Metered::Exact(Usage::default()),
            metered => metered,
        }
    }

    /// The event that tells the client that its answer was cut, to be sent after all that went on.
    pub fn error_event(&self, kind: FailureKind, message: &str) -> Bytes {
        let format = self.state.asked.operation.format().unwrap_or(Format::ChatCompletions);
        let event = error_event(format, kind, message, self.state.events);
        if self.is_between_events() { event } else { [b"\n\n".as_slice(), &event].concat().into() }
    }

    /// Whether what went on so far ends with a complete event, so that a comment may follow.
    pub fn is_between_events(&self) -> bool {
        !self.state.unfinished_event && !self.splitter.is_passing()
    }
}

impl State {
    /// Looks at a part of the stream, and says what of it goes on.
    fn part(&mut self, part: Part<'_>) -> Passage {
        match part {
            Part::Event(bytes) => self.event(bytes),
            Part::Beginning(bytes) => {
                let event = Event::parse(bytes);
                self.events = self.events.saturating_add(1);
                let seen = match &mut self.reader {
                    Reader::Chunks(chunks) => chunks.unseen(),
                    Reader::Messages(messages) => messages.unseen(event.name),
                    Reader::Responses(responses) => responses.unseen(event.name),
                };
                self.take(seen, bytes.len());
                Passage::Whole
            }
        }
    }

    fn event(&mut self, bytes: &[u8]) -> Passage {
        let event = Event::parse(bytes);
        let Some(data) = event.data else {
            self.take(Seen::default(), bytes.len());
            return Passage::Whole;
        };
        self.events = self.events.saturating_add(1);
        let seen = match &mut self.reader {
            Reader::Chunks(chunks) => chunks.event(event.name, &data, self.content),
            Reader::Messages(messages) => messages.event(event.name, &data, self.content),
            Reader::Responses(responses) => responses.event(event.name, &data, self.content),
        };
        let runs_for_us = self.asked.server == Server::Vllm && !self.asked.client_wants_running_usage;
        let passage = match (&data, &seen.usage_beside) {
            _ if seen.only_usage && !self.asked.client_wants_usage => Passage::KeptBack,
            (Cow::Borrowed(data), Some(usage)) if runs_for_us => {
                member::offset(bytes, data).map_or(Passage::Whole, |start| Passage::Without(start + usage.start..start + usage.end))
            }
            // Data of several lines is no part of the event as it stands.
            (Cow::Borrowed(_) | Cow::Owned(_), _) => Passage::Whole,
        };
        self.take(seen, bytes.len());
        passage
    }

    fn take(&mut self, seen: Seen, bytes: usize) {
        self.terminal |= seen.terminal;
        if self.error.is_none() {
            self.error = seen.error;
        }
        // What comes after an error makes no attempt good.
        if self.error.is_none() && !self.content {
            self.bytes_before_content = self.bytes_before_content.saturating_add(bytes);
            self.content = seen.content || self.bytes_before_content > MOST_BEFORE_CONTENT;
        }
    }
}

/// Whether the end of a stream is an event that lacks nothing but its blank line.
fn is_whole(rest: &[u8]) -> bool {
    let is_json = |data: &[u8]| matches!(data, [b'{' | b'[', ..]) && serde_json::from_slice::<IgnoredAny>(data).is_ok();
    Event::parse(rest).data.is_some_and(|data| is_done(&data) || is_json(data.trim_ascii()))
}

/// `[DONE]`, the end of OpenAI's streams.
fn is_done(data: &[u8]) -> bool {
    data.trim_ascii() == b"[DONE]"
}

/// What an event is called: its name, else the `type` in its data.
fn kind<'event>(name: Option<&'event [u8]>, data: &'event [u8]) -> &'event [u8] {
    /// A type with no escaped characters in it: no format has others.
    #[derive(Deserialize)]
    struct Typed<'data> {
        #[serde(rename = "type", borrow, default)]
        kind: Option<&'data str>,
    }
    match name {
        Some(name) => name,
        None => serde_json::from_slice::<Typed<'_>>(data).ok().and_then(|typed| typed.kind).unwrap_or_default().as_bytes(),
    }
}

/// The body for an event that is named an error: it is one, whatever its data.
fn named_error(data: &[u8]) -> Bytes {
    match serde_json::from_slice::<Value>(data) {
        Ok(Value::Object(error)) => answer_error::of_event(&Value::Object(error)),
        Ok(other) => answer_error::find(&other).unwrap_or_else(|| answer_error::of_text(&String::from_utf8_lossy(data))),
        Err(_) => answer_error::of_text(&String::from_utf8_lossy(data)),
    }
}

#[cfg(test)]
mod fixtures;

#[cfg(test)]
mod tests;
