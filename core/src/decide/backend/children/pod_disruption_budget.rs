//! The PodDisruptionBudget of a self-hosted model.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{BuildError, Subject, child, metadata, selector};
use crate::decide::decision::{ApplyMode, Child};
use crate::decide::owned;

/// The PodDisruptionBudget `<backend>-backend` for two replicas or more: one at a time may be evicted. With a single
/// replica there is none, as it would only keep nodes from being drained.
///
/// # Errors
///
/// None that depends on the plan.
pub fn build(plan: &impl Subject) -> Result<Option<Child>, BuildError> {
    if plan.replicas() < 2 {
        return Ok(None);
    }
    let budget = owned::disruption_budget(metadata(plan), selector(plan.name()), IntOrString::Int(1));
    child(plan, "PodDisruptionBudget", &budget, ApplyMode::Apply).map(Some)
}
