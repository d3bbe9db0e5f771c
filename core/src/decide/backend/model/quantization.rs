//! How a checkpoint is quantised, as `config.json` states it.

use serde_json::{Map, Value};

use crate::api::architecture::CheckpointQuantization;

/// Reads `quantization_config`, or `compression_config`, of the model or of its language part. Absent: not quantised.
pub(super) fn read(root: &Map<String, Value>, text: &Map<String, Value>) -> Option<CheckpointQuantization> {
    let config = [root, text].iter().find_map(|object| {
        ["quantization_config", "compression_config"].iter().find_map(|key| object.get(*key).and_then(Value::as_object))
    })?;
    let stated = config.get("quant_method").and_then(Value::as_str).unwrap_or_default().to_lowercase();
    let stated = stated.replace("compressed_tensors", "compressed-tensors");
    let algorithm = model_optimizer_algorithm(config);
    let method = match algorithm.as_deref() {
        Some("NVFP4") => "modelopt_fp4".to_owned(),
        Some(_) => "modelopt".to_owned(),
        None => stated,
    };
    if method.is_empty() || method.len() > 64 {
        return None;
    }
    let weights = first_group(config).unwrap_or(config);
    let number = |object: &Map<String, Value>, names: &[&str], maximum: u32| {
        let value = names.iter().find_map(|name| object.get(*name).and_then(Value::as_u64))?;
        u32::try_from(value).ok().filter(|number| (1..=maximum).contains(number))
    };
    let bits = number(weights, &["num_bits", "bits", "w_bit"], 32).or_else(|| bits_of(&method, config));
    // Only weights that share a scale in groups limit the split; a scale a channel does not.
    let grouped =
        weights.get("strategy").and_then(Value::as_str).is_none_or(|strategy| matches!(strategy, "group" | "tensor_group"));
    let group_size = number(weights, &["group_size", "q_group_size"], 65536)
        .or_else(|| number(config.get("quantization")?.as_object()?, &["group_size"], 65536))
        .filter(|_| grouped);
    Some(CheckpointQuantization { bits, group_size, block_size: block(weights), method })
}

/// NVIDIA's Model Optimizer states its algorithm, in older files without a method.
fn model_optimizer_algorithm(config: &Map<String, Value>) -> Option<String> {
    let inner = config.get("quantization").and_then(Value::as_object);
    let producer = config.get("producer").and_then(|producer| producer.get("name")).and_then(Value::as_str);
    let method = config.get("quant_method").and_then(Value::as_str).unwrap_or_default();
    if producer != Some("modelopt") && !method.starts_with("modelopt") {
        return None;
    }
    [inner, Some(config)]
        .into_iter()
        .flatten()
        .find_map(|object| object.get("quant_algo").and_then(Value::as_str))
        .map(str::to_uppercase)
}

/// The weights of the first group of compressed-tensors.
fn first_group(config: &Map<String, Value>) -> Option<&Map<String, Value>> {
    let groups = config.get("config_groups")?.as_object()?;
    groups.values().find_map(|group| group.get("weights").and_then(Value::as_object))
}

/// Bits of a method that says nothing more.
fn bits_of(method: &str, config: &Map<String, Value>) -> Option<u32> {
    let flag = |name: &str| config.get(name).and_then(Value::as_bool) == Some(true);
    match method {
        "fp8" | "fbgemm_fp8" | "modelopt" => Some(8),
        "mxfp4" | "modelopt_fp4" | "awq" => Some(4),
        "bitsandbytes" if flag("load_in_4bit") => Some(4),
        "bitsandbytes" if flag("load_in_8bit") => Some(8),
        _ => None,
    }
}

/// The edge of the blocks that share a scale: `weight_block_size: [128, 128]` or `block_structure`, also as "128x128".
/// Blocks that are not square count by their larger edge.
fn block(weights: &Map<String, Value>) -> Option<u32> {
    let stated = weights.get("weight_block_size").or_else(|| weights.get("block_structure"))?;
    let edges: Vec<u64> = match stated {
        Value::Array(edges) => edges.iter().filter_map(Value::as_u64).collect(),
        Value::String(text) => text.split('x').filter_map(|edge| edge.parse().ok()).collect(),
        _ => Vec::new(),
    };
    edges.into_iter().max().and_then(|edge| u32::try_from(edge).ok()).filter(|edge| (2..=65536).contains(edge))
}
