//! Sizing: accelerator, parallel sizes and context length of a model server, as arithmetic.

mod constraints;
mod explain;
mod facts;
mod fixes;
mod inputs;
mod memory;
mod options;
mod search;

use serde::Serialize;

pub use explain::{Candidate, Explanation, explain, size};
pub use fixes::{Change, Changed, Fix};
pub use inputs::{inputs_hash, still_legal};

use super::accelerator::Accelerator;
use super::facts::NodeFacts;
use crate::api::architecture::ModelArchitecture;
use crate::api::configuration::AcceleratorProfile;
use crate::api::status::SizingStatus;
use crate::api::vllm::VllmSpec;

/// What to size.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The facts of the model, whether or not they suffice.
    pub architecture: &'a ModelArchitecture,
    /// What the user asks for.
    pub spec: &'a VllmSpec,
    /// What there is to choose from, from [`super::accelerator::candidates()`].
    pub accelerators: &'a [Accelerator],
    /// What they were found in, so that another accelerator is proposed only where it would be found.
    pub cluster: Cluster<'a>,
}

/// Where accelerators come from. The default is a cluster of which nothing is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cluster<'a> {
    /// The nodes.
    pub nodes: &'a [NodeFacts],
    /// What the operator's configuration promises.
    pub profiles: &'a [AcceleratorProfile],
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizing {
    /// Whether the choice was computed. False: the user's own parallel sizes were taken because the model or the
    /// accelerator's memory is not known, and whether they fit is not known either.
    pub known: bool,
    /// The accelerator.
    pub accelerator: Accelerator,
    /// Accelerators that share every layer.
    pub tensor: u32,
    /// Groups of accelerators that hold successive layers.
    pub pipeline: u32,
    /// Copies of the model within one pod.
    pub data: u32,
    /// Whether experts are kept whole and spread over the accelerators.
    pub expert: bool,
    /// Whether CUDA graphs must be off because there is no room to capture them.
    pub enforce_eager: bool,
    /// Share of an accelerator's memory for the engine, in percent: the user's, or the default, which on a shared card is
    /// divided by the pods that share it.
    pub gpu_memory_utilization_percent: u32,
    /// Largest context in tokens. Absent: not known, left to vLLM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// Bytes of weights of the whole model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_bytes: Option<u64>,
    /// Bytes of the checkpoint, which are downloaded or read when a pod starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_bytes: Option<u64>,
    /// Bytes of weights on one accelerator.
    #[serde(skip_serializing_if = "Option::is_none", rename = "weightBytesPerGPU")]
    pub weight_bytes_per_gpu: Option<u64>,
    /// Tokens that the key-value cache of one replica is predicted to hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache_tokens: Option<u64>,
    /// Sequences of full context length that fit at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_sequences: Option<u64>,
    /// The arithmetic in one line.
    pub derivation: String,
}

impl Sizing {
    /// Accelerators of one replica.
    pub fn gpus(&self) -> u32 {
        self.tensor.saturating_mul(self.pipeline).saturating_mul(self.data)
    }

    /// The choice as `status.sizing` shows it, without image.
    pub fn to_status(&self, inputs_hash: String) -> SizingStatus {
        SizingStatus {
            accelerator_product: self.accelerator.product.clone(),
            resource_name: Some(self.accelerator.resource_name.clone()),
            gpus_per_replica: self.gpus(),
            tensor_parallel_size: self.tensor,
            pipeline_parallel_size: self.pipeline,
            data_parallel_size: self.data,
            expert_parallel: self.expert.then_some(true),
            enforce_eager: self.enforce_eager.then_some(true),
            gpu_memory_utilization_percent: Some(self.gpu_memory_utilization_percent),
            context_length: self.context_length,
            weight_bytes_per_gpu: self.weight_bytes_per_gpu,
            weight_bytes: self.weight_bytes,
            checkpoint_bytes: self.checkpoint_bytes,
            kv_cache_tokens: self.kv_cache_tokens,
            max_concurrent_sequences: self.max_concurrent_sequences,
            image: None,
            derivation: Some(self.derivation.clone()),
            inputs_hash: Some(inputs_hash),
        }
    }
}

/// Why nothing was chosen, and what would help.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// One of [`crate::api::conditions::reasons`].
    pub reason: &'static str,
    /// What is wrong and how to fix it, fixes included.
    pub message: String,
    /// What would help, each tried and found to work.
    pub fixes: Vec<Fix>,
}

impl Refusal {
    /// A refusal without computed fixes: the message says what to do.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), fixes: Vec::new() }
    }
}

#[cfg(test)]
#[path = "fixtures.rs"]
mod fixtures;
#[cfg(test)]
#[path = "golden_tests.rs"]
mod golden_tests;
#[cfg(test)]
#[path = "oracle_tests.rs"]
mod oracle_tests;
#[cfg(test)]
#[path = "property_tests.rs"]
mod property_tests;
