//! Fake nodes with GPUs, which the real scheduler places pods on and kwok plays the kubelet of.
//!
//! Labels are those of NVIDIA's GPU feature discovery (k8s-device-plugin, `internal/lm/resource.go` and
//! `mig-strategy.go`): `count` counts physical GPUs, also those that are cut into MIG devices; with the strategy
//! `single` the labels of the whole GPU are overwritten with those of its MIG devices; a shared GPU's product ends in
//! `-SHARED` and `replicas` says how many pods share it. `memory` is in MiB.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{ListParams, PostParams};
use tokio::time::{Instant, sleep};

use crate::PATIENCE;
use crate::configuration::KWOK_NODE_LABEL;
use crate::control_plane::Connection;
use crate::error::{Error, Result};

/// The annotation by which kwok's users mark fake nodes.
const KWOK_NODE_ANNOTATION: &str = "kwok.x-k8s.io/node";
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// One fake node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeNode {
    /// Name of the node.
    pub name: String,
    /// CPUs, as a quantity.
    pub cpu: &'static str,
    /// Memory, as a quantity.
    pub memory: &'static str,
    /// Labels beside those that every fake node has.
    pub labels: BTreeMap<String, String>,
    /// Extended resources and how many of each pods can ask for.
    pub accelerators: BTreeMap<String, u32>,
}

/// A model of GPU, as GPU feature discovery labels it.
struct Gpu {
    product: &'static str,
    memory_mebibytes: u32,
    family: &'static str,
    compute: (u8, u8),
}

const H100: Gpu = Gpu { product: "NVIDIA-H100-80GB-HBM3", memory_mebibytes: 81_559, family: "hopper", compute: (9, 0) };
const A100: Gpu = Gpu { product: "NVIDIA-A100-SXM4-80GB", memory_mebibytes: 81_920, family: "ampere", compute: (8, 0) };
const L4: Gpu = Gpu { product: "NVIDIA-L4", memory_mebibytes: 23_034, family: "ampere", compute: (8, 9) };
/// What the local node pretends to have: as an H100, save for the name.
const LOCAL: Gpu = Gpu { product: "NVIDIA-Local", memory_mebibytes: 81_559, family: "hopper", compute: (9, 0) };
/// How many of them.
pub(crate) const LOCAL_GPUS: u32 = 64;
const T4: Gpu = Gpu { product: "Tesla-T4", memory_mebibytes: 15_360, family: "turing", compute: (7, 5) };

/// A 1g.10gb device of an A100 with 80 GB: a seventh of its processors, an eighth of its memory.
const MIG_PROFILE: &str = "1g.10gb";
const MIG_MEMORY_MEBIBYTES: u32 = 9_728;
const MIG_MULTIPROCESSORS: u32 = 14;
const MIG_DEVICES_PER_GPU: u32 = 7;

/// The fleet of tests and demonstrations, one of everything that decides differently:
///
/// | node | accelerators |
/// |---|---|
/// | `h100-0`, `h100-1` | 8 H100 with 80 GB each |
/// | `l4-0` | 4 L4 |
/// | `l4-1` | 1 L4 |
/// | `a100-mig-single` | 8 A100 cut into 56 devices of 1g.10gb, offered as `nvidia.com/gpu` |
/// | `a100-mig-mixed` | 8 A100, of which 2 are cut into 14 devices of 1g.10gb with a resource name of their own |
/// | `t4-shared` | 1 T4, time-sliced among 4 pods |
/// | `cpu-0` | none |
pub fn fleet() -> Vec<FakeNode> {
    vec![
        whole_gpus("h100-0", "192", "2000Gi", &H100, 8),
        whole_gpus("h100-1", "192", "2000Gi", &H100, 8),
        whole_gpus("l4-0", "48", "192Gi", &L4, 4),
        whole_gpus("l4-1", "16", "64Gi", &L4, 1),
        mig_single("a100-mig-single", 8),
        mig_mixed("a100-mig-mixed", 6, 2),
        time_sliced("t4-shared", 1, 4),
        FakeNode { name: "cpu-0".to_owned(), cpu: "64", memory: "256Gi", labels: BTreeMap::new(), accelerators: BTreeMap::new() },
    ]
}

/// Creates nodes as administrator, and waits until all are ready.
///
/// # Errors
///
/// When a node is refused, exists already, or is not ready within 60 s.
pub async fn create(connection: &Connection, nodes: &[FakeNode]) -> Result<()> {
    let api = Api::<Node>::all(connection.client().await?);
    for node in nodes {
        api.create(&PostParams::default(), &manifest(node)).await.map_err(Error::api(format!("create the node {}", node.name)))?;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let present = api.list(&ListParams::default()).await.map_err(Error::api("list the nodes"))?;
        let waiting: Vec<&str> = nodes
            .iter()
            .map(|node| node.name.as_str())
            .filter(|name| !present.iter().any(|node| node.metadata.name.as_deref() == Some(name) && is_ready(node)))
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::Wait {
                what: "the nodes".to_owned(),
                seconds: PATIENCE.as_secs(),
                last: format!("not ready: {}", waiting.join(", ")),
            });
        }
        sleep(LOOK_AGAIN_AFTER).await;
    }
}

/// The Node object of a fake node. Nodes with accelerators are tainted, as cloud providers do it.
pub fn manifest(node: &FakeNode) -> Node {
    let mut labels = node.labels.clone();
    let mut label = |key: &str, value: &str| labels.insert(key.to_owned(), value.to_owned());
    label(KWOK_NODE_LABEL.0, KWOK_NODE_LABEL.1);
    label("kubernetes.io/hostname", &node.name);
    label("kubernetes.io/os", "linux");
    label("kubernetes.io/arch", "amd64");

    let mut resources: BTreeMap<String, Quantity> =
        node.accelerators.iter().map(|(name, count)| (name.clone(), Quantity(count.to_string()))).collect();
    for (name, quantity) in [("cpu", node.cpu), ("memory", node.memory), ("pods", "110"), ("ephemeral-storage", "1Ti")] {
        resources.insert(name.to_owned(), Quantity(quantity.to_owned()));
    }
    let taint = Taint {
        key: "nvidia.com/gpu".to_owned(),
        value: Some("present".to_owned()),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    Node {
        metadata: ObjectMeta {
            name: Some(node.name.clone()),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(KWOK_NODE_ANNOTATION.to_owned(), "fake".to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints: (!node.accelerators.is_empty()).then(|| vec![taint]), ..NodeSpec::default() }),
        status: Some(NodeStatus { capacity: Some(resources.clone()), allocatable: Some(resources), ..NodeStatus::default() }),
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The labels of the local node's GPUs.
pub(crate) fn local_gpu_labels() -> BTreeMap<String, String> {
    gpu_labels(&LOCAL, LOCAL_GPUS)
}

fn whole_gpus(name: &str, cpu: &'static str, memory: &'static str, gpu: &Gpu, count: u32) -> FakeNode {
    FakeNode {
        name: name.to_owned(),
        cpu,
        memory,
        labels: gpu_labels(gpu, count),
        accelerators: BTreeMap::from([("nvidia.com/gpu".to_owned(), count)]),
    }
}

fn mig_single(name: &str, gpus: u32) -> FakeNode {
    let devices = gpus * MIG_DEVICES_PER_GPU;
    let mut node = whole_gpus(name, "128", "1000Gi", &A100, devices);
    node.labels.insert("nvidia.com/mig.strategy".to_owned(), "single".to_owned());
    node.labels.extend(mig_labels("nvidia.com/gpu", devices));
    node
}

fn mig_mixed(name: &str, whole: u32, cut: u32) -> FakeNode {
    let resource = format!("nvidia.com/mig-{MIG_PROFILE}");
    let devices = cut * MIG_DEVICES_PER_GPU;
    let mut node = whole_gpus(name, "128", "1000Gi", &A100, whole + cut);
    node.labels.insert("nvidia.com/mig.strategy".to_owned(), "mixed".to_owned());
    node.labels.extend(mig_labels(&resource, devices));
    // The label counts all GPUs, but only the whole ones can be asked for.
    node.accelerators = BTreeMap::from([("nvidia.com/gpu".to_owned(), whole), (resource, devices)]);
    node
}

fn time_sliced(name: &str, gpus: u32, replicas: u32) -> FakeNode {
    let mut node = whole_gpus(name, "16", "64Gi", &T4, gpus);
    for (key, value) in [
        ("product", format!("{}-SHARED", T4.product)),
        ("replicas", replicas.to_string()),
        ("sharing-strategy", "time-slicing".to_owned()),
    ] {
        node.labels.insert(format!("nvidia.com/gpu.{key}"), value);
    }
    node.accelerators = BTreeMap::from([("nvidia.com/gpu".to_owned(), gpus * replicas)]);
    node
}

fn gpu_labels(gpu: &Gpu, count: u32) -> BTreeMap<String, String> {
    let of_gpu = [
        ("product", gpu.product.to_owned()),
        ("count", count.to_string()),
        ("memory", gpu.memory_mebibytes.to_string()),
        ("family", gpu.family.to_owned()),
        ("compute.major", gpu.compute.0.to_string()),
        ("compute.minor", gpu.compute.1.to_string()),
        ("replicas", "1".to_owned()),
        ("sharing-strategy", "none".to_owned()),
        ("mode", "compute".to_owned()),
        ("present", "true".to_owned()),
    ];
    let mut labels: BTreeMap<String, String> =
        of_gpu.into_iter().map(|(key, value)| (format!("nvidia.com/gpu.{key}"), value)).collect();
    labels.insert("nvidia.com/mig.capable".to_owned(), (gpu.compute == (8, 0) || gpu.compute.0 >= 9).to_string());
    for (key, value) in [("full", "580.95.05"), ("major", "580"), ("minor", "95"), ("revision", "05")] {
        labels.insert(format!("nvidia.com/cuda.driver-version.{key}"), value.to_owned());
    }
    for (key, value) in [("full", "13.0"), ("major", "13"), ("minor", "0")] {
        labels.insert(format!("nvidia.com/cuda.runtime-version.{key}"), value.to_owned());
    }
    labels
}

fn mig_labels(resource: &str, devices: u32) -> BTreeMap<String, String> {
    [
        ("product", format!("{}-MIG-{MIG_PROFILE}", A100.product)),
        ("count", devices.to_string()),
        ("replicas", "1".to_owned()),
        ("memory", MIG_MEMORY_MEBIBYTES.to_string()),
        ("multiprocessors", MIG_MULTIPROCESSORS.to_string()),
        ("slices.gi", "1".to_owned()),
        ("slices.ci", "1".to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (format!("{resource}.{key}"), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> FakeNode {
        fleet().into_iter().find(|node| node.name == name).unwrap()
    }

    fn label(node: &FakeNode, key: &str) -> String {
        node.labels.get(key).cloned().unwrap()
    }

    #[test]
    fn mig_single_overwrites_the_labels_of_the_whole_gpu() {
        let node = node("a100-mig-single");
        assert_eq!(label(&node, "nvidia.com/gpu.product"), "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb");
        assert_eq!(label(&node, "nvidia.com/gpu.count"), "56");
        assert_eq!(label(&node, "nvidia.com/gpu.memory"), "9728");
        assert_eq!(node.accelerators, BTreeMap::from([("nvidia.com/gpu".to_owned(), 56)]));
    }

    #[test]
    fn mig_mixed_offers_fewer_whole_gpus_than_its_label_counts() {
        let node = node("a100-mig-mixed");
        assert_eq!(label(&node, "nvidia.com/gpu.product"), "NVIDIA-A100-SXM4-80GB");
        assert_eq!(label(&node, "nvidia.com/gpu.count"), "8");
        assert_eq!(label(&node, "nvidia.com/mig-1g.10gb.count"), "14");
        assert_eq!(node.accelerators.get("nvidia.com/gpu"), Some(&6));
        assert_eq!(node.accelerators.get("nvidia.com/mig-1g.10gb"), Some(&14));
    }

    #[test]
    fn a_shared_gpu_counts_once_and_is_offered_several_times() {
        let node = node("t4-shared");
        assert_eq!(label(&node, "nvidia.com/gpu.product"), "Tesla-T4-SHARED");
        assert_eq!(label(&node, "nvidia.com/gpu.count"), "1");
        assert_eq!(label(&node, "nvidia.com/gpu.replicas"), "4");
        assert_eq!(node.accelerators.get("nvidia.com/gpu"), Some(&4));
    }

    #[test]
    fn labels_are_legal_label_values() {
        for (key, value) in fleet().iter().flat_map(|node| manifest(node).metadata.labels.unwrap()) {
            let legal = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            assert!(value.len() <= 63 && legal(&value), "{key}={value}");
        }
    }

    #[test]
    fn only_nodes_with_accelerators_are_tainted() {
        for fake in fleet() {
            let tainted = manifest(&fake).spec.unwrap().taints.is_some();
            assert_eq!(tainted, !fake.accelerators.is_empty(), "{}", fake.name);
        }
    }
}
