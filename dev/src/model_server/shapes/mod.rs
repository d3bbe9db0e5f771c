//! The APIs: how a request says what it wants, and how an answer is written, as a whole and as events.

mod chat;
mod completions;
mod embeddings;
mod messages;
pub(super) mod models;
mod responses;

use serde_json::{Map, Value, json};

pub(super) use chat::Chat;
pub(super) use completions::Completions;
pub(super) use embeddings::embeddings;
pub(super) use messages::Messages;
pub(super) use responses::Responses;

use super::engine::{Caching, Finish, Job};
use super::record::Tokens;
use super::refusals::{Dialect, Problem};
use super::settings::{Face, Model};
use super::tokens::Prompt;

/// What a shape knows of the call and the server.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub face: Face,
    pub dialect: Dialect,
    /// Number of the call.
    pub number: u64,
    /// Seconds since 1970.
    pub created: i64,
    /// vLLM: `--enable-prompt-tokens-details`.
    pub prompt_tokens_details: bool,
    /// vLLM: `--enable-force-include-usage`.
    pub force_include_usage: bool,
}

/// What was made so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Made {
    pub tokens: Tokens,
    /// Those of the output that were for reasoning.
    pub reasoning: u64,
}

/// What a stream consists of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    /// The name of the event, where the API names them.
    pub name: Option<&'static str>,
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Json(Value),
    /// OpenAI's `[DONE]`.
    Done,
}

/// How an API writes answers.
pub(super) trait Shape: Send {
    /// The type of a stream.
    fn stream_type(&self) -> &'static str {
        "text/event-stream"
    }

    /// Whether a request that does not say gets a stream.
    fn streams_unasked(&self) -> bool {
        false
    }

    /// How an event is written.
    fn frame(&self, event: &Event) -> String {
        let data = match &event.data {
            Data::Json(value) => value.to_string(),
            Data::Done => "[DONE]".to_owned(),
        };
        match event.name {
            Some(name) => format!("event: {name}\ndata: {data}\n\n"),
            None => format!("data: {data}\n\n"),
        }
    }

    /// What comes before the first token, once the prompt was read.
    fn opening(&mut self, made: Made) -> Vec<Event>;

    /// Some tokens of one of the answers.
    fn piece(&mut self, choice: u64, text: &str, made: Made) -> Vec<Event>;

    /// What comes behind the last token.
    fn closing(&mut self, finish: Finish, made: Made) -> Vec<Event>;

    /// How a stream ends that fails; `body` is the refusal as an answer would have it.
    fn failing(&mut self, body: &Value, made: Made) -> Vec<Event>;

    /// The answer as a whole; a text for each choice.
    fn whole(&mut self, texts: &[String], finish: Finish, made: Made) -> Value;

    /// The usage as the end of an answer has it.
    fn usage(&self, made: Made) -> Value;
}

/// An event without a name.
pub(super) fn event(value: Value) -> Event {
    Event { name: None, data: Data::Json(value) }
}

/// An event with a name, which its data repeats.
pub(super) fn named(name: &'static str, mut value: Value) -> Event {
    insert(&mut value, "type", json!(name));
    Event { name: Some(name), data: Data::Json(value) }
}

/// Sets a member of an object.
pub(super) fn insert(value: &mut Value, name: &str, member: Value) {
    if let Some(object) = value.as_object_mut() {
        object.insert(name.to_owned(), member);
    }
}

/// The members of a request. What is not an object is refused.
pub(super) fn members(body: &Value) -> Result<&Map<String, Value>, Problem> {
    body.as_object().ok_or_else(|| Problem::invalid("We could not parse the body of your request: it must be a JSON object.", ""))
}

/// Whether a request asks for a stream.
pub(super) fn wants_stream(body: &Value) -> bool {
    body.get("stream").and_then(Value::as_bool).unwrap_or(false)
}

/// A whole number of at least `least`; absent and null are none.
pub(super) fn number(body: &Value, field: &str, least: u64) -> Result<Option<u64>, Problem> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|number| *number >= least) {
            Some(number) => Ok(Some(number)),
            None => Err(Problem::invalid(format!("Input should be a whole number of at least {least}."), field)),
        },
    }
}

/// A list that is not empty.
pub(super) fn list(body: &Value, field: &str) -> Result<(), Problem> {
    match body.get(field) {
        Some(Value::Array(values)) if !values.is_empty() => Ok(()),
        Some(_) => Err(Problem::invalid("Input should be a list with at least one item.", field)),
        None => Err(Problem::invalid("Field required", field)),
    }
}

/// Refuses members that the API does not have.
pub(super) fn known(body: &Value, fields: &[&str]) -> Result<(), Problem> {
    match members(body)?.keys().find(|name| !fields.contains(&name.as_str())) {
        Some(name) => Err(Problem::coded(format!("Unknown parameter: '{name}'."), name, "unknown_parameter")),
        None => Ok(()),
    }
}

/// What `stream_options` of OpenAI's APIs ask for: usage at the end, usage in every event.
pub(super) fn stream_options(body: &Value, about: &About) -> Result<(bool, bool), Problem> {
    let options = body.get("stream_options").filter(|options| !options.is_null());
    let asks = |name: &str| options.and_then(|options| options.get(name)).and_then(Value::as_bool).unwrap_or(false);
    if options.is_some() && !wants_stream(body) && about.face != Face::Ollama {
        return Err(Problem::invalid("Stream options can only be defined when `stream=True`.", "stream_options"));
    }
    if about.face == Face::OpenAI
        && let Some(options) = options
    {
        known(options, &["include_usage", "include_obfuscation"])?;
    }
    let forced = about.face == Face::Vllm && about.force_include_usage;
    let include = asks("include_usage") || forced;
    Ok((include, include && about.face == Face::Vllm && (asks("continuous_usage_stats") || forced)))
}

/// The job that a request makes for a model; refuses a prompt that the context has no room for.
pub(super) fn job(
    about: &About,
    model: &Model,
    body: &Value,
    mut prompt: Prompt,
    limit: Option<u64>,
    choices: u64,
) -> Result<Job, Problem> {
    let (length, most) = (prompt.len(), model.context_length);
    if length >= most {
        if about.face != Face::Ollama {
            return Err(Problem::too_long(length, most, about.dialect));
        }
        // Ollama forgets the oldest without a word.
        prompt.keep_last(most.saturating_sub(1));
    }
    let caching = match about.face {
        Face::Vllm => Caching::Automatic(0),
        // OpenAI caches prompts from 1,024 tokens on, in steps of 128.
        Face::OpenAI => Caching::Automatic(1024),
        Face::Anthropic => Caching::Asked,
        Face::Ollama => Caching::Untold,
    };
    let caching = if caching == Caching::Asked && !marks_cache(body) { Caching::Untold } else { caching };
    let salt = format!("{}/{}", model.name, body.get("cache_salt").and_then(Value::as_str).unwrap_or_default());
    Ok(Job { prompt, limit, choices, caching, salt, context_length: most })
}

/// Whether any part of a request is marked for Anthropic's cache.
fn marks_cache(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(name, value)| name == "cache_control" || marks_cache(value)),
        Value::Array(values) => values.iter().any(marks_cache),
        _ => false,
    }
}

/// The usage of OpenAI's chats and completions; `details` as far as the server tells them.
pub(super) fn chat_usage(about: &About, made: Made, whole: bool) -> Value {
    let Tokens { input, cached, output, .. } = made.tokens;
    let mut usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
    match about.face {
        Face::OpenAI => {
            insert(
                &mut usage,
                "prompt_tokens_details",
                json!({"cached_tokens": cached, "cache_write_tokens": 0, "audio_tokens": 0}),
            );
            let details = json!({"reasoning_tokens": made.reasoning, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0});
            insert(&mut usage, "completion_tokens_details", details);
        }
        // Only with --enable-prompt-tokens-details, and not in the running usage.
        Face::Vllm if about.prompt_tokens_details => {
            insert(&mut usage, "prompt_tokens_details", json!({ "cached_tokens": cached }));
        }
        Face::Vllm if whole => insert(&mut usage, "prompt_tokens_details", Value::Null),
        _ => {}
    }
    usage
}

/// The usage so far, as vLLM writes it into every event that is not the last.
pub(super) fn running_usage(made: Made) -> Value {
    let Tokens { input, output, .. } = made.tokens;
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}

/// The word for why an answer of OpenAI's chats and completions ended.
pub(super) fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}
