//! Events of Anthropic's messages.

use serde_json::{Map, Value};

use super::{Asked, Seen, kind, named_error};
use crate::api::external::Provider;
use crate::decide::gateway::plan::Server;
use crate::decide::request::answer_error::{self, says_something};
use crate::decide::request::usage::{MessagesUsage, Metered};

/// What the events so far have said.
#[derive(Debug, Default)]
pub(super) struct Messages {
    usage: MessagesUsage,
    /// It is known why the message stopped.
    stopped: bool,
    /// The output was stated then or later.
    output_is_final: bool,
    /// The input grows while the answer is made: the provider runs tools and reads what they find, or an event was not seen.
    input_is_open: bool,
}

impl Messages {
    pub(super) fn event(&mut self, name: Option<&[u8]>, data: &[u8], has_content: bool) -> Seen {
        let kind = kind(name, data);
        match kind {
            b"message_stop" => return Seen { content: true, terminal: true, ..Seen::default() },
            b"error" => return Seen { error: Some(named_error(data)), ..Seen::default() },
            b"content_block_delta" if has_content => return Seen::default(),
            b"content_block_stop" | b"ping" => return Seen::default(),
            _ => {}
        }
        // What cannot be read is none of our business.
        let Ok(event) = serde_json::from_slice::<Value>(data) else { return Seen::default() };
        match kind {
            b"message_start" => {
                self.take(event.pointer("/message/usage"));
                Seen::default()
            }
            b"content_block_start" => {
                let Some(block) = event.get("content_block").and_then(Value::as_object) else { return Seen::default() };
                let kind = block.get("type").and_then(Value::as_str).unwrap_or_default();
                self.input_is_open |= runs_at_provider(kind);
                Seen { content: !matches!(kind, "text" | "thinking") || brings(block), ..Seen::default() }
            }
            b"content_block_delta" => {
                Seen { content: event.get("delta").and_then(Value::as_object).is_some_and(brings), ..Seen::default() }
            }
            b"message_delta" => {
                self.stopped |= event.pointer("/delta/stop_reason").is_some_and(says_something);
                let states_output = self.take(event.get("usage"));
                self.output_is_final |= states_output && self.stopped;
                Seen { content: self.stopped, ..Seen::default() }
            }
            _ => Seen { error: answer_error::find(&event), ..Seen::default() },
        }
    }

    /// Takes a statement of usage, and says whether it was one of output.
    fn take(&mut self, usage: Option<&Value>) -> bool {
        let later = usage.map(MessagesUsage::read).unwrap_or_default();
        self.usage.update(later);
        later.states_output()
    }

    /// An event was too long to be looked at.
    pub(super) fn unseen(&mut self, name: Option<&[u8]>) -> Seen {
        match name {
            Some(b"message_stop") => return Seen { content: true, terminal: true, ..Seen::default() },
            Some(b"error") => {
                let error = answer_error::of_text("The backend ended its answer with an error.");
                return Seen { error: Some(error), ..Seen::default() };
            }
            Some(b"content_block_delta" | b"content_block_stop" | b"ping") => {}
            _ => self.input_is_open = true,
        }
        Seen { content: true, ..Seen::default() }
    }

    /// The input is exact from the first event on, where the server counts it before it answers. The output is that of the last
    /// event but one; until then it is anything up to the limit.
    pub(super) fn usage(&self, asked: &Asked) -> Metered {
        if self.output_is_final {
            return self.usage.usage().map_or(Metered::Unknown, Metered::Exact);
        }
        let is_counted = counts_input_first(asked.server) && !self.input_is_open;
        let bounded = is_counted.then(|| self.usage.bounded(asked.most_output)).flatten();
        bounded.map_or(Metered::Unknown, Metered::Bounded)
    }
}

/// Whether the server's first event states the input exactly. Ollama estimates it there, and adapters state nothing.
fn counts_input_first(server: Server) -> bool {
    match server {
        Server::Vllm => true,
        Server::Ollama => false,
        Server::Provider(provider) => match provider {
            // Claude, wherever it runs.
            Provider::Anthropic | Provider::AzureOpenAI | Provider::Bedrock | Provider::VertexAI => true,
            Provider::OpenAI
            | Provider::Gemini
            | Provider::Groq
            | Provider::OpenRouter
            | Provider::LMStudio
            | Provider::OpenAICompatible => false,
        },
    }
}

/// Whether a block is of a tool that the provider runs itself.
fn runs_at_provider(kind: &str) -> bool {
    matches!(kind, "server_tool_use" | "mcp_tool_use") || kind.ends_with("_tool_result")
}

/// Whether there is more than a type.
fn brings(fields: &Map<String, Value>) -> bool {
    fields.iter().any(|(name, value)| name != "type" && says_something(value))
}
