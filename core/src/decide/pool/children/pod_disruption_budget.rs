//! The PodDisruptionBudget of a pool.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{BuildError, Plan, child, metadata, selector};
use crate::decide::decision::Child;
use crate::decide::owned;

/// The PodDisruptionBudget `<pool>-pool` for a pool that may have two replicas or more: half of them may be evicted at a time. Agents
/// finish their tasks when they are asked to end, and one that no node takes counts as disrupted: a smaller number would keep
/// nodes from being drained. It follows what the pool may have and not what it has now, so that scaling changes one object only.
///
/// # Errors
///
/// None that depends on the plan.
pub fn build(plan: &Plan<'_>) -> Result<Option<Child>, BuildError> {
    if plan.spec.replicas.or(plan.spec.max_replicas).is_some_and(|most| most < 2) {
        return Ok(None);
    }
    let budget = owned::disruption_budget(metadata(plan), selector(plan.name), IntOrString::String("50%".to_owned()));
    child(plan, "PodDisruptionBudget", &budget).map(Some)
}
