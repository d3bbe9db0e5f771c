//! The facts about a model that sizing needs, as a user states them, as the catalogue holds them and as they are read from
//! a model's `config.json`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Facts about a model's architecture. Every field is optional: what is absent is taken from the built-in catalogue, then
/// from the model's own `config.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelArchitecture {
    /// The `model_type` of config.json, for example `llama`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub model_type: Option<String>,
    /// The model class, first of `architectures` in config.json, for example `LlamaForCausalLM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub architecture: Option<String>,
    /// Number of parameters of the whole model. Used for the size of the weights when `weightBytes` is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub parameters: Option<u64>,
    /// Number of transformer layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub layers: Option<u32>,
    /// Number of attention heads. The tensor-parallel size must divide it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub attention_heads: Option<u32>,
    /// Number of key-value heads. It must be divisible by the tensor-parallel size, or divide it. Default: `attentionHeads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub key_value_heads: Option<u32>,
    /// Width of one attention head. Default: `hiddenSize` / `attentionHeads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub head_dimension: Option<u32>,
    /// Width of the residual stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub hidden_size: Option<u32>,
    /// Width of the dense feed-forward layers. The tensor-parallel size must divide it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub intermediate_size: Option<u32>,
    /// Number of tokens in the vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub vocabulary_size: Option<u32>,
    /// Largest context in tokens that the model was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub context_length: Option<u32>,
    /// Number type of the weights and activations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<WeightDtype>,
    /// Number of routed experts of a mixture-of-experts model. Absent or 0: a dense model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 65536))]
    pub experts: Option<u32>,
    /// Width of one routed expert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub expert_intermediate_size: Option<u32>,
    /// Total width of the experts that every token passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub shared_expert_intermediate_size: Option<u32>,
    /// Rank of the compressed key-value cache of multi-head latent attention (DeepSeek, Kimi). Its cache is replicated on
    /// every tensor-parallel rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub kv_lora_rank: Option<u32>,
    /// Width of the rotary part of multi-head latent attention, cached beside the latent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub qk_rope_head_dimension: Option<u32>,
    /// Number of layers with full attention. Default: all layers that are of no other kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1024))]
    pub full_attention_layers: Option<u32>,
    /// Number of layers whose attention sees only the last `slidingWindow` tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1024))]
    pub sliding_window_layers: Option<u32>,
    /// Tokens that a sliding-window layer sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub sliding_window: Option<u32>,
    /// Number of layers with linear attention or a state-space model, which keep a constant state per sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1024))]
    pub linear_attention_layers: Option<u32>,
    /// Number of attention heads of the vision tower. The tensor-parallel size must divide it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub vision_attention_heads: Option<u32>,
    /// Size of the weights in bytes, as `metadata.total_size` of model.safetensors.index.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub weight_bytes: Option<u64>,
    /// How the checkpoint is quantised, as `quantization_config` of config.json says. Absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_quantization: Option<CheckpointQuantization>,
}

/// Number type of the weights and activations of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WeightDtype {
    /// 16 bits, the usual choice.
    BFloat16,
    /// 16 bits, IEEE half precision.
    Float16,
    /// 32 bits.
    Float32,
}

impl WeightDtype {
    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::BFloat16 | Self::Float16 => 2,
            Self::Float32 => 4,
        }
    }
}

/// How a checkpoint is quantised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckpointQuantization {
    /// The method as vLLM names it: `fp8`, `awq`, `gptq`, `compressed-tensors`, `mxfp4`, `modelopt`, ...
    #[schemars(length(min = 1, max = 64))]
    pub method: String,
    /// Bits of one weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub bits: Option<u32>,
    /// Weights that share one scale along the input dimension (AWQ, GPTQ, compressed-tensors).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub group_size: Option<u32>,
    /// Edge of the square blocks that share one scale (FP8 with `weight_block_size`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub block_size: Option<u32>,
}
