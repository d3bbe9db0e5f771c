//! Errors that backends put into answers of status 200, in the form that the body of an error has.

use bytes::Bytes;
use serde_json::{Value, json};

/// Whether a value says anything: null, false, numbers and what is empty do not.
pub(super) fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// The error in an object of any format, as the body that an answer with an error status would have had:
///
/// * `error`, an object or a text (OpenAI, vLLM, OpenRouter, Anthropic), also first in a list (Gemini);
/// * the object itself, where it says that it is one (Mistral);
/// * `x_groq.error`, with which Groq ends a stream early.
pub(super) fn find(value: &Value) -> Option<Bytes> {
    let value = value.as_array().and_then(|values| values.first()).unwrap_or(value);
    let object = value.as_object()?;
    match object.get("error").filter(|error| says_something(error)) {
        Some(Value::Object(_)) => return Some(body(value)),
        Some(error) => return Some(of_error(error)),
        None => {}
    }
    if object.get("object").and_then(Value::as_str) == Some("error") {
        return Some(body(value));
    }
    value.pointer("/x_groq/error").filter(|error| says_something(error)).map(of_error)
}

/// The body for an object that is known to be an error: what [`find`] finds in it, else the object itself.
pub(super) fn of_event(value: &Value) -> Bytes {
    find(value).unwrap_or_else(|| body(value))
}

/// The body for what stands in a field `error`: an object, or a text.
pub(super) fn of_error(error: &Value) -> Bytes {
    match error {
        Value::Object(_) => body(&json!({ "error": error })),
        Value::String(text) => of_text(text),
        other => of_text(&other.to_string()),
    }
}

/// The body for an error of which there is only a text.
pub(super) fn of_text(text: &str) -> Bytes {
    body(&json!({ "error": { "message": text } }))
}

fn body(value: &Value) -> Bytes {
    value.to_string().into()
}
