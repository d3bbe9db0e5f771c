//! What the container asks of its node.
//!
//! Defaults of a model that vLLM serves, where the spec is silent about a resource:
//!
//! * the accelerators of one replica, as request and limit;
//! * CPU: one core a GPU, whose worker never sleeps while it serves, and one for the API server and the scheduler;
//! * memory: 2 GiB, and for each GPU 2 GiB and its share of the weights up to 4 GiB, which is what a process holds of one
//!   file of a checkpoint while it loads. There is no limit: a load that is killed at 99 % helps nobody;
//! * ephemeral storage: what an emptyDir with the cache may grow to, so that no node whose disk is too small takes the pod,
//!   and the kubelet evicts others first.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Plan;
use crate::api::quantity;
use crate::api::status::SizingStatus;
use crate::decide::backend::choice::Choice;

const GIB: u64 = 1 << 30;

/// A resource of the spec that is computed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "spec.vllm.resources asks for {resource}, whose number follows from the parallel sizes: remove it, and set \
     spec.vllm.parallelism to change the number"
)]
pub struct ResourceError {
    /// The resource.
    pub resource: String,
}

/// Whether the spec leaves the accelerators to the operator.
///
/// # Errors
///
/// The spec states a number of the accelerator resource itself.
pub fn check(resources: Option<&ResourceRequirements>, resource_name: &str) -> Result<(), ResourceError> {
    let stated = resources.into_iter().flat_map(|resources| [&resources.requests, &resources.limits]).flatten();
    if stated.into_iter().any(|stated| stated.contains_key(resource_name)) {
        return Err(ResourceError { resource: resource_name.to_owned() });
    }
    Ok(())
}

/// Requests and limits of the container.
pub(super) fn of(plan: &Plan<'_>, local_disk: Option<Quantity>) -> ResourceRequirements {
    combined(plan.vllm.resources.as_ref(), defaults(&plan.choice.sizing, local_disk), plan.choice)
}

/// What the spec states, the defaults of what it is silent about, and the accelerators of the choice.
pub(super) fn combined(
    stated: Option<&ResourceRequirements>,
    defaults: BTreeMap<&'static str, Quantity>,
    choice: &Choice,
) -> ResourceRequirements {
    let stated = stated.cloned().unwrap_or_default();
    let mut requests = stated.requests.unwrap_or_default();
    let mut limits = stated.limits.unwrap_or_default();
    for (name, quantity) in defaults {
        // A limit without a request is a request too, and a default above the limit would be refused.
        if !limits.contains_key(name) {
            requests.entry(name.to_owned()).or_insert(quantity);
        }
    }
    if choice.sizing.gpus_per_replica > 0 {
        let number = Quantity(choice.sizing.gpus_per_replica.to_string());
        requests.insert(choice.placement.resource_name.clone(), number.clone());
        limits.insert(choice.placement.resource_name.clone(), number);
    }
    ResourceRequirements { requests: Some(requests), limits: (!limits.is_empty()).then_some(limits), claims: stated.claims }
}

fn defaults(sizing: &SizingStatus, local_disk: Option<Quantity>) -> BTreeMap<&'static str, Quantity> {
    let processes = u64::from(sizing.gpus_per_replica.max(1));
    let share = sizing.weight_bytes_per_gpu.map_or(4 * GIB, |bytes| bytes.min(4 * GIB));
    let memory = 2 * GIB + processes * (2 * GIB + share);
    let mut defaults = BTreeMap::from([
        ("cpu", Quantity((processes + 1).to_string())),
        ("memory", quantity::from_bytes(memory.next_multiple_of(GIB))),
    ]);
    defaults.extend(local_disk.map(|size| ("ephemeral-storage", size)));
    defaults
}
