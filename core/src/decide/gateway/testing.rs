//! Routes and backends for tests.

use serde_json::{Value, json};

use super::assemble::{Assembled, Resources, assemble};
use super::backend::BackendFacts;
use crate::api::ModelRoute;

/// A route that was made in this minute, in its first generation.
pub(super) fn route(name: &str, minute: u32, spec: Value) -> ModelRoute {
    serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "ModelRoute",
        "metadata": {
            "name": name, "namespace": "team", "uid": format!("uid-of-{name}"), "generation": 1,
            "creationTimestamp": format!("2026-11-25T12:{minute:02}:00Z"),
        },
        "spec": spec,
    }))
    .unwrap()
}

/// The same route after an edit.
pub(super) fn edited(route: &ModelRoute, spec: Value) -> ModelRoute {
    let mut edited = route.clone();
    edited.spec = serde_json::from_value(spec).unwrap();
    edited.metadata.generation = route.metadata.generation.map(|generation| generation + 1);
    edited
}

/// A backend of this spec.
pub(super) fn backend(name: &str, spec: Value) -> BackendFacts {
    let backend = serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend",
        "metadata": { "name": name, "namespace": "team" }, "spec": spec,
    }));
    BackendFacts { backend: backend.unwrap(), certificate_authority: None }
}

/// A server of one's own that speaks these formats.
pub(super) fn own(name: &str, formats: &[&str]) -> BackendFacts {
    let service = json!({ "name": name, "port": 8000 });
    let external = json!({ "provider": "OpenAICompatible", "model": name, "serviceRef": service, "formats": formats });
    backend(name, json!({ "external": external }))
}

/// A provider's model that can be called in these formats.
pub(super) fn hosted(name: &str, formats: &[&str]) -> BackendFacts {
    let keys = json!([{ "name": "first", "secretKeyRef": { "name": "keys", "key": name } }]);
    let external = json!({
        "provider": "OpenAICompatible", "baseURL": "https://llm.example/v1", "model": name, "apiKeys": keys, "formats": formats,
    });
    backend(name, json!({ "external": external }))
}

/// All formats but embeddings and completions.
pub(super) const EVERY: &[&str] = &["ChatCompletions", "Responses", "Messages"];

/// Two servers of one's own, and a provider's model.
pub(super) fn backends() -> Vec<BackendFacts> {
    vec![
        own("small", EVERY),
        own("large", EVERY),
        hosted("claude", &["Messages"]),
        hosted("gpt", &["ChatCompletions", "Responses"]),
    ]
}

/// What is left of resources after they were assembled once: an operator's next pass.
pub(super) fn next(resources: &Resources, assembled: &Assembled) -> Resources {
    Resources { accepted: assembled.accepted.clone(), ..resources.clone() }
}

/// What is made of these routes and backends, of which none was accepted before.
pub(super) fn first(routes: Vec<ModelRoute>, backends: Vec<BackendFacts>) -> (Resources, Assembled) {
    let resources = Resources { namespace: "team".to_owned(), routes, backends, ..Resources::default() };
    let assembled = assemble(&resources);
    (resources, assembled)
}
