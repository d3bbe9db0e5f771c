//! The whole command line of a backend.

use super::given::Given;
use crate::api::duration::ParseDurationError;
use crate::api::status::SizingStatus;
use crate::api::vllm::{Dtype, KvCacheDtype, Task, VllmSpec};
use crate::decide::backend::children::PORT;
use crate::decide::backend::clocks::Clocks;
use crate::decide::backend::model_source::ModelSource;

/// Share of an accelerator's memory that vLLM uses when the spec is silent: vLLM 0.33's own default. It is always written,
/// because the sizing was computed with it and another version of vLLM may have another default.
pub const GPU_MEMORY_UTILIZATION_PERCENT: u32 = 92;

/// Most adapters whose requests may share a batch unless the user says otherwise: vLLM reserves memory for each.
const LORA_SLOTS: u64 = 4;

/// Adapters whose requests may share a batch, where `extraArgs` do not say: all up to [`LORA_SLOTS`]. None: there are no
/// adapters. vLLM's own default is 1, with which requests to different adapters wait for each other.
pub fn lora_slots(spec: &VllmSpec) -> Option<u64> {
    u64::try_from(spec.lora_adapters.len()).ok().filter(|adapters| *adapters > 0).map(|adapters| adapters.min(LORA_SLOTS))
}

/// The arguments behind `vllm serve`, for the backend `name`: the model, then what the spec and the sizing say, in a fixed
/// order, then `extraArgs`. No argument of ours that takes several values stands last, so that `extraArgs` cannot add to it.
///
/// # Errors
///
/// A duration of the spec that cannot be read.
pub fn command(spec: &VllmSpec, name: &str, sizing: &SizingStatus) -> Result<Vec<String>, ParseDurationError> {
    let clocks = Clocks::of(spec, sizing)?;
    let source = ModelSource::of(&spec.model);
    let mut arguments = Arguments(vec![source.argument()]);
    arguments.option("--served-model-name", spec.served_model_name.as_deref().unwrap_or(name));
    arguments.option("--tensor-parallel-size", &sizing.tensor_parallel_size.max(1).to_string());
    for (option, size) in
        [("--pipeline-parallel-size", sizing.pipeline_parallel_size), ("--data-parallel-size", sizing.data_parallel_size)]
    {
        if size > 1 {
            arguments.option(option, &size.to_string());
        }
    }
    arguments.flag_if("--enable-expert-parallel", sizing.expert_parallel == Some(true));
    // Where the model's own context is not known, vLLM takes the largest that fits instead of ending when it does not.
    let length = sizing.context_length.or(spec.context_length).map_or_else(|| "auto".to_owned(), |length| length.to_string());
    arguments.option("--max-model-len", &length);
    let percent =
        sizing.gpu_memory_utilization_percent.or(spec.gpu_memory_utilization_percent).unwrap_or(GPU_MEMORY_UTILIZATION_PERCENT);
    arguments.option("--gpu-memory-utilization", &decimal(percent));
    if let Some(dtype) = spec.dtype.and_then(dtype) {
        arguments.option("--dtype", dtype);
    }
    if let Some(quantization) = quantization(spec) {
        arguments.option("--quantization", &quantization);
    }
    if spec.kv_cache_dtype == Some(KvCacheDtype::Fp8) {
        arguments.option("--kv-cache-dtype", "fp8");
    }
    if let Some(revision) = spec.revision.as_deref().filter(|_| source.is_cached()) {
        arguments.option("--revision", revision);
    }
    arguments.flag_if("--trust-remote-code", spec.trust_remote_code == Some(true));
    match spec.task {
        Some(Task::Embed) => arguments.option("--runner", "pooling"),
        Some(Task::Generate) => arguments.option("--runner", "generate"),
        None => {}
    }
    if let Some(slots) = lora_slots(spec) {
        arguments.flag_if("--enable-lora", true);
        if Given::of(&spec.extra_args).value("max_loras").is_none() {
            arguments.option("--max-loras", &slots.to_string());
        }
        arguments.0.push("--lora-modules".to_owned());
        arguments.0.extend(spec.lora_adapters.iter().map(|adapter| {
            let path = adapter.source.strip_prefix("hf://").unwrap_or(&adapter.source);
            format!("{}={path}", adapter.name)
        }));
    }
    arguments.flag_if("--enforce-eager", sizing.enforce_eager == Some(true));
    if matches!(source, ModelSource::ObjectStore(_)) {
        arguments.option("--load-format", "runai_streamer");
    }
    arguments.option("--shutdown-timeout", &clocks.drain.to_string());
    arguments.option("--port", &PORT.to_string());
    arguments.0.extend(spec.extra_args.iter().cloned());
    Ok(arguments.0)
}

struct Arguments(Vec<String>);

impl Arguments {
    fn option(&mut self, option: &str, value: &str) {
        self.0.push(format!("{option}={value}"));
    }

    fn flag_if(&mut self, flag: &str, wanted: bool) {
        if wanted {
            self.0.push(flag.to_owned());
        }
    }
}

/// Percent as a share with at most two decimals: 92 is 0.92, 90 is 0.9.
fn decimal(percent: u32) -> String {
    let text = format!("{}.{:02}", percent / 100, percent % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The number type as vLLM spells it; none for Auto.
fn dtype(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::Auto => None,
        Dtype::BFloat16 => Some("bfloat16"),
        Dtype::Float16 => Some("float16"),
        Dtype::Float32 => Some("float32"),
    }
}

/// The quantisation on load. Every method's name in vLLM is in lower case; none for Auto.
fn quantization(spec: &VllmSpec) -> Option<String> {
    spec.quantization.as_deref().map(str::to_ascii_lowercase).filter(|method| method != "auto")
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
