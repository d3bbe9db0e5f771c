//! Chunks of chat completions and of completions, as OpenAI and everybody who speaks like it send them.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Asked, Seen, is_done, member, named_error};
use crate::decide::gateway::plan::Server;
use crate::decide::request::answer_error::{self, says_something};
use crate::decide::request::usage::{self, Metered, Usage};

/// What an engine has made beyond the running count that it sent last, where it ended the stream itself, in tokens: no more than
/// one event holds.
const MADE_BEYOND_COUNT: u64 = 32;

/// What the chunks so far have said.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// The last statement of usage.
    stated: Option<Stated>,
    /// A reason why a choice finished has come.
    finished: bool,
    /// A chunk was not looked at: it may have said that its choice finished.
    may_have_finished: bool,
    /// A second choice has come.
    several_choices: bool,
}

#[derive(Clone, Copy, Debug)]
struct Stated {
    usage: Usage,
    /// A choice had finished by then.
    finished: bool,
    /// The chunk was about no choice, but about all of them.
    whole: bool,
}

impl Chunks {
    pub(super) fn event(&mut self, name: Option<&[u8]>, data: &[u8], has_content: bool) -> Seen {
        if is_done(data) {
            return Seen { terminal: true, ..Seen::default() };
        }
        if name == Some(b"error".as_slice()) {
            return Seen { error: Some(named_error(data)), ..Seen::default() };
        }
        if has_content && !says_more_than_usage(data) {
            if !has_value(data, &USAGE) {
                return Seen::default();
            }
            if !self.finished
                && let Some(seen) = self.running_usage(data)
            {
                return seen;
            }
        }
        // What cannot be read is none of our business.
        let Ok(chunk) = serde_json::from_slice::<Value>(data) else { return Seen::default() };
        if let Some(error) = answer_error::find(&chunk) {
            return Seen { error: Some(error), ..Seen::default() };
        }
        self.chunk(&chunk, data)
    }

    /// The running count that vLLM sends with each chunk, read without the content beside it; none where the chunk is another one.
    /// It does what [`Self::chunk`] would, before the finish.
    fn running_usage(&mut self, data: &[u8]) -> Option<Seen> {
        #[derive(Deserialize)]
        struct Running<'data> {
            choices: Vec<Choice>,
            #[serde(borrow)]
            usage: &'data RawValue,
        }
        #[derive(Deserialize)]
        struct Choice {
            #[serde(default)]
            index: Option<u64>,
        }
        let Running { choices, usage } = serde_json::from_slice(data).ok()?;
        if !usage.get().starts_with('{') {
            return None;
        }
        let whole = choices.is_empty();
        let usage_beside = if whole { None } else { member::with_value(data, "usage", usage) };
        let usage = usage::openai_json(usage).ok()?;
        self.several_choices |= choices.iter().any(|choice| choice.index > Some(0));
        self.stated = usage.map(|usage| Stated { usage, finished: false, whole });
        Some(Seen { only_usage: whole, usage_beside, ..Seen::default() })
    }

    fn chunk(&mut self, chunk: &Value, data: &[u8]) -> Seen {
        let choices = chunk.get("choices").and_then(Value::as_array);
        let mut seen = Seen::default();
        // A chunk without anything of a choice; after the finish some adapters write an empty choice in place of none.
        let mut empty = choices.is_some();
        for choice in choices.into_iter().flatten() {
            let reason = choice.get("finish_reason").filter(|reason| says_something(reason));
            if let Some(error) = choice.get("error").filter(|error| says_something(error)) {
                seen.error = Some(answer_error::of_error(error));
            } else if reason.and_then(Value::as_str) == Some("error") {
                seen.error = Some(answer_error::of_text("The backend ended its answer with an error."));
            }
            seen.content |= reason.is_some() || has_content(choice);
            empty &= self.finished && reason.is_none() && is_empty(choice);
            self.finished |= reason.is_some();
            self.several_choices |= choice.get("index").and_then(Value::as_u64).is_some_and(|index| index > 0);
        }
        let stated = chunk.get("usage").filter(|usage| usage.is_object());
        seen.only_usage = empty && stated.is_some();
        if !empty && stated.is_some() && choices.is_some_and(|choices| !choices.is_empty()) {
            seen.usage_beside = member::usage(data);
        }
        // Groq has a place of its own for it, which needs no asking.
        if let Some(usage) = stated.or_else(|| chunk.pointer("/x_groq/usage")).filter(|usage| usage.is_object()) {
            self.stated = usage::openai(usage).map(|usage| Stated { usage, finished: self.finished, whole: empty });
        }
        seen
    }

    /// A chunk was too long to be looked at. What was stated before it may be old.
    pub(super) fn unseen(&mut self) -> Seen {
        self.stated = None;
        self.may_have_finished = true;
        Seen { content: true, ..Seen::default() }
    }

    /// Whether a reason why the answer finished has come, as far as is known.
    pub(super) fn finished(&self) -> bool {
        self.finished || self.may_have_finished
    }

    /// Usage that was stated after the finish is final. Before it, it is a running count: at the end of a complete answer the last
    /// one is final. In one that the backend ended early, and `in_order`, vLLM's bounds what has been made. Where the connection
    /// broke or was left, only the input is known: an engine does not wait for who reads its answer, and may have made all that it
    /// was asked for while the count was under way.
    pub(super) fn usage(&self, asked: &Asked, complete: bool, in_order: bool) -> Metered {
        let Some(stated) = self.stated else { return Metered::Unknown };
        let single = asked.single_choice && !self.several_choices;
        let counts_choices_apart = asked.server == Server::Vllm && !single;
        let is_final = stated.finished && (stated.whole || single) || complete && !counts_choices_apart;
        match (is_final, asked.server) {
            (true, _) => Metered::Exact(stated.usage),
            (false, Server::Vllm) if single => {
                let most = asked.most_output.max(stated.usage.output);
                let made = stated.usage.output.saturating_add(MADE_BEYOND_COUNT).min(most);
                Metered::Bounded(Usage { output: if in_order { made } else { most }, ..stated.usage })
            }
            (false, _) => Metered::Unknown,
        }
    }
}

/// Whether a choice brings something: text, reasoning, a refusal, a call, sound, or what is not known here. A role does not.
fn has_content(choice: &Value) -> bool {
    let brings = |(name, value): (&String, &Value)| name != "role" && says_something(value);
    choice.get("text").is_some_and(says_something) || delta(choice).is_some_and(|delta| delta.iter().any(brings))
}

/// Whether a choice has nothing in its `delta`, not even a role.
fn is_empty(choice: &Value) -> bool {
    delta(choice).is_some_and(Map::is_empty)
}

fn delta(choice: &Value) -> Option<&Map<String, Value>> {
    choice.get("delta").and_then(Value::as_object)
}

/// The names of members that decide whether a chunk is read.
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));
static FINISH_REASON: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"finish_reason\""));
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\""));

/// Whether a chunk may say that its choice finished, or an error, which most do not. Within a text these words would stand between
/// escaped quotation marks, and are not found.
fn says_more_than_usage(data: &[u8]) -> bool {
    has_value(data, &ERROR) || has_value(data, &FINISH_REASON)
}

/// Whether a name stands somewhere with another value than null.
fn has_value(data: &[u8], name: &Finder<'_>) -> bool {
    name.find_iter(data).any(|at| !data.get(at + name.needle().len()..).is_some_and(is_null))
}

/// Whether a member with the value null goes on here, after its name.
fn is_null(after_name: &[u8]) -> bool {
    let value = after_name.trim_ascii_start().strip_prefix(b":").unwrap_or_default();
    value.trim_ascii_start().starts_with(b"null")
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::super::fixtures::goldens;
    use super::*;

    /// What a chunk says, but not whether it has content, which nobody asks of a chunk after the first that has.
    fn said(seen: &Seen) -> (bool, bool, Option<&Range<usize>>, Option<&bytes::Bytes>) {
        (seen.terminal, seen.only_usage, seen.usage_beside.as_ref(), seen.error.as_ref())
    }

    #[test]
    fn a_running_count_that_is_read_without_the_content_beside_it_is_what_the_whole_chunk_says() {
        let of_streams =
            goldens().into_iter().flat_map(|golden| golden.stream.lines().filter_map(|line| line.strip_prefix("data: ")));
        let others = [
            r#"{"choices":[{"index":1,"delta":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#,
            r#"{"choices":[{"delta":{"content":"x"}}],"usage":{}}"#,
            r#"{"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":-9,"completion_tokens":1}}"#,
            r#"{"choices":[{"index":null,"delta":{"content":"\"usage\":1"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#,
            r#"{"choices":[{"index":"1","delta":{"content":"x"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#,
            r#"{"choices":null,"usage":{"prompt_tokens":9,"completion_tokens":1}}"#,
            r#"{"choices":[{"delta":{"content":"x"}}],"usage":null,"x_groq":{"usage":{"prompt_tokens":9,"completion_tokens":1}}}"#,
        ];
        let mut quickly_read = 0;
        for data in of_streams.chain(others) {
            let (mut quick, mut whole) = (Chunks::default(), Chunks::default());
            let seen = quick.event(None, data.as_bytes(), true);
            quickly_read += usize::from(!seen.content && quick.stated.is_some());
            assert_eq!(said(&seen), said(&whole.event(None, data.as_bytes(), false)), "{data}");
            assert_eq!(format!("{quick:?}"), format!("{whole:?}"), "{data}");
        }
        assert!(quickly_read > 5, "{quickly_read}");
    }
}
