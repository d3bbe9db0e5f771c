//! Checks of backends: how often they are made, what an external one is asked, what an answer means, and which changes are worth a
//! look at the object. What self-hosted ones are asked: [`super::engine_check`].

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::facts::{CheckOutcome, HealthFacts, KeyFacts};
use super::provider;
use crate::api::duration::ParseDurationError;
use crate::api::external::{HealthCheck, HealthCheckType, Provider};
use crate::decide::gateway::plan::Server;
use crate::decide::request::classify::kind_of;
use crate::decide::request::error_body::ErrorBody;
use crate::decide::request::failure::FailureKind;

/// Why a backend cannot be checked as its spec says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A duration that does not follow the format.
    #[error(transparent)]
    ReadDuration(#[from] ParseDurationError),
    /// A question that the provider has no answer to.
    #[error(
        "spec.healthCheck.type is {asked:?}, which cannot be asked of the model {model} of {provider:?}: remove it, or set it to {instead}"
    )]
    AskForType {
        /// What the spec says.
        asked: HealthCheckType,
        /// The provider.
        provider: Provider,
        /// The model.
        model: String,
        /// What can be asked.
        instead: &'static str,
    },
}

/// How a backend is checked, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckSettings {
    /// What is asked.
    pub type_: HealthCheckType,
    /// Time between two checks, at least one second.
    pub interval: Duration,
    /// Time that one check may take, from 100 ms to 5 min.
    pub timeout: Duration,
    /// Failed checks in a row until the backend counts as unhealthy.
    pub failure_threshold: u32,
}

impl CheckSettings {
    /// The settings of a backend. Fails for a duration that does not follow the format and for a type that the provider cannot
    /// answer. The schema refuses both where it can tell.
    pub fn of(check: Option<&HealthCheck>, provider: Provider, model: &str) -> Result<Self, SettingsError> {
        let can_be_asked = |type_| match type_ {
            HealthCheckType::Endpoint => true,
            HealthCheckType::ModelLoaded => provider::lists_models(provider),
            HealthCheckType::Inference => provider::probe(provider, model).is_some(),
        };
        let type_ = match check.and_then(|check| check.type_) {
            None if can_be_asked(HealthCheckType::ModelLoaded) => HealthCheckType::ModelLoaded,
            None => HealthCheckType::Endpoint,
            Some(asked) if can_be_asked(asked) => asked,
            Some(asked) => {
                let instead = if can_be_asked(HealthCheckType::Inference) { "Endpoint or Inference" } else { "Endpoint" };
                return Err(SettingsError::AskForType { asked, provider, model: model.to_owned(), instead });
            }
        };
        Ok(Self::of_type(type_, check)?)
    }

    /// The settings of a self-hosted backend, whose engine can be asked for everything.
    ///
    /// # Errors
    ///
    /// A duration that does not follow the format.
    pub fn of_self_hosted(check: Option<&HealthCheck>) -> Result<Self, ParseDurationError> {
        let type_ = check.and_then(|check| check.type_).unwrap_or(HealthCheckType::ModelLoaded);
        Self::of_type(type_, check)
    }

    fn of_type(type_: HealthCheckType, check: Option<&HealthCheck>) -> Result<Self, ParseDurationError> {
        let default = HealthCheck::default();
        let check = check.unwrap_or(&default);
        let (interval, timeout) = match type_ {
            HealthCheckType::Inference => (Duration::from_secs(600), Duration::from_secs(30)),
            HealthCheckType::Endpoint | HealthCheckType::ModelLoaded => (Duration::from_secs(30), Duration::from_secs(5)),
        };
        let given = |duration: &Option<crate::api::duration::Duration>, default| match duration {
            Some(duration) => duration.to_std(),
            None => Ok(default),
        };
        Ok(Self {
            type_,
            interval: given(&check.interval, interval)?.max(Duration::from_secs(1)),
            timeout: given(&check.timeout, timeout)?.clamp(Duration::from_millis(100), Duration::from_secs(300)),
            failure_threshold: check.failure_threshold.unwrap_or(3).max(1),
        })
    }
}

/// Whether the answers to this kind of check say something about a key: the key is sent, and a refusal is taken for one of the
/// key. Where they do not, only the endpoint has a health.
pub fn judges_keys(type_: HealthCheckType, provider: Provider) -> bool {
    let about_the_key = type_ == HealthCheckType::Inference || provider::refusal_is_about_the_key(provider);
    provider::authentication(provider).is_some() && about_the_key
}

/// What a check sends.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckRequest {
    /// The address.
    pub url: String,
    /// The body of a POST; a GET when absent.
    pub body: Option<Value>,
    /// Bytes of the answer that are read at most.
    pub body_limit: usize,
}

/// Bytes of an answer that only its status and error code matter of.
const SMALL_ANSWER: usize = 64 << 10;
/// Bytes of a list of models. OpenRouter's, the longest known, has about one MiB.
const LIST_OF_MODELS: usize = 4 << 20;

/// What a check of this kind sends to a backend at `base`.
///
/// Endpoint reads the list of models where there is one, so that a wrong key shows; Bedrock's and Vertex AI's addresses
/// answer a call that needs no right.
pub fn request(type_: HealthCheckType, provider: Provider, base: &str, model: &str) -> CheckRequest {
    if type_ == HealthCheckType::Inference
        && let Some(probe) = provider::probe(provider, model)
    {
        let url = provider::join(provider, base, &probe.path);
        return CheckRequest { url, body: Some(probe.body), body_limit: SMALL_ANSWER };
    }
    let fallback = if provider::refusal_is_about_the_key(provider) { "models" } else { "" };
    let url = provider::join(provider, base, provider::models_path(provider).unwrap_or(fallback));
    let body_limit = if type_ == HealthCheckType::ModelLoaded { LIST_OF_MODELS } else { SMALL_ANSWER };
    CheckRequest { url, body: None, body_limit }
}

/// An answer to a check.
#[derive(Clone, Copy, Debug)]
pub struct CheckAnswer<'answer> {
    /// The HTTP status.
    pub status: u16,
    /// The body, up to the limit.
    pub body: &'answer [u8],
    /// Whether the body ended within the limit.
    pub complete: bool,
}

/// What an answer says about the backend and the key.
pub fn judge(type_: HealthCheckType, provider: Provider, model: &str, answer: CheckAnswer<'_>) -> CheckOutcome {
    let about_the_key = judges_keys(type_, provider);
    let error = ErrorBody::read(answer.body);
    let kind = kind_of(Server::Provider(provider), answer.status, &error);
    match answer.status {
        402 => failed(answer.status, "the provider wants payment"),
        407 => failed(answer.status, "the proxy of egressProxy wants credentials"),
        status @ 400.. if kind == FailureKind::QuotaExhausted => failed(status, "the provider says that the quota is used up"),
        401 | 403 if about_the_key => CheckOutcome::Unauthorized,
        400 if kind == FailureKind::KeyRejected => CheckOutcome::Unauthorized,
        // A reasoning model of OpenAI that hits the limit of one token has answered.
        400 if error.mentions(&["model output limit was reached"]) => CheckOutcome::Healthy,
        429 => CheckOutcome::RateLimited,
        300..=399 => failed(answer.status, "a redirect, which is not followed: name the final address in baseURL"),
        500.. => failed(answer.status, "the server's own error"),
        status => match type_ {
            HealthCheckType::Endpoint => CheckOutcome::Healthy,
            HealthCheckType::ModelLoaded => judge_list(provider, model, answer),
            HealthCheckType::Inference => match status {
                200..=299 if error.is_error => failed(status, "the answer carries an error"),
                200..=299 => CheckOutcome::Healthy,
                404 if error.mentions(&["model"]) || error.has_code("model_not_found") || error.has_code("DeploymentNotFound") => {
                    CheckOutcome::ModelNotListed
                }
                400 if kind == FailureKind::NotFound => CheckOutcome::ModelNotListed,
                404 | 405 => failed(status, "the server has no such path: look at baseURL"),
                _ => failed(status, "the server refuses the call of one token"),
            },
        },
    }
}

fn failed(status: u16, message: &str) -> CheckOutcome {
    CheckOutcome::Failed { message: format!("{status}: {message}") }
}

/// A list of models in the forms of OpenAI and Anthropic (`data[].id`) and Gemini (`models[].name`).
#[derive(Deserialize)]
struct ModelList {
    data: Option<Vec<ListedModel>>,
    models: Option<Vec<ListedModel>>,
}

#[derive(Deserialize)]
struct ListedModel {
    id: Option<String>,
    name: Option<String>,
}

fn judge_list(provider: Provider, model: &str, answer: CheckAnswer<'_>) -> CheckOutcome {
    let status = answer.status;
    match status {
        200..=299 => {}
        404 | 405 => {
            return failed(status, "the server has no list of models: look at baseURL, or set healthCheck.type to Endpoint");
        }
        _ => return failed(status, "the server refuses its list of models"),
    }
    if !answer.complete {
        return failed(status, "the list of models is too long");
    }
    let entries = match serde_json::from_slice::<ModelList>(answer.body) {
        Ok(ModelList { data: Some(entries), .. } | ModelList { data: None, models: Some(entries) }) => entries,
        Ok(ModelList { data: None, models: None }) | Err(_) => return failed(status, "the answer is no list of models"),
    };
    let mut names = entries.iter().filter_map(|entry| entry.id.as_deref().or(entry.name.as_deref()));
    if names.any(|name| is_model(provider, model, name)) { CheckOutcome::Healthy } else { CheckOutcome::ModelNotListed }
}

/// Whether a name of a list is the model: the same, or the dated snapshot that the model's name stands for
/// (`claude-haiku-4-5` and `claude-haiku-4-5-20251001`), or, at OpenRouter, the same without a variant (`:nitro`).
fn is_model(provider: Provider, model: &str, listed: &str) -> bool {
    let short = |name: &str| name.strip_prefix("models/").unwrap_or(name).to_owned();
    let (model, listed) = (short(model), short(listed));
    let without_variant = (provider == Provider::OpenRouter).then(|| model.split_once(':').map(|(name, _)| name)).flatten();
    let alias = model.strip_suffix("-latest").unwrap_or(&model);
    let is_date = |date: &str| date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit());
    let snapshot = listed.strip_prefix(alias).and_then(|rest| rest.strip_prefix('-')).is_some_and(is_date);
    model == listed || snapshot || without_variant == Some(listed.as_str())
}

/// Whether an outcome means that calls can be expected to be answered, now or when the provider's limit allows it.
pub fn is_alive(outcome: &CheckOutcome) -> bool {
    matches!(outcome, CheckOutcome::Healthy | CheckOutcome::RateLimited)
}

/// What is known about a key after one more check.
pub fn advance(before: &KeyFacts, outcome: CheckOutcome) -> KeyFacts {
    let alive = is_alive(&outcome);
    KeyFacts {
        name: before.name.clone(),
        failures: if alive { 0 } else { before.failures.saturating_add(1) },
        succeeded_before: before.succeeded_before || alive,
        outcome: Some(outcome),
    }
}

/// Whether the last outcome of a key is taken at its word. An answer that shows life is, at once. A refusal, which will not pass by
/// waiting, is at once where nothing has succeeded before, else when it is repeated: one that comes and goes costs nobody
/// anything. Other failures are from the threshold of failures in a row on.
pub fn counts(key: &KeyFacts, failure_threshold: u32) -> bool {
    match &key.outcome {
        None => false,
        Some(CheckOutcome::Healthy | CheckOutcome::RateLimited) => true,
        Some(
            CheckOutcome::Unauthorized
            | CheckOutcome::ModelNotListed
            | CheckOutcome::NotAllowed { .. }
            | CheckOutcome::InvalidAuthority { .. },
        ) => !key.succeeded_before || key.failures >= failure_threshold.min(2),
        Some(CheckOutcome::Unreachable { .. } | CheckOutcome::Tls { .. } | CheckOutcome::Failed { .. }) => {
            key.failures >= failure_threshold
        }
    }
}

/// Whether a change of what the checks found is worth a look at the object: another set of keys, or one of them [`differs`].
pub fn matters(before: &HealthFacts, after: &HealthFacts, failure_threshold: u32) -> bool {
    let same = |(one, other): (&KeyFacts, &KeyFacts)| !differs(one, other, failure_threshold);
    before.keys.len() != after.keys.len() || !before.keys.iter().zip(&after.keys).all(same)
}

/// Whether more is known of a key than before, or something else: another kind of outcome, one that now [`counts`] or no longer
/// does, a first success. Counters and wording alone are not.
pub fn differs(before: &KeyFacts, after: &KeyFacts, failure_threshold: u32) -> bool {
    let essence = |key: &KeyFacts| {
        let kind = key.outcome.as_ref().map(std::mem::discriminant);
        (key.name.clone(), kind, counts(key, failure_threshold), key.succeeded_before)
    };
    essence(before) != essence(after)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
