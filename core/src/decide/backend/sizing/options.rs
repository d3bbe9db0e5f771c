//! Arguments of the engine that the user adds and that sizing must know of.

use crate::api::vllm::VllmSpec;
use crate::decide::backend::arguments::command::lora_slots;
use crate::decide::backend::arguments::given::Given;

/// What `extraArgs`, `env` and the adapters change about sizing. What is absent or as by default is not written: the hash of
/// the inputs covers this, and a field that is added later must not change it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Options {
    /// `--max-num-batched-tokens`: activations and the windows in flight grow with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_num_batched_tokens: Option<u64>,
    /// `--enforce-eager`: no memory for CUDA graphs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enforce_eager: bool,
    /// `--mm-encoder-tp-mode=data`: the vision tower is not split.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub whole_vision_tower: bool,
    /// The model's own context is overridden: `--hf-overrides`, or VLLM_ALLOW_LONG_MAX_MODEL_LEN.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub longer_context: bool,
    /// `--max-lora-rank`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lora_rank: Option<u64>,
    /// `--max-loras`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_loras: Option<u64>,
    /// Adapters that the engine keeps room for. Absent: none are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_slots: Option<u64>,
    /// `--max-cpu-loras`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cpu_loras: Option<u64>,
}

impl Options {
    /// Reads them as vLLM's parser does. What cannot be read is left to the check of the arguments.
    pub(super) fn of(spec: &VllmSpec) -> Self {
        let given = Given::of(&spec.extra_args);
        let lengthened = spec.env.iter().any(|variable| {
            variable.name == "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
                && variable.value.as_deref().is_some_and(|value| matches!(value.to_lowercase().as_str(), "1" | "true"))
        });
        Self {
            max_num_batched_tokens: given.number("max_num_batched_tokens").filter(|tokens| *tokens > 0),
            enforce_eager: given.flag("enforce_eager"),
            whole_vision_tower: given.value("mm_encoder_tp_mode") == Some("data"),
            longer_context: lengthened || given.value("hf_overrides").is_some(),
            max_lora_rank: given.number("max_lora_rank"),
            max_loras: given.number("max_loras"),
            lora_slots: lora_slots(spec).map(|slots| given.number("max_loras").unwrap_or(slots)),
            max_cpu_loras: given.number("max_cpu_loras"),
        }
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
