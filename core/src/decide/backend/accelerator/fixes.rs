//! Why there is no accelerator to choose from, and what of `spec.vllm.accelerator` would have to change. Every fix was applied
//! and searched again before it is named.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;

use super::candidates::{DEFAULT_RESOURCE, found, selects};
use super::labels::{self, Offer};
use super::products::{self, same_memory, usable_bytes};
use super::taints;
use crate::api::accelerator::AcceleratorSpec;
use crate::api::conditions::reasons;
use crate::api::configuration::AcceleratorProfile;
use crate::api::quantity;
use crate::decide::backend::facts::NodeFacts;
use crate::decide::backend::sizing::{Change, Fix, Refusal};

/// How many fixes a refusal names, and how many offers of the cluster each of them.
const FIXES: usize = 3;
const OFFERS: usize = 4;
/// What a memory that cannot be read is shown instead.
const EXAMPLE_MEMORY: &str = "80Gi";

/// A change of one field of `spec.vllm.accelerator`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AcceleratorChange {
    /// `resourceName`.
    ResourceName(String),
    /// `gpusPerNode`.
    GpusPerNode(u32),
    /// `products`. Empty: none.
    Products(Vec<String>),
    /// `memory`. Absent: none.
    Memory(Option<String>),
    /// No `nodeSelector`.
    NoNodeSelector,
    /// More `tolerations`: of taints with these keys, whatever their value and effect.
    Tolerations(BTreeSet<String>),
}

impl AcceleratorChange {
    /// Makes the change.
    pub fn make(&self, spec: &mut AcceleratorSpec) {
        match self {
            Self::ResourceName(name) => spec.resource_name = Some(name.clone()),
            Self::GpusPerNode(count) => spec.gpus_per_node = Some(*count),
            Self::Products(products) => spec.products.clone_from(products),
            Self::Memory(memory) => spec.memory = memory.clone().map(Quantity),
            Self::NoNodeSelector => spec.node_selector.clear(),
            Self::Tolerations(keys) => spec.tolerations.extend(keys.iter().map(|key| Toleration {
                key: Some(key.clone()),
                operator: Some("Exists".to_owned()),
                ..Toleration::default()
            })),
        }
    }

    /// The field, with what it says now where that is a word.
    fn field(&self, spec: &AcceleratorSpec) -> String {
        let named = |field: &str| format!("spec.vllm.accelerator.{field}");
        match self {
            Self::ResourceName(_) => match &spec.resource_name {
                Some(name) => format!("{} ({name})", named("resourceName")),
                None => named("resourceName"),
            },
            Self::GpusPerNode(_) => match spec.gpus_per_node {
                Some(count) => format!("{} ({count})", named("gpusPerNode")),
                None => named("gpusPerNode"),
            },
            Self::Products(_) => named("products"),
            Self::Memory(_) => named("memory"),
            Self::NoNodeSelector => named("nodeSelector"),
            Self::Tolerations(_) => named("tolerations"),
        }
    }

    /// The change as it is written.
    fn words(&self) -> String {
        match self {
            Self::ResourceName(name) => format!("resourceName: {name}"),
            Self::GpusPerNode(count) => format!("gpusPerNode: {count}"),
            Self::Products(products) if products.is_empty() => "no products".to_owned(),
            Self::Products(products) => format!("products: [{}]", products.join(", ")),
            Self::Memory(None) => "no memory".to_owned(),
            Self::Memory(Some(memory)) => format!("memory: {memory}"),
            Self::NoNodeSelector => "no nodeSelector".to_owned(),
            Self::Tolerations(keys) => {
                let each: Vec<String> = keys.iter().map(|key| format!("{{key: {key}, operator: Exists}}")).collect();
                format!("tolerations: [{}]", each.join(", "))
            }
        }
    }
}

/// What the cluster has or is promised, whether or not the spec asks for it.
struct Target<'a> {
    offer: Offer,
    from: From<'a>,
}

enum From<'a> {
    Node(&'a NodeFacts),
    Profile(&'a AcceleratorProfile),
}

/// The refusal of a spec for which the search ended with this error, or with nothing.
pub(super) fn refuse(
    spec: &AcceleratorSpec,
    nodes: &[NodeFacts],
    profiles: &[AcceleratorProfile],
    error: Option<Refusal>,
) -> Refusal {
    let targets = targets(spec, nodes, profiles);
    let fixes = fixes(spec, nodes, profiles, &targets);
    let mut refusal = error.unwrap_or_else(|| nothing(spec, &targets, &fixes));
    if refusal.reason == reasons::NO_ACCELERATOR_MATCHES {
        refusal.message.push_str(&kept_off(spec, &targets));
    }
    if !fixes.is_empty() {
        refusal.fixes = fixes.into_iter().map(|(fix, _)| fix).collect();
        let texts: Vec<&str> = refusal.fixes.iter().map(|fix| fix.text.as_str()).collect();
        refusal.message.push_str(&format!(". What would do: {}", texts.join("; or ")));
    }
    refusal
}

/// Everything that nodes offer and profiles promise.
fn targets<'a>(spec: &AcceleratorSpec, nodes: &'a [NodeFacts], profiles: &'a [AcceleratorProfile]) -> Vec<Target<'a>> {
    let of_node = nodes.iter().flat_map(|node| {
        let wanted = |name: &str| labels::is_accelerator(name) || spec.resource_name.as_deref() == Some(name);
        let names = node.allocatable.keys().filter(move |name| wanted(name));
        names.filter_map(|name| Some(Target { offer: labels::offer(node, name)?, from: From::Node(node) })).collect::<Vec<_>>()
    });
    let of_profile = profiles.iter().map(|profile| {
        let row = products::find(&profile.product);
        let stated = profile.memory.as_ref().and_then(|memory| quantity::to_u64(memory).ok());
        let resource_name = profile.resource_name.as_deref().or(row.map(|row| row.resource_name)).unwrap_or(DEFAULT_RESOURCE);
        let offer = Offer {
            resource_name: resource_name.to_owned(),
            product: Some(profile.product.clone()),
            memory_bytes: stated.map(|bytes| bytes >> 20).or(row.map(|row| row.memory_mib)).map(usable_bytes),
            pods_per_card: 1,
            mig: false,
            compute_capability: None,
            count: profile.gpus_per_node.max(1),
        };
        Target { offer, from: From::Profile(profile) }
    });
    of_node.chain(of_profile).collect()
}

impl Target<'_> {
    /// What the spec has to say differently, at the least, to be offered this.
    fn changes(&self, spec: &AcceleratorSpec) -> Vec<AcceleratorChange> {
        let mut changes = Vec::new();
        let offer = &self.offer;
        if spec.resource_name.as_ref().is_some_and(|name| *name != offer.resource_name) {
            changes.push(AcceleratorChange::ResourceName(offer.resource_name.clone()));
        }
        if spec.gpus_per_node.is_some_and(|count| count != offer.count && Some(count) != self.discovered_count()) {
            changes.push(AcceleratorChange::GpusPerNode(offer.count));
        }
        if !spec.products.is_empty() && !self.is_named(spec) {
            changes.push(AcceleratorChange::Products(offer.product.iter().cloned().collect()));
        }
        if self.contradicts_memory(spec) {
            changes.push(AcceleratorChange::Memory(None));
        }
        let selected = match self.from {
            From::Node(node) => selects(spec, node),
            From::Profile(profile) => {
                let differs = |(key, value): (&String, &String)| spec.node_selector.get(key).is_some_and(|wanted| wanted != value);
                !profile.node_selector.iter().any(differs)
            }
        };
        let blocked: BTreeSet<String> = self.blocking(spec).into_iter().map(|taint| taint.key.clone()).collect();
        if !selected {
            changes.push(AcceleratorChange::NoNodeSelector);
        }
        if !blocked.is_empty() {
            changes.push(AcceleratorChange::Tolerations(blocked));
        }
        changes
    }

    /// How many the node had before one of them broke.
    fn discovered_count(&self) -> Option<u32> {
        let From::Node(node) = self.from else { return None };
        labels::discovered_count(node, &self.offer.resource_name)
    }

    fn is_named(&self, spec: &AcceleratorSpec) -> bool {
        self.offer.product.as_ref().is_some_and(|product| products::position(&spec.products, product).is_some())
    }

    /// Whether the memory that the spec states is not that of this product, or is none, or describes several products.
    fn contradicts_memory(&self, spec: &AcceleratorSpec) -> bool {
        let Some(memory) = &spec.memory else { return false };
        let stated = quantity::to_u64(memory).ok().filter(|bytes| *bytes > 0).map(|bytes| usable_bytes(bytes >> 20));
        let row = self.offer.product.as_deref().and_then(products::find).map(|row| usable_bytes(row.memory_mib));
        let fits = |known: Option<u64>| known.zip(stated).is_none_or(|(known, stated)| same_memory(known, stated));
        stated.is_none() || (spec.products.len() > 1 && self.is_named(spec)) || !fits(self.offer.memory_bytes) || !fits(row)
    }

    /// The taints that keep the pods off the node, once they ask for this resource.
    fn blocking(&self, spec: &AcceleratorSpec) -> Vec<&Taint> {
        let From::Node(node) = self.from else { return Vec::new() };
        let resource_name = spec.resource_name.as_ref().map(|_| self.offer.resource_name.clone());
        let asking = AcceleratorSpec { resource_name, ..spec.clone() };
        taints::all_blocking(&asking, node).collect()
    }

    fn in_words(&self) -> String {
        format!("{}x{}", self.offer.count, self.offer.product.as_deref().unwrap_or(&self.offer.resource_name))
    }
}

/// The fixes that work, each with the changes that it makes, those with the fewest changes first.
fn fixes(
    spec: &AcceleratorSpec,
    nodes: &[NodeFacts],
    profiles: &[AcceleratorProfile],
    targets: &[Target<'_>],
) -> Vec<(Fix, Vec<AcceleratorChange>)> {
    let mut proposals: Vec<(Vec<AcceleratorChange>, BTreeSet<String>)> = Vec::new();
    let mut propose = |mut changes: Vec<AcceleratorChange>, offer: Option<String>| {
        changes.sort();
        match proposals.iter_mut().find(|(known, _)| *known == changes) {
            Some((_, offers)) => offers.extend(offer),
            None if changes.is_empty() => {}
            None => proposals.push((changes, offer.into_iter().collect())),
        }
    };
    for target in targets {
        let least = target.changes(spec);
        let resource = AcceleratorChange::ResourceName(target.offer.resource_name.clone());
        let count = spec.gpus_per_node.map(|_| AcceleratorChange::GpusPerNode(target.offer.count));
        // Where the least does not suffice: the nodes offer several resources, or another node of this kind lacks the label
        // with the number that was discovered.
        for more in [vec![], vec![Some(resource.clone())], vec![count.clone()], vec![Some(resource), count]] {
            let more = more.into_iter().flatten().filter(|change| !least.contains(change));
            propose(least.iter().cloned().chain(more).collect(), Some(target.in_words()));
        }
    }
    for changes in of_the_spec_alone(spec) {
        propose(changes, None);
    }
    // Another product is the furthest from what was asked for.
    let other_product = |change: &AcceleratorChange| matches!(change, AcceleratorChange::Products(_));
    proposals.sort_by_key(|(changes, _)| (changes.len(), changes.iter().any(other_product)));
    let works = |changes: &[AcceleratorChange]| {
        let mut changed = spec.clone();
        changes.iter().for_each(|change| change.make(&mut changed));
        found(&changed, nodes, profiles).is_ok_and(|found| !found.is_empty())
    };
    let mut working: Vec<(Fix, Vec<AcceleratorChange>)> = Vec::new();
    for (changes, offers) in proposals {
        // A change that works needs no other beside it.
        let superfluous = |(_, fewer): &(Fix, Vec<AcceleratorChange>)| fewer.iter().all(|change| changes.contains(change));
        if working.len() == FIXES || working.iter().any(superfluous) || !works(&changes) {
            continue;
        }
        let words: Vec<String> = changes.iter().map(AcceleratorChange::words).collect();
        let text = format!("accelerator: {{{}}}{}", words.join(", "), listed(&offers));
        let fix = Fix { changes: changes.iter().cloned().map(Change::AcceleratorField).collect(), text };
        working.push((fix, changes));
    }
    working
}

fn listed(offers: &BTreeSet<String>) -> String {
    if offers.is_empty() {
        return String::new();
    }
    let more = if offers.len() > OFFERS { ", ..." } else { "" };
    format!(" ({}{more} in a node)", offers.iter().take(OFFERS).cloned().collect::<Vec<_>>().join(", "))
}

/// Changes that help whatever the cluster has: where the spec contradicts itself, or cannot be read.
fn of_the_spec_alone(spec: &AcceleratorSpec) -> Vec<Vec<AcceleratorChange>> {
    let (mut memory, mut products, mut resource_name) = (vec![None], vec![None], vec![None]);
    if let Some(stated) = &spec.memory {
        memory.push(Some(AcceleratorChange::Memory(None)));
        if quantity::to_u64(stated).ok().is_none_or(|bytes| bytes == 0) {
            memory.push(Some(AcceleratorChange::Memory(Some(EXAMPLE_MEMORY.to_owned()))));
        }
        let one = |product: &String| Some(AcceleratorChange::Products(vec![product.clone()]));
        products.extend(spec.products.iter().filter(|_| spec.products.len() > 1).map(one));
    }
    if spec.resource_name.is_some() {
        let rows: BTreeSet<&str> =
            spec.products.iter().filter_map(|product| Some(products::find(product)?.resource_name)).collect();
        resource_name.extend(rows.into_iter().map(|name| Some(AcceleratorChange::ResourceName(name.to_owned()))));
    }
    let mut all = Vec::new();
    for memory in &memory {
        for products in &products {
            all.extend(resource_name.iter().map(|name| [memory, products, name].into_iter().flatten().cloned().collect()));
        }
    }
    all
}

/// Why the search found nothing.
fn nothing(spec: &AcceleratorSpec, targets: &[Target<'_>], fixes: &[(Fix, Vec<AcceleratorChange>)]) -> Refusal {
    let unknown = !spec.products.is_empty() && !targets.iter().any(|target| target.is_named(spec));
    if unknown {
        let one = if spec.products.len() > 1 { "name one, and " } else { "" };
        let message = format!(
            "{} is offered by no node and no accelerator profile, and is not in the built-in table: {one}set accelerator.memory and \
             accelerator.gpusPerNode beside it",
            spec.products.join(", "),
        );
        return Refusal::new(reasons::NO_ACCELERATOR_MATCHES, message);
    }
    if !targets.is_empty() {
        let fields: Vec<String> = fixes.iter().take(1).flat_map(|(_, changes)| changes).map(|change| change.field(spec)).collect();
        let (fields, ask) = match fields.len() {
            0 => ("spec.vllm.accelerator".to_owned(), "asks"),
            1 => (fields.join(""), "asks"),
            _ => (fields.join(" and "), "ask"),
        };
        let message = format!("no node and no accelerator profile has what {fields} {ask} for");
        return Refusal::new(reasons::NO_ACCELERATOR_MATCHES, message);
    }
    let resource_name = spec.resource_name.as_deref().unwrap_or(DEFAULT_RESOURCE);
    let describe = match products::are_offered_as(resource_name) {
        true => {
            "name one in spec.vllm.accelerator.products (with memory and gpusPerNode if it is not in the built-in table)".to_owned()
        }
        false => format!("describe those of {resource_name} by spec.vllm.accelerator.memory and gpusPerNode"),
    };
    Refusal::new(
        reasons::NO_ACCELERATOR_KNOWN,
        format!(
            "no node offers an accelerator, and none is described: {describe}, or add an accelerator profile to the operator's \
             configuration, or add a node whose device plugin offers {resource_name}"
        ),
    )
}

/// The taints that keep pods off nodes that the selector selects, for a message.
fn kept_off(spec: &AcceleratorSpec, targets: &[Target<'_>]) -> String {
    let selected = |target: &&Target<'_>| matches!(target.from, From::Node(node) if selects(spec, node));
    let taints: BTreeSet<String> =
        targets.iter().filter(selected).flat_map(|target| target.blocking(spec)).map(taints::described).collect();
    if taints.is_empty() {
        return String::new();
    }
    format!(
        "; nodes with accelerators carry the taint {}, which accelerator.tolerations does not tolerate",
        taints.into_iter().collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
#[path = "fixes_tests.rs"]
mod tests;
