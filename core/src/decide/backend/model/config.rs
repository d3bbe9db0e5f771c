//! The facts of a model as its `config.json` states them, read as vLLM reads it.
//!
//! Names and precedence are those of vLLM's `transformers_utils/model_arch_config_convertor.py` (vllm-project/vllm @
//! 00bb6f59) and `CONFIG_FIELD_ALIASES`. The file comes from a hub and may hold anything: a value of the wrong kind or out
//! of the bounds of [`ModelArchitecture`] is an error, never a wrong size.

use serde_json::{Map, Value};

use super::layers;
use super::quantization;
use crate::api::architecture::{ModelArchitecture, WeightDtype};

/// A `config.json` that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadConfigError {
    /// The file holds something else than an object.
    #[error("config.json is not an object")]
    NotAnObject,
    /// A field holds what it should not.
    #[error("field `{field}` of config.json is {found}: expected a whole number from {minimum} to {maximum}")]
    OutOfBounds {
        /// The field.
        field: &'static str,
        /// What it holds, cut to a few characters.
        found: String,
        /// Least value.
        minimum: u64,
        /// Largest value.
        maximum: u64,
    },
    /// A field differs from layer to layer, which no tensor-parallel size can be computed from.
    #[error("field `{field}` of config.json differs from layer to layer")]
    DiffersByLayer {
        /// The field.
        field: &'static str,
    },
}

/// Model types whose attention vLLM runs as multi-head latent attention when they have a `kv_lora_rank`.
const LATENT_ATTENTION: &[&str] = &[
    "axk1",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "deepseek_v4",
    "deepseek_mtp",
    "glm_moe_dsa",
    "glm4_moe_lite",
    "kimi_k2",
    "kimi_linear",
    "longcat_flash",
    "longcat_flash_ngram",
    "longcat_next",
    "pangu_ultra_moe",
    "bailing_hybrid",
];

/// Kinds of rope scaling that `max_position_embeddings` already includes.
const INCLUDED_SCALING: &[&str] = &["su", "longrope", "llama3"];

/// The facts that a `config.json` states. What it does not state is absent.
///
/// `weight_bytes` is `metadata.total_size` of the index of the weights, or the size of the only file.
///
/// # Errors
///
/// [`ReadConfigError`] where a field that matters holds what it should not.
pub fn from_config(config: &Value, weight_bytes: Option<u64>) -> Result<ModelArchitecture, ReadConfigError> {
    let root = config.as_object().ok_or(ReadConfigError::NotAnObject)?;
    let text = language_part(root);
    let fields = Fields { text };

    let model_type = string(text, "model_type").or_else(|| string(root, "model_type"));
    let kind = model_type.as_deref().unwrap_or_default();
    let attention_heads = fields.number(&["num_attention_heads", "n_head", "n_heads", "num_heads"], 1, 4096)?;
    let layers = fields.number(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"], 1, 1024)?;
    let hidden_size = fields.number(&["hidden_size", "n_embd", "d_model"], 1, 1_000_000)?;
    let experts = fields
        .number(&["num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts"], 0, 65536)?
        .filter(|experts| *experts > 0);
    let widths = Widths::read(&fields, experts)?;
    let latent = LATENT_ATTENTION.contains(&kind);
    let kinds = layers::read(text, kind, layers, &fields)?;

    Ok(ModelArchitecture {
        architecture: root.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str).map(bounded::<128>),
        parameters: None,
        layers,
        attention_heads,
        key_value_heads: key_value_heads(root, &fields, kind)?,
        head_dimension: fields.number(&["head_dim"], 0, 4096)?.filter(|width| *width > 0).or(fields.number(
            &["hidden_size_per_head", "attention_head_dim"],
            1,
            4096,
        )?),
        hidden_size,
        intermediate_size: widths.dense,
        vocabulary_size: fields.number(&["vocab_size", "padded_vocab_size"], 1, 10_000_000)?,
        context_length: context_length(text, kind, &fields)?,
        dtype: dtype(root, text),
        experts,
        expert_intermediate_size: widths.expert,
        shared_expert_intermediate_size: widths.shared,
        kv_lora_rank: fields.number(&["kv_lora_rank"], 1, 65536)?.filter(|_| latent),
        qk_rope_head_dimension: fields.number(&["qk_rope_head_dim"], 0, 65536)?.filter(|width| latent && *width > 0),
        full_attention_layers: kinds.full,
        sliding_window_layers: kinds.sliding,
        sliding_window: kinds.window,
        linear_attention_layers: kinds.linear,
        vision_attention_heads: vision_heads(root)?,
        weight_bytes: weight_bytes.filter(|bytes| *bytes > 0),
        checkpoint_quantization: quantization::read(root, text),
        model_type: model_type.map(|name| bounded::<64>(&name)),
    })
}

/// The part of the file that describes the language model: multimodal models nest it.
fn language_part(root: &Map<String, Value>) -> &Map<String, Value> {
    let nested = [&["text_config"][..], &["llm_config"], &["language_config"], &["thinker_config", "text_config"]];
    nested
        .iter()
        .find_map(|path| {
            path.iter().try_fold(root, |object, key| object.get(*key).and_then(Value::as_object)).filter(|part| !part.is_empty())
        })
        .unwrap_or(root)
}

/// The fields of the language model.
pub(super) struct Fields<'a> {
    text: &'a Map<String, Value>,
}

impl Fields<'_> {
    /// The first of the names that has a value. A list with one value per layer counts as that value when all are equal.
    pub(super) fn number(&self, names: &[&'static str], minimum: u32, maximum: u32) -> Result<Option<u32>, ReadConfigError> {
        for name in names {
            match self.text.get(*name) {
                None | Some(Value::Null) => {}
                Some(Value::Array(values)) => return uniform(name, values, minimum, maximum),
                Some(value) => return bounded_number(name, value, minimum, maximum).map(Some),
            }
        }
        Ok(None)
    }
}

fn uniform(field: &'static str, values: &[Value], minimum: u32, maximum: u32) -> Result<Option<u32>, ReadConfigError> {
    let Some(first) = values.first() else { return Ok(None) };
    if values.iter().any(|value| value != first) {
        return Err(ReadConfigError::DiffersByLayer { field });
    }
    bounded_number(field, first, minimum, maximum).map(Some)
}

pub(super) fn bounded_number(field: &'static str, value: &Value, minimum: u32, maximum: u32) -> Result<u32, ReadConfigError> {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| (minimum..=maximum).contains(number)).ok_or_else(
        || ReadConfigError::OutOfBounds {
            field,
            found: bounded::<40>(&value.to_string()),
            minimum: minimum.into(),
            maximum: maximum.into(),
        },
    )
}

/// A text of at most `LENGTH` bytes: it ends up in messages and statuses.
fn bounded<const LENGTH: usize>(text: &str) -> String {
    text.get(..text.floor_char_boundary(LENGTH)).unwrap_or_default().to_owned()
}

fn string(object: &Map<String, Value>, key: &str) -> Option<String> {
    object.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn key_value_heads(root: &Map<String, Value>, fields: &Fields<'_>, kind: &str) -> Result<Option<u32>, ReadConfigError> {
    let flag = |name: &str| fields.text.get(name).or_else(|| root.get(name)).and_then(Value::as_bool).unwrap_or(false);
    // The multi_query of falcon counts only in the old decoder.
    if matches!(kind, "falcon" | "RefinedWeb" | "RefinedWebModel") && !flag("new_decoder_architecture") && flag("multi_query") {
        return Ok(Some(1));
    }
    let names = ["n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups"];
    if let Some(heads) = fields.number(&names, 1, 4096)? {
        return Ok(Some(heads));
    }
    match fields.text.get("attn_config").and_then(|attention| attention.get("kv_n_heads")) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => bounded_number("attn_config.kv_n_heads", value, 1, 4096).map(Some),
    }
}

/// Widths of the feed-forward layers.
struct Widths {
    dense: Option<u32>,
    expert: Option<u32>,
    shared: Option<u32>,
}

impl Widths {
    fn read(fields: &Fields<'_>, experts: Option<u32>) -> Result<Self, ReadConfigError> {
        const MAXIMUM: u32 = 10_000_000;
        let width = |names: &[&'static str]| fields.number(names, 1, MAXIMUM);
        let intermediate = width(&["intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"])?;
        if experts.is_none() {
            return Ok(Self { dense: intermediate, expert: None, shared: None });
        }
        let own = width(&["moe_intermediate_size", "expert_intermediate_size"])?;
        let shared = match fields
            .number(&["shared_expert_intermediate_size", "shared_intermediate_size"], 0, MAXIMUM)?
            .filter(|width| *width > 0)
        {
            Some(width) => Some(width),
            None => fields
                .number(&["n_shared_experts", "num_shared_experts"], 0, 65536)?
                .filter(|experts| *experts > 0)
                .zip(own)
                .map(|(experts, width)| experts.saturating_mul(width).min(MAXIMUM)),
        };
        let Some(expert) = own else {
            // Mixtral, gpt-oss, MiniMax: intermediate_size is the width of an expert. Llama 4 names the dense width apart.
            return Ok(Self { dense: width(&["intermediate_size_mlp"])?, expert: intermediate, shared });
        };
        // Qwen's mixtures state a dense width that no layer has unless some layers are dense.
        let every_layer_sparse = fields.text.get("decoder_sparse_step").and_then(Value::as_u64) == Some(1)
            && fields.text.get("mlp_only_layers").and_then(Value::as_array).is_none_or(Vec::is_empty);
        Ok(Self { dense: intermediate.filter(|_| !every_layer_sparse), expert: Some(expert), shared })
    }
}

/// The largest context, with the rope scaling that vLLM applies on top.
fn context_length(text: &Map<String, Value>, kind: &str, fields: &Fields<'_>) -> Result<Option<u32>, ReadConfigError> {
    const NAMES: [&str; 9] = [
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "seq_length",
        "model_max_length",
        "max_target_positions",
        "max_sequence_length",
        "max_seq_length",
        "seq_len",
    ];
    let mut context: Option<u64> = None;
    for name in NAMES {
        if let Some(length) = fields.number(&[name], 1, 100_000_000)? {
            context = Some(context.map_or(length.into(), |known| known.min(length.into())));
        }
    }
    if let Some(length) = fields.number(&["model_max_length"], 1, 100_000_000)? {
        context = Some(length.into());
    }
    let Some(mut context) = context else { return Ok(None) };
    let scaling = ["rope_parameters", "rope_scaling"].iter().find_map(|key| text.get(*key).and_then(Value::as_object));
    // Gemma 3 states a factor that is included.
    if let Some(scaling) = scaling.filter(|_| !kind.contains("gemma3")) {
        let rope_type = ["rope_type", "type"].iter().find_map(|key| scaling.get(*key).and_then(Value::as_str)).unwrap_or("default");
        if !INCLUDED_SCALING.contains(&rope_type) {
            if rope_type == "yarn"
                && let Some(original) = scaling.get("original_max_position_embeddings").and_then(Value::as_u64)
            {
                context = original;
            }
            if let Some(factor) = scaling.get("factor").and_then(thousandths) {
                context = u64::try_from(u128::from(context) * u128::from(factor) / 1000).unwrap_or(u64::MAX);
            }
        }
    }
    Ok(Some(u32::try_from(context).unwrap_or(u32::MAX).clamp(1, 100_000_000)))
}

/// A positive factor in thousandths. The text of the number is read, so that no rounding happens twice.
fn thousandths(factor: &Value) -> Option<u64> {
    let text = factor.as_number()?.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    let thousandths = whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(fraction.parse().ok()?)?;
    (1..=1_000_000_000).contains(&thousandths).then_some(thousandths)
}

fn dtype(root: &Map<String, Value>, text: &Map<String, Value>) -> Option<WeightDtype> {
    let name = [root, text]
        .iter()
        .find_map(|object| ["dtype", "torch_dtype"].iter().find_map(|key| object.get(*key).and_then(Value::as_str)))?;
    match name.strip_prefix("torch.").unwrap_or(name) {
        "bfloat16" => Some(WeightDtype::BFloat16),
        "float16" | "half" => Some(WeightDtype::Float16),
        "float32" | "float" => Some(WeightDtype::Float32),
        _ => None,
    }
}

fn vision_heads(root: &Map<String, Value>) -> Result<Option<u32>, ReadConfigError> {
    let vision = ["vision_config", "vision_tower_config"]
        .iter()
        .find_map(|key| root.get(*key).and_then(Value::as_object))
        .or_else(|| root.get("thinker_config").and_then(|thinker| thinker.get("vision_config")).and_then(Value::as_object));
    match vision.and_then(|vision| ["num_attention_heads", "num_heads"].iter().find_map(|key| vision.get(*key))) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => bounded_number("vision_config.num_attention_heads", value, 1, 4096).map(Some),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
