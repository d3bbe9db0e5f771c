//! What a path of the gateway asks for.

use crate::api::format::Format;

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/messages/count_tokens`
    CountTokens,
    /// `GET /v1/models`
    Models,
}

/// Whose API a path belongs to: it decides how errors are shaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// OpenAI's.
    OpenAI,
    /// Anthropic's.
    Anthropic,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::CountTokens,
        Self::Models,
    ];

    /// What a path asks for; `None` for a path that the gateway does not have. The path is without query, and as it came: a
    /// trailing slash is another path.
    pub fn of_path(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/chat/completions" => Self::ChatCompletions,
            "/v1/completions" => Self::Completions,
            "/v1/embeddings" => Self::Embeddings,
            "/v1/responses" => Self::Responses,
            "/v1/messages" => Self::Messages,
            "/v1/messages/count_tokens" => Self::CountTokens,
            "/v1/models" => Self::Models,
            _ => return None,
        })
    }

    /// The format that a backend has to speak; `None` for what the gateway answers itself.
    pub fn format(self) -> Option<Format> {
        Some(match self {
            Self::ChatCompletions => Format::ChatCompletions,
            Self::Completions => Format::Completions,
            Self::Embeddings => Format::Embeddings,
            Self::Responses => Format::Responses,
            Self::Messages | Self::CountTokens => Format::Messages,
            Self::Models => return None,
        })
    }

    /// Whose API it belongs to.
    pub fn api(self) -> Api {
        match self {
            Self::Messages | Self::CountTokens => Api::Anthropic,
            Self::ChatCompletions | Self::Completions | Self::Embeddings | Self::Responses | Self::Models => Api::OpenAI,
        }
    }

    /// Its name in metrics and logs, as the OpenTelemetry conventions for generative AI name operations where they do.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat_completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::CountTokens => "count_tokens",
            Self::Models => "models",
        }
    }
}
