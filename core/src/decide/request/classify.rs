//! Which kind of failure an answer of a backend is.
//!
//! Codes are looked at first, then types, then words, then the status: providers send a spent quota as 429 and as 400, a wrong
//! key as 400, and adapters change the status. Words of a spent quota come before those of a rate limit, for providers send
//! both as 429. Where a message can repeat what the caller has sent, only its beginning decides about a key: else a prompt could
//! take a key out of service for everybody.

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::Value;

use super::error_body::ErrorBody;
use super::failure::{Failure, FailureKind};
use super::retry_after::retry_after;
use crate::api::external::Provider;
use crate::decide::gateway::plan::Server;

use FailureKind::{CallerFault, ContextLengthExceeded, KeyRejected, NotFound, QuotaExhausted, RateLimited, Timeout, Unavailable};

/// What failed in an answer that is no success: any status but 2xx. The body may be empty, of any length and in any form, and may
/// have been cut.
pub fn classify(server: Server, status: u16, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Failure {
    let mut error = ErrorBody::read(body);
    // AWS names the type of an error in a header, with the address of its definition behind a colon.
    if let Some(type_) = headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok()) {
        error.codes.insert(0, type_.split(':').next().unwrap_or(type_).to_owned());
        error.is_error = true;
    }
    let says_when = headers.contains_key("retry-after") || headers.contains_key("llm_provider-retry-after");
    failure(kind(server, Some(status), says_when, &error), headers, &error, now)
}

/// What failed where an answer of status 200 is an error object, or has an event with one: `body` is that object. What is not
/// recognised is the backend's.
pub fn classify_event(server: Server, body: &[u8], now: Timestamp) -> Failure {
    let error = ErrorBody::read(body);
    failure(kind(server, None, false, &error), &HeaderMap::new(), &error, now)
}

/// The body of a backend's error as its client may get it: as it is, where it is an object of JSON as the errors of all APIs are; the
/// object alone, where it is wrapped into a list as Google's are. `None` for what no API answers, such as the page of a proxy.
pub fn for_client(body: Bytes) -> Option<Bytes> {
    match serde_json::from_slice::<Value>(&body).ok()? {
        Value::Object(_) => Some(body),
        Value::Array(list) => list.first().filter(|error| error.is_object()).map(|error| error.to_string().into()),
        _ => None,
    }
}

/// The kind alone, of an answer whose headers are not known.
pub(crate) fn kind_of(server: Server, status: u16, error: &ErrorBody) -> FailureKind {
    kind(server, Some(status), false, error)
}

fn failure(kind: FailureKind, headers: &HeaderMap, error: &ErrorBody, now: Timestamp) -> Failure {
    let retry_after = match kind {
        RateLimited | Timeout | Unavailable => retry_after(headers, error, now),
        // Google tells to come back in seconds also where the quota is that of a day; headers are true.
        QuotaExhausted => retry_after(headers, &ErrorBody::default(), now),
        KeyRejected | NotFound | ContextLengthExceeded | CallerFault => None,
    };
    Failure { kind, retry_after }
}

fn kind(server: Server, status: Option<u16>, says_when: bool, error: &ErrorBody) -> FailureKind {
    // Behind an adapter the status that the provider's own error names is the true one. An error of status 200 names its own.
    let status = match status.filter(|status| *status >= 400) {
        Some(status) if error.wrapped => Some(error.status.unwrap_or(status)),
        Some(status) => Some(status),
        None => error.status,
    };
    if is_quota(status, says_when, error) {
        return QuotaExhausted;
    }
    if error.moderated {
        return CallerFault;
    }
    let said = by_codes(status, error).or_else(|| by_words(status, error));
    said.unwrap_or_else(|| match status {
        Some(status) => by_status(server, status, error),
        None if FAULTS_OF_THE_CALLER.iter().any(|fault| error.has_code(fault)) => CallerFault,
        None => Unavailable,
    })
}

/// Codes of a spent quota. Any code that ends in one of the last two is one as well.
const QUOTA_CODES: [&str; 12] = [
    // OpenAI.
    "insufficient_quota",
    "credit_balance_exhausted",
    "billing_hard_limit_reached",
    "billing_not_active",
    // Anthropic.
    "billing_error",
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    // LiteLLM.
    "budget_exceeded",
    "BudgetExceededError",
    "PaymentRequiredError",
    // OpenAI, of an organization or a project.
    "_spend_limit_exceeded",
    "_usage_limit_exceeded",
];

/// How a message about a spent quota begins, whatever the status.
const QUOTA_BEGINNINGS: [&str; 3] = [
    // Anthropic, as 400.
    "your credit balance is too low",
    "you have reached your specified",
    // DeepSeek.
    "insufficient balance",
];

/// Words of a spent quota where the status says that there were too many calls.
const QUOTA_WORDS: [&str; 4] = [
    // Groq, OpenAI and Bedrock: "tokens per day"; OpenRouter: "free-models-per-day".
    "per day",
    "per-day",
    // Gemini.
    "credits are depleted",
    // Anthropic.
    "usage limits",
];

fn is_quota(status: Option<u16>, says_when: bool, error: &ErrorBody) -> bool {
    let is_quota_code =
        |code: &String| QUOTA_CODES.iter().any(|quota| code == quota || quota.starts_with('_') && code.ends_with(quota));
    let spent = |source: &String| source.ends_with("_budget") || source == "openrouter_key_limit";
    if error.codes.iter().any(is_quota_code) || error.begins_with(&QUOTA_BEGINNINGS) || error.limit_source.iter().any(spent) {
        return true;
    }
    // A payment that says when to come back is a limit that passes (OpenRouter).
    if !says_when && (status == Some(402) || error.has_code("payment_required")) {
        return true;
    }
    let too_many = status == Some(429) || status.is_none() && by_codes(status, error) == Some(RateLimited);
    let of_a_day = || error.quotas.iter().any(|quota| quota.contains("PerDay"));
    // Gemini has the same words for the limit of a minute.
    let of_openai = || error.begins_with(&["you exceeded your current quota"]) && !error.has_code("RESOURCE_EXHAUSTED");
    too_many && (of_a_day() || of_openai() || error.mentions(&QUOTA_WORDS))
}

/// What a code or type says, whatever the status.
const CODES: &[(&str, FailureKind)] = &[
    // OpenAI, Groq, Azure.
    ("rate_limit_exceeded", RateLimited),
    ("slow_down", RateLimited),
    ("server_is_overloaded", Unavailable),
    ("capacity_exceeded", Unavailable),
    ("invalid_api_key", KeyRejected),
    ("model_not_found", NotFound),
    ("DeploymentNotFound", NotFound),
    ("context_length_exceeded", ContextLengthExceeded),
    ("vector_store_timeout", Timeout),
    // Anthropic.
    ("authentication_error", KeyRejected),
    ("permission_error", KeyRejected),
    ("not_found_error", NotFound),
    ("rate_limit_error", RateLimited),
    ("timeout_error", Timeout),
    ("overloaded_error", Unavailable),
    ("organization_on_hold", KeyRejected),
    // Google.
    ("API_KEY_INVALID", KeyRejected),
    ("UNAUTHENTICATED", KeyRejected),
    ("PERMISSION_DENIED", KeyRejected),
    ("FAILED_PRECONDITION", KeyRejected),
    ("NOT_FOUND", NotFound),
    ("RESOURCE_EXHAUSTED", RateLimited),
    ("DEADLINE_EXCEEDED", Timeout),
    ("UNAVAILABLE", Unavailable),
    ("INTERNAL", Unavailable),
    // OpenRouter.
    ("authentication", KeyRejected),
    ("permission_denied", KeyRejected),
    ("payment_required", RateLimited),
    ("provider_overloaded", Unavailable),
    ("provider_unavailable", Unavailable),
    ("server", Unavailable),
    ("unmapped", Unavailable),
    ("timeout", Timeout),
    ("not_found", NotFound),
    // Bedrock.
    ("ThrottlingException", RateLimited),
    ("ServiceQuotaExceededException", RateLimited),
    ("AccessDeniedException", KeyRejected),
    ("UnrecognizedClientException", KeyRejected),
    ("ExpiredTokenException", KeyRejected),
    ("ResourceNotFoundException", NotFound),
    ("ModelTimeoutException", Timeout),
    ("ModelNotReadyException", Unavailable),
    ("ModelErrorException", Unavailable),
    ("ServiceUnavailableException", Unavailable),
    ("InternalServerException", Unavailable),
    // Mistral.
    ("invalid_model", NotFound),
    // llama.cpp's server.
    ("exceed_context_size_error", ContextLengthExceeded),
    // vLLM, and the classes of LiteLLM that are the same for every provider.
    ("NotFoundError", NotFound),
    ("AuthenticationError", KeyRejected),
    ("PermissionDeniedError", KeyRejected),
    ("RateLimitError", RateLimited),
    ("ContextWindowExceededError", ContextLengthExceeded),
    ("Timeout", Timeout),
    ("ServiceUnavailableError", Unavailable),
    ("BadGatewayError", Unavailable),
    ("APIConnectionError", Unavailable),
    // LiteLLM's proxy about its own keys and models.
    ("auth_error", KeyRejected),
    ("no_db_connection", KeyRejected),
    ("throttling_error", RateLimited),
];

/// Types that say less than a status: they count where there is none.
const FAULTS_OF_THE_CALLER: [&str; 11] = [
    "invalid_request_error",
    "invalid_prompt",
    "content_filter",
    "request_too_large",
    "INVALID_ARGUMENT",
    "ValidationException",
    "BadRequestError",
    "UnprocessableEntityError",
    "ContentPolicyViolationError",
    "content_policy_violation",
    "extra_forbidden",
];

fn by_codes(status: Option<u16>, error: &ErrorBody) -> Option<FailureKind> {
    error.codes.iter().find_map(|code| {
        let (_, kind) = CODES.iter().find(|(known, _)| known == code)?;
        Some(match (code.as_str(), status) {
            ("slow_down", Some(503)) => Unavailable,
            // Groq: one call above the limit of a minute, which never succeeds.
            ("rate_limit_exceeded", Some(413)) => ContextLengthExceeded,
            _ => *kind,
        })
    })
}

/// Words of a prompt that is too long.
const CONTEXT_WORDS: [&str; 11] = [
    // vLLM, OpenAI, DeepSeek, Mistral.
    "maximum context length",
    // Anthropic.
    "prompt is too long",
    "exceed context limit",
    // Gemini.
    "exceeds the maximum number of tokens",
    // Bedrock.
    "input is too long",
    "too many tokens",
    "too many input tokens",
    // Ollama.
    "longer than the context length",
    // LM Studio.
    "greater than the context length",
    "context the overflows",
    // llama.cpp's server.
    "exceeds the available context size",
];

/// Words of a model that does not exist.
const MODEL_WORDS: [&str; 5] = [
    // Mistral, LiteLLM.
    "invalid model",
    // OpenRouter.
    "is not a valid model",
    // Bedrock.
    "model identifier is invalid",
    // DeepSeek.
    "model not exist",
    "model_not_found",
];

/// How a message about a refused key begins, where the status says 400.
const KEY_BEGINNINGS: [&str; 6] = [
    // Gemini.
    "api key not valid",
    "api key expired",
    // OpenAI.
    "incorrect api key",
    "invalid api key",
    // LiteLLM's proxy.
    "authentication error",
    "no connected db",
];

fn by_words(status: Option<u16>, error: &ErrorBody) -> Option<FailureKind> {
    let too_long_field = || error.param.as_deref().is_some_and(|param| ["input_tokens", "input_text"].contains(&param));
    match status {
        Some(400 | 413 | 422) | None => {
            if error.mentions(&CONTEXT_WORDS) || status == Some(400) && too_long_field() {
                Some(ContextLengthExceeded)
            } else if error.begins_with(&KEY_BEGINNINGS) {
                Some(KeyRejected)
            } else if error.mentions(&MODEL_WORDS) {
                Some(NotFound)
            } else {
                None
            }
        }
        Some(500..) if error.mentions(&["rate limit", "too many requests"]) => Some(RateLimited),
        Some(_) => None,
    }
}

/// How a message about a key, or about what it may do, begins where the status says 403.
const PERMISSION_BEGINNINGS: [&str; 8] = [
    "api key",
    "invalid api key",
    "incorrect api key",
    "your api key",
    "your account",
    "you do not have permission",
    "permission denied",
    "unauthorized",
];

fn by_status(server: Server, status: u16, error: &ErrorBody) -> FailureKind {
    match status {
        401 => KeyRejected,
        402 | 429 => RateLimited,
        403 if names_the_key(server, error) => KeyRejected,
        // A method or a path that is not there is a wrong address, and what is gone is a retired model.
        404 | 405 | 410 => NotFound,
        408 | 504 | 524 => Timeout,
        // The proxy on the way wants credentials of the gateway's.
        407 => Unavailable,
        424 if server == Server::Provider(Provider::Bedrock) => Unavailable,
        // 498: Groq has no capacity for a flexible call. 499: somebody on the way has left, and it was not the caller.
        498 | 499 => Unavailable,
        501 => CallerFault,
        500.. => Unavailable,
        _ => CallerFault,
    }
}

/// Whether a 403 is about the key. Of hosted providers it is, unless it comes from something in between.
/// Servers of one's own, and what may stand before them, say 403 to what a prompt contains as well.
fn names_the_key(server: Server, error: &ErrorBody) -> bool {
    let of_the_provider = match server {
        Server::Provider(
            Provider::OpenAI
            | Provider::Anthropic
            | Provider::Gemini
            | Provider::Groq
            | Provider::AzureOpenAI
            | Provider::Bedrock
            | Provider::VertexAI,
        ) => error.is_error,
        Server::Provider(Provider::OpenRouter | Provider::LMStudio | Provider::OpenAICompatible)
        | Server::Vllm
        | Server::Ollama => false,
    };
    of_the_provider || error.begins_with(&PERMISSION_BEGINNINGS)
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
