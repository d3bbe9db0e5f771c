//! How each API says no: status, headers and body, as the providers' documentation and sources have them.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::fault::Refusal;
use super::settings::Face;

/// A shape of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenAI's.
    OpenAI,
    /// vLLM's own below OpenAI's paths.
    Vllm,
    /// Ollama's below OpenAI's paths.
    OllamaOpenAI,
    /// Ollama's own API.
    Ollama,
    /// Anthropic's, on whose server ever.
    Anthropic,
}

impl Dialect {
    /// The shape of errors of a path.
    pub fn of(face: Face, path: &str) -> Self {
        match face {
            Face::Anthropic => Self::Anthropic,
            _ if path.starts_with("/v1/messages") => Self::Anthropic,
            Face::OpenAI => Self::OpenAI,
            Face::Vllm => Self::Vllm,
            Face::Ollama if path.starts_with("/v1/") => Self::OllamaOpenAI,
            Face::Ollama => Self::Ollama,
        }
    }
}

/// What is wrong with a call.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub refusal: Refusal,
    /// In place of the usual words.
    pub message: Option<String>,
    pub param: Option<String>,
    /// OpenAI's code, in place of the usual one.
    pub code: Option<&'static str>,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, message: None, param: None, code: None }
    }
}

impl Problem {
    /// The request is wrong.
    pub fn invalid(message: impl Into<String>, param: &str) -> Self {
        Self {
            refusal: Refusal::InvalidRequest,
            message: Some(message.into()),
            param: (!param.is_empty()).then(|| param.to_owned()),
            code: None,
        }
    }

    /// The same with one of OpenAI's codes.
    pub fn coded(message: impl Into<String>, param: &str, code: &'static str) -> Self {
        Self { code: Some(code), ..Self::invalid(message, param) }
    }

    /// There is no such model.
    pub fn no_model(model: &str) -> Self {
        Self { param: Some(model.to_owned()), ..Self::from(Refusal::ModelGone) }
    }

    /// The prompt has more tokens than there is room for.
    pub fn too_long(tokens: u64, most: u64, dialect: Dialect) -> Self {
        let message = match dialect {
            Dialect::Anthropic => format!("prompt is too long: {tokens} tokens > {most} maximum"),
            Dialect::OllamaOpenAI | Dialect::Ollama => "the input is longer than the context length".to_owned(),
            Dialect::OpenAI | Dialect::Vllm => {
                format!("This model's maximum context length is {most} tokens. However, your messages have {tokens} tokens.")
            }
        };
        Self { message: Some(message), ..Self::from(Refusal::ContextLength) }
    }
}

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refused {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Value,
}

/// A problem in the words of an API. `face` matters where Anthropic's shape is another server's.
pub(super) fn refused(dialect: Dialect, face: Face, problem: &Problem) -> Refused {
    let (status, body) = match dialect {
        Dialect::OpenAI => openai(problem),
        Dialect::Vllm => vllm(problem),
        Dialect::OllamaOpenAI => ollama(problem, true),
        Dialect::Ollama => ollama(problem, false),
        Dialect::Anthropic => anthropic(problem, face),
    };
    let headers = match (problem.refusal, dialect, face) {
        (Refusal::RateLimited(seconds), Dialect::OpenAI, _) => vec![
            ("retry-after", seconds.to_string()),
            ("retry-after-ms", seconds.saturating_mul(1000).to_string()),
            ("x-ratelimit-limit-requests", "500".to_owned()),
            ("x-ratelimit-remaining-requests", "0".to_owned()),
            ("x-ratelimit-reset-requests", format!("{seconds}s")),
            ("x-ratelimit-limit-tokens", "200000".to_owned()),
            ("x-ratelimit-remaining-tokens", "150000".to_owned()),
            ("x-ratelimit-reset-tokens", "15ms".to_owned()),
        ],
        (Refusal::RateLimited(seconds), Dialect::Anthropic, Face::Anthropic) => vec![
            ("retry-after", seconds.to_string()),
            ("anthropic-ratelimit-requests-limit", "1000".to_owned()),
            ("anthropic-ratelimit-requests-remaining", "0".to_owned()),
            ("anthropic-ratelimit-requests-reset", reset_in(seconds)),
            ("anthropic-ratelimit-tokens-limit", "400000".to_owned()),
            ("anthropic-ratelimit-tokens-remaining", "399000".to_owned()),
            ("anthropic-ratelimit-tokens-reset", reset_in(1)),
        ],
        _ => Vec::new(),
    };
    Refused { status, headers, body }
}

/// RFC 3339, to the second.
fn reset_in(seconds: u64) -> String {
    let now = Timestamp::now();
    let wait = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    now.checked_add(wait).unwrap_or(now).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[rustfmt::skip]
fn openai(problem: &Problem) -> (u16, Value) {
    let model = problem.param.as_deref().unwrap_or("gone");
    let gone = format!("The model `{model}` does not exist or you do not have access to it.");
    let (status, type_, code, words) = match problem.refusal {
        Refusal::ContextLength     => (400, "invalid_request_error", Some("context_length_exceeded"), "This model's maximum context length is exceeded."),
        Refusal::KeyRejected       => (401, "invalid_request_error", Some("invalid_api_key"), "Incorrect API key provided."),
        Refusal::Forbidden         => (403, "invalid_request_error", None, "You have insufficient permissions for this operation."),
        Refusal::QuotaExhausted    => (429, "insufficient_quota", Some("insufficient_quota"), "You exceeded your current quota, please check your plan and billing details."),
        Refusal::SpendLimitReached => (429, "invalid_request_error", Some("organization_spend_limit_exceeded"), "Your organization has reached its spend limit."),
        Refusal::CreditTooLow      => (429, "invalid_request_error", Some("credit_balance_exhausted"), "Your credit balance is exhausted."),
        Refusal::RateLimited(_)    => (429, "requests", Some("rate_limit_exceeded"), "Rate limit reached for requests per min (RPM)."),
        Refusal::ModelGone         => (404, "invalid_request_error", Some("model_not_found"), gone.as_str()),
        Refusal::Overloaded        => (503, "service_unavailable_error", Some("server_is_overloaded"), "The server is currently overloaded."),
        Refusal::ServerError       => (500, "server_error", None, "The server had an error while processing your request."),
        Refusal::Timeout           => (504, "server_error", None, "The request timed out."),
        Refusal::InvalidRequest    => (400, "invalid_request_error", None, "The request is not valid."),
    };
    let param = problem.param.as_ref().filter(|_| problem.refusal == Refusal::InvalidRequest);
    let message = problem.message.as_deref().unwrap_or(words);
    (status, json!({"error": {"message": message, "type": type_, "param": param, "code": problem.code.or(code)}}))
}

#[rustfmt::skip]
fn vllm(problem: &Problem) -> (u16, Value) {
    if problem.refusal == Refusal::KeyRejected {
        return (401, json!({"error": "Unauthorized"}));
    }
    let model = problem.param.as_deref().unwrap_or("gone");
    let gone = format!("The model `{model}` does not exist.");
    let (status, type_, words) = match problem.refusal {
        Refusal::ContextLength  => (400, "BadRequestError", "This model's maximum context length is exceeded."),
        Refusal::Forbidden      => (403, "ForbiddenError", "Forbidden"),
        Refusal::ModelGone      => (404, "NotFoundError", gone.as_str()),
        Refusal::Overloaded     => (503, "ServiceUnavailableError", "The server has too many queued requests."),
        Refusal::ServerError    => (500, "InternalServerError", "EngineCore encountered an issue."),
        Refusal::Timeout        => (504, "GatewayTimeout", "The request timed out."),
        Refusal::InvalidRequest => (400, "BadRequestError", "The request is not valid."),
        // vLLM has neither quotas nor limits itself; what stands before it may.
        _                       => (429, "TooManyRequests", "Too many requests."),
    };
    let param = match problem.refusal {
        Refusal::ContextLength  => Some("input_tokens"),
        Refusal::ModelGone      => Some("model"),
        _                       => problem.param.as_deref(),
    };
    let message = problem.message.as_deref().unwrap_or(words);
    (status, json!({"error": {"message": message, "type": type_, "param": param, "code": status}}))
}

#[rustfmt::skip]
fn ollama(problem: &Problem, below_v1: bool) -> (u16, Value) {
    let gone = format!("model '{}' not found", problem.param.as_deref().unwrap_or("gone"));
    let (status, type_, words) = match problem.refusal {
        Refusal::ContextLength  => (400, "invalid_request_error", "the input is longer than the context length"),
        Refusal::KeyRejected    => (401, "authentication_error", "unauthorized"),
        Refusal::Forbidden      => (403, "api_error", "this model requires a subscription"),
        Refusal::ModelGone      => (404, "not_found_error", gone.as_str()),
        Refusal::Overloaded     => (503, "api_error", "server busy, please try again.  maximum pending requests exceeded"),
        Refusal::ServerError    => (500, "api_error", "llama runner process has terminated"),
        Refusal::Timeout        => (504, "api_error", "the request timed out"),
        Refusal::InvalidRequest => (400, "invalid_request_error", "the request is not valid"),
        // Models of its cloud.
        _                       => (429, "api_error", "you have reached your usage limit"),
    };
    let message = problem.message.as_deref().unwrap_or(words);
    if !below_v1 {
        return (status, json!({ "error": message }));
    }
    (status, json!({"error": {"message": message, "type": type_, "param": null, "code": null}}))
}

#[rustfmt::skip]
fn anthropic(problem: &Problem, face: Face) -> (u16, Value) {
    if face == Face::Vllm && problem.refusal == Refusal::KeyRejected {
        return vllm(problem);
    }
    let gone = format!("model: {}", problem.param.as_deref().unwrap_or("gone"));
    let (status, type_, words) = match problem.refusal {
        Refusal::ContextLength     => (400, "invalid_request_error", "prompt is too long: 200001 tokens > 200000 maximum"),
        Refusal::KeyRejected       => (401, "authentication_error", "invalid x-api-key"),
        Refusal::Forbidden         => (403, "permission_error", "Your API key does not have permission to use the specified resource."),
        Refusal::QuotaExhausted    => (402, "billing_error", "There is an issue with your billing."),
        Refusal::SpendLimitReached => (429, "rate_limit_error", "This request would exceed your spend limit."),
        Refusal::CreditTooLow      => (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        Refusal::RateLimited(_)    => (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
        Refusal::ModelGone         => (404, "not_found_error", gone.as_str()),
        // Only Anthropic itself has a status of its own for it.
        Refusal::Overloaded        => (if face == Face::Anthropic { 529 } else { 503 }, "overloaded_error", "Overloaded"),
        Refusal::ServerError       => (500, "api_error", "Internal server error"),
        Refusal::Timeout           => (504, "timeout_error", "The request timed out."),
        Refusal::InvalidRequest    => (400, "invalid_request_error", "The request is not valid."),
    };
    let message = match (&problem.message, &problem.param) {
        (Some(message), Some(param)) if problem.refusal == Refusal::InvalidRequest => format!("{param}: {message}"),
        (Some(message), _) => message.clone(),
        (None, _) => words.to_owned(),
    };
    let mut error = json!({"type": type_, "message": message});
    if problem.refusal == Refusal::SpendLimitReached && let Some(error) = error.as_object_mut() {
        error.insert("details".to_owned(), json!({"error_code": "enforced_spend_limit_reached"}));
    }
    (status, json!({"type": "error", "error": error, "request_id": "req_refused"}))
}
