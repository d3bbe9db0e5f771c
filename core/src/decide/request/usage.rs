//! Tokens of an answer, as backends state them, in one form.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// Larger numbers are no counts: up to here every language that writes JSON is exact.
const MOST_TOKENS: u64 = 1 << 53;

/// The tokens of one answer. The three kinds of input do not overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Usage {
    /// Input that no cache served.
    pub input: u64,
    /// Input that the backend's prefix cache served.
    pub cached_input: u64,
    /// Input that was written into the backend's prefix cache.
    pub cache_write: u64,
    /// Output, reasoning included.
    pub output: u64,
}

impl Usage {
    /// All of the input, also what a cache served or took.
    pub fn all_input(&self) -> u64 {
        self.input.saturating_add(self.cached_input).saturating_add(self.cache_write)
    }
}

/// What is known of the tokens of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metered {
    /// What the backend stated at the end; or nothing, where it refused before any content.
    Exact(Usage),
    /// The answer was cut; it cost this or less.
    Bounded(Usage),
    /// Nobody said: the most that the attempt could use counts ([`super::upper_bound`]). Never zero.
    Unknown,
}

impl Metered {
    /// What counts, and whether it is exact. `most` is the most that the attempt could use.
    pub fn or_at_most(self, most: Usage) -> (Usage, bool) {
        match self {
            Self::Exact(usage) => (usage, true),
            Self::Bounded(usage) => (usage, false),
            Self::Unknown => (most, false),
        }
    }
}

/// A count in a statement of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Count {
    /// Missing, or null.
    #[default]
    Absent,
    /// A whole number of tokens.
    Tokens(u64),
    /// Something else: the whole statement is worth nothing.
    Invalid,
}

impl Count {
    /// Its tokens, `absent` where it is missing; `None` where it is no count.
    fn or(self, absent: u64) -> Option<u64> {
        match self {
            Self::Absent => Some(absent),
            Self::Tokens(tokens) => Some(tokens),
            Self::Invalid => None,
        }
    }

    /// The first of two that is not missing.
    fn otherwise(self, other: Self) -> Self {
        if self == Self::Absent { other } else { self }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::Null => Self::Absent,
            value => value.as_u64().filter(|tokens| *tokens <= MOST_TOKENS).map_or(Self::Invalid, Self::Tokens),
        })
    }
}

/// Usage as OpenAI's formats state it: input includes what caches served and took, output includes reasoning.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct OpenAIUsage {
    prompt_tokens: Count,
    completion_tokens: Count,
    /// The name of `prompt_tokens` in the format of responses.
    input_tokens: Count,
    /// The name of `completion_tokens` in the format of responses.
    output_tokens: Count,
    total_tokens: Count,
    #[serde(deserialize_with = "details")]
    prompt_tokens_details: InputDetails,
    #[serde(deserialize_with = "details")]
    input_tokens_details: InputDetails,
    /// Mistral's name of the input that its cache served.
    num_cached_tokens: Count,
    /// DeepSeek's name of it.
    prompt_cache_hit_tokens: Count,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct InputDetails {
    cached_tokens: Count,
    cache_write_tokens: Count,
    /// vLLM's name of `cache_write_tokens`.
    created_cache_tokens: Count,
}

/// Details are often null. What is no object has none.
fn details<'de, D: Deserializer<'de>>(deserializer: D) -> Result<InputDetails, D::Error> {
    Ok(of_object(&Value::deserialize(deserializer)?).unwrap_or_default())
}

/// Reads an object, and nothing else: a list would be taken for its members in their order.
fn of_object<'de, T: Deserialize<'de>>(value: &'de Value) -> Option<T> {
    T::deserialize(value).ok().filter(|_| value.is_object())
}

/// Reads an object from its JSON; `None` where that is none. Most are read as they stand. Where that fails, as with a member that
/// stands twice, the tree decides, in which the last one counts.
fn of_json<T: DeserializeOwned>(json: &RawValue) -> serde_json::Result<Option<T>> {
    if !json.get().starts_with('{') {
        return Ok(None);
    }
    match serde_json::from_str(json.get()) {
        Ok(read) => Ok(Some(read)),
        Err(_) => Ok(of_object(&serde_json::from_str::<Value>(json.get())?)),
    }
}

/// What a `usage` object of OpenAI's formats says; `None` where it is none, or contradicts itself.
pub(super) fn openai(usage: &Value) -> Option<Usage> {
    of_object::<OpenAIUsage>(usage)?.usage()
}

/// The same of its JSON.
///
/// # Errors
///
/// When a number in it is too large to be read.
pub(super) fn openai_json(usage: &RawValue) -> serde_json::Result<Option<Usage>> {
    Ok(of_json::<OpenAIUsage>(usage)?.and_then(OpenAIUsage::usage))
}

impl OpenAIUsage {
    /// Some count reasoning only in the total (Gemini, xAI): output is what the total has beside the prompt, if that is more.
    fn usage(self) -> Option<Usage> {
        let Count::Tokens(prompt) = self.prompt_tokens.otherwise(self.input_tokens) else { return None };
        let stated = self.completion_tokens.otherwise(self.output_tokens);
        if stated == Count::Absent && self.total_tokens == Count::Absent {
            return None;
        }
        let output = stated.or(0)?.max(self.total_tokens.or(0)?.saturating_sub(prompt));
        let (chat, responses) = (self.prompt_tokens_details, self.input_tokens_details);
        let cached_input = chat
            .cached_tokens
            .otherwise(responses.cached_tokens)
            .otherwise(self.num_cached_tokens)
            .otherwise(self.prompt_cache_hit_tokens)
            .or(0)?;
        let cache_write =
            chat.cache_write_tokens.otherwise(responses.cache_write_tokens).otherwise(chat.created_cache_tokens).or(0)?;
        let input = prompt.checked_sub(cached_input)?.checked_sub(cache_write)?;
        Some(Usage { input, cached_input, cache_write, output })
    }
}

/// Usage as Anthropic's format states it: once in a plain answer, several times in a stream, each time for the answer so far. Input
/// excludes what caches served and took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct MessagesUsage {
    input_tokens: Count,
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
    output_tokens: Count,
}

impl MessagesUsage {
    /// What a `usage` object says; nothing, where it is none.
    pub(super) fn read(usage: &Value) -> Self {
        of_object(usage).unwrap_or_default()
    }

    /// The same of its JSON.
    ///
    /// # Errors
    ///
    /// When a number in it is too large to be read.
    pub(super) fn read_json(usage: &RawValue) -> serde_json::Result<Self> {
        Ok(of_json(usage)?.unwrap_or_default())
    }

    /// Takes a later statement of the same answer: its counts take the place of the earlier ones, and are never added to them.
    pub(super) fn update(&mut self, later: Self) {
        self.input_tokens = later.input_tokens.otherwise(self.input_tokens);
        self.cache_read_input_tokens = later.cache_read_input_tokens.otherwise(self.cache_read_input_tokens);
        self.cache_creation_input_tokens = later.cache_creation_input_tokens.otherwise(self.cache_creation_input_tokens);
        self.output_tokens = later.output_tokens.otherwise(self.output_tokens);
    }

    /// Whether it says anything about output.
    pub(super) fn states_output(&self) -> bool {
        self.output_tokens != Count::Absent
    }

    /// All counts; `None` where one is missing that every answer has, or is no count.
    pub(super) fn usage(&self) -> Option<Usage> {
        let Count::Tokens(output) = self.output_tokens else { return None };
        self.with_output(output)
    }

    /// The input as it was stated, with as much output as there may have been; `None` where the input is not known. An input of
    /// nothing is not known either: adapters state it before they know better.
    pub(super) fn bounded(&self, output_limit: u64) -> Option<Usage> {
        let output = self.output_tokens.or(0)?.max(output_limit);
        self.with_output(output).filter(|usage| usage.all_input() > 0)
    }

    fn with_output(&self, output: u64) -> Option<Usage> {
        let Count::Tokens(input) = self.input_tokens else { return None };
        let cached_input = self.cache_read_input_tokens.or(0)?;
        Some(Usage { input, cached_input, cache_write: self.cache_creation_input_tokens.or(0)?, output })
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
