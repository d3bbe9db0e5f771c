//! InferenceBackend: where tokens are made.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::external::{ExternalSpec, HealthCheck};
use super::ollama::OllamaSpec;
use super::price::PriceSpec;
use super::status::InferenceBackendStatus;
use super::vllm::VllmSpec;

/// Largest length of a name: children append up to eleven characters and stay valid as a label value.
pub const NAME_MAX_LENGTH: usize = 52;

/// A place where tokens are made: a model served by vLLM on this cluster's accelerators, one served by Ollama, or a hosted
/// provider. Exactly one of vllm, ollama, external.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "quartermaster.dev",
    version = "v1alpha1",
    kind = "InferenceBackend",
    namespaced,
    status = "InferenceBackendStatus",
    derive = "PartialEq",
    shortname = "ib",
    category = "quartermaster",
    doc = "Where tokens are made: a model served by vLLM on this cluster's accelerators, one served by Ollama, or a hosted provider.",
    selectable = ".spec.vllm.model",
    selectable = ".spec.ollama.model",
    selectable = ".spec.external.provider",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the backend answers."),
    printcolumn(name = "Model", type_ = "string", json_path = ".status.summary.model", description = "The model that is served."),
    printcolumn(name = "Engine", type_ = "string", json_path = ".status.summary.engine", description = "What serves it."),
    printcolumn(name = "GPUs", type_ = "string", json_path = ".status.summary.gpus", description = "Accelerators of one replica and the tensor-parallel size."),
    printcolumn(name = "Replicas", type_ = "string", json_path = ".status.summary.replicas", description = "Ready and wanted replicas."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation."),
    printcolumn(name = "Context", type_ = "integer", json_path = ".status.summary.contextLength", description = "Largest context in tokens.", priority = 1),
    printcolumn(name = "KV-Tokens", type_ = "integer", json_path = ".status.summary.kvCacheTokens", description = "Tokens that the key-value cache of one replica holds, as the engine says; predicted until it has started.", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is ready or not.", priority = 1),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must be a DNS label, without dots: a Service is named after it"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters: the names of the objects that are made from it append to it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.vllm), has(self.ollama), has(self.external)].filter(x, x).size() == 1").message("exactly one of spec.vllm, spec.ollama, spec.external must be set"))]
#[x_kube(validation = Rule::new("has(self.vllm) == has(oldSelf.vllm) && has(self.ollama) == has(oldSelf.ollama) && has(self.external) == has(oldSelf.external)").message("a backend cannot change between vllm, ollama and external: create another InferenceBackend instead"))]
#[x_kube(validation = Rule::new("!has(self.replicas) || !has(self.external)").message("spec.replicas applies to vllm and ollama only: a hosted provider has no replicas").field_path(".replicas"))]
#[x_kube(validation = Rule::new("!(has(self.healthCheck) && has(self.healthCheck.type) && has(self.external) && self.healthCheck.type == 'ModelLoaded' && self.external.provider in ['AzureOpenAI', 'Bedrock', 'VertexAI'])").message("healthCheck.type ModelLoaded asks for a list of models, which AzureOpenAI, Bedrock and VertexAI do not have: remove it, or set it to Endpoint or, except for VertexAI, to Inference").field_path(".healthCheck.type"))]
#[x_kube(validation = Rule::new("!(has(self.healthCheck) && has(self.healthCheck.type) && has(self.external) && self.healthCheck.type == 'Inference' && self.external.provider == 'VertexAI')").message("healthCheck.type Inference needs an API key, which VertexAI does not take: remove it, or set it to Endpoint").field_path(".healthCheck.type"))]
pub struct InferenceBackendSpec {
    /// A model served by vLLM on accelerators of this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vllm: Option<VllmSpec>,
    /// A model served by Ollama in this cluster, with or without an accelerator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ollama: Option<OllamaSpec>,
    /// A model of a hosted provider, or of any server that speaks a known API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalSpec>,
    /// Number of replicas. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<u32>,
    /// Where it stands: a name of one's own choice, such as eu-west-1, by which a ModelRoute prefers backends (regionPreference).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// What its tokens cost. Default: nothing for vllm and ollama; unknown for external, which the strategy LowestCost takes last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<PriceSpec>,
    /// How the health is checked: of an external backend with each of its keys, of a self-hosted one at each of its pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Stop acting on this object, and keep showing its state. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}
