//! The node labels that lead a pod to the accelerator it was sized for, and to no other.

use std::collections::BTreeSet;

use super::labels::{self, Offer};
use super::{LabelOperator, LabelRequirement};
use crate::decide::backend::facts::NodeFacts;

/// Labels that select the nodes of `members` among all `nodes` that offer the same resource.
///
/// The labels of clouds come first: their autoscalers know them on nodes that do not exist yet, while a discovery label
/// appears only on a running node, and a pod that asks for it would never make one come. Among equals the fewest labels
/// win that keep every node of another kind out; where none do, the most exact ones are used.
pub(super) fn requirements(resource_name: &str, members: &[&NodeFacts], others: &[&NodeFacts]) -> Vec<LabelRequirement> {
    let prefix = labels::label_prefix(resource_name);
    let (product, memory) = (format!("{prefix}.product"), format!("{prefix}.memory"));
    let sharing = format!("{prefix}.sharing-strategy");
    let keys: [&[&str]; 8] = [
        &[labels::GKE_PRODUCT],
        &[labels::GKE_PRODUCT, labels::GKE_PARTITION],
        &[labels::KARPENTER_PRODUCT],
        &[labels::KARPENTER_PRODUCT, labels::KARPENTER_MEMORY],
        &[labels::AMD_PRODUCT],
        &[&product],
        &[&product, &memory],
        &[&product, &memory, &sharing],
    ];
    let mut best = Vec::new();
    for keys in keys {
        let Some(requirements) = keys.iter().map(|key| common(key, members)).collect::<Option<Vec<_>>>() else {
            continue;
        };
        for requirements in [requirements.clone(), without_partitions(requirements, others)] {
            if !others.iter().any(|node| matches(node, &requirements)) {
                return requirements;
            }
            best = requirements;
        }
    }
    best
}

/// Requirements that keep pods off the products that nodes have now, for an accelerator whose nodes are still to come and
/// carry no label that is known today.
pub(super) fn not_on(resource_name: &str, nodes: &[&NodeFacts]) -> Vec<LabelRequirement> {
    let prefix = labels::label_prefix(resource_name);
    let discovery = format!("{prefix}.product");
    [labels::GKE_PRODUCT, labels::KARPENTER_PRODUCT, labels::AMD_PRODUCT, &discovery]
        .into_iter()
        .filter_map(|key| {
            let values: BTreeSet<String> = nodes.iter().filter_map(|node| node.labels.get(key)).cloned().collect();
            (!values.is_empty()).then(|| LabelRequirement {
                key: key.to_owned(),
                operator: LabelOperator::NotIn,
                values: values.into_iter().collect(),
            })
        })
        .collect()
}

/// The values that a label has on all of the nodes. None: one of them lacks it.
fn common(key: &str, nodes: &[&NodeFacts]) -> Option<LabelRequirement> {
    let values: BTreeSet<String> = nodes.iter().map(|node| node.labels.get(key).cloned()).collect::<Option<_>>()?;
    (!values.is_empty()).then(|| LabelRequirement {
        key: key.to_owned(),
        operator: LabelOperator::In,
        values: values.into_iter().collect(),
    })
}

/// The requirements, and none of the partitions that other nodes cut their cards into.
fn without_partitions(mut requirements: Vec<LabelRequirement>, others: &[&NodeFacts]) -> Vec<LabelRequirement> {
    if requirements.iter().any(|requirement| requirement.key == labels::GKE_PARTITION) {
        return requirements;
    }
    let partitions: BTreeSet<String> = others.iter().filter_map(|node| node.labels.get(labels::GKE_PARTITION)).cloned().collect();
    if !partitions.is_empty() {
        requirements.push(LabelRequirement {
            key: labels::GKE_PARTITION.to_owned(),
            operator: LabelOperator::NotIn,
            values: partitions.into_iter().collect(),
        });
    }
    requirements
}

/// Whether a node satisfies all requirements.
pub fn matches(node: &NodeFacts, requirements: &[LabelRequirement]) -> bool {
    requirements.iter().all(|requirement| {
        let has = node.labels.get(&requirement.key).is_some_and(|value| requirement.values.contains(value));
        match requirement.operator {
            LabelOperator::In => has,
            LabelOperator::NotIn => !has,
        }
    })
}

/// Keys of the taints that nodes with this resource usually carry. NVIDIA's MIG devices are on nodes tainted as GPUs.
pub(super) fn taint_keys(offer: &Offer) -> Vec<String> {
    let mut keys = vec![offer.resource_name.clone()];
    if offer.resource_name.starts_with("nvidia.com/") && offer.resource_name != "nvidia.com/gpu" {
        keys.push("nvidia.com/gpu".to_owned());
    }
    keys
}
