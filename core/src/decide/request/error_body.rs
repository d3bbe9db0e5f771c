//! What an error of a backend says, out of every form in which backends say it.
//!
//! Nothing that is read here is ever shown: an error may repeat a prompt, or a part of a key.

use serde_json::{Map, Value};

/// Bytes of a body that are read as JSON. Errors have some hundred bytes; a longer one repeats what was sent, and is judged by
/// its status and its beginning.
const READ_AS_JSON: usize = 256 << 10;
/// Bytes of a message that words are looked for in. Providers say what is wrong at its beginning.
const TEXT: usize = 4 << 10;
/// How often an adapter may have wrapped the error of another adapter.
const WRAPPINGS: usize = 3;

/// An error of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorBody {
    /// Codes, then types, the more special before the more general.
    pub codes: Vec<String>,
    /// The message in lower case, cut.
    pub text: String,
    /// The field of the request that it is about.
    pub param: Option<String>,
    /// The HTTP status that it names.
    pub status: Option<u16>,
    /// An adapter has put the provider's own error into its message: `status` is the provider's, where known.
    pub wrapped: bool,
    /// It has one of the forms in which APIs speak of errors.
    pub is_error: bool,
    /// Names of the quotas that are used up (Google).
    pub quotas: Vec<String>,
    /// Whose limit it is (OpenRouter).
    pub limit_source: Option<String>,
    /// The prompt was refused for what it says (OpenRouter).
    pub moderated: bool,
    /// How long to wait, as it says: seconds, a duration or a point in time.
    pub waits: Vec<String>,
}

impl ErrorBody {
    /// Reads the body of an answer, or an event of a stream. What is no JSON has only a text, and a page of HTML not even that:
    /// it comes from something in between.
    pub fn read(body: &[u8]) -> Self {
        let json = (body.len() <= READ_AS_JSON).then(|| serde_json::from_slice::<Value>(body).ok()).flatten();
        if let Some(value) = json {
            return Self::of_value(&value, WRAPPINGS);
        }
        let start = body.get(..TEXT).unwrap_or(body).trim_ascii_start();
        let text = if start.starts_with(b"<") { String::new() } else { lower(&String::from_utf8_lossy(start)) };
        Self { text, ..Self::default() }
    }

    fn of_value(value: &Value, wrappings: usize) -> Self {
        match value {
            // Google wraps its error into a list.
            Value::Array(list) => list.first().map(|first| Self::of_value(first, wrappings)).unwrap_or_default(),
            Value::Object(root) => Self::of_object(root, wrappings),
            Value::String(message) => Self { text: lower(message), ..Self::default() },
            Value::Null | Value::Bool(_) | Value::Number(_) => Self::default(),
        }
    }

    fn of_object(root: &Map<String, Value>, wrappings: usize) -> Self {
        let within = |outer: &str| root.get(outer).and_then(|outer| outer.get("error"));
        // OpenAI's responses fail within a response, Groq's streams within an object of its own.
        let mut nested = root.get("error").into_iter().chain(within("response")).chain(within("x_groq"));
        match nested.find(|error| !error.is_null()) {
            Some(Value::Object(error)) => Self { is_error: true, ..Self::of_error(error, wrappings) },
            Some(Value::String(message)) => Self { is_error: true, text: lower(message), ..Self::of_error(root, wrappings) },
            Some(_) => Self { is_error: true, ..Self::default() },
            // Mistral and AWS have no member `error`, nor has FastAPI, nor the error event of OpenAI's responses.
            None => {
                let named = |name: &str, word: &str| root.get(name).and_then(Value::as_str) == Some(word);
                let is_error = named("object", "error") || named("type", "error");
                Self { is_error, ..Self::of_error(root, wrappings) }
            }
        }
    }

    fn of_error(error: &Map<String, Value>, wrappings: usize) -> Self {
        let member = |name: &str| error.get(name);
        let inner = |outer: &str, name: &str| error.get(outer).and_then(|outer| outer.get(name));
        let details = member("details").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let of_details = |name: &'static str| details.iter().filter_map(move |detail| detail.get(name));

        let mut read = Self {
            param: member("param").and_then(word),
            limit_source: inner("metadata", "limit_source").and_then(word),
            moderated: inner("metadata", "flagged_input").is_some(),
            ..Self::default()
        };
        // Anthropic, Google and OpenRouter each have a member that is more special than code and type; AWS names the type of
        // an error as its JSON protocol names types.
        let special = [inner("details", "error_code"), inner("availability", "code"), inner("metadata", "error_type")];
        let general = [member("code"), member("status"), member("type"), member("__type")];
        for code in special.into_iter().flatten().chain(of_details("reason")).chain(general.into_iter().flatten()) {
            match code {
                Value::Number(_) => read.status = read.status.or_else(|| status(&code.to_string())),
                Value::String(code) => match status(code) {
                    Some(status) => read.status = read.status.or(Some(status)),
                    None => read.codes.push(code.clone()),
                },
                Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {}
            }
        }
        read.quotas = of_details("violations")
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(|violation| violation.get("quotaId").and_then(word))
            .collect();
        let waits = of_details("retryDelay").chain(inner("availability", "retry_after")).chain(inner("metadata", "resets_at"));
        read.waits = waits.filter_map(word).collect();

        let message = ["message", "Message", "detail"].into_iter().find_map(|name| member(name).and_then(Value::as_str));
        match message {
            Some(message) => read.with_message(message, wrappings),
            None => read,
        }
    }

    /// Takes the message, or what LiteLLM has put into it: `litellm.<class>: <Provider>Exception - <the provider's body>`, with
    /// words of its own behind. In a stream the body can be the literal of a Python bytes object.
    fn with_message(mut self, message: &str, wrappings: usize) -> Self {
        let Some((class, rest)) = message.strip_prefix("litellm.").and_then(|rest| rest.split_once(':')) else {
            self.text = lower(message);
            return self;
        };
        self.codes.insert(0, class.trim().to_owned());
        self.wrapped = true;
        let body = rest.split_once(" - ").map_or(rest, |(_, body)| body).trim_start();
        let provider = (wrappings > 0).then(|| embedded(body)).flatten().map(|value| Self::of_value(&value, wrappings - 1));
        let Some(mut provider) = provider else {
            self.text = lower(body);
            return self;
        };
        provider.codes.append(&mut self.codes);
        Self { status: provider.status.or(self.status), is_error: self.is_error, wrapped: true, ..provider }
    }

    /// Whether the message has one of these, which are in lower case.
    pub fn mentions(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.text.contains(word))
    }

    /// Whether the message begins with one of these, which are in lower case. What a caller has sent can be repeated in a
    /// message, but not stand at its beginning.
    pub fn begins_with(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.text.starts_with(word))
    }

    /// Whether one of its codes is this one.
    pub fn has_code(&self, code: &str) -> bool {
        self.codes.iter().any(|own| own == code)
    }
}

/// A string or a number as text.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// An HTTP status of an error.
fn status(code: &str) -> Option<u16> {
    code.parse().ok().filter(|status| (400..600).contains(status))
}

/// The beginning of a text in lower case.
fn lower(text: &str) -> String {
    text.get(..text.floor_char_boundary(TEXT)).unwrap_or(text).trim_start().to_lowercase()
}

/// The provider's body as LiteLLM writes it into a message. It has to begin at once: what a provider repeats of a prompt stands
/// behind words of its own.
fn embedded(body: &str) -> Option<Value> {
    match body.as_bytes() {
        [b'b', quote @ (b'\'' | b'"'), ..] => first_value(&bytes_literal(body.get(2..)?, char::from(*quote))),
        [b'{' | b'[', ..] => first_value(body.as_bytes()),
        _ => None,
    }
}

/// The value that a text begins with, whatever follows it.
fn first_value(text: &[u8]) -> Option<Value> {
    serde_json::Deserializer::from_slice(text).into_iter::<Value>().next()?.ok()
}

/// The bytes of a Python bytes literal whose opening quote was read.
fn bytes_literal(text: &str, quote: char) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut characters = text.chars();
    let mut buffer = [0; 4];
    while let Some(character) = characters.next() {
        let meant = match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('x') => {
                    let digits: String = characters.by_ref().take(2).collect();
                    bytes.extend(u8::from_str_radix(&digits, 16));
                    continue;
                }
                Some(other) => other,
                None => break,
            },
            end if end == quote => break,
            other => other,
        };
        bytes.extend_from_slice(meant.encode_utf8(&mut buffer).as_bytes());
    }
    bytes
}

#[cfg(test)]
#[path = "error_body_tests.rs"]
mod tests;
