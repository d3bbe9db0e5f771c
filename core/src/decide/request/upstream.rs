//! How a call reaches a backend: which formats a server speaks, its address, the key's header, headers that have to be there.

use std::collections::BTreeSet;

use super::operation::Operation;
use crate::api::external::Provider;
use crate::api::format::Format;
use crate::decide::backend::provider::{self, Authentication};
use crate::decide::gateway::plan::Server;

/// The formats that a server speaks itself, called with an API key: the default of a backend's formats. Some providers speak
/// another one for each maker of models, which the model's name tells.
pub fn formats(server: Server, model: &str) -> BTreeSet<Format> {
    match server {
        Server::Vllm | Server::Ollama => {
            BTreeSet::from([Format::ChatCompletions, Format::Responses, Format::Messages, Format::Embeddings, Format::Completions])
        }
        Server::Provider(name) => provider::formats(name, model),
    }
}

/// The address of a call at `base`: a backend's `base_url`, or `http://<address>` of one of its pods. `None` for what the server does
/// not have, even where it speaks the format: Ollama counts no tokens.
pub fn url(server: Server, base: &str, operation: Operation) -> Option<String> {
    let path = match operation {
        Operation::ChatCompletions => "chat/completions",
        Operation::Completions => "completions",
        Operation::Embeddings => "embeddings",
        Operation::Responses => "responses",
        Operation::Messages => "messages",
        Operation::CountTokens if server == Server::Ollama => return None,
        Operation::CountTokens => "messages/count_tokens",
        Operation::Models => return None,
    };
    let messages = operation.format() == Some(Format::Messages);
    match server {
        Server::Vllm | Server::Ollama => Some(provider::join_below(base, "v1", path)),
        Server::Provider(Provider::Anthropic) => messages.then(|| provider::join(Provider::Anthropic, base, path)),
        Server::Provider(Provider::VertexAI) => None,
        // Its layer for OpenAI's clients stands below its own API.
        Server::Provider(Provider::Gemini) => {
            (!messages).then(|| provider::join(Provider::Gemini, base, &format!("openai/{path}")))
        }
        // Both have Anthropic's API beside OpenAI's, whatever path the address has.
        Server::Provider(Provider::AzureOpenAI | Provider::Bedrock) if messages => {
            Some(provider::join_below(origin(base), "anthropic/v1", path))
        }
        Server::Provider(Provider::Bedrock) => Some(provider::join_below(base, "openai/v1", path)),
        Server::Provider(
            name @ (Provider::OpenAI
            | Provider::Groq
            | Provider::OpenRouter
            | Provider::AzureOpenAI
            | Provider::LMStudio
            | Provider::OpenAICompatible),
        ) => Some(provider::join(name, base, path)),
    }
}

/// How the backend's key is sent with a call; `None` where the server takes none.
pub fn authentication(server: Server) -> Option<Authentication> {
    match server {
        // As vLLM and Ollama's cloud want it. Gemini's layer for OpenAI's clients wants it so too, unlike its own API.
        Server::Vllm | Server::Ollama | Server::Provider(Provider::Gemini) => provider::authentication(Provider::OpenAICompatible),
        Server::Provider(name) => provider::authentication(name),
    }
}

/// Headers, in lower case, that a call must have: to be added where the client did not send them, and never to replace its own. A
/// client of Anthropic's API chooses the version, which changes what is allowed in the body.
pub fn default_headers(operation: Operation) -> &'static [(&'static str, &'static str)] {
    match operation.format() {
        Some(Format::Messages) => provider::required_headers(Provider::Anthropic),
        _ => &[],
    }
}

/// Scheme, host and port of an address.
fn origin(base: &str) -> &str {
    let host = base.find("://").map_or(0, |at| at.saturating_add(3));
    let end = base.get(host..).and_then(|rest| rest.find('/')).map_or(base.len(), |at| host.saturating_add(at));
    base.get(..end).unwrap_or(base)
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
