//! On which nodes the pods may run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration};

use super::Placement;
use crate::api::accelerator::AcceleratorSpec;

/// Required node affinity: one term in which every label of the choice must have one of its values.
pub(super) fn affinity(placement: &Placement) -> Option<Affinity> {
    if placement.affinity.is_empty() {
        return None;
    }
    let requirements = placement
        .affinity
        .iter()
        .map(|requirement| NodeSelectorRequirement {
            key: requirement.key.clone(),
            operator: requirement.operator.as_str().to_owned(),
            values: Some(requirement.values.clone()),
        })
        .collect();
    Some(Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: vec![NodeSelectorTerm { match_expressions: Some(requirements), match_fields: None }],
            }),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    })
}

/// The node selector of the spec.
pub(super) fn node_selector(spec: Option<&AcceleratorSpec>) -> Option<BTreeMap<String, String>> {
    spec.map(|spec| spec.node_selector.clone()).filter(|selector| !selector.is_empty())
}

/// Tolerations of the taint that is named like the resource, of the choice's other taints and of the spec.
///
/// The operator is Exists: on GKE the taint's value is `present`, elsewhere `true` or empty.
pub(super) fn tolerations(placement: &Placement, spec: Option<&AcceleratorSpec>) -> Vec<Toleration> {
    let mut tolerations: Vec<Toleration> = Vec::new();
    let keys = std::iter::once(&placement.resource_name).chain(&placement.tolerate_keys).filter(|key| !key.is_empty());
    let computed =
        keys.map(|key| Toleration { key: Some(key.clone()), operator: Some("Exists".to_owned()), ..Toleration::default() });
    for toleration in computed.chain(spec.into_iter().flat_map(|spec| spec.tolerations.clone())) {
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    tolerations
}
