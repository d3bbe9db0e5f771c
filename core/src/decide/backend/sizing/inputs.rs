//! When a choice in force stays.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use serde::Serialize;

use super::Request;
use super::constraints;
use super::memory::Sizes;
use super::options::Options;
use crate::api::architecture::ModelArchitecture;
use crate::api::quantity;
use crate::api::status::SizingStatus;
use crate::api::vllm::{Dtype, KvCacheDtype, Parallelism};
use crate::decide::backend::accelerator::products::same_product;
use crate::decide::short_hash;

/// What the user says and a choice depends on. Neither nodes nor tables nor the operator's version: these may not change a
/// choice in force. Defaults are filled in, so that writing one out changes nothing.
///
/// The hash is stored: what is absent or as by default is not written, so that a field that is added later leaves every hash
/// as it is. A test holds some of them.
#[derive(Serialize)]
struct Inputs<'a> {
    model: String,
    revision: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    architecture: ModelArchitecture,
    #[serde(skip_serializing_if = "is_default")]
    dtype: Dtype,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantization: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    kv_cache_dtype: KvCacheDtype,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_memory_utilization_percent: Option<u32>,
    parallelism: Parallelism,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_name: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    products: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus_per_node: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    node_selector: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "<[Toleration]>::is_empty")]
    tolerations: &'a [Toleration],
    #[serde(skip_serializing_if = "is_default")]
    options: Options,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Hash of the user's inputs to a choice: while it is the same, the choice in force stays. 16 hexadecimal digits.
pub fn inputs_hash(request: &Request<'_>) -> String {
    let spec = request.spec;
    let accelerator = spec.accelerator.clone().unwrap_or_default();
    let parallelism = spec.parallelism.clone().unwrap_or_default();
    let inputs = Inputs {
        model: spec.model.to_lowercase(),
        revision: spec.revision.as_deref().unwrap_or("main"),
        architecture: spec.architecture.clone().unwrap_or_default(),
        dtype: spec.dtype.unwrap_or_default(),
        quantization: super::facts::quantization_on_load(spec),
        kv_cache_dtype: spec.kv_cache_dtype.unwrap_or_default(),
        context_length: spec.context_length,
        gpu_memory_utilization_percent: spec.gpu_memory_utilization_percent,
        parallelism: Parallelism { policy: Some(parallelism.policy.unwrap_or_default()), ..parallelism },
        resource_name: accelerator.resource_name.as_deref(),
        products: &accelerator.products,
        memory: accelerator.memory.as_ref().and_then(|memory| quantity::to_u64(memory).ok()),
        gpus_per_node: accelerator.gpus_per_node,
        node_selector: accelerator.node_selector.clone(),
        tolerations: &accelerator.tolerations,
        options: Options::of(spec),
    };
    // Plain values: writing them cannot fail, and if it did, the same inputs would still have the same hash.
    let text = serde_json::to_vec(&inputs).unwrap_or_default();
    short_hash::of(text)
}

/// Whether a choice in force is legal for the model and is what the spec asks for. Nodes, tables and memory do not count: a
/// new node or a new release never ends a choice, only a change of the spec or of the model's facts does.
pub fn still_legal(sizing: &SizingStatus, request: &Request<'_>) -> bool {
    let spec = request.spec;
    let pins = spec.parallelism.clone().unwrap_or_default();
    let accelerator = spec.accelerator.clone().unwrap_or_default();
    let sizes = Sizes {
        tensor: sizing.tensor_parallel_size,
        pipeline: sizing.pipeline_parallel_size,
        data: sizing.data_parallel_size,
        expert: sizing.expert_parallel.unwrap_or(false),
    };
    let options = Options::of(spec);
    let honoured = |pin: Option<u32>, value: u32| pin.is_none_or(|pin| pin == value);
    let product = sizing.accelerator_product.as_deref();
    let product_allowed = accelerator.products.is_empty()
        || product.is_some_and(|product| {
            accelerator.products.iter().any(|named| same_product(named.strip_suffix("-SHARED").unwrap_or(named), product))
        });
    let resource_allowed = accelerator.resource_name.is_none() || accelerator.resource_name == sizing.resource_name;
    let part_of_a_card = sizing.resource_name.as_deref().is_some_and(|name| name.starts_with("nvidia.com/mig-"))
        || product.is_some_and(|product| product.contains("-MIG-") || product.ends_with("-SHARED"));
    let own_context = request.architecture.context_length.filter(|_| !options.longer_context);

    sizes.gpus() == sizing.gpus_per_replica
        && honoured(pins.tensor, sizes.tensor)
        && honoured(pins.pipeline, sizes.pipeline)
        && honoured(pins.data, sizes.data)
        && pins.expert.is_none_or(|expert| expert == sizes.expert)
        && spec.context_length.is_none_or(|pinned| sizing.context_length == Some(pinned))
        && own_context.zip(sizing.context_length).is_none_or(|(own, chosen)| chosen <= own)
        && product_allowed
        && resource_allowed
        && !(part_of_a_card && sizes.gpus() > 1)
        && constraints::of_spec(request.architecture, spec, &options).is_empty()
        && constraints::of_model(request.architecture, &options, sizes).is_empty()
}

#[cfg(test)]
#[path = "inputs_tests.rs"]
mod tests;
