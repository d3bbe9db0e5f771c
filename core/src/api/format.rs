//! The formats in which clients and backends speak of model calls.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A format of model calls: what a backend speaks, and what a path of the gateway accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Format {
    /// OpenAI's chat completions.
    ChatCompletions,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages, and the counting of their tokens.
    Messages,
    /// OpenAI's embeddings.
    Embeddings,
    /// OpenAI's completions of a prompt.
    Completions,
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ChatCompletions => "ChatCompletions",
            Self::Responses => "Responses",
            Self::Messages => "Messages",
            Self::Embeddings => "Embeddings",
            Self::Completions => "Completions",
        })
    }
}
