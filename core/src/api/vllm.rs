//! A model served by vLLM in this cluster.

use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::accelerator::AcceleratorSpec;
use super::architecture::ModelArchitecture;
use super::duration::Duration;
use super::references::SecretKeyReference;

/// A model served by vLLM on accelerators of this cluster. Only `model` is required: accelerator, tensor-parallel size,
/// context length and node selection are computed and explained in status.sizing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(oldSelf.servedModelName) && !has(self.servedModelName) || has(oldSelf.servedModelName) && has(self.servedModelName) && self.servedModelName == oldSelf.servedModelName").message("vllm.servedModelName is immutable: clients call the model by it; create another InferenceBackend instead").field_path(".servedModelName"))]
#[x_kube(validation = Rule::new("!has(self.revision) || !self.model.matches('^(pvc|s3|oci)://')").message("vllm.revision names a revision of a Hugging Face repository, which vllm.model is not: remove revision, and name the version in model, by its path or by the image's tag").field_path(".revision"))]
pub struct VllmSpec {
    /// The model: a Hugging Face id such as meta-llama/Llama-3.3-70B-Instruct, pvc://claim/path (a directory of a
    /// PersistentVolumeClaim of this namespace), s3://bucket/path or oci://image (a volume of the image's content).
    #[schemars(
        length(min = 1, max = 512),
        regex(
            pattern = r"^([A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[A-Za-z0-9._-]+)*/?|s3://[A-Za-z0-9._/-]+|oci://[A-Za-z0-9._:/@-]+)$"
        )
    )]
    pub model: String,
    /// Branch, tag or commit of the model's repository. Default: main.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"))]
    pub revision: Option<String>,
    /// The name that clients put into `model`. Default: the name of this object. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$"))]
    pub served_model_name: Option<String>,
    /// Generate text, or Embed it. Default: Generate, or Embed for a model that is known to embed only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Facts of a model that neither the catalogue nor the hub knows; each overrides what is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<ModelArchitecture>,
    /// Number type of the computation. Default: Auto, as the checkpoint says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// Quantisation on load, as vLLM names it (fp8, ...). Default: Auto, as the checkpoint says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub quantization: Option<String>,
    /// Number type of the key-value cache. FP8 halves it. Default: Auto, as the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_dtype: Option<KvCacheDtype>,
    /// Largest context in tokens, prompt and answer together. Default: the largest that fits, up to the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub context_length: Option<u32>,
    /// Share of an accelerator's memory that vLLM may use, in percent. Default: 92, as vLLM's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 99))]
    pub gpu_memory_utilization_percent: Option<u32>,
    /// Over how many accelerators one replica is spread. Default: computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<Parallelism>,
    /// Which accelerators to use. Default: chosen from what the cluster has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<AcceleratorSpec>,
    /// LoRA adapters that are loaded at start and served under their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub lora_adapters: Vec<LoraAdapter>,
    /// The container image, with a tag or digest. Default: the vLLM release that this operator was tested with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,
    /// Whether code that comes with the model may run. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_remote_code: Option<bool>,
    /// Further arguments of `vllm serve`, one flag an item, with its value behind `=`. Flags that other fields manage are
    /// refused, and with the image of the tested version also what its parser refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 4096)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub extra_args: Vec<String>,
    /// Further environment variables of the container. They cannot replace those that the operator sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<EnvVar>,
    /// Requests and limits of the container besides the accelerators. Default: requests by the size of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where weights and compiled kernels are kept. Default: an emptyDir of 1.2 times the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheSpec>,
    /// The hub that the model is loaded from, and the token for gated models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<HuggingFaceSpec>,
    /// Time from the container's start until the model is loaded. It sets the startup probe, vLLM's own wait and the
    /// Deployment's progress deadline together. Default: from the bytes to load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_timeout: Option<Duration>,
    /// Time that running requests get to finish when a pod ends. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<Duration>,
    /// How a new version replaces the old one. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutSpec>,
    /// When a better computed choice is taken. Default: OnSpecChange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeSpec>,
    /// Merged last into the pod template: lists of named things (containers, volumes, env) by name, everything else as a
    /// JSON merge patch. The API server judges the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::preserved_object")]
    pub pod_template_patch: Option<serde_json::Value>,
}

/// What the model does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Task {
    /// Generates text.
    #[default]
    Generate,
    /// Turns text into vectors.
    Embed,
}

/// Number type of the computation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Dtype {
    /// As the checkpoint says.
    #[default]
    Auto,
    /// 16 bits, the usual choice.
    BFloat16,
    /// 16 bits, IEEE half precision.
    Float16,
    /// 32 bits.
    Float32,
}

/// Number type of the key-value cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KvCacheDtype {
    /// As the model's own.
    #[default]
    Auto,
    /// 8 bits.
    #[serde(rename = "FP8")]
    Fp8,
}

/// Over how many accelerators one replica is spread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Parallelism {
    /// Minimum: the fewest accelerators that hold the model and one full context. Balanced: the fewest that also leave a
    /// fifth of the memory to the key-value cache. Default: Balanced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<ParallelismPolicy>,
    /// Tensor-parallel size: accelerators that share every layer. Default: computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub tensor: Option<u32>,
    /// Pipeline-parallel size: groups of accelerators that hold successive layers. Default: 1, or more where no
    /// tensor-parallel size alone fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub pipeline: Option<u32>,
    /// Data-parallel size: copies of the model within one pod that share its queue. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub data: Option<u32>,
    /// Whether experts are kept whole and spread over the accelerators. Default: false, or true where a block-quantised
    /// expert could not be split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert: Option<bool>,
}

/// How generously a replica is sized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ParallelismPolicy {
    /// The fewest accelerators that hold the model and one full context.
    Minimum,
    /// The fewest accelerators that also leave a fifth of the memory to the key-value cache.
    #[default]
    Balanced,
}

/// A LoRA adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoraAdapter {
    /// The name that clients put into `model` to use the adapter.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub name: String,
    /// Where the adapter is: hf://organisation/adapter, or a path below the model cache.
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^(hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*|/[A-Za-z0-9._/-]+)$")
    )]
    pub source: String,
}

/// Where weights and compiled kernels are kept. Exactly one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.persistentVolumeClaim), has(self.ephemeral), has(self.nodeLocal)].filter(x, x).size() == 1").message("cache needs exactly one of persistentVolumeClaim, ephemeral, nodeLocal"))]
pub struct CacheSpec {
    /// A PersistentVolumeClaim of this namespace, shared by all replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimCache>,
    /// An emptyDir that ends with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<EphemeralCache>,
    /// A directory of the node, at the path that the operator's configuration names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_local: Option<NodeLocalCache>,
}

/// A PersistentVolumeClaim that holds the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PersistentVolumeClaimCache {
    /// Name of the PersistentVolumeClaim.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub claim_name: String,
}

/// An emptyDir that holds the cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EphemeralCache {
    /// Largest size of the emptyDir. Default: 1.2 times the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<Quantity>,
}

/// A directory of the node that holds the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeLocalCache {}

/// The hub that models are loaded from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HuggingFaceSpec {
    /// The key of a Secret that holds the access token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_key_ref: Option<SecretKeyReference>,
    /// The hub's address. Default: https://huggingface.co.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#\s]+(/[^\s?#]*)?$"))]
    #[x_kube(validation = Rule::new("!self.matches('^https?://[^/?#]*@')").message("huggingFace.endpoint must not carry credentials: put the token into a Secret and name it in huggingFace.tokenSecretKeyRef"))]
    pub endpoint: Option<String>,
}

/// How a new version replaces the old one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    /// Surge: the new pod first, on spare accelerators. InPlace: the old pod ends first. Auto: Surge, and InPlace where the
    /// new pod waits for what an old one holds. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub type_: Option<RolloutType>,
}

/// Which pod goes first in a rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutType {
    /// Surge while accelerators are free, else InPlace.
    #[default]
    Auto,
    /// The new pod first.
    Surge,
    /// The old pod ends first.
    InPlace,
}

/// When a better computed choice is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeSpec {
    /// Manual: only while the annotation quartermaster.dev/upgrade names the generation. OnSpecChange: with the next change
    /// of the spec. Automatic: at once. Default: OnSpecChange.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub type_: Option<UpgradeType>,
}

/// When a better computed choice is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeType {
    /// Only when asked by annotation.
    Manual,
    /// With the next change of the spec.
    #[default]
    OnSpecChange,
    /// At once.
    Automatic,
}
