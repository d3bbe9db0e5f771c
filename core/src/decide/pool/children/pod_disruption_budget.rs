//! The PodDisruptionBudget of a pool.

use super::{BuildError, Plan, child, metadata, selector};
use crate::decide::decision::Child;
use crate::decide::owned;

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
    let budget = owned::one_at_a_time(metadata(plan), selector(plan.name));
    child(plan, "PodDisruptionBudget", &budget).map(Some)
}
