//! The PodDisruptionBudget of a self-hosted model.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{BuildError, Plan, child, metadata, selector};
use crate::decide::decision::{ApplyMode, Child};

/// The PodDisruptionBudget `<backend>-backend` for two replicas or more: one at a time may be evicted. With a single
/// replica there is none, as it would only keep nodes from being drained.
///
/// # Errors
///
/// None that depends on the plan.
pub fn build(plan: &Plan<'_>) -> Result<Option<Child>, BuildError> {
    if plan.replicas < 2 {
        return Ok(None);
    }
    let budget = PodDisruptionBudget {
        metadata: metadata(plan),
        spec: Some(PodDisruptionBudgetSpec {
            selector: Some(LabelSelector { match_labels: Some(selector(plan.name)), ..LabelSelector::default() }),
            max_unavailable: Some(IntOrString::Int(1)),
            // A pod that never became ready serves nobody, and must not keep a node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    };
    child(plan, "PodDisruptionBudget", &budget, ApplyMode::Apply).map(Some)
}
