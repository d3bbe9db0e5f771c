//! How many layers of a model are of which kind, as `config.json` states it.

use serde_json::{Map, Value};

use super::config::{Fields, ReadConfigError};

/// Layers by kind. All absent: every layer has full attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kinds {
    /// Full attention.
    pub full: Option<u32>,
    /// Attention to the last tokens.
    pub sliding: Option<u32>,
    /// How many tokens those see.
    pub window: Option<u32>,
    /// Linear attention or a state-space model.
    pub linear: Option<u32>,
}

/// Reads the kinds. Where the file is silent or does not fit the number of layers, every layer counts as full attention:
/// the cache is then over-estimated, never under-estimated.
pub(super) fn read(
    text: &Map<String, Value>,
    model_type: &str,
    layers: Option<u32>,
    fields: &Fields<'_>,
) -> Result<Kinds, ReadConfigError> {
    let Some(layers) = layers else { return Ok(Kinds::default()) };
    let switched_off = text.get("use_sliding_window").and_then(Value::as_bool) == Some(false);
    let window = fields
        .number(&["sliding_window", "sliding_window_size", "attention_chunk_size"], 0, 100_000_000)?
        .filter(|window| *window > 0 && !switched_off);
    let listed = ["layer_types", "layers_block_type"].iter().find_map(|key| text.get(*key).and_then(Value::as_array));
    if let Some(listed) = listed {
        return Ok(from_list(listed, layers, window));
    }
    if let Some(pattern) = text.get("hybrid_override_pattern").and_then(Value::as_str) {
        return Ok(from_pattern(pattern, layers));
    }
    if let Some(interval) = fields.number(&["full_attention_interval"], 1, 1024)? {
        let full = layers / interval;
        return Ok(Kinds { full: Some(full), linear: Some(layers - full), ..Kinds::default() });
    }
    let Some(window) = window else { return Ok(Kinds::default()) };
    // Which layers see the window: every one but each n-th, or, by model type, every second or all of them.
    let every = match fields.number(&["sliding_window_pattern", "_sliding_window_pattern"], 1, 1024)? {
        Some(every) => Some(every),
        None => match model_type {
            "gemma2" | "gpt_oss" => Some(2),
            "gemma3_text" | "gemma3" => Some(6),
            "mistral" | "mixtral" => Some(u32::MAX),
            _ => None,
        },
    };
    Ok(every.map_or_else(Kinds::default, |every| with_window(layers, layers / every, window)))
}

fn with_window(layers: u32, full: u32, window: u32) -> Kinds {
    if full == layers {
        return Kinds::default();
    }
    Kinds { full: Some(full), sliding: Some(layers - full), window: Some(window), linear: None }
}

/// One name a layer.
fn from_list(listed: &[Value], layers: u32, window: Option<u32>) -> Kinds {
    if u32::try_from(listed.len()) != Ok(layers) {
        return Kinds::default();
    }
    let count = |wanted: &dyn Fn(&str) -> bool| {
        u32::try_from(listed.iter().filter_map(Value::as_str).filter(|name| wanted(name)).count()).unwrap_or(0)
    };
    let sliding = match window {
        Some(_) => count(&|name| name.contains("sliding") || name.contains("chunked")),
        None => 0,
    };
    let linear = count(&|name| name.contains("linear") || name == "mamba" || name == "conv" || name == "recurrent");
    if sliding == 0 && linear == 0 {
        return Kinds::default();
    }
    Kinds {
        full: Some(layers - sliding - linear),
        sliding: (sliding > 0).then_some(sliding),
        window: window.filter(|_| sliding > 0),
        linear: (linear > 0).then_some(linear),
    }
}

/// One letter a layer: M a state-space layer, * attention, - and E a feed-forward layer without a cache.
fn from_pattern(pattern: &str, layers: u32) -> Kinds {
    if u32::try_from(pattern.chars().count()) != Ok(layers) {
        return Kinds::default();
    }
    let count = |letter: char| u32::try_from(pattern.chars().filter(|other| *other == letter).count()).unwrap_or(0);
    Kinds { full: Some(count('*')), linear: Some(count('M')), ..Kinds::default() }
}
