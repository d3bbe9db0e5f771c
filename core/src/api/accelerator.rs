//! Which accelerators a model server runs on.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Which accelerators the model server runs on. Every field is optional: what is absent is chosen from the accelerators
/// that the cluster's nodes offer, then from the operator's accelerator profiles.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.memory) || !has(self.products) || size(self.products) <= 1").message("accelerator.memory describes one product: name at most one in accelerator.products, or remove memory").field_path(".memory"))]
pub struct AcceleratorSpec {
    /// The extended resource to ask for. Default: nvidia.com/gpu, or the only accelerator resource that the nodes offer.
    /// Also nvidia.com/mig-1g.10gb, amd.com/gpu, gpu.intel.com/xe, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 3, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub resource_name: Option<String>,
    /// Products to choose from, in order of preference, as the node label nvidia.com/gpu.product names them, for example
    /// NVIDIA-H100-80GB-HBM3. Default: every product that the cluster has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub products: Vec<String>,
    /// Memory of one accelerator, for a product that neither a node nor the built-in table knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Accelerators that one node has, for clusters whose nodes come only when a pod asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub gpus_per_node: Option<u32>,
    /// Labels that a node must carry, in addition to what the choice of product demands.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate, in addition to the taint of the accelerator resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tolerations: Vec<Toleration>,
    /// Name of the RuntimeClass, where the accelerator's runtime is not the node's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
}
