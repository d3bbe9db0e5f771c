//! What would help when nothing fits or a size is illegal. Every fix was applied and sized again before it is named.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;

use super::explain::decide;
use super::facts::quantization_on_load;
use super::memory::DEFAULT_UTILIZATION_PERCENT;
use super::search::divisors;
use super::{Cluster, Refusal, Request, Sizing};
use crate::api::architecture::ModelArchitecture;
use crate::api::conditions::reasons;
use crate::api::status::human_bytes;
use crate::api::vllm::{KvCacheDtype, VllmSpec};
use crate::decide::backend::accelerator::{self, Accelerator, AcceleratorChange, ComputeCapability, products};
use crate::decide::backend::facts::HubFacts;
use crate::decide::backend::model::catalogue;
use crate::decide::backend::model::resolve::{self, Resolution};

/// How many fixes a refusal names.
const FIXES: usize = 3;
/// Accelerators of one node that are proposed: the sizes that nodes come in.
const NODE_SIZES: [u32; 3] = [2, 4, 8];

/// A change that makes a refused request work.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fix {
    /// What to change: one thing, or several together where no single one helps.
    pub changes: Vec<Change>,
    /// The same in words, with its numbers.
    pub text: String,
}

impl Fix {
    /// The request with all changes made.
    pub fn apply<'a>(&self, request: &Request<'a>) -> Changed<'a> {
        apply_all(request, &self.changes)
    }
}

fn apply_all<'a>(request: &Request<'a>, changes: &[Change]) -> Changed<'a> {
    let mut changed = Changed::unchanged(request);
    changes.iter().for_each(|change| change.make(&mut changed));
    changed
}

/// What to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// `contextLength`.
    ContextLength(u32),
    /// `kvCacheDtype: FP8`.
    KvCacheFp8,
    /// `gpuMemoryUtilizationPercent`.
    GpuMemoryUtilizationPercent(u32),
    /// Another checkpoint of the same model.
    Model(String),
    /// `quantization: fp8`, on load.
    QuantizationFp8,
    /// No `quantization`.
    NoQuantization,
    /// `parallelism.tensor`, and none of the other sizes.
    Tensor(u32),
    /// No sizes in `parallelism`.
    ComputedParallelism,
    /// Another product, or larger nodes of the same.
    #[serde(rename_all = "camelCase")]
    Accelerator {
        /// `accelerator.products`. Absent: as it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        product: Option<String>,
        /// `accelerator.memory` in bytes, where the table does not know the product. Absent: none.
        #[serde(skip_serializing_if = "Option::is_none")]
        memory: Option<u64>,
        /// `accelerator.gpusPerNode`.
        gpus_per_node: u32,
    },
    /// A field of `accelerator`.
    AcceleratorField(AcceleratorChange),
}

/// A request after a change.
#[derive(Clone, Debug)]
pub struct Changed<'a> {
    /// The spec.
    pub spec: VllmSpec,
    /// The facts of the model.
    pub architecture: ModelArchitecture,
    /// The accelerators.
    pub accelerators: Vec<Accelerator>,
    /// The cluster, which no change of a spec changes.
    pub cluster: Cluster<'a>,
}

impl<'a> Changed<'a> {
    fn unchanged(request: &Request<'a>) -> Self {
        Self {
            spec: request.spec.clone(),
            architecture: request.architecture.clone(),
            accelerators: request.accelerators.to_vec(),
            cluster: request.cluster,
        }
    }

    /// What the cluster has to offer to the changed spec, which may be the very nodes that do not suffice.
    fn look_again(&mut self) {
        let spec = self.spec.accelerator.get_or_insert_default();
        self.accelerators = accelerator::found(spec, self.cluster.nodes, self.cluster.profiles).unwrap_or_default();
    }

    /// The request to size.
    pub fn request<'b>(&'b self) -> Request<'b>
    where
        'a: 'b,
    {
        Request { architecture: &self.architecture, spec: &self.spec, accelerators: &self.accelerators, cluster: self.cluster }
    }
}

impl Change {
    /// The request with this change made, as a user would make it.
    pub fn apply<'a>(&self, request: &Request<'a>) -> Changed<'a> {
        apply_all(request, std::slice::from_ref(self))
    }

    fn make(&self, changed: &mut Changed<'_>) {
        match self {
            Self::ContextLength(tokens) => changed.spec.context_length = Some(*tokens),
            Self::KvCacheFp8 => changed.spec.kv_cache_dtype = Some(KvCacheDtype::Fp8),
            Self::GpuMemoryUtilizationPercent(percent) => changed.spec.gpu_memory_utilization_percent = Some(*percent),
            Self::Model(name) => {
                changed.spec.model.clone_from(name);
                // A revision, and the facts that the user states, are those of the checkpoint that is replaced.
                changed.spec.revision = None;
                changed.spec.architecture = None;
                changed.architecture = match resolve::resolve(&changed.spec, &HubFacts::NotAsked) {
                    Resolution::Known { architecture, .. } => *architecture,
                    // Gated, for example: nothing can be said of it.
                    _ => ModelArchitecture::default(),
                };
            }
            Self::QuantizationFp8 => changed.spec.quantization = Some("fp8".to_owned()),
            Self::NoQuantization => changed.spec.quantization = None,
            Self::Tensor(tensor) => set_tensor(&mut changed.spec, Some(*tensor)),
            Self::ComputedParallelism => set_tensor(&mut changed.spec, None),
            Self::Accelerator { product, memory, gpus_per_node } => {
                let spec = changed.spec.accelerator.get_or_insert_default();
                if let Some(product) = product {
                    spec.products = vec![product.clone()];
                    spec.memory = memory.map(in_mib);
                    if let Some(row) = products::find(product).filter(|_| spec.resource_name.is_some()) {
                        spec.resource_name = Some(row.resource_name.to_owned());
                    }
                }
                spec.gpus_per_node = Some(*gpus_per_node);
                changed.look_again();
            }
            Self::AcceleratorField(change) => {
                change.make(changed.spec.accelerator.get_or_insert_default());
                changed.look_again();
            }
        }
    }
}

fn set_tensor(spec: &mut VllmSpec, tensor: Option<u32>) {
    let parallelism = spec.parallelism.get_or_insert_default();
    parallelism.tensor = tensor;
    parallelism.pipeline = None;
    parallelism.data = None;
    parallelism.expert = None;
}

/// Bytes as a quantity that `accelerator.memory` takes.
fn in_mib(bytes: u64) -> Quantity {
    Quantity(format!("{}Mi", bytes >> 20))
}

/// The refusal with the fixes that work, the cheapest three.
pub(super) fn with_fixes(request: &Request<'_>, mut refusal: Refusal) -> Refusal {
    refusal.fixes = match refusal.reason {
        reasons::DOES_NOT_FIT => {
            first_that_work(request, &[context, kv_cache, utilization, checkpoint, quantization, parallelism, nodes, product])
        }
        reasons::INVALID_PARALLELISM => first_that_work(request, &[parallelism, context, checkpoint, quantization, nodes, product]),
        reasons::CONTEXT_TOO_LONG => match first_that_work(request, &[context]) {
            none if none.is_empty() => beside_own_context(request),
            fixes => fixes,
        },
        reasons::INVALID_SPEC => first_that_work(request, &[no_quantization]),
        _ => Vec::new(),
    };
    if refusal.fixes.is_empty() && matches!(refusal.reason, reasons::DOES_NOT_FIT | reasons::INVALID_PARALLELISM) {
        refusal.fixes.extend(several(request));
    }
    if !refusal.fixes.is_empty() {
        let texts: Vec<&str> = refusal.fixes.iter().map(|fix| fix.text.as_str()).collect();
        refusal.message.push_str(&format!(". What would do: {}", texts.join("; or ")));
    } else if matches!(refusal.reason, reasons::DOES_NOT_FIT | reasons::INVALID_PARALLELISM | reasons::CONTEXT_TOO_LONG) {
        refusal.message.push_str(". No product of the built-in table holds it with 8 accelerators in a node, quantised or not");
    }
    refusal
}

/// Where the model does not fit with its own context either: that context, and what helps then.
fn beside_own_context(request: &Request<'_>) -> Vec<Fix> {
    let Some(own) = request.architecture.context_length else { return Vec::new() };
    let shorter = Change::ContextLength(own);
    let Err(refusal) = super::size(&shorter.apply(request).request()) else { return Vec::new() };
    let with_context = |fix: Fix| Fix {
        changes: std::iter::once(shorter.clone()).chain(fix.changes).collect(),
        text: format!("contextLength: {own} with {}", fix.text),
    };
    // A fix that shortens the context further needs no first step.
    refusal
        .fixes
        .into_iter()
        .filter(|fix| !fix.changes.iter().any(|change| matches!(change, Change::ContextLength(_))))
        .map(with_context)
        .collect()
}

fn first_that_work(request: &Request<'_>, proposals: &[fn(&Request<'_>) -> Option<Fix>]) -> Vec<Fix> {
    proposals.iter().filter_map(|propose| propose(request)).take(FIXES).collect()
}

/// The outcome of a request after changes, if it works.
fn works(request: &Request<'_>, changes: &[Change]) -> Option<Sizing> {
    decide(&apply_all(request, changes).request()).0.ok()
}

fn fix(request: &Request<'_>, change: Change, text: impl FnOnce(&Sizing) -> String) -> Option<Fix> {
    let sizing = works(request, std::slice::from_ref(&change))?;
    Some(Fix { text: text(&sizing), changes: vec![change] })
}

/// A fix that helps only on accelerators of this compute capability or more, or of which none is known.
fn fix_from(request: &Request<'_>, least: ComputeCapability, change: Change, text: impl FnOnce(&Sizing) -> String) -> Option<Fix> {
    let sizing = works(request, std::slice::from_ref(&change))?;
    let reaches = sizing.accelerator.compute_capability.is_none_or(|has| has >= least);
    reaches.then(|| Fix { text: text(&sizing), changes: vec![change] })
}

/// What a fix leads to, for its text.
fn on(sizing: &Sizing) -> String {
    format!("{}x{}", sizing.gpus(), sizing.accelerator.name())
}

/// The longest context that fits, up to what is asked for and to the model's own.
fn context(request: &Request<'_>) -> Option<Fix> {
    let own = request.architecture.context_length.unwrap_or(u32::MAX);
    let limit = request.spec.context_length.map_or(own.min(4096), |asked| asked.min(own));
    let holds = |tokens: u32| works(request, &[Change::ContextLength(tokens)]).is_some();
    let longest = if holds(limit) {
        limit
    } else {
        let (mut fits, mut beyond) = (0, limit);
        while beyond - fits > 1 {
            let middle = fits + (beyond - fits) / 2;
            if holds(middle) { fits = middle } else { beyond = middle }
        }
        match fits {
            0..256 => return None,
            256..2048 => fits / 256 * 256,
            _ => fits / 1024 * 1024,
        }
    };
    fix(request, Change::ContextLength(longest), |sizing| format!("contextLength: {longest} ({})", on(sizing)))
}

/// An 8-bit cache, where the hardware has the type (compute capability 8.9, or no CUDA at all).
fn kv_cache(request: &Request<'_>) -> Option<Fix> {
    if request.spec.kv_cache_dtype == Some(KvCacheDtype::Fp8) {
        return None;
    }
    let least = ComputeCapability { major: 8, minor: 9 };
    fix_from(request, least, Change::KvCacheFp8, |sizing| format!("kvCacheDtype: FP8 ({})", on(sizing)))
}

fn utilization(request: &Request<'_>) -> Option<Fix> {
    request.spec.gpu_memory_utilization_percent.filter(|percent| *percent < DEFAULT_UTILIZATION_PERCENT)?;
    let change = Change::GpuMemoryUtilizationPercent(DEFAULT_UTILIZATION_PERCENT);
    fix(request, change, |sizing| format!("gpuMemoryUtilizationPercent: {DEFAULT_UTILIZATION_PERCENT} ({})", on(sizing)))
}

/// A quantised checkpoint of the same model: the catalogue's rows of the same shape whose name continues the model's own.
fn checkpoint(request: &Request<'_>) -> Option<Fix> {
    let base = request.spec.model.rsplit('/').next()?.to_lowercase();
    let shape = |architecture: &ModelArchitecture| (architecture.layers, architecture.attention_heads, architecture.hidden_size);
    let mut names: Vec<&str> = catalogue::all()
        .filter(|(name, row)| {
            let last = name.rsplit('/').next().unwrap_or(name);
            continues(last, &base)
                && row.architecture.checkpoint_quantization.is_some()
                && shape(&row.architecture) == shape(request.architecture)
        })
        .flat_map(|(id, row)| row.names.iter().filter(move |name| name.eq_ignore_ascii_case(id)))
        .map(String::as_str)
        .collect();
    // The most bits first: the smallest loss of quality.
    names.sort_by_key(|name| {
        let quantization = catalogue::find(name).and_then(|row| row.architecture.checkpoint_quantization.as_ref());
        (std::cmp::Reverse(quantization.and_then(|quantization| quantization.bits)), name.to_owned())
    });
    names.into_iter().find_map(|name| {
        let without = match (&request.spec.revision, &request.spec.architecture) {
            (None, None) => "",
            (Some(_), None) => " and no revision",
            (None, Some(_)) => " and no architecture",
            (Some(_), Some(_)) => ", no revision and no architecture",
        };
        fix(request, Change::Model(name.to_owned()), |sizing| {
            format!("model: {name}{without} ({} weights, {})", weights(sizing), on(sizing))
        })
    })
}

/// Whether a name is another one with words around it: qwen2.5-7b-instruct-awq continues qwen2.5-7b-instruct.
fn continues(name: &str, base: &str) -> bool {
    name.split_once(base).is_some_and(|(before, after)| {
        (before.is_empty() || before.ends_with('-')) && (after.is_empty() || after.starts_with(['-', '.'])) && name != base
    })
}

/// 8-bit weights made on load.
fn quantization(request: &Request<'_>) -> Option<Fix> {
    let quantised = request.architecture.checkpoint_quantization.is_some() || quantization_on_load(request.spec).is_some();
    if quantised {
        return None;
    }
    let least = ComputeCapability { major: 8, minor: 0 };
    fix_from(request, least, Change::QuantizationFp8, |sizing| {
        format!("quantization: fp8 ({} weights, {})", weights(sizing), on(sizing))
    })
}

fn weights(sizing: &Sizing) -> String {
    sizing.weight_bytes.map(human_bytes).unwrap_or_default()
}

fn no_quantization(request: &Request<'_>) -> Option<Fix> {
    request.spec.quantization.as_ref()?;
    fix(request, Change::NoQuantization, |_| "remove quantization".to_owned())
}

/// Parallel sizes that are legal and fit, where the user set one.
fn parallelism(request: &Request<'_>) -> Option<Fix> {
    let pins = request.spec.parallelism.as_ref()?;
    let pinned = pins.tensor.is_some() || pins.pipeline.is_some() || pins.data.is_some() || pins.expert.is_some();
    if !pinned {
        return None;
    }
    let node = request.accelerators.iter().map(|accelerator| accelerator.gpus_per_node).max()?;
    // Of a model of which nothing is known, sizes are taken as they are: the powers of two are the likely ones.
    let sizes: Vec<u32> = match request.architecture.attention_heads {
        Some(heads) => divisors(heads.into(), node),
        None => (0..32).map(|exponent| 1 << exponent).take_while(|size| *size <= node).collect(),
    };
    let of = |stages: fn(u32) -> bool| -> Vec<u32> {
        let fits = |tensor: &u32| works(request, &[Change::Tensor(*tensor)]).is_some_and(|sizing| stages(sizing.pipeline));
        sizes.iter().copied().filter(fits).collect()
    };
    let legal = match of(|stages| stages == 1) {
        none if none.is_empty() => of(|_| true),
        legal => legal,
    };
    // The smallest that is at least what the user had in mind, else the largest.
    let wanted = pins.tensor.unwrap_or(1);
    if let Some(tensor) = legal.iter().find(|tensor| **tensor >= wanted).or(legal.last()).copied() {
        let all: Vec<String> = legal.iter().map(u32::to_string).collect();
        return fix(request, Change::Tensor(tensor), |_| {
            format!("parallelism.tensor: {tensor} and no other size (possible here: {})", all.join(", "))
        });
    }
    fix(request, Change::ComputedParallelism, |sizing| format!("remove the sizes from parallelism ({})", on(sizing)))
}

/// Larger nodes of the same accelerators.
fn nodes(request: &Request<'_>) -> Option<Fix> {
    let whole = || request.accelerators.iter().filter(|accelerator| !accelerator.single());
    let largest = whole().map(|accelerator| accelerator.gpus_per_node).max()?;
    NODE_SIZES.into_iter().filter(|count| *count > largest).flat_map(|count| whole().map(move |of| (count, of))).find_map(
        |(count, accelerator)| {
            let product = accelerator.product.clone();
            let memory = accelerator.memory_bytes.filter(|_| product.as_deref().is_none_or(|name| products::find(name).is_none()));
            let change = Change::Accelerator { product, memory, gpus_per_node: count };
            fix(request, change.clone(), |sizing| format!("{} on nodes of {count} ({})", in_words(&change, request), on(sizing)))
        },
    )
}

/// A product with more memory, in nodes as large as today's or else of 8.
fn product(request: &Request<'_>) -> Option<Fix> {
    let whole = || request.accelerators.iter().filter(|accelerator| !accelerator.single());
    let node = whole().map(|accelerator| accelerator.gpus_per_node).max().unwrap_or(1);
    let memory = whole().filter_map(|accelerator| accelerator.memory_bytes).max().unwrap_or(0);
    let same_node = products::larger_than(memory).into_iter().map(|row| (row, node));
    let larger_node = products::larger_than(0).into_iter().map(|row| (row, 8));
    same_node.chain(larger_node).find_map(|(row, gpus_per_node)| {
        let change = of_table(row, gpus_per_node);
        fix(request, change.clone(), |sizing| {
            let (words, memory) = (in_words(&change, request), human_bytes(row.memory_mib << 20));
            format!("{words} ({memory} each, {} of {gpus_per_node} in a node)", sizing.gpus())
        })
    })
}

fn of_table(row: &products::Product, gpus_per_node: u32) -> Change {
    Change::Accelerator { product: Some(row.name.to_owned()), memory: None, gpus_per_node }
}

/// The fields that a change of the accelerator sets.
fn in_words(change: &Change, request: &Request<'_>) -> String {
    let before = request.spec.accelerator.clone().unwrap_or_default();
    let after = change.apply(request).spec.accelerator.unwrap_or_default();
    let mut words = Vec::new();
    if after.resource_name != before.resource_name {
        words.extend(after.resource_name.map(|name| format!("resourceName: {name}")));
    }
    if after.products != before.products {
        words.push(format!("products: [{}]", after.products.join(", ")));
    }
    if after.memory != before.memory {
        words.push(after.memory.map_or_else(|| "no memory".to_owned(), |memory| format!("memory: {}", memory.0)));
    }
    words.extend(after.gpus_per_node.map(|count| format!("gpusPerNode: {count}")));
    format!("accelerator: {{{}}}", words.join(", "))
}

/// Where no single change helps: 8-bit weights on a larger product, without sizes of the user.
fn several(request: &Request<'_>) -> Option<Fix> {
    let quantised = request.architecture.checkpoint_quantization.is_some() || quantization_on_load(request.spec).is_some();
    let pinned = request
        .spec
        .parallelism
        .as_ref()
        .is_some_and(|pins| pins.tensor.is_some() || pins.pipeline.is_some() || pins.data.is_some() || pins.expert.is_some());
    let unpin = pinned.then_some((Change::ComputedParallelism, "no sizes in parallelism"));
    let quantise = (!quantised).then_some((Change::QuantizationFp8, "quantization: fp8"));
    [vec![unpin.clone()], vec![quantise.clone()], vec![unpin, quantise]].into_iter().find_map(|others| {
        let others: Vec<(Change, &str)> = others.into_iter().flatten().collect();
        products::larger_than(0).into_iter().find_map(|row| {
            let product = of_table(row, 8);
            let changes: Vec<Change> = others.iter().map(|(change, _)| change.clone()).chain([product.clone()]).collect();
            let sizing = works(request, &changes)?;
            let accelerator = in_words(&product, request);
            let words: Vec<&str> = others.iter().map(|(_, words)| *words).collect();
            let text = format!("{} with {accelerator} ({} of 8 in a node)", words.join(" and "), sizing.gpus());
            Some(Fix { changes, text })
        })
    })
}

#[cfg(test)]
#[path = "fixes_tests.rs"]
mod tests;
