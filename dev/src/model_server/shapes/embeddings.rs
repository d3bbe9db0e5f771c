//! OpenAI's embeddings, as OpenAI, vLLM and Ollama have them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{About, job};
use crate::model_server::engine::Job;
use crate::model_server::refusals::Problem;
use crate::model_server::settings::Model;
use crate::model_server::tokens::Prompt;

/// Numbers of a vector.
const DIMENSIONS: u16 = 8;

/// Reads a request: the job, and the answer without its usage.
pub(in crate::model_server) fn embeddings(about: &About, model: &Model, body: &Value) -> Result<(Job, Value), Problem> {
    let inputs = match body.get("input") {
        Some(Value::String(_)) => 1,
        Some(Value::Array(inputs)) if inputs.is_empty() => return Err(Problem::invalid("Input cannot be empty.", "input")),
        // One text as tokens, or several texts.
        Some(Value::Array(inputs)) if inputs.iter().all(Value::is_number) => 1,
        Some(Value::Array(inputs)) => inputs.len(),
        _ => return Err(Problem::invalid("Field required", "input")),
    };
    let as_text = body.get("encoding_format").and_then(Value::as_str) == Some("base64");
    let vector: Vec<f32> = (0..DIMENSIONS).map(|index| f32::from(index) / f32::from(DIMENSIONS)).collect();
    let embedding = if as_text {
        json!(BASE64_STANDARD.encode(vector.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()))
    } else {
        json!(vector)
    };
    let data: Vec<Value> =
        (0..inputs).map(|index| json!({"object": "embedding", "index": index, "embedding": embedding})).collect();
    let job = job(about, model, body, Prompt::of(body, &["input"]), Some(0), 0)?;
    Ok((job, json!({"object": "list", "data": data, "model": model.name})))
}
