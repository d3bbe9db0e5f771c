//! The choice: the least memory on which the model runs, among what vLLM accepts.

use super::constraints::{self, Violation};
use super::facts::Facts;
use super::memory::{Cache, DEFAULT_UTILIZATION_PERCENT, Memory, Sizes};
use super::options::Options;
use super::{Candidate, Request};
use crate::api::architecture::ModelArchitecture;
use crate::api::status::human_bytes;
use crate::api::vllm::{Parallelism, ParallelismPolicy, VllmSpec};
use crate::decide::backend::accelerator::{Accelerator, ComputeCapability};

/// The context that is sized for where the user does not say, unless the model's own is shorter.
const TARGET_CONTEXT: u32 = 32768;
/// The shortest context that is taken without being asked for.
const SHORTEST_CONTEXT: u32 = 4096;
/// Computed contexts are multiples of this, so that small differences of memory do not show.
const CONTEXT_STEP: u32 = 1024;
/// A mixture on more ranks than this keeps its experts whole.
const SPLIT_EXPERTS_UP_TO: u32 = 8;

/// What is searched.
pub(super) struct Problem<'a> {
    pub request: Request<'a>,
    pub facts: Facts,
    pub options: Options,
}

/// Something that runs.
#[derive(Clone, Debug)]
pub(super) struct Choice<'a> {
    pub accelerator: &'a Accelerator,
    pub sizes: Sizes,
    pub memory: Memory,
    pub cache: Cache,
    /// The context that was sized for.
    pub target: u32,
    pub utilization_percent: u32,
}

/// Why one combination does not run.
#[derive(Clone, Debug)]
pub(super) struct Shortfall {
    pub memory: Memory,
    pub cache_bytes: u64,
    pub sizes: Sizes,
    pub accelerator: String,
}

/// What was tried, and what came of it.
#[derive(Default)]
pub(super) struct Trail {
    pub candidates: Vec<Candidate>,
    /// The combination that came closest, by the share of what it needs that is there.
    pub closest: Option<Shortfall>,
    /// A rule between accelerator and sizes that kept an accelerator out altogether.
    pub excluded: Option<Violation>,
}

impl<'a> Problem<'a> {
    pub(super) fn spec(&self) -> &'a VllmSpec {
        self.request.spec
    }

    fn pins(&self) -> Parallelism {
        self.spec().parallelism.clone().unwrap_or_default()
    }

    /// The best of everything that runs. Longer contexts come first; among accelerators: the order of
    /// `accelerator.products`, then own cards before shared ones, what nodes have before what they could get, then the
    /// least memory reserved.
    pub(super) fn search(&self, trail: &mut Trail) -> Option<Choice<'a>> {
        for (attempt, target) in self.targets().into_iter().enumerate() {
            let mut tried = Trail::default();
            let best = self
                .request
                .accelerators
                .iter()
                .filter_map(|accelerator| self.on(accelerator, target, &mut tried))
                .min_by_key(|choice| rank(self.request.architecture, choice.accelerator, choice.sizes.gpus()));
            // The first attempt and the one that succeeds tell the story.
            if attempt == 0 || best.is_some() {
                trail.candidates.append(&mut tried.candidates);
            }
            trail.closest = tried.closest.or(trail.closest.take());
            trail.excluded = tried.excluded.or(trail.excluded.take());
            if best.is_some() {
                return best;
            }
        }
        None
    }

    /// The contexts to size for, one after the other.
    pub(super) fn targets(&self) -> Vec<u32> {
        if let Some(pinned) = self.spec().context_length {
            return vec![pinned];
        }
        let own = self.facts.context_length.unwrap_or(TARGET_CONTEXT);
        let first = own.min(TARGET_CONTEXT);
        let mut targets = vec![first];
        targets.extend((1..).map_while(|halvings| first.checked_shr(halvings).filter(|target| *target >= SHORTEST_CONTEXT)));
        targets
    }

    /// The best on one accelerator.
    fn on(&self, accelerator: &'a Accelerator, target: u32, trail: &mut Trail) -> Option<Choice<'a>> {
        if accelerator.memory_bytes.is_none() {
            trail.candidates.push(Candidate::new(
                accelerator,
                None,
                false,
                "its memory is not known: set accelerator.memory".to_owned(),
            ));
            return None;
        }
        let pins = self.pins();
        let feasible = |stages: &[u32], least: u32, trail: &mut Trail| -> Vec<Choice<'a>> {
            let mut all: Vec<Sizes> = stages.iter().flat_map(|stages| self.sizes(accelerator, *stages, &pins)).collect();
            all.retain(|sizes| sizes.gpus() >= least);
            all.sort_by_key(|sizes| (sizes.gpus(), sizes.pipeline));
            all.into_iter().filter_map(|sizes| self.evaluate(accelerator, sizes, target, trail)).collect()
        };
        let mut found = feasible(&[pins.pipeline.unwrap_or(1)], 1, trail);
        if found.is_empty() && pins.pipeline.is_none() && accelerator.gpus_per_node > 1 {
            // Pipeline stages cost latency: only where no tensor-parallel size alone fits, and with no fewer accelerators
            // than the largest of those, else a longer context would take fewer accelerators than a short one.
            found = feasible(&powers_of_two(accelerator.gpus_per_node), self.widest(accelerator, &pins), trail);
        }
        if pins.policy.unwrap_or_default() == ParallelismPolicy::Balanced
            && let Some(balanced) = found.iter().find(|choice| choice.memory.balanced())
        {
            return Some(balanced.clone());
        }
        match pins.policy.unwrap_or_default() {
            ParallelismPolicy::Minimum => found.into_iter().next(),
            // Nothing leaves a fifth to the cache: the most accelerators leave most, with as few stages as possible.
            ParallelismPolicy::Balanced => {
                found.into_iter().max_by_key(|choice| (choice.sizes.gpus(), std::cmp::Reverse(choice.sizes.pipeline)))
            }
        }
    }

    /// Accelerators of the largest legal tensor-parallel size without stages.
    fn widest(&self, accelerator: &Accelerator, pins: &Parallelism) -> u32 {
        let legal = |sizes: &Sizes| {
            constraints::of_model(self.request.architecture, &self.options, *sizes).is_empty()
                && constraints::of_accelerator(self.spec(), accelerator, *sizes).is_empty()
        };
        self.sizes(accelerator, 1, pins).into_iter().filter(legal).map(Sizes::gpus).max().unwrap_or(1)
    }

    /// Every combination for one number of stages that the node has room for, legal or not.
    fn sizes(&self, accelerator: &Accelerator, pipeline: u32, pins: &Parallelism) -> Vec<Sizes> {
        let data = pins.data.unwrap_or(1);
        // With no room at all one size stays, so that the node's rule says why.
        let limit = (accelerator.gpus_per_node / pipeline.saturating_mul(data).max(1)).max(1);
        let tensors: Vec<u32> = match pins.tensor {
            Some(tensor) => vec![tensor],
            None => divisors(self.facts.heads, limit),
        };
        tensors.into_iter().map(|tensor| self.with_experts(tensor, pipeline, data, pins)).collect()
    }

    fn with_experts(&self, tensor: u32, pipeline: u32, data: u32, pins: &Parallelism) -> Sizes {
        let architecture = self.request.architecture;
        let whole = self.facts.mixture
            && (constraints::needs_whole_experts(architecture, tensor) || tensor.saturating_mul(data) > SPLIT_EXPERTS_UP_TO);
        Sizes { tensor, pipeline, data, expert: pins.expert.unwrap_or(whole) }
    }

    fn evaluate(&self, accelerator: &'a Accelerator, sizes: Sizes, target: u32, trail: &mut Trail) -> Option<Choice<'a>> {
        let utilization_percent = utilization_percent(self.spec(), accelerator);
        let of_accelerator = constraints::of_accelerator(self.spec(), accelerator, sizes);
        let of_model = constraints::of_model(self.request.architecture, &self.options, sizes);
        if let Some(broken) = of_model.first().or(of_accelerator.first()) {
            trail.candidates.push(Candidate::new(accelerator, Some(sizes), false, broken.message.clone()));
            if of_model.is_empty() {
                trail.excluded.get_or_insert_with(|| broken.clone());
            }
            return None;
        }
        let memory = Memory::of(&self.facts, &self.options, accelerator, sizes, utilization_percent)?;
        let cache = Cache::of(&self.facts, &self.options, accelerator, sizes);
        let needed = cache.bytes(target);
        let fits = memory.holds(needed);
        trail.candidates.push(Candidate::new(accelerator, Some(sizes), fits, numbers(&memory, needed, target)));
        let choice = Choice { accelerator, sizes, memory, cache, target, utilization_percent };
        if !fits {
            let shortfall = Shortfall { memory, cache_bytes: needed, sizes, accelerator: accelerator.name().to_owned() };
            if trail.closest.as_ref().is_none_or(|closest| shortfall.missing() < closest.missing()) {
                trail.closest = Some(shortfall);
            }
        }
        fits.then_some(choice)
    }
}

impl Shortfall {
    /// Bytes that one accelerator lacks.
    pub(super) fn missing(&self) -> u64 {
        let needed = self.memory.weights.saturating_add(self.memory.overhead).saturating_add(self.cache_bytes);
        needed.saturating_sub(self.memory.budget)
    }
}

impl Choice<'_> {
    /// The context to serve: the user's, or the longest of which one sequence fits with a twentieth of the cache to spare,
    /// never less than was sized for. None: the model's own is not known.
    pub(super) fn context_length(&self, facts: &Facts, pinned: Option<u32>) -> Option<u32> {
        if pinned.is_some() {
            return pinned;
        }
        let own = facts.context_length?;
        let pool = self.memory.pool().unwrap_or(0);
        let longest = self.cache.longest(pool - pool / 20, own);
        let rounded = if longest < own { longest / CONTEXT_STEP * CONTEXT_STEP } else { own };
        Some(rounded.max(self.target).min(own))
    }
}

/// Share of the memory for the engine: the user's, or vLLM's own. Pods that share a card share that too.
pub(super) fn utilization_percent(spec: &VllmSpec, accelerator: &Accelerator) -> u32 {
    spec.gpu_memory_utilization_percent.unwrap_or(DEFAULT_UTILIZATION_PERCENT / accelerator.pods_per_card.max(1)).max(1)
}

/// Cards whose memory differs by less count as equally large: products of one size differ by some hundred MiB.
const MEMORY_CLASS: u64 = 8 << 30;

/// The first compute capability with FP8 arithmetic (Ada, then Hopper).
const NATIVE_FP8: ComputeCapability = ComputeCapability { major: 8, minor: 9 };

/// What to prefer, the least first. Between cards of one size, a checkpoint in FP8 goes to those that compute in it. The name
/// decides between equals, so that the choice is the same every time.
pub(super) fn rank(architecture: &ModelArchitecture, accelerator: &Accelerator, gpus: u32) -> impl Ord + use<> {
    let all_cordoned = accelerator.nodes > 0 && accelerator.nodes == accelerator.cordoned_nodes;
    let memory = accelerator.memory_bytes.unwrap_or(u64::MAX);
    let class = memory.div_ceil(MEMORY_CLASS).saturating_mul(gpus.into());
    let fp8 = architecture.checkpoint_quantization.as_ref().is_some_and(|quantization| quantization.method == "fp8");
    let emulated = fp8 && accelerator.compute_capability.is_some_and(|capability| capability < NATIVE_FP8);
    let reserved = memory.saturating_mul(gpus.into());
    let nodes = std::cmp::Reverse(accelerator.nodes - accelerator.cordoned_nodes.min(accelerator.nodes));
    (
        accelerator.preference,
        accelerator.shared(),
        accelerator.origin,
        all_cordoned,
        class,
        emulated,
        reserved,
        gpus,
        nodes,
        accelerator.name().to_owned(),
    )
}

/// Divisors of `number` up to `limit`, ascending.
pub(super) fn divisors(number: u64, limit: u32) -> Vec<u32> {
    (1..=limit).filter(|divisor| number.is_multiple_of(u64::from(*divisor))).collect()
}

/// 2, 4, 8 and so on up to `limit`.
fn powers_of_two(limit: u32) -> Vec<u32> {
    (1..32).map(|exponent| 1_u32 << exponent).take_while(|power| *power <= limit).collect()
}

/// The numbers of one combination.
fn numbers(memory: &Memory, needed: u64, target: u32) -> String {
    let base = format!("{} weights + {} overhead", human_bytes(memory.weights), human_bytes(memory.overhead));
    match memory.pool() {
        None => format!("{base} exceed {}", human_bytes(memory.budget)),
        Some(pool) => format!(
            "{base} leave {} of {}; {target} tokens need {}",
            human_bytes(pool),
            human_bytes(memory.budget),
            human_bytes(needed)
        ),
    }
}
