//! The facts of a model that memory is computed from, complete, with the spec's number types applied.

use crate::api::architecture::{CheckpointQuantization, ModelArchitecture, WeightDtype};
use crate::api::vllm::{Dtype, KvCacheDtype, VllmSpec};
use crate::decide::backend::model::resolve;

/// A model whose memory can be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Attention heads.
    pub heads: u64,
    /// Key-value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dimension: u64,
    /// Width of the residual stream, where known.
    pub hidden_size: Option<u64>,
    /// Layers with full attention.
    pub full_layers: u64,
    /// Layers that see only the window.
    pub sliding_layers: u64,
    /// The window in tokens.
    pub window: u64,
    /// Layers with a constant state.
    pub linear_layers: u64,
    /// Width of what multi-head latent attention caches per token and layer.
    pub latent_width: Option<u64>,
    /// Bytes that the indexer of sparse attention caches per token and layer.
    pub indexer_bytes: u64,
    /// Mixture of experts.
    pub mixture: bool,
    /// Layers, of whatever kind.
    pub layers: u64,
    /// Bytes of the weights as they are loaded.
    pub weight_bytes: u64,
    /// Bytes of the embedding, and as many of the output layer; 0 where they are not known. Included in `weight_bytes`.
    pub embedding_bytes: u64,
    /// Bytes of the routed experts, rather too few than too many; 0 where they are not known. Included in `weight_bytes`.
    pub expert_bytes: u64,
    /// Bytes of one number of the key-value cache.
    pub kv_number_bytes: u64,
    /// Bytes of one rank of a LoRA adapter over all layers, that every tensor-parallel rank keeps.
    pub adapter_bytes: u64,
    /// The same, that the ranks share.
    pub shared_adapter_bytes: u64,
    /// The model's own largest context.
    pub context_length: Option<u32>,
}

impl Facts {
    /// The facts, or None where some are missing.
    pub(super) fn new(architecture: &ModelArchitecture, spec: &VllmSpec) -> Option<Self> {
        if !resolve::missing(architecture).is_empty() {
            return None;
        }
        let number = |value: Option<u32>| value.map(u64::from);
        let heads = number(architecture.attention_heads).filter(|heads| *heads > 0)?;
        let layers = number(architecture.layers)?;
        let sliding_layers =
            number(architecture.sliding_window_layers).filter(|_| architecture.sliding_window.is_some()).unwrap_or(0);
        let linear_layers = number(architecture.linear_attention_layers).unwrap_or(0);
        let others = layers.saturating_sub(sliding_layers).saturating_sub(linear_layers);
        let latent_width =
            number(architecture.kv_lora_rank).map(|rank| rank + number(architecture.qk_rope_head_dimension).unwrap_or(0));
        let hidden_size = number(architecture.hidden_size);
        let weight_bytes = loaded_weight_bytes(architecture, spec)?;
        let kv_heads = number(architecture.key_value_heads).unwrap_or(heads);
        let head_dimension = number(architecture.head_dimension).or(hidden_size.map(|size| size / heads)).unwrap_or(0);
        let (adapter, shared_adapter) = adapter_numbers(architecture, (heads + kv_heads).saturating_mul(2 * head_dimension));
        let adapter_bytes = |numbers: u64| numbers.saturating_mul(layers).saturating_mul(loaded_number_bytes(spec));
        Some(Self {
            layers,
            heads,
            kv_heads,
            head_dimension,
            hidden_size,
            full_layers: number(architecture.full_attention_layers).unwrap_or(others),
            sliding_layers,
            window: number(architecture.sliding_window).unwrap_or(0),
            linear_layers,
            latent_width,
            indexer_bytes: if has_indexer(architecture) { INDEXER_BYTES } else { 0 },
            mixture: is_mixture(architecture),
            weight_bytes,
            embedding_bytes: embedding_parameters(architecture).map_or(0, |both| both / 2 * loaded_number_bytes(spec)),
            expert_bytes: expert_parameters(architecture)
                .zip(architecture.parameters)
                .map_or(0, |(experts, all)| scaled(weight_bytes, experts, all).min(weight_bytes)),
            kv_number_bytes: match spec.kv_cache_dtype.unwrap_or_default() {
                KvCacheDtype::Fp8 => 1,
                KvCacheDtype::Auto => loaded_number_bytes(spec),
            },
            adapter_bytes: adapter_bytes(adapter),
            shared_adapter_bytes: adapter_bytes(shared_adapter),
            context_length: architecture.context_length,
        })
    }
}

/// Numbers of one rank of an adapter in one layer: those that every tensor-parallel rank keeps, and those that they share.
/// Of the two matrices of a projection, the one at the residual stream is kept whole and the other one is split (vLLM's
/// lora/layers: column_parallel_linear.py, row_parallel_linear.py, fused_moe.py). vLLM makes room in every projection,
/// experts included. `attention` is the width of all heads of query, key, value and output.
fn adapter_numbers(architecture: &ModelArchitecture, attention: u64) -> (u64, u64) {
    let width = |value: Option<u32>| value.map_or(0, u64::from);
    let experts = width(architecture.experts);
    let (number, inner) = if experts > 0 {
        // The experts that every token passes count as one more.
        let shared = width(architecture.shared_expert_intermediate_size);
        (experts + 1, experts.saturating_mul(width(architecture.expert_intermediate_size)).saturating_add(shared))
    } else {
        (1, width(architecture.intermediate_size))
    };
    let hidden = width(architecture.hidden_size);
    (hidden.saturating_mul(4 + 3 * number), inner.saturating_mul(3).saturating_add(attention))
}

/// An indexer keeps 128 numbers of 8 bits and a scale of 4 bytes (DeepseekV32IndexerCache of vLLM's deepseek_v2.py).
const INDEXER_BYTES: u64 = 132;

/// Whether the model chooses by an indexer which tokens to attend to.
fn has_indexer(architecture: &ModelArchitecture) -> bool {
    matches!(architecture.model_type.as_deref(), Some("deepseek_v32" | "glm_moe_dsa"))
}

/// Whether the model is a mixture of experts.
pub(super) fn is_mixture(architecture: &ModelArchitecture) -> bool {
    architecture.experts.is_some_and(|experts| experts > 0)
}

/// The quantisation that the spec asks for on load, lower-cased. None: as the checkpoint says.
pub(super) fn quantization_on_load(spec: &VllmSpec) -> Option<String> {
    spec.quantization.as_ref().map(|name| name.to_lowercase()).filter(|name| name != "auto")
}

/// Bytes of one number of weights and activations as loaded. With `dtype` auto vLLM loads 32-bit checkpoints in 16 bits
/// (`_resolve_auto_dtype` of config/model.py).
fn loaded_number_bytes(spec: &VllmSpec) -> u64 {
    match spec.dtype.unwrap_or_default() {
        Dtype::Float32 => 4,
        Dtype::Auto | Dtype::BFloat16 | Dtype::Float16 => 2,
    }
}

/// Bytes of the checkpoint, which are downloaded or read when a pod starts, whatever becomes of them in memory.
///
/// `weightBytes` where it is known; else from the number of parameters and the bytes of one, scales and unquantised parts
/// included: 4.0 for 32 bits, 2.0 for 16, 1.03 for 8, 0.58 for 4 in groups, 0.60 for NVFP4, 0.56 for MXFP4 (rules of thumb
/// over published checkpoints).
pub(super) fn checkpoint_bytes(architecture: &ModelArchitecture) -> Option<u64> {
    if architecture.weight_bytes.is_some() {
        return architecture.weight_bytes;
    }
    let parameters = architecture.parameters?;
    let Some(quantization) = &architecture.checkpoint_quantization else {
        return Some(parameters.saturating_mul(stored_number_bytes(architecture)));
    };
    let thumb = scaled(parameters, thousandths(quantization), 1000);
    // Embedding and output layer stay in 16 bits, which weighs more the smaller the model is.
    let embeddings = embedding_parameters(architecture);
    let parts =
        embeddings.and_then(|embeddings| Some((embeddings, parameters.checked_sub(embeddings)?))).map(|(embeddings, rest)| {
            let bits = u64::from(quantization.bits.unwrap_or(8));
            // A group of 128 adds a scale and a zero point to each weight's own bits: at most 4 %.
            embeddings.saturating_mul(2).saturating_add(scaled(rest, bits * 130, 1000))
        });
    Some(thumb.max(parts.unwrap_or(0)))
}

/// Bytes of one number of a checkpoint that is not quantised.
fn stored_number_bytes(architecture: &ModelArchitecture) -> u64 {
    architecture.dtype.map_or(2, WeightDtype::bytes)
}

/// Bytes of the weights once they are loaded: those of the checkpoint, scaled when the spec changes the number type.
fn loaded_weight_bytes(architecture: &ModelArchitecture, spec: &VllmSpec) -> Option<u64> {
    let checkpoint = checkpoint_bytes(architecture)?;
    if architecture.checkpoint_quantization.is_some() {
        return Some(checkpoint);
    }
    let loaded = loaded_number_bytes(spec);
    let bytes = scaled(checkpoint, loaded, stored_number_bytes(architecture));
    let sixteen_bit_embeddings = embedding_parameters(architecture).map(|parameters| parameters.saturating_mul(2));
    match quantization_on_load(spec) {
        Some(name) if name.contains("fp8") || name.contains("int8") => {
            let thumb = scaled(bytes, 1030, 1000 * loaded);
            let parts = sixteen_bit_embeddings
                .filter(|embeddings| *embeddings < bytes)
                .map(|embeddings| embeddings.saturating_add(bytes.saturating_sub(embeddings) / loaded));
            Some(thumb.max(parts.unwrap_or(0)))
        }
        _ => Some(bytes),
    }
}

/// Parameters of the embedding and of the output layer, which quantisation leaves alone.
fn embedding_parameters(architecture: &ModelArchitecture) -> Option<u64> {
    Some(u64::from(architecture.vocabulary_size?).saturating_mul(architecture.hidden_size?.into()).saturating_mul(2))
}

/// Parameters of the routed experts: three matrices each, in as many layers as the model has parameters for beside its
/// embeddings and the projections of its attention. Some models have experts in a part of their layers only.
fn expert_parameters(architecture: &ModelArchitecture) -> Option<u64> {
    let number = |value: Option<u32>| value.map(u64::from);
    let (layers, hidden) = (number(architecture.layers)?, number(architecture.hidden_size)?);
    let of_layer =
        number(architecture.experts)?.saturating_mul(3 * hidden).saturating_mul(number(architecture.expert_intermediate_size)?);
    let attention = 2 * hidden * number(architecture.attention_heads)? * number(architecture.head_dimension)?;
    let others = embedding_parameters(architecture)?.saturating_add(layers.saturating_mul(attention));
    let with_experts = architecture.parameters?.checked_sub(others)?.checked_div(of_layer)?.min(layers);
    Some(with_experts.saturating_mul(of_layer))
}

/// Thousandths of a byte of one parameter.
fn thousandths(quantization: &CheckpointQuantization) -> u64 {
    match (quantization.method.as_str(), quantization.bits) {
        ("mxfp4", _) => 560,
        ("modelopt_fp4", _) => 600,
        (_, Some(4)) => 580,
        (_, None | Some(8)) => 1030,
        (_, Some(bits)) => u64::from(bits) * 145,
    }
}

/// `value * numerator / denominator`, rounded up.
pub(super) fn scaled(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value) * u128::from(numerator);
    u64::try_from(product.div_ceil(u128::from(denominator.max(1)))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn architecture(yaml: &str) -> ModelArchitecture {
        serde_saphyr::from_str(yaml).unwrap()
    }

    fn weight_bytes(yaml: &str, spec: &VllmSpec) -> u64 {
        loaded_weight_bytes(&architecture(yaml), spec).unwrap()
    }

    #[test]
    fn a_four_bit_model_keeps_its_embeddings_in_sixteen_bits() {
        // Qwen2.5-7B-Instruct-AWQ: 5.57 GB on the hub; 0.58 bytes a parameter would be 4.4.
        let bytes = weight_bytes(
            "{parameters: 7615616512, vocabularySize: 152064, hiddenSize: 3584, checkpointQuantization: {method: awq, bits: 4, groupSize: 128}}",
            &VllmSpec::default(),
        );
        assert!((5_500_000_000..5_750_000_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn quantising_on_load_halves_what_is_not_an_embedding() {
        let model = "{weightBytes: 16060522496, vocabularySize: 128256, hiddenSize: 4096, dtype: BFloat16}";
        let spec = VllmSpec { quantization: Some("FP8".into()), ..VllmSpec::default() };
        assert_eq!(weight_bytes(model, &spec), 2 * 2 * 128_256 * 4096 + (16_060_522_496 - 2 * 2 * 128_256 * 4096) / 2);
        let quantised = "{weightBytes: 9000000000, checkpointQuantization: {method: fp8}}";
        assert_eq!(weight_bytes(quantised, &spec), 9_000_000_000);
    }

    #[test]
    fn the_number_type_scales_the_weights() {
        let spec = VllmSpec { dtype: Some(Dtype::Float32), ..VllmSpec::default() };
        assert_eq!(weight_bytes("{weightBytes: 1000, dtype: BFloat16}", &spec), 2000);
        assert_eq!(weight_bytes("{weightBytes: 1000, dtype: Float32}", &VllmSpec::default()), 500);
    }

    #[test]
    fn the_checkpoint_has_its_own_size_whatever_is_loaded() {
        for (model, bytes) in [
            ("{weightBytes: 1000, dtype: Float32}", 1000),
            ("{parameters: 1000, dtype: Float32}", 4000),
            ("{parameters: 1000}", 2000),
            ("{parameters: 1000, checkpointQuantization: {method: fp8, bits: 8}}", 1030),
        ] {
            assert_eq!(checkpoint_bytes(&architecture(model)), Some(bytes), "{model}");
        }
        assert_eq!(checkpoint_bytes(&ModelArchitecture::default()), None);
    }
}
