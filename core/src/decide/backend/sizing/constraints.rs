//! What vLLM 0.33 refuses, each rule with the error that it prevents. Some of them vLLM finds only when it builds the model,
//! after the weights were downloaded.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::facts::{is_mixture, quantization_on_load};
use super::memory::Sizes;
use super::options::Options;
use crate::api::architecture::{CheckpointQuantization, ModelArchitecture};
use crate::api::vllm::{Dtype, VllmSpec};
use crate::decide::backend::accelerator::{Accelerator, ComputeCapability};

/// A rule that a choice breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// What is wrong, in the user's terms.
    pub message: String,
    /// How vLLM would say it.
    pub engine_error: &'static str,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} (vLLM would end with: {})", self.message, self.engine_error.trim_end_matches('.'))
    }
}

fn violation(message: String, engine_error: &'static str) -> Option<Violation> {
    Some(Violation { message, engine_error })
}

/// Rules between the model and the parallel sizes, whatever the accelerator. Facts that are not known break no rule.
pub(super) fn of_model(architecture: &ModelArchitecture, options: &Options, sizes: Sizes) -> Vec<Violation> {
    [
        positive(sizes),
        heads_divide(architecture, sizes),
        key_value_heads_split_or_replicate(architecture, sizes),
        vocabulary_divides(architecture, sizes),
        dense_width_divides(architecture, sizes),
        expert_width_divides(architecture, sizes),
        blocks_stay_whole(architecture, sizes),
        groups_stay_whole(architecture, sizes),
        stages_are_supported(architecture, sizes),
        layers_suffice(architecture, sizes),
        experts_exist(architecture, sizes),
        vision_heads_divide(architecture, options, sizes),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Rules between the accelerator and the parallel sizes.
pub(super) fn of_accelerator(spec: &VllmSpec, accelerator: &Accelerator, sizes: Sizes) -> Vec<Violation> {
    [one_process_a_card(accelerator, sizes), fits_the_node(accelerator, sizes), number_type_exists(spec, accelerator)]
        .into_iter()
        .flatten()
        .collect()
}

/// Rules within the spec.
pub(super) fn of_spec(architecture: &ModelArchitecture, spec: &VllmSpec, options: &Options) -> Vec<Violation> {
    [quantization_matches(architecture, spec), lora_slots_suffice(options)].into_iter().flatten().collect()
}

/// Whether experts must be kept whole: blocks or groups of the quantisation, or the width itself, do not survive the split
/// (C7). vLLM 0.33 refines or pads FP8 blocks and becomes slower; older releases fail with "is not divisible by block_n".
pub(super) fn needs_whole_experts(architecture: &ModelArchitecture, tensor: u32) -> bool {
    let Some(width) = architecture.expert_intermediate_size.filter(|_| is_mixture(architecture) && tensor > 1) else {
        return false;
    };
    let unit =
        architecture.checkpoint_quantization.as_ref().and_then(|quantization| quantization.block_size.or(grouped(quantization)));
    width % tensor != 0 || unit.is_some_and(|unit| !(width / tensor).is_multiple_of(unit.max(1)))
}

fn positive(sizes: Sizes) -> Option<Violation> {
    if sizes.gpus() > 0 {
        return None;
    }
    violation("parallel sizes must be at least 1".to_owned(), "tensor_parallel_size (0) must be greater than or equal to 1")
}

/// Whether a count divides evenly over the ranks, or is not known.
fn divides(count: Option<u32>, ranks: u32) -> bool {
    count.is_none_or(|count| ranks == 0 || count.is_multiple_of(ranks))
}

/// C1.
fn heads_divide(architecture: &ModelArchitecture, sizes: Sizes) -> Option<Violation> {
    if divides(architecture.attention_heads, sizes.tensor) {
        return None;
    }
    let heads = architecture.attention_heads.unwrap_or_default();
    violation(
        format!("{heads} attention heads are not divisible by tensor-parallel size {}", sizes.tensor),
        "Total number of attention heads (N) must be divisible by tensor parallel size (T).",
    )
}

/// C2, and C3: latent attention has one head a rank.
fn key_value_heads_split_or_replicate(architecture: &ModelArchitecture, sizes: Sizes) -> Option<Violation> {
    let heads = architecture.key_value_heads.or(architecture.attention_heads)?;
    let latent = architecture.kv_lora_rank.is_some();
    let tensor = sizes.tensor.max(1);
    if latent || heads == 0 || heads.is_multiple_of(tensor) || tensor.is_multiple_of(heads) {
        return None;
    }
    violation(
        format!("{heads} key-value heads can neither be split over nor repeated on {tensor} ranks"),
        "N is not divisible by T (QKVParallelLinear, when the model is built)",
    )
}

/// C4: the vocabulary is padded to a multiple of 64 before it is split.
fn vocabulary_divides(architecture: &ModelArchitecture, sizes: Sizes) -> Option<Violation> {
    let vocabulary = architecture.vocabulary_size?;
    let padded = vocabulary.div_ceil(64).saturating_mul(64);
    if divides(Some(padded), sizes.tensor) {
        return None;
    }
    violation(
        format!("the vocabulary of {vocabulary}, padded to {padded}, is not divisible by tensor-parallel size {}", sizes.tensor),
        "N is not divisible by T (VocabParallelEmbedding, when the model is built)",
    )
}

/// C5, dense and shared experts.
fn dense_width_divides(architecture: &ModelArchitecture, sizes: Sizes) -> Option<Violation> {
    let widths = [architecture.intermediate_size, architecture.shared_expert_intermediate_size];
    let width = widths.into_iter().flatten().find(|width| !divides(Some(*width), sizes.tensor))?;
    violation(
        format!("feed-forward layers of width {width} are not divisible by tensor-parallel size {}", sizes.tensor),
        "N is not divisible by T (MergedColumnParallelLinear, when the model is built)",
    )
}

/// C5, routed experts that are split.
fn expert_width_divides(architecture: &ModelArchitecture, sizes: Sizes) -> Option<Violation> {
    if sizes.expert || divides(architecture.expert_intermediate_size, sizes.tensor) {
        return None;
    }
    violation(
        format!(
            "experts of width {} are not divisible by tensor-parallel size {}: set parallelism.expert to true to keep them whole",
            architecture.expert_intermediate_size.unwrap_or_default(),
            sizes.tensor
        ),
        "N is not divisible by T (FusedMoE, when the model is built)",
    )
}

/// C6: blocks of an FP8 checkpoint that share a scale. Attention is exempt where it is latent: its projections have widths
/// that the facts do not hold.
fn blocks_stay_whole(architecture: &ModelArchitecture, sizes: Sizes) -> Option<Violation> {
    let block = architecture.checkpoint_quantization.as_ref()?.block_size.filter(|block| *block > 0)?;
    let tensor = Some(sizes.tensor).filter(|tensor| *tensor > 1)?;
    let attention = architecture.head_dimension.filter(|_| architecture.kv_lora_rank.is_none()).and_then(|width| {
        let queries = architecture.attention_heads? / tensor;
        let keys = (architecture.key_value_heads.or(architecture.attention_heads)? / tensor).max(1);
        Some([queries.saturating_mul(width), keys.saturating_mul(width)])
    });
    let dense = architecture.intermediate_size.map(|width| width / tensor);
    let shared = architecture.shared_expert_intermediate_size.map(|width| width / tensor);
    let (what, part) = [
        ("dense layers", dense),
        ("shared experts", shared),
        ("query heads", attention.map(|[queries, _]| queries)),
        ("key-value heads", attention.map(|[_, keys]| keys)),
    ]
    .into_iter()
    .find_map(|(what, part)| part.filter(|part| !part.is_multiple_of(block)).map(|part| (what, part)))?;
    violation(
        format!(
            "tensor-parallel size {tensor} leaves {part} columns of the {what} to a rank, which is not a multiple of the FP8 blocks of {block}"
        ),
        "Weight output_partition_size = N is not divisible by weight quantization block_n = 128.",
    )
}

/// The group size of a method that splits its weights by groups.
fn grouped(quantization: &CheckpointQuantization) -> Option<u32> {
    let method = quantization.method.as_str();
    let by_groups = method.contains("awq") || method.contains("gptq") || method == "compressed-tensors" || method == "auto-round";
    quantization.group_size.filter(|size| by_groups && *size > 0)
}

/// C8: groups along the input of a layer that share a scale.
fn groups_stay_whole(architecture: &ModelArchitecture, sizes: Sizes) -> Option<Violation> {
    let group = architecture.checkpoint_quantization.as_ref().and_then(grouped)?;
    let tensor = Some(sizes.tensor).filter(|tensor| *tensor > 1)?;
    let attention = architecture
        .head_dimension
        .zip(architecture.attention_heads)
        .filter(|_| architecture.kv_lora_rank.is_none())
        .map(|(width, heads)| width.saturating_mul(heads) / tensor);
    let parts = [
        architecture.intermediate_size.map(|width| width / tensor),
        architecture.shared_expert_intermediate_size.map(|width| width / tensor),
        attention,
        architecture.expert_intermediate_size.filter(|_| !sizes.expert).map(|width| width / tensor),
    ];
    let part = parts.into_iter().flatten().find(|part| !part.is_multiple_of(group))?;
    violation(
        format!(
            "tensor-parallel size {tensor} leaves {part} inputs to a rank, which is not a multiple of the quantisation groups of {group}"
        ),
        "The input size is not aligned with the quantized weight shape. This can be caused by too large tensor parallel size.",
    )
}

/// C9, and C10: one node, so the number of nodes divides everything.
fn fits_the_node(accelerator: &Accelerator, sizes: Sizes) -> Option<Violation> {
    if sizes.gpus() <= accelerator.gpus_per_node {
        return None;
    }
    violation(
        format!("{} accelerators are needed in one node, which has {}", sizes.gpus(), accelerator.gpus_per_node),
        "World size (N) is larger than the number of available GPUs (M) in this node.",
    )
}

/// Written by dev/vllm/dump_without_pipeline.py, which also says what it holds.
const WITHOUT_PIPELINE: &str = include_str!("../../../../data/vllm-0.33.0-without-pipeline.json");

/// Architectures that vLLM does not split into stages. The file is part of the program, and a test reads it.
static WITHOUT_PIPELINE_ARCHITECTURES: LazyLock<BTreeSet<String>> =
    LazyLock::new(|| serde_json::from_str(WITHOUT_PIPELINE).unwrap_or_default());

/// C11: the model's class in vLLM has to say that it can be split.
fn stages_are_supported(architecture: &ModelArchitecture, sizes: Sizes) -> Option<Violation> {
    let name = architecture.architecture.as_ref().filter(|name| WITHOUT_PIPELINE_ARCHITECTURES.contains(*name))?;
    if sizes.pipeline <= 1 {
        return None;
    }
    violation(
        format!("vLLM does not split {name} into pipeline stages: remove parallelism.pipeline"),
        "Pipeline parallelism is not supported for this model. Supported models implement the `SupportsPP` interface.",
    )
}

/// C11: every stage needs a layer.
fn layers_suffice(architecture: &ModelArchitecture, sizes: Sizes) -> Option<Violation> {
    let layers = architecture.layers.filter(|layers| *layers < sizes.pipeline)?;
    violation(
        format!("{layers} layers cannot be spread over {} pipeline stages", sizes.pipeline),
        "Pipeline parallelism is not supported for this model.",
    )
}

/// C12.
fn experts_exist(architecture: &ModelArchitecture, sizes: Sizes) -> Option<Violation> {
    // Only a model of which enough is known is known to be dense.
    let dense = architecture.attention_heads.is_some() && !is_mixture(architecture);
    if !(sizes.expert && dense) {
        return None;
    }
    violation(
        "parallelism.expert is true, but the model has no experts".to_owned(),
        "Number of experts in the model must be greater than 0 when expert parallelism is enabled.",
    )
}

/// C13.
fn vision_heads_divide(architecture: &ModelArchitecture, options: &Options, sizes: Sizes) -> Option<Violation> {
    if options.whole_vision_tower || divides(architecture.vision_attention_heads, sizes.tensor) {
        return None;
    }
    violation(
        format!(
            "{} heads of the vision tower are not divisible by tensor-parallel size {}: extraArgs --mm-encoder-tp-mode=data keeps it whole",
            architecture.vision_attention_heads.unwrap_or_default(),
            sizes.tensor
        ),
        "N is not divisible by T (vision attention, when the model is built)",
    )
}

/// C14, slots. Which ranks exist is told when the arguments are checked.
fn lora_slots_suffice(options: &Options) -> Option<Violation> {
    let (slots, kept) = options.lora_slots.or(options.max_loras).zip(options.max_cpu_loras).filter(|(slots, kept)| kept < slots)?;
    violation(
        format!("--max-cpu-loras={kept} is less than --max-loras={slots}: raise it to {slots} or more"),
        "max_cpu_loras must be >= max_loras",
    )
}

/// The processes of one replica must be on cards of their own.
fn one_process_a_card(accelerator: &Accelerator, sizes: Sizes) -> Option<Violation> {
    if sizes.gpus() <= 1 || !accelerator.single() {
        return None;
    }
    let what = if accelerator.shared() {
        "cards that pods share: two of them may be the same card"
    } else {
        "parts of a card (MIG), which cannot work together"
    };
    violation(
        format!("{} accelerators for one replica, but {} are {what}", sizes.gpus(), accelerator.name()),
        "Duplicate GPU detected (NCCL)",
    )
}

/// bfloat16 by name needs compute capability 8.0; with dtype Auto vLLM takes float16 instead (platforms/cuda.py).
fn number_type_exists(spec: &VllmSpec, accelerator: &Accelerator) -> Option<Violation> {
    let capability = accelerator.compute_capability.filter(|capability| *capability < ComputeCapability { major: 8, minor: 0 })?;
    if spec.dtype != Some(Dtype::BFloat16) {
        return None;
    }
    violation(
        format!(
            "dtype BFloat16 needs compute capability 8.0, {} has {capability}: set dtype to Float16 or Auto",
            accelerator.name()
        ),
        "Bfloat16 is only supported on GPUs with compute capability of at least 8.0.",
    )
}

/// A checkpoint that is quantised one way cannot be loaded another way.
fn quantization_matches(architecture: &ModelArchitecture, spec: &VllmSpec) -> Option<Violation> {
    let wanted = quantization_on_load(spec)?;
    let has = architecture.checkpoint_quantization.as_ref()?.method.to_lowercase();
    // Kernels have names of their own: awq_marlin loads an awq checkpoint.
    if wanted.starts_with(&has) || has.starts_with(&wanted) {
        return None;
    }
    violation(
        format!(
            "quantization is {wanted}, but the checkpoint is quantised as {has}: remove quantization, or choose another checkpoint"
        ),
        "Quantization method specified in the model config does not match the quantization method specified in the `quantization` argument",
    )
}

#[cfg(test)]
#[path = "constraints_tests.rs"]
mod tests;
