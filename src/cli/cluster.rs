//! What commands know of a cluster: clients of its API server; nodes, from a file or from there; and the operator's
//! configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use quartermaster_core::api::conditions::reasons;
use quartermaster_core::api::vllm::VllmSpec;
use quartermaster_core::decide::backend::facts::{HubFacts, NodeFacts, Settings};
use quartermaster_core::decide::backend::model::resolve;

use super::manifests::documents;
use super::{CommandError, block_on};
use crate::configuration;
use crate::controllers::cut;
use crate::operate::clients::Clients;
use crate::operate::metrics::Metrics;

/// The namespace that the operator is taken to be in: the one of `deploy/` and of the chart's documentation.
pub const OPERATOR_NAMESPACE: &str = "quartermaster-system";

/// Where the facts about the cluster come from.
#[derive(Debug, clap::Args)]
pub struct ClusterArguments {
    /// A file with nodes, as `kubectl get nodes -o yaml` prints them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["context", "current_context"])]
    nodes: Option<PathBuf>,
    /// Read the nodes from the cluster of this context of the kubeconfig.
    #[arg(long, value_name = "NAME", conflicts_with = "current_context")]
    context: Option<String>,
    /// Read the nodes from the cluster of the kubeconfig's current context.
    #[arg(long)]
    current_context: bool,
    /// The operator's configuration file, for its accelerator profiles and defaults.
    #[arg(long, env = "QUARTERMASTER_CONFIGURATION", value_name = "FILE")]
    configuration: Option<PathBuf>,
}

impl ClusterArguments {
    /// The nodes that offer accelerators.
    pub fn nodes(&self) -> Result<Vec<NodeFacts>, CommandError> {
        let nodes = match (&self.nodes, &self.context) {
            (Some(path), _) => nodes_of_file(path)?,
            (None, None) if !self.current_context => Vec::new(),
            (None, context) => nodes_of_cluster(context.clone())?,
        };
        let mut nodes: Vec<NodeFacts> = nodes.into_iter().filter_map(cut::node).map(|node| node.0).collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(nodes)
    }

    /// What the configuration says.
    pub fn settings(&self) -> Result<Settings, CommandError> {
        let configuration =
            configuration::load(self.configuration.as_deref()).map_err(|error| CommandError::Input(error.to_string()))?;
        Ok(Settings {
            accelerator_profiles: configuration.accelerator_profiles,
            vllm: configuration.vllm,
            ollama: configuration.ollama,
            network_policies: configuration.network_policies,
            operator_namespace: OPERATOR_NAMESPACE.to_owned(),
        })
    }

    /// A message of the operator, with what the command line could have said.
    pub fn with_advice(&self, reason: &str, message: &str) -> String {
        let without_nodes = self.nodes.is_none() && self.context.is_none() && !self.current_context;
        if reason == reasons::NO_ACCELERATOR_KNOWN && without_nodes {
            return format!(
                "{message}. This command was told of no nodes: name them with --nodes FILE, --context NAME or --current-context"
            );
        }
        message.to_owned()
    }
}

fn nodes_of_file(path: &Path) -> Result<Vec<Node>, CommandError> {
    let failed = |error| CommandError::Input(format!("failed to read a node of {}: {error}", path.display()));
    documents(path)?.into_iter().map(|document| serde_json::from_value(document).map_err(failed)).collect()
}

fn nodes_of_cluster(context: Option<String>) -> Result<Vec<Node>, CommandError> {
    block_on(async {
        let nodes = Api::<Node>::all(clients(context).await?.calls).list(&ListParams::default()).await;
        nodes.map(|nodes| nodes.items).map_err(|error| CommandError::Failed(format!("failed to list nodes: {error}")))
    })?
}

/// Clients of the cluster of this context of the kubeconfig; none: of the current context.
pub async fn clients(context: Option<String>) -> Result<Clients, CommandError> {
    crate::sources::connect::install_cryptography();
    let failed = |error: &dyn std::fmt::Display| CommandError::Failed(error.to_string());
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION")).map_err(|error| failed(&error))?;
    Clients::from_environment(context, &Arc::new(metrics)).await.map_err(|error| failed(&error))
}

/// What the API server says, without the way that led there.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// What is known from the hub: nothing, since these commands ask nobody.
pub fn hub(spec: &VllmSpec) -> HubFacts {
    if !resolve::needs_hub(spec) {
        return HubFacts::NotAsked;
    }
    let (known, _) = resolve::without_hub(spec);
    HubFacts::Failed {
        message: format!(
            "{} is not in the built-in catalogue, and this command does not ask the hub: set {} in spec.vllm.architecture",
            spec.model,
            resolve::missing(&known).join(", ")
        ),
    }
}
