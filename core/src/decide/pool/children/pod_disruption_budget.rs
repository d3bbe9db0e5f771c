//! The PodDisruptionBudget of a pool.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{BuildError, Plan, child, metadata, selector};
use crate::decide::decision::Child;

/// The PodDisruptionBudget `<pool>-pool` for a pool that may have two replicas or more: one at a time may be evicted. It
/// follows what the pool may have and not what it has now, so that scaling changes one object only.
///
/// # Errors
///
/// None that depends on the plan.
pub fn build(plan: &Plan<'_>) -> Result<Option<Child>, BuildError> {
    if plan.spec.replicas.or(plan.spec.max_replicas).is_some_and(|most| most < 2) {
        return Ok(None);
    }
    let budget = PodDisruptionBudget {
        metadata: metadata(plan),
        spec: Some(PodDisruptionBudgetSpec {
            selector: Some(LabelSelector { match_labels: Some(selector(plan.name)), ..LabelSelector::default() }),
            max_unavailable: Some(IntOrString::Int(1)),
            // A pod that never became ready works on nothing, and must not keep a node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    };
    child(plan, "PodDisruptionBudget", &budget).map(Some)
}
