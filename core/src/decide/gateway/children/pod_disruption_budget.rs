//! The PodDisruptionBudget of a gateway.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{BuildError, Gateway, NAME, child, metadata, selector};
use crate::decide::decision::Child;
use crate::decide::owned;

/// The PodDisruptionBudget `quartermaster-gateway` for two replicas or more: one at a time may be evicted. With a single replica
/// there is none, as it would only keep nodes from being drained.
///
/// # Errors
///
/// None that depends on the gateway.
pub fn build(gateway: &Gateway<'_>) -> Result<Option<Child>, BuildError> {
    if gateway.settings.replicas < 2 {
        return Ok(None);
    }
    let budget = owned::disruption_budget(metadata(gateway, NAME), selector(), IntOrString::Int(1));
    child("PodDisruptionBudget", NAME, &budget).map(Some)
}
