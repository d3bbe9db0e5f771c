//! Events of OpenAI's responses.

use bytes::Bytes;
use serde_json::Value;

use super::{Seen, kind, named_error};
use crate::decide::request::answer_error::{self, says_something};
use crate::decide::request::usage::{self, Metered, Usage};

/// What the events so far have said.
#[derive(Debug, Default)]
pub(super) struct Responses {
    /// Stated by the terminal event, and by no other.
    usage: Option<Usage>,
}

impl Responses {
    pub(super) fn event(&mut self, name: Option<&[u8]>, data: &[u8], has_content: bool) -> Seen {
        let kind = kind(name, data);
        match kind {
            b"response.completed" | b"response.incomplete" | b"response.failed" => return self.terminal(kind, data),
            b"error" => return Seen { error: Some(named_error(data)), ..Seen::default() },
            b"" => {
                let found = serde_json::from_slice(data).ok().and_then(|value: Value| answer_error::find(&value));
                return Seen { error: found, ..Seen::default() };
            }
            _ => {}
        }
        // The other events repeat the whole request or the whole answer: they are read only while it is not known that it is one.
        Seen { content: !has_content && is_content(kind, data), ..Seen::default() }
    }

    fn terminal(&mut self, kind: &[u8], data: &[u8]) -> Seen {
        let event = serde_json::from_slice::<Value>(data).unwrap_or_default();
        self.usage = event.pointer("/response/usage").and_then(usage::openai);
        let failed = (kind == b"response.failed").then(|| match event.pointer("/response/error") {
            Some(error) if says_something(error) => answer_error::of_error(error),
            _ => failed(),
        });
        Seen { content: failed.is_none(), error: failed, terminal: true, ..Seen::default() }
    }

    /// An event was too long to be looked at.
    pub(super) fn unseen(&mut self, name: Option<&[u8]>) -> Seen {
        let error = matches!(name, Some(b"response.failed" | b"error")).then(failed);
        let terminal = matches!(name, Some(b"response.completed" | b"response.incomplete" | b"response.failed"));
        Seen { content: error.is_none(), error, terminal, ..Seen::default() }
    }

    pub(super) fn usage(&self) -> Metered {
        self.usage.map_or(Metered::Unknown, Metered::Exact)
    }
}

fn failed() -> Bytes {
    answer_error::of_text("The backend ended its answer with an error.")
}

/// Whether an event brings something. What announces a text or reasoning does not; what announces a call does: it names the tool.
fn is_content(kind: &[u8], data: &[u8]) -> bool {
    let read = || serde_json::from_slice::<Value>(data).unwrap_or_default();
    if kind == b"response.output_item.added" {
        let item = read();
        let kind = item.pointer("/item/type").and_then(Value::as_str);
        return kind.is_some_and(|kind| !matches!(kind, "message" | "reasoning"));
    }
    kind.ends_with(b".done") || kind.ends_with(b".delta") && read().get("delta").is_some_and(says_something)
}
