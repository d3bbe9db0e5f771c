//! Checks of self-hosted pods: what the engine in one is asked, and what an answer means.

use serde::Deserialize;
use serde_json::{Value, json};

use super::check::{self, CheckAnswer};
use super::engine::{Engine, ServedModel};
use super::facts::CheckOutcome;
use crate::api::external::{HealthCheckType, Provider};
use crate::api::vllm::Task;
use crate::decide::request::error_body::ErrorBody;

/// Bytes of an answer of which only the status matters.
const SMALL_ANSWER: usize = 64 << 10;
/// Bytes of a list of models. vLLM's has an entry for the model and one for each adapter, Ollama's one of some hundred bytes for
/// each model of its cache.
const LIST_OF_MODELS: usize = 1 << 20;
/// Bytes of an engine's metrics that are read at most. vLLM's are some hundred KiB, however many calls it has answered.
pub const METRICS_LIMIT: usize = 8 << 20;

/// One question of a check, below the address of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The path.
    pub path: &'static str,
    /// The body of a POST; a GET when absent.
    pub body: Option<Value>,
    /// Bytes of the answer that are read at most.
    pub body_limit: usize,
    /// What the answer has to be.
    pub expects: Expected,
}

/// What the answer to a question has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A success.
    Success,
    /// A list of models that has this one.
    Listed,
    /// The answer of the model.
    Tokens,
}

/// What an engine is asked, in this order: a later question only where the one before was answered well. vLLM's list of models
/// says nothing of the engine, which can have died beside it, so that every check asks first whether the engine runs.
pub fn questions(served: ServedModel<'_>, type_: HealthCheckType) -> Vec<Question> {
    let ServedModel { engine, name, task } = served;
    let runs = Question { path: engine.health_path(), body: None, body_limit: SMALL_ANSWER, expects: Expected::Success };
    match type_ {
        HealthCheckType::Endpoint => vec![runs],
        HealthCheckType::ModelLoaded => {
            let path = engine.models_path();
            vec![runs, Question { path, body: None, body_limit: LIST_OF_MODELS, expects: Expected::Listed }]
        }
        HealthCheckType::Inference => {
            // Every model that generates completes a text; not each has a template for chats. Both engines take it as OpenAI
            // does.
            let (path, body) = match task {
                Task::Generate => ("/v1/completions", json!({ "model": name, "prompt": ".", "max_tokens": 1 })),
                Task::Embed => ("/v1/embeddings", json!({ "model": name, "input": "." })),
            };
            vec![runs, Question { path, body: Some(body), body_limit: SMALL_ANSWER, expects: Expected::Tokens }]
        }
    }
}

/// What an answer says about the engine.
pub fn judge(engine: Engine, expects: Expected, model: &str, answer: CheckAnswer<'_>) -> CheckOutcome {
    let as_openai = |type_| check::judge(type_, Provider::OpenAICompatible, model, answer);
    match (expects, engine) {
        (Expected::Success, _) => match answer.status {
            200..=299 => CheckOutcome::Healthy,
            503 => failed(503, "the engine does not run"),
            status => failed(status, "the server does not say that its engine runs"),
        },
        (Expected::Listed, Engine::Vllm) => as_openai(HealthCheckType::ModelLoaded),
        (Expected::Tokens, Engine::Vllm) => as_openai(HealthCheckType::Inference),
        (Expected::Listed, Engine::Ollama) => listed_by_ollama(model, answer),
        (Expected::Tokens, Engine::Ollama) => match (answer.status, ErrorBody::read(answer.body)) {
            // As many calls wait as may. It works on them.
            (503, error) if error.mentions(&["server busy"]) => CheckOutcome::RateLimited,
            (status @ 400, error) if error.mentions(&["does not support"]) => {
                failed(status, "the model makes no text: set healthCheck.type to ModelLoaded")
            }
            (status, _) => match as_openai(HealthCheckType::Inference) {
                CheckOutcome::Unauthorized => failed(status, "the server wants a key, and Ollama has none"),
                outcome => outcome,
            },
        },
    }
}

/// The models of an Ollama server.
#[derive(Deserialize)]
struct Tags {
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
}

fn listed_by_ollama(model: &str, answer: CheckAnswer<'_>) -> CheckOutcome {
    let wanted = full_name(model);
    match answer.status {
        200..=299 if !answer.complete => failed(answer.status, "the list of models is too long"),
        200..=299 => match serde_json::from_slice::<Tags>(answer.body) {
            Ok(tags) if tags.models.iter().any(|tag| full_name(&tag.name) == wanted) => CheckOutcome::Healthy,
            Ok(_) => CheckOutcome::ModelNotListed,
            Err(_) => failed(answer.status, "the answer is no list of models"),
        },
        status => failed(status, "the server refuses its list of models"),
    }
}

/// The name of a model with the parts that may be left out, all in lower case: Ollama takes names for the same that differ in case
/// alone.
fn full_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    // What follows the last colon may also be the port of a registry, and the path below it.
    let (path, tag) = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((name.as_str(), "latest"));
    match path.matches('/').count() {
        0 => format!("registry.ollama.ai/library/{path}:{tag}"),
        1 => format!("registry.ollama.ai/{path}:{tag}"),
        _ => format!("{path}:{tag}"),
    }
}

fn failed(status: u16, message: &str) -> CheckOutcome {
    CheckOutcome::Failed { message: format!("{status}: {message}") }
}

/// Tokens that the key-value cache of vLLM holds, by its metrics: those of every engine of the process, as many as there are copies of
/// the model in it. None where it does not say, as a model without such a cache does not.
pub fn kv_cache_tokens(metrics: &str) -> Option<u64> {
    let mut infos = metrics.lines().filter_map(|line| line.strip_prefix("vllm:cache_config_info{"));
    // A sum of which a part is not known is not known.
    let sum = infos.try_fold(0_u64, |sum, info| {
        let number = |name: &str| label(info, name)?.parse::<u64>().ok();
        sum.checked_add(number("num_gpu_blocks")?.checked_mul(number("block_size")?)?)
    })?;
    // Nothing said, and nothing held by a model without a cache.
    (sum > 0).then_some(sum)
}

/// The value of a label in what follows the opening brace of a sample. Values in which something is escaped are none of numbers.
fn label<'text>(labels: &'text str, name: &str) -> Option<&'text str> {
    let mut rest = labels;
    loop {
        let (key, after) = rest.split_once("=\"")?;
        let (value, left) = closing_quote(after)?;
        if key.trim_start_matches([',', ' ']) == name {
            return Some(value);
        }
        rest = left;
    }
}

/// What stands before the quote that ends a value, and what follows it.
fn closing_quote(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.char_indices().find(|(_, character)| {
        let ends = *character == '"' && !escaped;
        escaped = *character == '\\' && !escaped;
        ends
    })?;
    Some((text.get(..end.0)?, text.get(end.0 + 1..)?))
}

/// How far a prediction was off, in whole percent of what is observed; positive where more was predicted.
pub fn prediction_error_percent(predicted: u64, observed: u64) -> Option<i32> {
    let difference = i128::from(predicted) - i128::from(observed);
    let observed = i128::from(observed);
    // Rounded to the nearest, halves away from zero.
    let half = if difference < 0 { -observed } else { observed };
    let percent = (difference * 200 + half).checked_div(observed * 2)?;
    i32::try_from(percent).ok()
}

#[cfg(test)]
#[path = "engine_check_tests.rs"]
mod tests;
