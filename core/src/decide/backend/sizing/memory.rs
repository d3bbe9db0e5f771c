//! The memory of one accelerator under vLLM, in whole bytes.
//!
//! `budget = memory x utilisation`; `pool = budget - weights - overhead` is what the key-value cache gets. The overhead is
//! what published measurements leave: on four H100 NVL (93.1 GiB) with MiniMax-M2.7 at TP2 x PP2 (kaito-project/kaito
//! PR #2156) 4.65 GiB an accelerator.

use super::facts::{Facts, scaled};
use super::options::Options;
use crate::decide::backend::accelerator::Accelerator;

const GIB: u64 = 1 << 30;
/// Tokens of a block of the cache (`--block-size`).
const BLOCK: u64 = 16;
/// Weights on a rank above the even share: norms and embeddings that are not split (101 %).
const WEIGHT_SHARE_PERCENT: u64 = 101;
/// vLLM's own share of the memory (`--gpu-memory-utilization`), in percent.
pub(super) const DEFAULT_UTILIZATION_PERCENT: u32 = 92;
/// vLLM's own largest rank of an adapter (`--max-lora-rank`).
const DEFAULT_LORA_RANK: u64 = 16;
/// Below this a pool is of no use, whatever fits into it.
const LEAST_POOL: u64 = GIB / 4;
/// Below this the memory outside the budget may not hold the capture of CUDA graphs.
const LEAST_ROOM_FOR_CAPTURE: u64 = GIB;

/// How one replica is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Accelerators that share every layer.
    pub tensor: u32,
    /// Groups of accelerators that hold successive layers.
    pub pipeline: u32,
    /// Copies of the model.
    pub data: u32,
    /// Experts are kept whole.
    pub expert: bool,
}

impl Sizes {
    /// Accelerators of one replica.
    pub(super) fn gpus(self) -> u32 {
        self.tensor.saturating_mul(self.pipeline).saturating_mul(self.data)
    }

    /// Ranks that an expert is spread over, or that whole experts are: with experts kept whole, the copies of the model
    /// share them.
    fn ranks_of_experts(self) -> u64 {
        let copies = if self.expert { self.data } else { 1 };
        u64::from(self.tensor).saturating_mul(copies.into()).max(1)
    }
}

/// The memory of one accelerator, part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// All of it.
    pub total: u64,
    /// What vLLM may use.
    pub budget: u64,
    /// Weights.
    pub weights: u64,
    /// Everything else that is not cache.
    pub overhead: u64,
    /// Whether there is too little room outside the budget to capture CUDA graphs.
    pub no_room_for_capture: bool,
}

impl Memory {
    /// The parts, where the accelerator's memory is known.
    pub(super) fn of(
        facts: &Facts,
        options: &Options,
        accelerator: &Accelerator,
        sizes: Sizes,
        utilization_percent: u32,
    ) -> Option<Self> {
        let total = accelerator.memory_bytes?;
        let budget = scaled(total, utilization_percent.into(), 100).min(total);
        let weights = weights(facts, sizes);
        let outside = total - budget;
        Some(Self {
            total,
            budget,
            weights,
            overhead: overhead(facts, options, accelerator, sizes),
            no_room_for_capture: outside < LEAST_ROOM_FOR_CAPTURE && weights > scaled(total, 7, 10),
        })
    }

    /// What the cache gets. None: weights and overhead alone exceed the budget.
    pub(super) fn pool(&self) -> Option<u64> {
        self.budget.checked_sub(self.weights.saturating_add(self.overhead))
    }

    /// Whether the pool holds `cache` bytes and is of use at all.
    pub(super) fn holds(&self, cache: u64) -> bool {
        self.pool().is_some_and(|pool| pool >= cache && pool > LEAST_POOL)
    }

    /// Whether the pool is also a fifth of the budget: room for several requests at a time.
    pub(super) fn balanced(&self) -> bool {
        self.pool().is_some_and(|pool| pool >= self.budget / 5)
    }
}

/// Weights on the rank that has most: of a stage with one layer more than others, and with the embedding or the output
/// layer, which the first and the last stage carry besides.
fn weights(facts: &Facts, sizes: Sizes) -> u64 {
    let (stages, tensor) = (u64::from(sizes.pipeline.max(1)), u64::from(sizes.tensor.max(1)));
    let largest = |bytes: u64| match facts.layers {
        0 => bytes.div_ceil(stages),
        layers => scaled(bytes, layers.div_ceil(stages), layers),
    };
    let experts = facts.expert_bytes.min(facts.weight_bytes);
    let others = facts.weight_bytes - experts;
    let others = match stages {
        1 => others,
        _ => {
            let layers = others.saturating_sub(facts.embedding_bytes.saturating_mul(2));
            largest(layers).saturating_add(facts.embedding_bytes).max(others.div_ceil(stages))
        }
    };
    let share = |bytes: u64, ranks: u64| scaled(bytes, WEIGHT_SHARE_PERCENT, 100 * ranks);
    share(others, tensor).saturating_add(share(largest(experts), sizes.ranks_of_experts()))
}

/// Cards by memory, as vLLM's defaults tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Under 70 GiB.
    Small,
    /// From 70 GiB.
    Large,
    /// From 160 GiB.
    Huge,
}

fn class(accelerator: &Accelerator) -> Class {
    match accelerator.memory_bytes.unwrap_or(0) / GIB {
        0..70 => Class::Small,
        70..160 => Class::Large,
        _ => Class::Huge,
    }
}

/// Tokens of one step, where the user does not say: `--max-num-batched-tokens` is 16384 from 160 GiB, 8192 from 70 GiB
/// except on an A100, else 2048 (vLLM 0.33, engine/arg_utils.py).
fn batched_tokens(options: &Options, accelerator: &Accelerator) -> u64 {
    let is_a100 = accelerator.product.as_deref().is_some_and(|product| product.to_lowercase().contains("a100"));
    options.max_num_batched_tokens.unwrap_or(match class(accelerator) {
        Class::Huge => 16384,
        Class::Large if !is_a100 => 8192,
        Class::Large | Class::Small => 2048,
    })
}

/// Memory outside torch, the peak of the activations, the CUDA graphs, and room for adapters.
///
/// Outside torch: 0.3 GiB, and 1.7 where ranks talk to each other. Activations: 0.9 GiB for 2048 tokens on small cards; on
/// large ones 2.0, and 2.5 for mixtures, in proportion where the user batches more tokens. Graphs: 0.5 and 0.7 GiB. Within
/// the ranges of llm-d-planner 0.3.3 (vllm_memory_constants.json) and kaito-project/kaito PR #2139.
fn overhead(facts: &Facts, options: &Options, accelerator: &Accelerator, sizes: Sizes) -> u64 {
    let class = class(accelerator);
    let outside_torch = if sizes.gpus() > 1 { 17 } else { 3 };
    let (activation, measured_at) = match (class, facts.mixture) {
        (Class::Small, _) => (9, 2048),
        (Class::Large, false) => (20, 8192),
        (Class::Large, true) => (25, 8192),
        (Class::Huge, false) => (20, 16384),
        (Class::Huge, true) => (25, 16384),
    };
    let graphs = match (options.enforce_eager, class) {
        (true, _) => 0,
        (false, Class::Small) => 5,
        (false, Class::Large | Class::Huge) => 7,
    };
    let tokens = options.max_num_batched_tokens.unwrap_or(measured_at).max(measured_at);
    scaled(GIB, outside_torch + graphs, 10)
        .saturating_add(scaled(scaled(GIB, activation, 10), tokens, measured_at))
        .saturating_add(adapters(facts, options, sizes))
}

/// Room for LoRA adapters of the largest rank that is allowed, which vLLM takes before it measures what is left.
fn adapters(facts: &Facts, options: &Options, sizes: Sizes) -> u64 {
    let Some(slots) = options.lora_slots else { return 0 };
    let rank = options.max_lora_rank.unwrap_or(DEFAULT_LORA_RANK);
    let shared = facts.shared_adapter_bytes / u64::from(sizes.tensor.max(1));
    let each = facts.adapter_bytes.saturating_add(shared).saturating_mul(rank) / u64::from(sizes.pipeline.max(1));
    each.saturating_mul(slots)
}

/// The key-value cache of one sequence on one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cache {
    /// Bytes a token of the layers that keep every token.
    pub bytes_per_token: u64,
    /// Bytes a token of the layers with a window.
    window_bytes_per_token: u64,
    /// Tokens that those keep at most.
    window_tokens: u64,
    /// Bytes whatever the length.
    constant: u64,
}

impl Cache {
    /// The cache under vLLM's rules: full attention keeps keys and values of its share of the heads, at least one head a
    /// rank; latent attention keeps one vector on every rank; a window keeps itself and the tokens in flight; linear
    /// attention keeps a state.
    pub(super) fn of(facts: &Facts, options: &Options, accelerator: &Accelerator, sizes: Sizes) -> Self {
        let tensor = u64::from(sizes.tensor.max(1));
        let stages = u64::from(sizes.pipeline.max(1));
        let layer = match facts.latent_width {
            Some(width) => width,
            None => 2 * (facts.kv_heads / tensor).max(1) * facts.head_dimension,
        }
        .saturating_mul(facts.kv_number_bytes)
        .saturating_add(facts.indexer_bytes);
        let (full, sliding) = grouped(facts.full_layers, facts.sliding_layers);
        // Two steps may be in flight: asynchronous scheduling, or one a stage.
        let in_flight = batched_tokens(options, accelerator).saturating_mul(stages.max(2));
        // An upper bound over Qwen3-Next (4096 x 128 numbers a layer at a width of 2048) and Qwen3.5-27B (6144 x 128 at
        // 5120), kept in 32 bits.
        let state = 256 * 4 * facts.hidden_size.unwrap_or(facts.heads.saturating_mul(facts.head_dimension)) / tensor;
        Self {
            bytes_per_token: layer.saturating_mul(full.div_ceil(stages)),
            window_bytes_per_token: layer.saturating_mul(sliding.div_ceil(stages)),
            window_tokens: (facts.window.saturating_sub(1).saturating_add(in_flight)).div_ceil(BLOCK).saturating_add(1) * BLOCK,
            constant: state.saturating_mul(facts.linear_layers.div_ceil(stages)),
        }
    }

    /// Bytes of one sequence of `tokens`.
    pub(super) fn bytes(&self, tokens: u32) -> u64 {
        let tokens = u64::from(tokens).div_ceil(BLOCK) * BLOCK;
        self.bytes_per_token
            .saturating_mul(tokens)
            .saturating_add(self.window_bytes_per_token.saturating_mul(tokens.min(self.window_tokens)))
            .saturating_add(self.constant)
    }

    /// Tokens that a pool holds when every sequence has `context` tokens: the number that vLLM prints at start.
    pub(super) fn tokens(&self, pool: u64, context: u32) -> u64 {
        let bytes = self.bytes(context).max(1);
        u64::try_from(u128::from(pool) * u128::from(context) / u128::from(bytes)).unwrap_or(u64::MAX)
    }

    /// The longest context up to `limit` of which one sequence fits into the pool. 0: none.
    pub(super) fn longest(&self, pool: u64, limit: u32) -> u32 {
        let (mut fits, mut beyond) = (0, limit.saturating_add(1));
        while beyond - fits > 1 {
            let middle = fits + (beyond - fits) / 2;
            if self.bytes(middle) <= pool { fits = middle } else { beyond = middle }
        }
        fits
    }
}

/// Layers with full attention and with a window as vLLM's pool counts them: in groups of equal size, that of the smaller
/// kind, or of the larger one where it is less than half as large again, the last group padded (v1/core/kv_cache_utils.py).
fn grouped(full: u64, sliding: u64) -> (u64, u64) {
    let (smaller, larger) = (full.min(sliding), full.max(sliding));
    let group = match smaller {
        0 => return (full, sliding),
        _ if larger * 2 < smaller * 3 => larger,
        _ => smaller,
    };
    (full.div_ceil(group) * group, sliding.div_ceil(group) * group)
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
