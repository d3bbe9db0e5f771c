//! The Deployment of a self-hosted model.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{BuildError, Plan, Subject, child, metadata, pod, selector};
use crate::decide::backend::choice::Choice;
use crate::decide::backend::clocks::Clocks;
use crate::decide::backend::patch;
use crate::decide::decision::{ApplyMode, Child};

/// Annotation of the Deployment that holds the sizing in force, so that a lost status changes no pod. It stands on the
/// Deployment and not on its pods: a better worded derivation restarts nothing.
pub const CHOICE_ANNOTATION: &str = "quartermaster.dev/choice";
/// The annotation that tells one wanted version of the Deployment from another.
pub const INTENT_ANNOTATION: &str = "quartermaster.dev/intent";

/// Old ReplicaSets that are kept for `kubectl rollout undo`.
const REVISION_HISTORY_LIMIT: i32 = 3;

/// The Deployment `<backend>-backend`, with `podTemplatePatch` merged last.
///
/// # Errors
///
/// A duration that cannot be read, a cache that the configuration does not offer, or a patch that asks for too much.
pub fn build(plan: &Plan<'_>) -> Result<Child, BuildError> {
    let clocks = Clocks::of(plan.vllm, &plan.choice.sizing)?;
    let mut child = of_template(plan, plan.choice, plan.max_unavailable, &clocks, pod::template(plan, &clocks)?)?;
    if let Some(wanted) = &plan.vllm.pod_template_patch
        && let Some(template) = child.object.pointer_mut("/spec/template")
    {
        *template = patch::merge(template.take(), wanted)?;
    }
    Ok(child)
}

/// The Deployment `<backend>-backend` of these pods, with the choice that they were made from.
pub(super) fn of_template(
    plan: &impl Subject,
    choice: &Choice,
    max_unavailable: u32,
    clocks: &Clocks,
    template: PodTemplateSpec,
) -> Result<Child, BuildError> {
    let mut metadata = metadata(plan);
    let choice = serde_json::to_string(choice).map_err(|source| BuildError::Serialize {
        kind: "SizingStatus",
        name: plan.name().to_owned(),
        source,
    })?;
    metadata.annotations = Some(BTreeMap::from([(CHOICE_ANNOTATION.to_owned(), choice)]));
    let deployment = Deployment {
        metadata,
        spec: DeploymentSpec {
            replicas: Some(saturating_i32(u64::from(plan.replicas()))),
            selector: LabelSelector { match_labels: Some(selector(plan.name())), ..LabelSelector::default() },
            strategy: Some(strategy(max_unavailable)),
            progress_deadline_seconds: Some(saturating_i32(clocks.progress_deadline())),
            revision_history_limit: Some(REVISION_HISTORY_LIMIT),
            template,
            ..DeploymentSpec::default()
        },
        status: None,
    };
    child(plan, "Deployment", &deployment, ApplyMode::Apply)
}

/// The choice that a Deployment was made from, if its annotations hold one that can be read.
pub fn choice_in_force(annotations: &BTreeMap<String, String>) -> Option<Choice> {
    serde_json::from_str(annotations.get(CHOICE_ANNOTATION)?).ok()
}

/// With none that may be unavailable, one pod is added and no old one ends before it answers; otherwise old pods end first,
/// and their accelerators go to the new ones. Never both zero, which the API server refuses.
fn strategy(max_unavailable: u32) -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(i32::from(max_unavailable == 0))),
            max_unavailable: Some(IntOrString::Int(saturating_i32(u64::from(max_unavailable)))),
        }),
    }
}

/// The number, or the largest that the API has room for.
pub(super) fn saturating_i32(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
