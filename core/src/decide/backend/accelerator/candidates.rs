//! From nodes, profiles and the spec to the accelerators that a model server can run on.

use std::collections::{BTreeMap, BTreeSet};

use super::labels::{self, Offer};
use super::products::{self, usable_bytes};
use super::taints::{all_blocking, cordoned};
use super::{Accelerator, LabelOperator, LabelRequirement, Origin, affinity, fixes};
use crate::api::accelerator::AcceleratorSpec;
use crate::api::conditions::reasons;
use crate::api::configuration::AcceleratorProfile;
use crate::api::quantity;
use crate::api::status::human_bytes;
use crate::decide::backend::facts::NodeFacts;
use crate::decide::backend::sizing::Refusal;

/// The resource of a product that nobody says more about.
pub(super) const DEFAULT_RESOURCE: &str = "nvidia.com/gpu";
/// Accelerators of a node that is still to come, where nobody says: the largest nodes of all clouds have 8 of the products
/// in the table (HGX boards; GKE's and AWS' largest machine types), and an autoscaler picks a smaller one if that suffices.
const ASSUMED_GPUS_PER_NODE: u32 = 8;

/// The accelerators that the pods can get, never none: what nodes offer, then what the operator's profiles promise, then
/// what the spec describes and the built-in table knows.
///
/// Without `products` every product of the nodes and profiles counts. With them, each named product counts once for the
/// nodes that have it, or else for the profile, or else for the spec's own `memory` or the table. Nodes that the selector
/// excludes or whose taints the spec does not tolerate count for nothing; cordoned ones count as what the cluster can get.
///
/// # Errors
///
/// `NoAcceleratorKnown` where there is nothing to choose from, `NoAcceleratorMatches` where nothing is what the spec asks
/// for, `InvalidAccelerator` where the spec contradicts itself or the nodes.
pub fn candidates(
    spec: Option<&AcceleratorSpec>,
    nodes: &[NodeFacts],
    profiles: &[AcceleratorProfile],
) -> Result<Vec<Accelerator>, Refusal> {
    let default = AcceleratorSpec::default();
    let spec = spec.unwrap_or(&default);
    match found(spec, nodes, profiles) {
        Ok(found) if !found.is_empty() => Ok(found),
        outcome => Err(fixes::refuse(spec, nodes, profiles, outcome.err())),
    }
}

/// The same, without a word about what would help where there is nothing.
pub(in crate::decide::backend) fn found(
    spec: &AcceleratorSpec,
    nodes: &[NodeFacts],
    profiles: &[AcceleratorProfile],
) -> Result<Vec<Accelerator>, Refusal> {
    let search = Search::new(spec, nodes)?;
    let mut found = search.on_nodes()?;
    for accelerator in
        profiles.iter().map(|profile| search.of_profile(profile)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten()
    {
        // A profile that describes what nodes already have adds nothing.
        let known = found.iter().any(|other| {
            other.resource_name == accelerator.resource_name
                && other.gpus_per_node == accelerator.gpus_per_node
                && products::same_product(other.name(), accelerator.name())
        });
        if !known {
            found.push(accelerator);
        }
    }
    found.extend(search.described(&found)?);
    found.sort_by_key(|accelerator| (accelerator.preference, accelerator.origin));
    Ok(found)
}

/// The spec, read, and the nodes that it allows.
struct Search<'a> {
    spec: &'a AcceleratorSpec,
    /// `spec.memory`, as a process on such an accelerator finds it.
    memory_bytes: Option<u64>,
    /// `spec.memory` in MiB, as stated.
    memory_mib: Option<u64>,
    /// Nodes that the selector selects and whose taints are tolerated.
    nodes: Vec<&'a NodeFacts>,
}

impl<'a> Search<'a> {
    fn new(spec: &'a AcceleratorSpec, nodes: &'a [NodeFacts]) -> Result<Self, Refusal> {
        let invalid = |message: String| Refusal::new(reasons::INVALID_ACCELERATOR, message);
        let memory = spec
            .memory
            .as_ref()
            .map(|memory| quantity::to_u64(memory).map_err(|error| invalid(format!("accelerator.memory: {error}"))))
            .transpose()?;
        if memory == Some(0) {
            return Err(invalid("accelerator.memory is 0, and not the memory of one accelerator".to_owned()));
        }
        if memory.is_some() && spec.products.len() > 1 {
            return Err(invalid("accelerator.memory describes one product, and accelerator.products names several".to_owned()));
        }
        let memory_mib = memory.map(|bytes| bytes >> 20);
        if let (Some(stated), [product]) = (memory_mib, spec.products.as_slice())
            && let Some(row) = products::find(product)
            && !products::same_memory(stated, row.memory_mib)
        {
            return Err(invalid(format!(
                "accelerator.memory is {}, but {product} has {}: keep one of the two",
                human_bytes(stated << 20),
                human_bytes(row.memory_mib << 20),
            )));
        }
        let offering = |node: &&NodeFacts| node.allocatable.iter().any(|(name, count)| *count > 0 && wanted(spec, name));
        let allowed = |node: &&NodeFacts| selects(spec, node) && all_blocking(spec, node).next().is_none();
        let nodes = nodes.iter().filter(offering).filter(allowed).collect();
        Ok(Self { spec, memory_bytes: memory_mib.map(usable_bytes), memory_mib, nodes })
    }

    /// What the nodes offer and the spec asks for.
    fn on_nodes(&self) -> Result<Vec<Accelerator>, Refusal> {
        let resources = self.resources()?;
        let mut groups: BTreeMap<Offer, Vec<&NodeFacts>> = BTreeMap::new();
        for node in &self.nodes {
            for resource_name in &resources {
                if let Some(offer) = labels::offer(node, resource_name) {
                    groups.entry(offer).or_default().push(node);
                }
            }
        }
        let mut found = Vec::new();
        for (offer, members) in &groups {
            let preference = self.preference(offer.product.as_deref());
            if (!self.spec.products.is_empty() && preference.is_none()) || !self.right_size(offer, members) {
                continue;
            }
            if let (Some(stated), Some(known)) = (self.memory_bytes, offer.memory_bytes)
                && !products::same_memory(stated, known)
            {
                if preference.is_none() {
                    continue;
                }
                return Err(Refusal::new(
                    reasons::INVALID_ACCELERATOR,
                    format!(
                        "accelerator.memory is {}, but the {} of the nodes has {}",
                        human_bytes(stated),
                        offer.product.as_deref().unwrap_or(&offer.resource_name),
                        human_bytes(known)
                    ),
                ));
            }
            let same_kind: Vec<&NodeFacts> = self.nodes_of(&groups, |other| other.same_kind(offer), &offer.resource_name);
            let others: Vec<&NodeFacts> = self.nodes_of(&groups, |other| !other.same_kind(offer), &offer.resource_name);
            found.push(Accelerator {
                resource_name: offer.resource_name.clone(),
                product: offer.product.clone(),
                memory_bytes: offer.memory_bytes.or(self.memory_bytes),
                gpus_per_node: offer.count,
                nodes: u32::try_from(members.len()).unwrap_or(u32::MAX),
                cordoned_nodes: u32::try_from(members.iter().filter(|node| cordoned(node)).count()).unwrap_or(u32::MAX),
                pods_per_card: offer.pods_per_card,
                mig: offer.mig,
                compute_capability: offer.compute_capability,
                origin: Origin::Nodes,
                node_affinity: affinity::requirements(&offer.resource_name, &same_kind, &others),
                tolerated_taints: affinity::taint_keys(offer),
                preference,
            });
        }
        Ok(found)
    }

    /// The resources to look for on the nodes.
    fn resources(&self) -> Result<Vec<String>, Refusal> {
        if let Some(name) = &self.spec.resource_name {
            return Ok(vec![name.clone()]);
        }
        let offered: BTreeSet<&str> = self
            .nodes
            .iter()
            .flat_map(|node| node.allocatable.iter())
            .filter(|(name, count)| **count > 0 && labels::is_accelerator(name))
            .map(|(name, _)| name.as_str())
            .collect();
        if !self.spec.products.is_empty() || offered.len() <= 1 {
            return Ok(offered.into_iter().map(str::to_owned).collect());
        }
        if offered.contains(DEFAULT_RESOURCE) {
            return Ok(vec![DEFAULT_RESOURCE.to_owned()]);
        }
        Err(Refusal::new(
            reasons::NO_ACCELERATOR_MATCHES,
            format!(
                "the nodes offer {}: say which one to use in accelerator.resourceName",
                offered.into_iter().collect::<Vec<_>>().join(", ")
            ),
        ))
    }

    fn nodes_of(
        &self,
        groups: &BTreeMap<Offer, Vec<&'a NodeFacts>>,
        keep: impl Fn(&Offer) -> bool,
        resource: &str,
    ) -> Vec<&'a NodeFacts> {
        groups
            .iter()
            .filter(|(offer, _)| offer.resource_name == resource && keep(offer))
            .flat_map(|(_, nodes)| nodes.clone())
            .collect()
    }

    /// Whether a node has as many accelerators as the spec says, now or as discovered: a node of 8 of which one is broken
    /// is still a node of 8.
    fn right_size(&self, offer: &Offer, members: &[&NodeFacts]) -> bool {
        let Some(wanted) = self.spec.gpus_per_node else { return true };
        let discovered = |node: &&NodeFacts| labels::discovered_count(node, &offer.resource_name) == Some(wanted);
        offer.count == wanted || members.iter().all(discovered)
    }

    /// Place of a product in the spec's list.
    fn preference(&self, product: Option<&str>) -> Option<usize> {
        products::position(&self.spec.products, product?)
    }

    /// What a profile promises, where the spec asks for it.
    fn of_profile(&self, profile: &AcceleratorProfile) -> Result<Option<Accelerator>, Refusal> {
        let row = products::find(&profile.product);
        let resource_name =
            profile.resource_name.clone().unwrap_or_else(|| row.map_or(DEFAULT_RESOURCE, |row| row.resource_name).to_owned());
        let preference = self.preference(Some(&profile.product));
        let contradicts =
            profile.node_selector.iter().any(|(key, value)| self.spec.node_selector.get(key).is_some_and(|wanted| wanted != value));
        if (!self.spec.products.is_empty() && preference.is_none())
            || self.spec.resource_name.as_ref().is_some_and(|wanted| *wanted != resource_name)
            || self.spec.gpus_per_node.is_some_and(|wanted| wanted != profile.gpus_per_node)
            || contradicts
        {
            return Ok(None);
        }
        let stated = profile.memory.as_ref().map(quantity::to_u64).transpose().map_err(|error| {
            Refusal::new(
                reasons::INVALID_ACCELERATOR,
                format!("memory of the accelerator profile `{}` in the operator's configuration: {error}", profile.name),
            )
        })?;
        let memory_bytes = stated.map(|bytes| bytes >> 20).or(row.map(|row| row.memory_mib)).map(usable_bytes);
        if let (Some(wanted), Some(known)) = (self.memory_bytes, memory_bytes)
            && !products::same_memory(wanted, known)
        {
            return Ok(None);
        }
        let node_affinity = if profile.node_selector.is_empty() {
            affinity::not_on(&resource_name, Some(&profile.product), &self.nodes)
        } else {
            profile
                .node_selector
                .iter()
                .map(|(key, value)| LabelRequirement { key: key.clone(), operator: LabelOperator::In, values: vec![value.clone()] })
                .collect()
        };
        Ok(Some(Accelerator {
            tolerated_taints: vec![resource_name.clone()],
            mig: resource_name.starts_with("nvidia.com/mig-") || profile.product.contains("-MIG-"),
            resource_name,
            product: Some(profile.product.clone()),
            memory_bytes: memory_bytes.or(self.memory_bytes),
            gpus_per_node: profile.gpus_per_node.max(1),
            nodes: 0,
            cordoned_nodes: 0,
            pods_per_card: if profile.product.ends_with("-SHARED") { 2 } else { 1 },
            compute_capability: row.and_then(products::Product::compute_capability),
            origin: Origin::Profile,
            node_affinity,
            preference,
        }))
    }

    /// What the spec itself describes: named products that neither a node nor a profile has, and memory without a product.
    fn described(&self, found: &[Accelerator]) -> Result<Vec<Accelerator>, Refusal> {
        let mut described = Vec::new();
        let mut contradicted = None;
        for (index, product) in self.spec.products.iter().enumerate() {
            if found.iter().any(|accelerator| accelerator.preference == Some(index)) {
                continue;
            }
            let row = products::find(product);
            // A node that is still to come offers a product of the table as its vendor's resource. For another one, which may
            // be mistyped, pods would wait for ever.
            let another = self.spec.resource_name.as_ref().zip(row).filter(|(name, row)| *name != row.resource_name);
            if let Some((name, row)) = another {
                contradicted.get_or_insert_with(|| {
                    format!("accelerator.resourceName is {name}, but {product} is offered as {}", row.resource_name)
                });
                continue;
            }
            match (row, self.memory_mib) {
                (Some(row), None) => described.push(self.to_come(Some(product), row.memory_mib, Origin::Table, Some(index))),
                (_, Some(memory)) => described.push(self.to_come(Some(product), memory, Origin::Spec, Some(index))),
                (None, None) => {}
            }
        }
        if let (true, Some(memory), true) = (self.spec.products.is_empty(), self.memory_mib, found.is_empty()) {
            described.push(self.to_come(None, memory, Origin::Spec, None));
        }
        match contradicted {
            Some(message) if found.is_empty() && described.is_empty() => Err(Refusal::new(reasons::INVALID_ACCELERATOR, message)),
            _ => Ok(described),
        }
    }

    fn to_come(&self, product: Option<&String>, memory_mib: u64, origin: Origin, preference: Option<usize>) -> Accelerator {
        let row = product.and_then(|product| products::find(product));
        let resource_name =
            self.spec.resource_name.clone().unwrap_or_else(|| row.map_or(DEFAULT_RESOURCE, |row| row.resource_name).to_owned());
        let named = |part: &str| product.is_some_and(|product| product.contains(part));
        Accelerator {
            tolerated_taints: vec![resource_name.clone()],
            mig: resource_name.starts_with("nvidia.com/mig-") || named("-MIG-"),
            node_affinity: affinity::not_on(&resource_name, product.map(String::as_str), &self.nodes),
            resource_name,
            product: product.cloned(),
            memory_bytes: Some(usable_bytes(memory_mib)),
            gpus_per_node: self.spec.gpus_per_node.unwrap_or(ASSUMED_GPUS_PER_NODE),
            nodes: 0,
            cordoned_nodes: 0,
            pods_per_card: if named("-SHARED") { 2 } else { 1 },
            compute_capability: row.and_then(products::Product::compute_capability),
            origin,
            preference,
        }
    }
}

/// Whether a resource may be used at all.
fn wanted(spec: &AcceleratorSpec, resource_name: &str) -> bool {
    match &spec.resource_name {
        Some(wanted) => wanted == resource_name,
        None => labels::is_accelerator(resource_name),
    }
}

pub(super) fn selects(spec: &AcceleratorSpec, node: &NodeFacts) -> bool {
    spec.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
}

#[cfg(test)]
#[path = "candidates_tests.rs"]
mod tests;
