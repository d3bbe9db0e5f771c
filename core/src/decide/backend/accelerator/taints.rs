//! Which taints keep the pods of a model server off a node, for now or for good.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::labels;
use crate::api::accelerator::AcceleratorSpec;
use crate::decide::backend::facts::NodeFacts;

/// Taints that come and go with a node's health or an autoscaler's plans. Such a node counts as cordoned.
const PASSING: &[&str] = &[
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "node.cilium.io/",
    "karpenter.sh/",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
];

/// Whether new pods are kept off a node for now.
pub(super) fn cordoned(node: &NodeFacts) -> bool {
    node.unschedulable || node.taints.iter().any(|taint| repels(taint) && passes(taint))
}

/// The taints of a node that keep the pods off for good. They tolerate the taint of their own resource, the spec's tolerations
/// and what passes.
pub(super) fn all_blocking<'a>(spec: &AcceleratorSpec, node: &'a NodeFacts) -> impl Iterator<Item = &'a Taint> {
    let of_resource = |taint: &Taint| match &spec.resource_name {
        Some(name) => taint.key == *name || (taint.key == "nvidia.com/gpu" && name.starts_with("nvidia.com/")),
        None => labels::is_accelerator(&taint.key),
    };
    node.taints.iter().filter(move |taint| {
        repels(taint)
            && !passes(taint)
            && !of_resource(taint)
            && !spec.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

/// A taint as kubectl writes it.
pub(super) fn described(taint: &Taint) -> String {
    match taint.value.as_deref() {
        None | Some("") => format!("{}:{}", taint.key, taint.effect),
        Some(value) => format!("{}={value}:{}", taint.key, taint.effect),
    }
}

fn passes(taint: &Taint) -> bool {
    PASSING.iter().any(|prefix| taint.key.starts_with(prefix))
}

fn repels(taint: &Taint) -> bool {
    taint.effect != "PreferNoSchedule"
}

/// The rule of Kubernetes: an empty key with Exists tolerates everything, an empty effect every effect.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = match toleration.key.as_deref() {
        None | Some("") => exists,
        Some(key) => key == taint.key,
    };
    let effect = toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect);
    let value = exists || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    key && effect && value
}
