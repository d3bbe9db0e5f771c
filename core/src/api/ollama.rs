//! A model served by Ollama in this cluster.

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::accelerator::AcceleratorSpec;
use super::duration::Duration;
use super::vllm::CacheSpec;

/// A model served by Ollama, on the CPUs of a node or on an accelerator. It is pulled before a pod is ready. Only `model` is
/// required.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.model.matches(':([^:/]*-)?cloud$')").message("ollama.model names a cloud model, which ollama.com answers and not this cluster: name another model, or use external with the provider OpenAICompatible").field_path(".model"))]
pub struct OllamaSpec {
    /// The model as `ollama pull` takes it, for example qwen3:8b, or with the registry before it:
    /// hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M. It is also the name that the server knows it by.
    #[schemars(
        length(min = 1, max = 256),
        regex(
            pattern = r"^(([A-Za-z0-9_][A-Za-z0-9._:-]*/)?[A-Za-z0-9_][A-Za-z0-9_-]*/)?[A-Za-z0-9_][A-Za-z0-9._-]*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?$"
        )
    )]
    pub model: String,
    /// The container image, with a tag or digest. Default: the Ollama release that this operator was tested with. AMD's
    /// accelerators need one of its images for ROCm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,
    /// Which accelerator a replica gets: one of any kind for {}. Default: none, the model runs on the node's CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<AcceleratorSpec>,
    /// Where pulled models are kept. Default: an emptyDir, whose content ends with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheSpec>,
    /// Largest context in tokens, prompt and answer together. Ollama drops the beginning of what is longer. Default: Ollama's
    /// own, which depends on the memory that it finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub context_length: Option<u32>,
    /// Time that the model stays in memory after its last call; the next one loads it again. 0s: not at all. Default: 5m, as
    /// Ollama's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<Duration>,
    /// Requests and limits of the container. Another number of the accelerator's resource stands here. Default: requests of one
    /// core and 2Gi, which say nothing of the model: what it needs is known to who chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}
