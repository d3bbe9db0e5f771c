//! What the operator says about an InferenceBackend, and what every kind says of the budgets that concern it.

use std::cmp::Reverse;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity;
use super::token_budget_status::Phase;

/// The most budgets that a status lists: those of which most is used.
pub const MAX_BUDGETS: usize = 50;

/// What the operator observed and decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceBackendStatus {
    /// The generation of the spec that this status describes. -1: not seen yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions: Ready, Sized, Available, ModelLoaded, UpdateAvailable, Suspended; Reconciling, Stalled and
    /// SchemaOutdated only while True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Since when it waits for what the condition Ready tells. The wait becomes Stalled after 10 minutes, or after the progress
    /// deadline of the Deployment where it is one of its pods. Absent while nothing is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Time>,
    /// What was chosen for a self-hosted model, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizing: Option<SizingStatus>,
    /// Pods that exist, ready or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Pods that have loaded the model and answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<u32>,
    /// Label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Where the model is reached: the Service's URL, or the provider's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// What health checks and the calls of the gateway say of the backend and of each of its keys. Absent while a self-hosted
    /// backend has no pod that can be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthStatus>,
    /// Tokens that the key-value cache of one replica really holds, as the engine said after its start; where replicas differ, the
    /// smallest. To be compared with sizing.kvCacheTokens, which was predicted.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "observedKVCacheTokens")]
    pub observed_kv_cache_tokens: Option<u64>,
    /// How far the prediction of the key-value cache was off, in percent of what the engine says. 10: a tenth more was predicted
    /// than there is; -10: a tenth less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_prediction_error_percent: Option<i32>,
    /// Largest context in tokens of an external backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// The TokenBudgets whose callers can reach the backend, each from the first threshold that it reached on: at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_BUDGETS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub budgets: Vec<BudgetState>,
    /// The same in short, for the columns of kubectl get. Not for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// A budget that concerns an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetState {
    /// Name of the TokenBudget.
    pub name: String,
    /// How far it is used.
    pub phase: Phase,
}

impl BudgetState {
    /// As many as a status has room for, those of which most is used, in the order of their names.
    pub fn listed(mut budgets: Vec<Self>) -> Vec<Self> {
        budgets.sort_by(|one, other| (Reverse(one.phase), &one.name).cmp(&(Reverse(other.phase), &other.name)));
        budgets.truncate(MAX_BUDGETS);
        budgets.sort_by(|one, other| one.name.cmp(&other.name));
        budgets
    }
}

/// What was chosen for a self-hosted model, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SizingStatus {
    /// The product, as the node label or the table of products names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator_product: Option<String>,
    /// The extended resource that the pods ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    /// Accelerators of one replica: tensor-parallel x pipeline-parallel x data-parallel size. 0: it runs on CPUs.
    pub gpus_per_replica: u32,
    /// Accelerators that share every layer. 0, as the other parallel sizes: Ollama spreads a model by itself.
    pub tensor_parallel_size: u32,
    /// Groups of accelerators that hold successive layers.
    pub pipeline_parallel_size: u32,
    /// Copies of the model within one pod.
    pub data_parallel_size: u32,
    /// Whether experts are kept whole and spread over the accelerators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_parallel: Option<bool>,
    /// Whether CUDA graphs are off because they would not fit beside the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforce_eager: Option<bool>,
    /// Share of an accelerator's memory that vLLM may use, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_utilization_percent: Option<u32>,
    /// Largest context in tokens, prompt and answer together. Absent: left to vLLM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// Bytes of weights on one accelerator.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "weightBytesPerGPU")]
    pub weight_bytes_per_gpu: Option<u64>,
    /// Bytes of weights of the whole model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_bytes: Option<u64>,
    /// Bytes of the checkpoint, which are downloaded or read when a pod starts. They are more than those of the weights where
    /// these are quantised or rounded on load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_bytes: Option<u64>,
    /// Tokens that the key-value cache of one replica is predicted to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_tokens: Option<u64>,
    /// Sequences of full context length that fit at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_sequences: Option<u64>,
    /// The image that goes with the choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The arithmetic in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derivation: Option<String>,
    /// Hash of the inputs that the choice was made from: while it is the same, the choice stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs_hash: Option<String>,
}

impl SizingStatus {
    /// Bytes that are downloaded or read when a pod starts, as far as they are known.
    pub fn start_bytes(&self) -> Option<u64> {
        self.checkpoint_bytes.or(self.weight_bytes)
    }

    /// The choice in a few characters, for example `4xH100-80GB TP4`.
    pub fn summary(&self) -> String {
        if self.gpus_per_replica == 0 && self.tensor_parallel_size == 0 {
            return "CPU".to_owned();
        }
        let product = self.accelerator_product.as_deref().map(short_product).unwrap_or_else(|| "GPU".to_owned());
        let mut text = format!("{}x{product}", self.gpus_per_replica);
        if self.tensor_parallel_size > 0 {
            text.push_str(&format!(" TP{}", self.tensor_parallel_size));
        }
        for (name, size) in [("PP", self.pipeline_parallel_size), ("DP", self.data_parallel_size)] {
            if size > 1 {
                text.push_str(&format!(" {name}{size}"));
            }
        }
        text
    }
}

/// A product's name without the vendor and the kind of memory: `NVIDIA-H100-80GB-HBM3` becomes `H100-80GB`.
fn short_product(product: &str) -> String {
    let words: Vec<&str> = product
        .split(['-', ' '])
        .filter(|word| !matches!(*word, "NVIDIA" | "Tesla" | "AMD" | "Intel" | "Instinct" | "SXM4" | "SXM5" | "PCIE" | "PCIe"))
        .filter(|word| !word.starts_with("HBM"))
        .collect();
    if words.is_empty() { product.to_owned() } else { words.join("-") }
}

/// Health of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthStatus {
    /// Healthy, Unhealthy or Unknown.
    pub state: HealthState,
    /// Each key's own health; nothing of keys that neither the checks judge nor the gateway has set aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub keys: Vec<KeyHealth>,
}

/// What the last health checks and the calls of the gateway say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HealthState {
    /// At least one key works; of a self-hosted backend, at least one pod.
    Healthy,
    /// None does.
    Unhealthy,
    /// No check has ended yet.
    #[default]
    Unknown,
}

/// Health of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyHealth {
    /// Name of the key in spec.external.apiKeys; api-key for the one that is generated for a self-hosted model.
    pub name: String,
    /// Whether calls with it succeed.
    pub healthy: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Short forms for the columns of kubectl get.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// vLLM, Ollama, or the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Accelerators of one replica, for example 4xH100-80GB TP4, or CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<String>,
    /// Ready and wanted replicas, for example 2/2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<String>,
    /// Largest context in tokens, as chosen or as the provider's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// Tokens that the key-value cache of one replica holds: as the engine says, else as predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_tokens: Option<u64>,
}

/// Bytes as people read them, with one decimal, in binary units: `131.4 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    let tenths = |unit: u64| {
        let tenths = (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    match bytes {
        0..1_048_576 => quantity::from_bytes(bytes).0,
        1_048_576..1_073_741_824 => format!("{} MiB", tenths(1 << 20)),
        _ => format!("{} GiB", tenths(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_names_product_and_parallel_sizes() {
        let sizing = SizingStatus {
            accelerator_product: Some("NVIDIA-H100-80GB-HBM3".into()),
            gpus_per_replica: 8,
            tensor_parallel_size: 4,
            pipeline_parallel_size: 2,
            data_parallel_size: 1,
            ..SizingStatus::default()
        };
        assert_eq!(sizing.summary(), "8xH100-80GB TP4 PP2");
    }

    #[test]
    fn the_column_has_no_parallel_sizes_where_the_engine_spreads_the_model_by_itself() {
        let one = SizingStatus { accelerator_product: Some("NVIDIA-L4".into()), gpus_per_replica: 1, ..SizingStatus::default() };
        assert_eq!(one.summary(), "1xL4");
        assert_eq!(SizingStatus::default().summary(), "CPU");
    }

    #[test]
    fn of_more_budgets_than_there_is_room_for_those_of_which_most_is_used_are_listed() {
        let budget = |number: usize, phase| BudgetState { name: format!("b{number:02}"), phase };
        let mut budgets: Vec<BudgetState> = (0..MAX_BUDGETS).rev().map(|number| budget(number, Phase::Active)).collect();
        budgets.push(budget(90, Phase::Warning));
        budgets.push(budget(91, Phase::Exhausted));
        let listed = BudgetState::listed(budgets);
        let names: Vec<&str> = listed.iter().map(|budget| budget.name.as_str()).collect();
        assert_eq!(names.len(), MAX_BUDGETS);
        assert_eq!((names[0], names[47], names[48], names[49]), ("b00", "b47", "b90", "b91"));
    }

    #[test]
    fn bytes_are_read_in_binary_units() {
        assert_eq!(human_bytes(141_107_412_992), "131.4 GiB");
        assert_eq!(human_bytes(512 << 20), "512.0 MiB");
    }
}
