//! The node labels that lead a pod to the accelerator it was sized for, and to no other.

use std::collections::BTreeSet;

use super::labels::{self, Offer};
use super::{LabelOperator, LabelRequirement, products};
use crate::decide::backend::facts::NodeFacts;

/// Labels that select the nodes of `members` among all `nodes` that offer the same resource.
///
/// The labels of clouds come first: their autoscalers know them on nodes that do not exist yet, while a discovery label
/// appears only on a running node, and a pod that asks for it would never make one come. Among equals the fewest labels
/// win that keep every node of another kind out; where none do, the most exact ones are used.
pub(super) fn requirements(resource_name: &str, members: &[&NodeFacts], others: &[&NodeFacts]) -> Vec<LabelRequirement> {
    let prefix = labels::label_prefix(resource_name);
    let (product, memory) = (format!("{prefix}.product"), format!("{prefix}.memory"));
    let (sharing, replicas) = (format!("{prefix}.sharing-strategy"), format!("{prefix}.replicas"));
    let keys: [&[&str]; 13] = [
        &[labels::GKE_PRODUCT],
        &[labels::GKE_PRODUCT, labels::GKE_PARTITION],
        &[labels::GKE_PRODUCT, labels::GKE_SHARING],
        &[labels::GKE_PRODUCT, labels::GKE_SHARING, labels::GKE_SHARING_CLIENTS],
        &[labels::KARPENTER_PRODUCT],
        &[labels::KARPENTER_PRODUCT, labels::KARPENTER_MEMORY],
        &[labels::AMD_PRODUCT],
        &[&product],
        &[&product, &memory],
        &[&product, &sharing],
        &[&product, &sharing, &replicas],
        &[&product, &memory, &sharing],
        &[&product, &memory, &sharing, &replicas],
    ];
    let mut best = Vec::new();
    for keys in keys {
        let Some(requirements) = keys.iter().map(|key| common(key, members)).collect::<Option<Vec<_>>>() else {
            continue;
        };
        let requirements = without_parts(resource_name, requirements, members, others);
        if !others.iter().any(|node| matches(node, &requirements)) {
            return requirements;
        }
        best = requirements;
    }
    best
}

/// Requirements that keep pods off the products that nodes have now, for accelerators of `product` whose nodes are still to
/// come and carry no label that is known today. Nodes of the same product are not kept off, for those to come look alike,
/// except where they offer parts or shares of their cards and whole ones are wanted.
pub(super) fn not_on(resource_name: &str, product: Option<&str>, nodes: &[&NodeFacts]) -> Vec<LabelRequirement> {
    let whole = product.is_none_or(|product| !product.contains("-SHARED") && !product.contains("-MIG-"));
    let prefix = labels::label_prefix(resource_name);
    let discovery = format!("{prefix}.product");
    let is_wanted = |node: &NodeFacts, key: &str, value: &str| {
        product.is_some_and(|product| {
            products::same_product(product, value)
                || (key == labels::KARPENTER_PRODUCT
                    && labels::offer(node, resource_name)
                        .and_then(|offer| offer.product)
                        .is_some_and(|other| products::same_product(product, &other)))
        })
    };
    let requirements = [labels::GKE_PRODUCT, labels::KARPENTER_PRODUCT, labels::AMD_PRODUCT, &discovery]
        .into_iter()
        .filter_map(|key| {
            let value = |node: &&&NodeFacts| node.labels.get(key).filter(|value| !is_wanted(node, key, value)).cloned();
            none_of(key, nodes.iter().filter_map(|node| value(&node)).collect())
        })
        .collect();
    let single = |node: &&&NodeFacts| labels::offer(node, resource_name).is_some_and(|offer| offer.mig || offer.pods_per_card > 1);
    let parts: Vec<&NodeFacts> = nodes.iter().filter(single).copied().filter(|_| whole).collect();
    without_parts(resource_name, requirements, &[], &parts)
}

fn none_of(key: &str, values: BTreeSet<String>) -> Option<LabelRequirement> {
    (!values.is_empty()).then(|| LabelRequirement {
        key: key.to_owned(),
        operator: LabelOperator::NotIn,
        values: values.into_iter().collect(),
    })
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

/// The requirements, and none of the ways of cutting and sharing cards that tell `others` from the nodes of `members`.
fn without_parts(
    resource_name: &str,
    mut requirements: Vec<LabelRequirement>,
    members: &[&NodeFacts],
    others: &[&NodeFacts],
) -> Vec<LabelRequirement> {
    let prefix = labels::label_prefix(resource_name);
    let (sharing, replicas) = (format!("{prefix}.sharing-strategy"), format!("{prefix}.replicas"));
    for key in [labels::GKE_PARTITION, labels::GKE_SHARING, labels::GKE_SHARING_CLIENTS, &sharing, &replicas] {
        if requirements.iter().any(|requirement| requirement.key == key) {
            continue;
        }
        let values =
            |nodes: &[&NodeFacts]| -> BTreeSet<String> { nodes.iter().filter_map(|node| node.labels.get(key)).cloned().collect() };
        let confused: Vec<&NodeFacts> = others.iter().copied().filter(|node| matches(node, &requirements)).collect();
        requirements.extend(none_of(key, values(&confused).difference(&values(members)).cloned().collect()));
    }
    requirements
}

/// Whether a node satisfies all requirements.
pub(in crate::decide::backend) fn matches(node: &NodeFacts, requirements: &[LabelRequirement]) -> bool {
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
