//! How servers differ in the fields that are changed: a server is a line.
//!
//! What is not certain is decided for the field that a server documents, and against what it may refuse.

use super::removed::is_removed;
use crate::api::external::Provider;
use crate::decide::backend::provider;
use crate::decide::gateway::plan::{Backend, Server};
use crate::decide::request::operation::Operation;

/// How a server tells the usage of a stream of chat completions or completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    /// In a last chunk, if asked by `stream_options.include_usage`.
    Asked,
    /// So, and in every chunk if asked by `stream_options.continuous_usage_stats`, so that a stream that is cut is counted too. The
    /// meter takes it out again for a client that did not ask.
    AskedContinuously,
    /// Always.
    Always,
    /// Always, and `stream_options` is refused.
    AlwaysAndOptionsRefused,
}

/// What becomes of `metadata` in OpenAI's formats, where routes may find labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metadata {
    /// The API has it.
    Kept,
    /// The API has it, but in a chat only with `store`: else the call would be refused for labels that were meant for the gateway.
    KeptIfStored,
    /// It never changes an answer, but may steer an adapter (LiteLLM reads tags, guardrails and names of logs from it), or is refused.
    Removed,
}

/// How a server differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    pub(super) usage: Usage,
    pub(super) metadata: Metadata,
    /// The field that limits the output of a chat.
    chat_limit: &'static str,
    /// What a strict server gets beside the fields that the gateway sets; `None`: all but what no server gets.
    strict: Option<Strict>,
}

/// The fields of a server that refuses all others, without those that the gateway sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Strict {
    chat: &'static [&'static str],
    embeddings: &'static [&'static str],
}

/// Gemini's layer for OpenAI's clients answers 400 "Unknown name" to all others, `store`, `metadata`, `seed`, `frequency_penalty`,
/// `top_k`, `reasoning` and `web_search_options` among them. Its own settings stand in `extra_body.google`.
const GEMINI: Strict = Strict {
    chat: &[
        "messages",
        "stream",
        "temperature",
        "top_p",
        "n",
        "stop",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "extra_body",
    ],
    embeddings: &["input", "dimensions", "encoding_format"],
};

/// The schemas of Mistral's API (mistralai/platform-docs-public, openapi.yaml), which refuse all other fields with 422.
const MISTRAL: Strict = Strict {
    chat: &[
        "messages",
        "stream",
        "temperature",
        "top_p",
        "n",
        "stop",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "random_seed",
        "presence_penalty",
        "frequency_penalty",
        "prediction",
        "prompt_mode",
        "guardrails",
        "prompt_cache_key",
        "safe_prompt",
    ],
    embeddings: &["input", "output_dimension", "output_dtype", "encoding_format"],
};

/// Mistral's API is reached as a server that speaks OpenAI's, and is known by its host.
const MISTRAL_HOST: &str = "api.mistral.ai";

impl Dialect {
    pub(super) fn of(backend: &Backend) -> Self {
        let row = |usage, metadata, chat_limit, strict| Self { usage, metadata, chat_limit, strict };
        let limit = provider::chat_output_limit;
        match backend.server {
            Server::Vllm => row(Usage::AskedContinuously, Metadata::Kept, "max_completion_tokens", None),
            // It ignores max_completion_tokens, which would leave the output without a limit.
            Server::Ollama => row(Usage::Asked, Metadata::Kept, "max_tokens", None),
            Server::Provider(Provider::OpenAICompatible) if host(&backend.base_url) == MISTRAL_HOST => {
                row(Usage::AlwaysAndOptionsRefused, Metadata::Kept, "max_tokens", Some(MISTRAL))
            }
            Server::Provider(name @ (Provider::OpenAI | Provider::AzureOpenAI)) => {
                row(Usage::Asked, Metadata::KeptIfStored, limit(name), None)
            }
            Server::Provider(name @ Provider::OpenRouter) => row(Usage::Always, Metadata::Kept, limit(name), None),
            Server::Provider(name @ Provider::LMStudio) => row(Usage::Asked, Metadata::Kept, limit(name), None),
            Server::Provider(name @ Provider::Gemini) => row(Usage::Asked, Metadata::Removed, limit(name), Some(GEMINI)),
            Server::Provider(
                name @ (Provider::Anthropic | Provider::Groq | Provider::Bedrock | Provider::VertexAI | Provider::OpenAICompatible),
            ) => row(Usage::Asked, Metadata::Removed, limit(name), None),
        }
    }

    /// The field that limits the output; `None` where there is no output.
    pub(super) fn output_limit(&self, operation: Operation) -> Option<&'static str> {
        match operation {
            Operation::ChatCompletions => Some(self.chat_limit),
            Operation::Completions | Operation::Messages => Some("max_tokens"),
            Operation::Responses => Some("max_output_tokens"),
            Operation::Embeddings | Operation::CountTokens | Operation::Models => None,
        }
    }

    /// Whether the server gets a field that the gateway does not set itself.
    pub(super) fn gets(&self, operation: Operation, field: &str) -> bool {
        match (self.strict, operation) {
            (Some(strict), Operation::ChatCompletions) => strict.chat.contains(&field),
            (Some(strict), Operation::Embeddings) => strict.embeddings.contains(&field),
            _ => !is_removed(field),
        }
    }
}

/// The host of an address.
fn host(base_url: &str) -> &str {
    let rest = base_url.split_once("://").map_or(base_url, |(_, rest)| rest);
    rest.split(['/', ':', '?', '#']).next().unwrap_or_default()
}
