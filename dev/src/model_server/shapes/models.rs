//! Lists of models, and how a name in a request is found among them.

use serde_json::{Value, json};

use super::About;
use crate::model_server::settings::{Face, Model};

/// The answer to `/v1/models`.
pub(in crate::model_server) fn list(about: &About, models: &[Model]) -> Value {
    let entries: Vec<Value> = models.iter().map(|model| entry(about, model)).collect();
    if about.face == Face::Anthropic {
        let name = |model: Option<&Model>| model.map(|model| model.name.clone());
        return json!({"data": entries, "has_more": false, "first_id": name(models.first()), "last_id": name(models.last())});
    }
    json!({"object": "list", "data": entries})
}

fn entry(about: &About, model: &Model) -> Value {
    let name = &model.name;
    let entry = |owner: &str| json!({"id": name, "object": "model", "created": about.created, "owned_by": owner});
    match about.face {
        Face::Vllm => {
            json!({
                "id": name, "object": "model", "created": about.created, "owned_by": "vllm", "root": name, "parent": null,
                "max_model_len": model.context_length, "permission": [],
            })
        }
        Face::Anthropic => json!({"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}),
        Face::OpenAI => entry("openai"),
        Face::Ollama => entry("library"),
    }
}

/// The model that a request names. vLLM takes its first where none is named; Ollama adds `:latest`.
pub(in crate::model_server) fn find(face: Face, models: &[Model], name: Option<&str>) -> Option<Model> {
    let Some(name) = name else { return models.first().filter(|_| face == Face::Vllm).cloned() };
    let is_it = |model: &&Model| match face {
        Face::Ollama => model.name.trim_end_matches(":latest") == name.trim_end_matches(":latest"),
        _ => model.name == name,
    };
    models.iter().find(is_it).cloned()
}
