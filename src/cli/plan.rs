//! `quartermaster plan`: what the operator would apply.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use quartermaster_core::api::InferenceBackend;
use quartermaster_core::api::conditions::types;
use quartermaster_core::decide::backend;
use quartermaster_core::decide::backend::facts::{NodeFacts, Observation, SecretFacts, SecretValue, Settings};
use quartermaster_core::decide::backend::secrets as references;
use quartermaster_core::decide::decision::Children;
use serde_json::{Value, json};

use super::output::{self, Format};
use super::replay::PLACEHOLDER_ENTROPY;
use super::{CommandError, runtime};
use crate::configuration;
use crate::controllers::cut;
use crate::operate::clients::Clients;

/// Where the facts about the cluster come from.
#[derive(Debug, clap::Args)]
pub struct ClusterArguments {
    /// A file with nodes, as `kubectl get nodes -o yaml` prints them.
    #[arg(long, value_name = "FILE", conflicts_with = "context")]
    nodes: Option<PathBuf>,
    /// Read the nodes from the cluster of this context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The operator's configuration file, for its accelerator profiles and defaults.
    #[arg(long, env = "QUARTERMASTER_CONFIGURATION", value_name = "FILE")]
    configuration: Option<PathBuf>,
}

impl ClusterArguments {
    /// The nodes that offer accelerators.
    pub fn nodes(&self) -> Result<Vec<NodeFacts>, CommandError> {
        let nodes = match (&self.nodes, &self.context) {
            (Some(path), _) => nodes_of_file(path)?,
            (None, Some(context)) => nodes_of_cluster(context)?,
            (None, None) => Vec::new(),
        };
        let mut nodes: Vec<NodeFacts> = nodes.into_iter().filter_map(cut::node).map(|node| node.0).collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(nodes)
    }

    /// What the configuration says.
    pub fn settings(&self) -> Result<Settings, CommandError> {
        let configuration =
            configuration::load(self.configuration.as_deref()).map_err(|error| CommandError::Input(error.to_string()))?;
        Ok(Settings { accelerator_profiles: configuration.accelerator_profiles, vllm: configuration.vllm })
    }
}

fn nodes_of_file(path: &Path) -> Result<Vec<Node>, CommandError> {
    let mut nodes = Vec::new();
    for document in documents(path)? {
        let items = document.get("items").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![document]);
        for item in items {
            let node = serde_json::from_value(item);
            nodes.push(node.map_err(|error| CommandError::Input(format!("failed to read a node of {}: {error}", path.display())))?);
        }
    }
    Ok(nodes)
}

fn nodes_of_cluster(context: &str) -> Result<Vec<Node>, CommandError> {
    crate::sources::connect::install_cryptography();
    let failed = |error: String| CommandError::Failed(error);
    runtime()?.block_on(async {
        let clients = Clients::from_environment(Some(context.to_owned())).await.map_err(|error| failed(error.to_string()))?;
        let nodes = Api::<Node>::all(clients.calls).list(&ListParams::default()).await;
        nodes.map(|nodes| nodes.items).map_err(|error| failed(format!("failed to list nodes: {error}")))
    })
}

/// The documents of a file, as values.
pub fn documents(path: &Path) -> Result<Vec<Value>, CommandError> {
    let text = output::read(path)?;
    let documents: Result<Vec<Value>, _> = serde_saphyr::from_multiple(&text);
    let documents = documents.map_err(|error| CommandError::Input(format!("failed to understand {}: {error}", path.display())))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// The InferenceBackends of files. Other kinds are passed over: a file may hold a whole setup.
pub fn backends(paths: &[PathBuf]) -> Result<Vec<InferenceBackend>, CommandError> {
    let mut backends = Vec::new();
    for path in paths {
        for document in documents(path)? {
            let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            if text("/kind").as_deref() != Some("InferenceBackend") {
                continue;
            }
            let name = text("/metadata/name").unwrap_or_default();
            let backend: InferenceBackend = serde_json::from_value(document).map_err(|error| {
                CommandError::Input(format!("failed to read InferenceBackend {name} of {}: {error}", path.display()))
            })?;
            backends.push(backend);
        }
    }
    if backends.is_empty() {
        return Err(CommandError::Input("no InferenceBackend in the files".to_owned()));
    }
    Ok(backends)
}

/// Arguments of `quartermaster plan`.
#[derive(Debug, clap::Args)]
pub struct PlanArguments {
    /// Files with InferenceBackends; - for standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

/// Prints what would be applied. The value of a generated key is never printed.
pub fn print(arguments: PlanArguments) -> Result<(), CommandError> {
    let nodes = Arc::new(arguments.cluster.nodes()?);
    let settings = Arc::new(arguments.cluster.settings()?);
    let (mut objects, mut refused) = (Vec::new(), Vec::new());
    for backend in backends(&arguments.files)? {
        let name = backend.metadata.name.clone().unwrap_or_default();
        let observation = observation(backend, nodes.clone(), settings.clone());
        let decision = backend::decide(&observation, Timestamp::now());
        let ready = decision.status.conditions.iter().find(|condition| condition.type_ == types::READY);
        let stalled = decision.status.conditions.iter().any(|condition| condition.type_ == types::STALLED);
        match decision.children {
            Children::Exactly(children) if !stalled => objects.extend(children.into_iter().map(|child| {
                let mut object = child.object;
                if let Some(data) =
                    object.get("data").and_then(Value::as_object).cloned().filter(|_| child.identity.kind == "Secret")
                {
                    // Drawn anew for every backend, and nobody's to see.
                    let hidden: serde_json::Map<_, _> = data.keys().map(|key| (key.clone(), json!("<generated>"))).collect();
                    if let Some(object) = object.as_object_mut() {
                        object.remove("data");
                        object.insert("stringData".to_owned(), Value::Object(hidden));
                    }
                }
                object
            })),
            _ => {
                let reason = ready.map(|ready| format!("{}: {}", ready.reason, ready.message)).unwrap_or_default();
                refused.push(format!("InferenceBackend {name}: {reason}"));
            }
        }
    }
    output::documents(arguments.output, &objects)?;
    if refused.is_empty() { Ok(()) } else { Err(CommandError::Refused(refused.join("\n"))) }
}

/// The backend in a cluster that has these nodes and nothing else. Secrets that it refers to are taken to exist.
pub fn observation(mut backend: InferenceBackend, nodes: Arc<Vec<NodeFacts>>, settings: Arc<Settings>) -> Observation {
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
        backend,
        nodes,
        settings,
        hub: Default::default(),
        secrets,
        deployment: None,
        pods: Vec::new(),
        api_key_exists: false,
        entropy: PLACEHOLDER_ENTROPY.to_owned(),
        health: None,
        refusals: Vec::new(),
        outdated_schema: Arc::default(),
    }
}
