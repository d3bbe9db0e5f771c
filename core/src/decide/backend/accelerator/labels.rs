//! What a node's labels and allocatable resources say about its accelerators.

use std::collections::BTreeMap;

use super::ComputeCapability;
use super::products::{self, usable_bytes};
use crate::decide::backend::facts::NodeFacts;

/// GKE's label for the product.
pub(super) const GKE_PRODUCT: &str = "cloud.google.com/gke-accelerator";
/// GKE's label for the part of a card that a pod gets.
pub(super) const GKE_PARTITION: &str = "cloud.google.com/gke-gpu-partition-size";
/// Karpenter's label for the product.
pub(super) const KARPENTER_PRODUCT: &str = "karpenter.k8s.aws/instance-gpu-name";
/// Karpenter's label for the memory of one accelerator in MiB.
pub(super) const KARPENTER_MEMORY: &str = "karpenter.k8s.aws/instance-gpu-memory";
/// The label of AMD's node labeller for the product.
pub(super) const AMD_PRODUCT: &str = "amd.com/gpu.product-name";
/// The label of AMD's node labeller for the memory, for example 192G.
const AMD_MEMORY: &str = "amd.com/gpu.vram";
/// GKE's label for how pods share a card.
pub(super) const GKE_SHARING: &str = "cloud.google.com/gke-gpu-sharing-strategy";
/// GKE's label for how many pods share a card.
pub(super) const GKE_SHARING_CLIENTS: &str = "cloud.google.com/gke-max-shared-clients-per-gpu";

/// Extended resources that are accelerators without being named: whole cards of the vendors vLLM runs on.
const WHOLE_CARDS: &[&str] = &["nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/xe", "gpu.intel.com/i915", "habana.ai/gaudi"];

/// Accelerators of one resource that one node offers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Offer {
    /// The extended resource.
    pub resource_name: String,
    /// The product.
    pub product: Option<String>,
    /// Memory of one, in bytes, as a process finds it.
    pub memory_bytes: Option<u64>,
    /// Pods that share a card. 1: none.
    pub pods_per_card: u32,
    /// Parts of a card.
    pub mig: bool,
    /// The CUDA compute capability.
    pub compute_capability: Option<ComputeCapability>,
    /// How many the node has.
    pub count: u32,
}

impl Offer {
    /// Whether a pod of the one could as well run on the other.
    pub(super) fn same_kind(&self, other: &Self) -> bool {
        let same_product = match (&self.product, &other.product) {
            (Some(one), Some(other)) => products::same_product(one, other),
            (one, other) => one == other,
        };
        same_product
            && self.memory_bytes == other.memory_bytes
            && self.pods_per_card == other.pods_per_card
            && self.mig == other.mig
    }
}

/// Whether a resource is an accelerator that may be chosen although the spec does not name it.
pub(in crate::decide::backend) fn is_accelerator(resource_name: &str) -> bool {
    WHOLE_CARDS.contains(&resource_name) || resource_name.starts_with("nvidia.com/mig-")
}

/// The prefix of the discovery labels of a resource: those of MIG devices under the strategy `mixed` have their own.
pub(super) fn label_prefix(resource_name: &str) -> &str {
    if resource_name.starts_with("nvidia.com/mig-") { resource_name } else { "nvidia.com/gpu" }
}

/// How many of a resource the discovery found on a node, those that have broken since included.
pub(super) fn discovered_count(node: &NodeFacts, resource_name: &str) -> Option<u32> {
    node.labels.get(&format!("{}.count", label_prefix(resource_name))).and_then(|count| count.parse().ok())
}

/// What a node offers of a resource. None: nothing at present.
pub(super) fn offer(node: &NodeFacts, resource_name: &str) -> Option<Offer> {
    let count = node.allocatable.get(resource_name).copied().filter(|count| *count > 0)?;
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let labels = &node.labels;
    let nvidia = resource_name.starts_with("nvidia.com/");
    let prefix = label_prefix(resource_name);
    let label = |suffix: &str| labels.get(&format!("{prefix}.{suffix}")).map(String::as_str).filter(|_| nvidia);

    let discovered = label("product").map(|product| product.strip_suffix("-SHARED").unwrap_or(product));
    let gke = labels.get(GKE_PRODUCT).map(String::as_str);
    let karpenter_memory = number(labels, KARPENTER_MEMORY);
    let karpenter = labels.get(KARPENTER_PRODUCT).map(String::as_str);
    let from_karpenter = karpenter.and_then(|name| products::find_karpenter(name, karpenter_memory));
    let product = discovered
        .or_else(|| labels.get(AMD_PRODUCT).map(String::as_str).filter(|_| !nvidia))
        .or(gke.filter(|_| nvidia))
        .or_else(|| from_karpenter.map(|product| product.name))
        .or(karpenter)
        .map(str::to_owned);

    let partition = labels.get(GKE_PARTITION).map(String::as_str);
    let mig = resource_name.starts_with("nvidia.com/mig-")
        || discovered.is_some_and(|product| product.contains("-MIG-"))
        || partition.is_some();
    let profile = resource_name.strip_prefix("nvidia.com/mig-").or(partition);
    let row = product.as_deref().and_then(products::find);
    let stated = label("memory").and_then(|text| text.parse().ok());
    let memory_bytes = if mig {
        stated.or_else(|| profile.and_then(mig_profile_mib)).map(usable_bytes)
    } else {
        let vram = || labels.get(AMD_MEMORY).filter(|_| !nvidia).and_then(|text| gigabytes_as_mib(text));
        stated.or_else(|| row.map(|row| row.memory_mib)).or_else(vram).or(karpenter_memory).map(usable_bytes)
    };

    let replicas = label("replicas").and_then(|text| text.parse::<u32>().ok());
    let strategy = label("sharing-strategy").or(labels.get(GKE_SHARING).map(String::as_str));
    let shared = label("product").is_some_and(|product| product.ends_with("-SHARED"))
        || strategy.is_some_and(|strategy| !matches!(strategy, "none" | ""))
        || resource_name.ends_with(".shared")
        || replicas.is_some_and(|replicas| replicas > 1);
    let clients = replicas.or_else(|| number(labels, GKE_SHARING_CLIENTS).and_then(|clients| u32::try_from(clients).ok()));
    // A shared card whose labels do not say by how many is taken as one shared by two: what matters is that it is shared.
    let pods_per_card = if shared { clients.unwrap_or(2).max(2) } else { 1 };

    let capability =
        label("compute.major").and_then(|text| text.parse().ok()).zip(label("compute.minor").and_then(|text| text.parse().ok()));
    Some(Offer {
        resource_name: resource_name.to_owned(),
        product,
        memory_bytes,
        pods_per_card,
        mig,
        compute_capability: capability
            .map(|(major, minor)| ComputeCapability { major, minor })
            .or_else(|| row.and_then(products::Product::compute_capability)),
        count,
    })
}

/// The number that a label holds.
fn number(labels: &BTreeMap<String, String>, key: &str) -> Option<u64> {
    labels.get(key).and_then(|text| text.parse().ok())
}

/// Memory of a MIG profile such as `1g.10gb`, in MiB.
fn mig_profile_mib(profile: &str) -> Option<u64> {
    let (_, memory) = profile.split_once("g.")?;
    let digits = memory.split_once("gb")?.0;
    Some(digits.parse::<u64>().ok()?.saturating_mul(1024))
}

/// A label such as `192G`, in MiB.
fn gigabytes_as_mib(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    Some(digits.parse::<u64>().ok()?.saturating_mul(1024))
}
