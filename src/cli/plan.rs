//! `quartermaster plan`: what the operator would apply.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use quartermaster_core::api::InferenceBackend;
use quartermaster_core::api::conditions::types;
use quartermaster_core::decide::backend;
use quartermaster_core::decide::backend::facts::{NodeFacts, Observation, SecretFacts, SecretValue, Settings};
use quartermaster_core::decide::backend::secrets as references;
use quartermaster_core::decide::decision::{Child, Children};
use serde::Serialize;
use serde_json::{Value, json};

use super::CommandError;
use super::cluster::{self, ClusterArguments};
use super::manifests;
use super::output::{self, Format};
use super::replay::PLACEHOLDER_ENTROPY;

/// Arguments of `quartermaster plan`.
#[derive(Debug, clap::Args)]
pub struct PlanArguments {
    /// Files with InferenceBackends; - for standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How the answer is printed. json: one List, as kubectl takes it, with what is refused beside its items.
    #[arg(long, short, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

/// A backend of which the operator would make nothing, and why.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Refused {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    reason: String,
    message: String,
}

/// Prints what would be applied. The value of a generated key is never printed.
pub fn print(arguments: PlanArguments) -> Result<(), CommandError> {
    let nodes = Arc::new(arguments.cluster.nodes()?);
    let settings = Arc::new(arguments.cluster.settings()?);
    let (mut objects, mut refused) = (Vec::new(), Vec::new());
    for backend in manifests::objects::<InferenceBackend>(&arguments.files)? {
        let (name, namespace) = (backend.metadata.name.clone().unwrap_or_default(), backend.metadata.namespace.clone());
        let observation = observation(backend, nodes.clone(), settings.clone());
        let decision = backend::decide(&observation, Timestamp::now());
        let stalled = decision.status.conditions.iter().any(|condition| condition.type_ == types::STALLED);
        match decision.children {
            Children::Exactly(children) if !stalled => objects.extend(children.into_iter().map(without_key)),
            _ => {
                let ready = decision.status.conditions.into_iter().find(|condition| condition.type_ == types::READY);
                let (reason, message) = ready.map(|ready| (ready.reason, ready.message)).unwrap_or_default();
                let message = arguments.cluster.with_advice(&reason, &message);
                refused.push(Refused { name, namespace, reason, message });
            }
        }
    }
    if arguments.output == Format::Json {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects, "refused": refused });
        output::value(arguments.output, &list)?;
    } else {
        output::documents(arguments.output, &objects)?;
    }
    let told: Vec<String> =
        refused.iter().map(|one| format!("InferenceBackend {}: {}: {}", one.name, one.reason, one.message)).collect();
    if told.is_empty() { Ok(()) } else { Err(CommandError::Refused(told.join("\n"))) }
}

/// The object of a child. A generated key is drawn anew for every backend, and nobody's to see.
fn without_key(child: Child) -> Value {
    let mut object = child.object;
    let data = object.get("data").and_then(Value::as_object).cloned().filter(|_| child.identity.kind == "Secret");
    if let (Some(data), Some(object)) = (data, object.as_object_mut()) {
        let hidden: serde_json::Map<_, _> = data.keys().map(|key| (key.clone(), json!("<generated>"))).collect();
        object.remove("data");
        object.insert("stringData".to_owned(), Value::Object(hidden));
    }
    object
}

/// The backend in a cluster that has these nodes and nothing else. Secrets that it refers to are taken to exist.
fn observation(mut backend: InferenceBackend, nodes: Arc<Vec<NodeFacts>>, settings: Arc<Settings>) -> Observation {
    backend.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    backend.metadata.uid.get_or_insert_with(|| "00000000-0000-0000-0000-000000000000".to_owned());
    let vllm = backend.spec.vllm.iter().flat_map(references::of_vllm);
    let external = backend.spec.external.iter().flat_map(references::of_external);
    let mut secrets = std::collections::BTreeMap::new();
    for reference in vllm.chain(external) {
        let entry = secrets
            .entry(reference.target.name.clone())
            .or_insert_with(|| SecretFacts::Present { keys: Default::default(), version: String::new() });
        if let SecretFacts::Present { keys, .. } = entry {
            keys.insert(reference.target.key.clone(), SecretValue::Line);
        }
    }
    Observation {
        observed_at: None,
        hub: backend.spec.vllm.as_ref().map(cluster::hub).unwrap_or_default(),
        backend,
        nodes,
        settings,
        secrets,
        deployment: None,
        pods: Vec::new(),
        api_key_exists: false,
        entropy: PLACEHOLDER_ENTROPY.to_owned(),
        health: None,
        engines: Vec::new(),
        traffic: Default::default(),
        budgets: Vec::new(),
        refusals: Vec::new(),
        outdated_schema: Arc::default(),
    }
}
