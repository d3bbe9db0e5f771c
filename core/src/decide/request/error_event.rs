//! How a stream ends for its client when it broke after its first content. Nothing pretends that the answer is complete.

use bytes::Bytes;
use serde_json::json;

use super::failure::FailureKind;
use crate::api::format::Format;

/// A comment, which clients skip. Between events it shows that the connection lives.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// The error event of a format, to be sent after complete events only and followed by nothing. `sequence_number` is that of the
/// next event: responses number theirs from 0.
pub(super) fn error_event(format: Format, kind: FailureKind, message: &str, sequence_number: u64) -> Bytes {
    let timeout = kind == FailureKind::Timeout;
    let code = if timeout { "backend_timeout" } else { "backend_unavailable" };
    let error = json!({ "message": message, "type": "server_error", "param": null, "code": code });
    let event = match format {
        Format::ChatCompletions | Format::Completions | Format::Embeddings => {
            let data = json!({ "error": error });
            format!("data: {data}\n\n")
        }
        Format::Messages => {
            let kind = if timeout { "timeout_error" } else { "api_error" };
            let data = json!({ "type": "error", "error": { "type": kind, "message": message } });
            format!("event: error\ndata: {data}\n\n")
        }
        Format::Responses => {
            // OpenAI has the members of the error beside the type. Its SDKs raise by a member `error`, in every format.
            let data = json!({
                "type": "error", "code": code, "message": message, "param": null, "sequence_number": sequence_number, "error": error,
            });
            format!("event: error\ndata: {data}\n\n")
        }
    };
    event.into()
}

#[cfg(test)]
#[path = "error_event_tests.rs"]
mod tests;
