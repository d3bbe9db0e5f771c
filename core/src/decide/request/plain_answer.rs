//! The meter of an answer that is no stream. Such an answer is good or bad as a whole, before any of it goes on.

use std::fmt;

use bytes::Bytes;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::answer_error;
use super::operation::Operation;
use super::usage::{self, MessagesUsage, Metered, Usage};

/// What the body of an answer with status 200 is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlainAnswer {
    /// An answer, and what it cost.
    Good(Metered),
    /// An error in spite of the status: the body that an answer with an error status would have had.
    Error(Bytes),
    /// Empty, no JSON, or not what was asked for: the backend is unavailable.
    Unreadable,
}

/// Reads the whole body of an answer with status 200, decoded if it was encoded. Nothing is kept of it but its usage.
pub fn read(operation: Operation, body: &[u8]) -> PlainAnswer {
    let answer: Answer<'_> = match body.trim_ascii_start().first() {
        // An error in a list, as Gemini writes them. Nothing else that is no object is an answer.
        Some(b'[') => return error_in(body).unwrap_or(PlainAnswer::Unreadable),
        Some(b'{') => match serde_json::from_slice(body) {
            Ok(answer) => answer,
            Err(_) => return PlainAnswer::Unreadable,
        },
        _ => return PlainAnswer::Unreadable,
    };
    let says_error = answer.error == Presence::Something || answer.object.as_ref().and_then(Value::as_str) == Some("error");
    if says_error && let Some(error) = error_in(body) {
        return error;
    }
    if !answer.is_of(operation) {
        return PlainAnswer::Unreadable;
    }
    let usage = match (operation, answer.usage) {
        // Counting costs nothing.
        (Operation::CountTokens | Operation::Models, _) => Ok(Some(Usage::default())),
        (_, None) => Ok(None),
        (Operation::Messages, Some(usage)) => MessagesUsage::read_json(usage).map(|usage| usage.usage()),
        (Operation::ChatCompletions | Operation::Completions | Operation::Embeddings | Operation::Responses, Some(usage)) => {
            usage::openai_json(usage)
        }
    };
    usage.map_or(PlainAnswer::Unreadable, |usage| PlainAnswer::Good(usage.map_or(Metered::Unknown, Metered::Exact)))
}

/// The error in a body that has one. Errors are short enough to be read as a whole.
fn error_in(body: &[u8]) -> Option<PlainAnswer> {
    answer_error::find(&serde_json::from_slice(body).ok()?).map(PlainAnswer::Error)
}

/// The members of an answer that matter. Long ones are skipped, not kept.
#[derive(Deserialize)]
struct Answer<'body> {
    #[serde(default)]
    error: Presence,
    #[serde(default)]
    object: Option<Value>,
    #[serde(default, borrow)]
    usage: Option<&'body RawValue>,
    #[serde(default)]
    choices: Presence,
    #[serde(default)]
    content: Presence,
    #[serde(default)]
    output: Presence,
    #[serde(default)]
    data: Presence,
    #[serde(default)]
    input_tokens: Presence,
}

impl Answer<'_> {
    /// Whether it has what an answer of this kind cannot lack.
    fn is_of(&self, operation: Operation) -> bool {
        match operation {
            // A list may be empty: the model had nothing to say.
            Operation::ChatCompletions | Operation::Completions => self.choices != Presence::Nothing,
            Operation::Messages => self.content != Presence::Nothing,
            Operation::Responses => self.output != Presence::Nothing,
            Operation::Embeddings | Operation::Models => self.data != Presence::Nothing,
            Operation::CountTokens => self.input_tokens != Presence::Nothing,
        }
    }
}

/// Whether a member has a value, without keeping it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Presence {
    /// Missing, null or false.
    #[default]
    Nothing,
    /// A text, a list or an object with nothing in it, a number or true.
    Empty,
    /// A text, a list or an object with something in it.
    Something,
}

impl<'de> Deserialize<'de> for Presence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PresenceVisitor)
    }
}

struct PresenceVisitor;

impl PresenceVisitor {
    fn of(something: bool) -> Presence {
        if something { Presence::Something } else { Presence::Empty }
    }
}

impl<'de> Visitor<'de> for PresenceVisitor {
    type Value = Presence;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Presence, E> {
        Ok(Presence::Nothing)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Presence, E> {
        Ok(if value { Presence::Empty } else { Presence::Nothing })
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Presence, E> {
        Ok(Presence::Empty)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Presence, E> {
        Ok(Presence::Empty)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Presence, E> {
        Ok(Presence::Empty)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Presence, E> {
        Ok(Self::of(!text.is_empty()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Presence, A::Error> {
        let mut something = false;
        while items.next_element::<IgnoredAny>()?.is_some() {
            something = true;
        }
        Ok(Self::of(something))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Presence, A::Error> {
        let mut something = false;
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            something = true;
        }
        Ok(Self::of(something))
    }
}

#[cfg(test)]
#[path = "plain_answer_tests.rs"]
mod tests;
