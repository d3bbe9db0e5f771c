//! Arguments of the engine that the user adds and that sizing must know of.

use crate::api::vllm::VllmSpec;

/// What `extraArgs` and `env` change about sizing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Options {
    /// `--max-num-batched-tokens`: activations and the windows in flight grow with it.
    pub max_num_batched_tokens: Option<u64>,
    /// `--enforce-eager`: no memory for CUDA graphs.
    pub enforce_eager: bool,
    /// `--mm-encoder-tp-mode=data`: the vision tower is not split.
    pub whole_vision_tower: bool,
    /// The model's own context is overridden: `--hf-overrides`, or VLLM_ALLOW_LONG_MAX_MODEL_LEN.
    pub longer_context: bool,
    /// `--max-lora-rank`.
    pub max_lora_rank: Option<String>,
    /// `--max-loras`.
    pub max_loras: Option<u64>,
    /// `--max-cpu-loras`.
    pub max_cpu_loras: Option<u64>,
}

impl Options {
    /// Reads them. What cannot be read is left to the check of the arguments.
    pub(super) fn of(spec: &VllmSpec) -> Self {
        let value = |flag: &str| last_value(&spec.extra_args, flag);
        let number = |flag: &str| value(flag).and_then(human_number);
        let lengthened = spec.env.iter().any(|variable| {
            variable.name == "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
                && variable.value.as_deref().is_some_and(|value| matches!(value.to_lowercase().as_str(), "1" | "true"))
        });
        Self {
            max_num_batched_tokens: number("--max-num-batched-tokens"),
            enforce_eager: value("--enforce-eager").is_some(),
            whole_vision_tower: value("--mm-encoder-tp-mode") == Some("data"),
            longer_context: lengthened || value("--hf-overrides").is_some(),
            max_lora_rank: value("--max-lora-rank").map(str::to_owned),
            max_loras: number("--max-loras"),
            max_cpu_loras: number("--max-cpu-loras"),
        }
    }
}

/// The value of the last occurrence of a flag, empty where it has none. vLLM's parser takes the last of several, and takes
/// underscores for hyphens.
fn last_value<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    arguments.iter().rev().find_map(|argument| {
        let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
        (name.replace('_', "-") == flag).then_some(value)
    })
}

/// A number as vLLM's parser reads it: 32k is 32,000 and 32K is 32,768.
fn human_number(text: &str) -> Option<u64> {
    let (digits, factor) = match text.chars().last()? {
        'k' => (text.get(..text.len() - 1)?, 1000),
        'K' => (text.get(..text.len() - 1)?, 1024),
        'm' => (text.get(..text.len() - 1)?, 1_000_000),
        'M' => (text.get(..text.len() - 1)?, 1 << 20),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_vllms_parser_reads_them() {
        let spec = VllmSpec {
            extra_args: ["--max-num-batched-tokens=2048", "--max_num_batched_tokens=32k", "--enforce-eager"]
                .map(str::to_owned)
                .to_vec(),
            ..VllmSpec::default()
        };
        let options = Options::of(&spec);
        assert_eq!(options.max_num_batched_tokens, Some(32_000));
        assert!(options.enforce_eager && !options.longer_context);
        assert_eq!(human_number("32K"), Some(32_768));
        assert_eq!(human_number("1.5K"), None);
    }
}
