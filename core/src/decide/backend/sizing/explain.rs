//! What was tried, what was chosen and why.

use serde::Serialize;

use super::constraints;
use super::facts::{Facts, checkpoint_bytes};
use super::fixes;
use super::memory::Sizes;
use super::options::Options;
use super::search::{Choice, Problem, Trail, rank, utilization_percent};
use super::{Refusal, Request, Sizing};
use crate::api::conditions::reasons;
use crate::api::status::human_bytes;
use crate::decide::backend::accelerator::Accelerator;
use crate::decide::backend::model::resolve;

/// What was tried, what was chosen and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The accelerators to choose from.
    pub accelerators: Vec<Accelerator>,
    /// What was tried, in order.
    pub candidates: Vec<Candidate>,
    /// The choice, or why there is none.
    pub outcome: Result<Sizing, Refusal>,
    /// The arithmetic of the choice, one step a line.
    pub arithmetic: Vec<String>,
}

impl Explanation {
    /// There is no accelerator to choose from, and nothing was tried.
    pub fn refused(refusal: Refusal) -> Self {
        Self { accelerators: Vec::new(), candidates: Vec::new(), outcome: Err(refusal), arithmetic: Vec::new() }
    }
}

/// One combination that was tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Name of the accelerator.
    pub accelerator: String,
    /// Accelerators that share every layer. 0: none was tried.
    pub tensor: u32,
    /// Groups of accelerators that hold successive layers.
    pub pipeline: u32,
    /// Copies of the model within one pod.
    pub data: u32,
    /// Whether it could be used.
    pub fits: bool,
    /// The numbers, or why not.
    pub outcome: String,
}

impl Candidate {
    pub(super) fn new(accelerator: &Accelerator, sizes: Option<Sizes>, fits: bool, outcome: String) -> Self {
        let (tensor, pipeline, data) = sizes.map_or((0, 0, 0), |sizes| (sizes.tensor, sizes.pipeline, sizes.data));
        Self { accelerator: accelerator.name().to_owned(), tensor, pipeline, data, fits, outcome }
    }
}

/// Sizes a model and tells how.
///
/// A model of which too little is known is sized only where the user sets the tensor-parallel size; the choice then says
/// that it is not `known` to fit.
pub fn explain(request: &Request<'_>) -> Explanation {
    let (outcome, trail, arithmetic) = decide(request);
    let outcome = outcome.map_err(|refusal| fixes::with_fixes(request, refusal));
    Explanation { accelerators: request.accelerators.to_vec(), candidates: trail.candidates, outcome, arithmetic }
}

/// Sizes a model: the outcome of [`explain`].
pub fn size(request: &Request<'_>) -> Result<Sizing, Refusal> {
    explain(request).outcome
}

/// The outcome without fixes, which are found by calling this again.
pub(super) fn decide(request: &Request<'_>) -> (Result<Sizing, Refusal>, Trail, Vec<String>) {
    let mut trail = Trail::default();
    let options = Options::of(request.spec);
    if let Err(refusal) = check_spec(request, &options) {
        return (Err(refusal), trail, Vec::new());
    }
    let Some(facts) = Facts::new(request.architecture, request.spec) else {
        return (without_facts(request, &model_unknown(request), reasons::MODEL_UNKNOWN), trail, Vec::new());
    };
    let problem = Problem { request: *request, facts, options };
    match problem.search(&mut trail) {
        Some(choice) => {
            let (sizing, arithmetic) = describe(&problem, &choice);
            (Ok(sizing), trail, arithmetic)
        }
        None if request.accelerators.iter().all(|accelerator| accelerator.memory_bytes.is_none()) => {
            let message = "the memory of the accelerators is not known: set accelerator.memory, or set parallelism.tensor to use that many \
                           accelerators without a computation";
            (without_facts(request, message, reasons::NO_ACCELERATOR_KNOWN), trail, Vec::new())
        }
        None => (Err(does_not_fit(&problem, &trail)), trail, Vec::new()),
    }
}

/// What is wrong whatever the accelerator.
fn check_spec(request: &Request<'_>, options: &Options) -> Result<(), Refusal> {
    if let Some(broken) = constraints::of_spec(request.architecture, request.spec, options).first() {
        return Err(Refusal::new(reasons::INVALID_SPEC, broken.to_string()));
    }
    if let (Some(wanted), Some(own)) = (request.spec.context_length, request.architecture.context_length)
        && wanted > own
        && !options.longer_context
    {
        return Err(Refusal::new(
            reasons::CONTEXT_TOO_LONG,
            format!("contextLength {wanted} is longer than the model's own {own}, and vLLM would refuse it"),
        ));
    }
    let pins = request.spec.parallelism.clone().unwrap_or_default();
    let pinned = Sizes {
        tensor: pins.tensor.unwrap_or(1),
        pipeline: pins.pipeline.unwrap_or(1),
        data: pins.data.unwrap_or(1),
        // Where the user does not say, experts are kept whole if they must be.
        expert: pins.expert.unwrap_or_else(|| constraints::needs_whole_experts(request.architecture, pins.tensor.unwrap_or(1))),
    };
    match constraints::of_model(request.architecture, options, pinned).first() {
        Some(broken) => Err(Refusal::new(reasons::INVALID_PARALLELISM, broken.to_string())),
        None => Ok(()),
    }
}

fn model_unknown(request: &Request<'_>) -> String {
    format!(
        "the architecture of {} is not known: set {} in spec.vllm.architecture, or set parallelism.tensor to use that many accelerators \
         without a computation",
        request.spec.model,
        resolve::missing(request.architecture).join(", ")
    )
}

/// The user's own sizes where memory cannot be computed, on the accelerator that comes first.
fn without_facts(request: &Request<'_>, message: &str, reason: &'static str) -> Result<Sizing, Refusal> {
    let pins = request.spec.parallelism.clone().unwrap_or_default();
    let Some(tensor) = pins.tensor else { return Err(Refusal::new(reason, message)) };
    let sizes = Sizes {
        tensor,
        pipeline: pins.pipeline.unwrap_or(1),
        data: pins.data.unwrap_or(1),
        expert: pins.expert.unwrap_or_else(|| constraints::needs_whole_experts(request.architecture, tensor)),
    };
    let broken = |accelerator: &Accelerator| constraints::of_accelerator(request.spec, accelerator, sizes).into_iter().next();
    let mut possible: Vec<&Accelerator> = request.accelerators.iter().filter(|accelerator| broken(accelerator).is_none()).collect();
    possible.sort_by_key(|accelerator| rank(request.architecture, accelerator, sizes.gpus()));
    let Some(accelerator) = possible.first() else {
        let why = request.accelerators.iter().find_map(broken).map_or_else(|| message.to_owned(), |broken| broken.to_string());
        return Err(Refusal::new(reasons::INVALID_PARALLELISM, why));
    };
    Ok(Sizing {
        known: false,
        accelerator: (*accelerator).clone(),
        tensor: sizes.tensor,
        pipeline: sizes.pipeline,
        data: sizes.data,
        expert: sizes.expert,
        enforce_eager: false,
        gpu_memory_utilization_percent: utilization_percent(request.spec, accelerator),
        context_length: request.spec.context_length,
        weight_bytes: request.architecture.weight_bytes,
        checkpoint_bytes: checkpoint_bytes(request.architecture),
        weight_bytes_per_gpu: None,
        kv_cache_tokens: None,
        max_concurrent_sequences: None,
        derivation: format!("{} as the spec says; whether the model fits is not known", layout(sizes)),
    })
}

/// Nothing fits: how much is missing where least is.
fn does_not_fit(problem: &Problem<'_>, trail: &Trail) -> Refusal {
    let model = &problem.spec().model;
    match (&trail.closest, &trail.excluded) {
        (Some(closest), _) => {
            let target = problem.targets().last().copied().unwrap_or_default();
            Refusal::new(
                reasons::DOES_NOT_FIT,
                format!(
                    "{model} does not fit: on {} with {}, {} weights + {} overhead + {} cache for {target} tokens exceed {} by {} on each \
                     accelerator",
                    closest.accelerator,
                    layout(closest.sizes),
                    human_bytes(closest.memory.weights),
                    human_bytes(closest.memory.overhead),
                    human_bytes(closest.cache_bytes),
                    human_bytes(closest.memory.budget),
                    human_bytes(closest.missing()),
                ),
            )
        }
        (None, Some(excluded)) => Refusal::new(reasons::INVALID_PARALLELISM, excluded.to_string()),
        (None, None) => {
            let why = trail.candidates.first().map_or("no parallel size is possible", |candidate| candidate.outcome.as_str());
            Refusal::new(reasons::DOES_NOT_FIT, format!("{model} does not fit: {why}"))
        }
    }
}

/// The sizes in the notation of vLLM's users.
pub(super) fn layout(sizes: Sizes) -> String {
    let mut text = format!("TP{}", sizes.tensor);
    for (name, size) in [("PP", sizes.pipeline), ("DP", sizes.data)] {
        if size > 1 {
            text.push_str(&format!(" {name}{size}"));
        }
    }
    if sizes.expert {
        text.push_str(" EP");
    }
    text
}

fn describe(problem: &Problem<'_>, choice: &Choice<'_>) -> (Sizing, Vec<String>) {
    let facts = &problem.facts;
    let sizes = choice.sizes;
    let pool = choice.memory.pool().unwrap_or(0);
    let context_length = choice.context_length(facts, problem.spec().context_length);
    let counted = context_length.unwrap_or(choice.target);
    let sequences = (pool / choice.cache.bytes(counted).max(1)).saturating_mul(sizes.data.into());
    let tokens = choice.cache.tokens(pool, counted).saturating_mul(sizes.data.into());
    let architecture = problem.request.architecture;
    let options: Vec<String> = super::search::divisors(facts.heads, choice.accelerator.gpus_per_node)
        .into_iter()
        .filter(|tensor| {
            constraints::of_model(
                architecture,
                &problem.options,
                Sizes { tensor: *tensor, pipeline: 1, data: 1, expert: facts.mixture },
            )
            .is_empty()
        })
        .map(|tensor| tensor.to_string())
        .collect();
    let heads = match facts.latent_width {
        Some(width) => format!("{} heads, latent of {width}", facts.heads),
        None => format!("{} heads, {} KV heads", facts.heads, facts.kv_heads),
    };
    let ranks = u64::from(sizes.tensor) * u64::from(sizes.pipeline);
    let heads_line = format!("{heads}: {} of TP {{{}}}", layout(sizes), options.join(","));
    let memory_line = format!(
        "{} weights / {ranks} + {} overhead = {} of {}",
        human_bytes(facts.weight_bytes),
        human_bytes(choice.memory.overhead),
        human_bytes(choice.memory.weights + choice.memory.overhead),
        human_bytes(choice.memory.budget)
    );
    let cache_line = format!("cache {} = {} tokens, {sequences}x{counted}", human_bytes(pool), thousands(tokens));
    let replicated = facts.latent_width.is_some() || u64::from(sizes.tensor) > facts.kv_heads;
    let mut arithmetic = vec![
        format!(
            "{}: {} x {} % for vLLM = {}",
            choice.accelerator.name(),
            human_bytes(choice.memory.total),
            choice.utilization_percent,
            human_bytes(choice.memory.budget)
        ),
        heads_line.clone(),
        memory_line.clone(),
        format!("cache of one sequence of {counted} tokens: {} on each accelerator", human_bytes(choice.cache.bytes(counted))),
        cache_line.clone(),
    ];
    if replicated && sizes.tensor > 1 {
        arithmetic.push("a larger tensor-parallel size would not shrink the cache on each accelerator: prefer replicas".to_owned());
    }
    let enforce_eager = choice.memory.no_room_for_capture && !problem.options.enforce_eager;
    if enforce_eager {
        arithmetic.push("CUDA graphs are off: too little memory is left outside vLLM's share to capture them".to_owned());
    }
    let sizing = Sizing {
        known: true,
        accelerator: choice.accelerator.clone(),
        tensor: sizes.tensor,
        pipeline: sizes.pipeline,
        data: sizes.data,
        expert: sizes.expert,
        enforce_eager,
        gpu_memory_utilization_percent: choice.utilization_percent,
        context_length,
        weight_bytes: Some(facts.weight_bytes),
        checkpoint_bytes: checkpoint_bytes(architecture),
        weight_bytes_per_gpu: Some(choice.memory.weights),
        kv_cache_tokens: Some(tokens),
        max_concurrent_sequences: Some(sequences),
        derivation: format!("{heads_line}; {memory_line}; {cache_line}"),
    };
    (sizing, arithmetic)
}

/// A count in thousands from 10,000 on.
fn thousands(count: u64) -> String {
    if count < 10_000 { count.to_string() } else { format!("{}k", count / 1000) }
}
