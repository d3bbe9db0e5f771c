//! Which accelerators a model server can run on, and how its pods find them.

mod affinity;
pub mod candidates;
mod fixes;
mod labels;
pub mod products;
mod taints;

use serde::{Deserialize, Serialize};

pub(super) use affinity::matches;
pub use candidates::candidates;
pub(super) use candidates::found;
pub use fixes::AcceleratorChange;
pub(super) use labels::is_accelerator;

/// Accelerators of one kind that pods of a model server can get, and what placement needs to get them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Accelerator {
    /// The extended resource that the pods ask for.
    pub resource_name: String,
    /// The product, as the node label or the table of products names it, without the `-SHARED` of a shared card. Absent:
    /// the nodes do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Memory of one accelerator in bytes, as a process on it sees it. Absent: nobody says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Accelerators of one node. At least 1.
    pub gpus_per_node: u32,
    /// Nodes of the cluster that have it, cordoned ones included. 0: nodes that are still to come.
    pub nodes: u32,
    /// How many of the nodes take no new pod at present.
    pub cordoned_nodes: u32,
    /// Pods that share one card (time slicing or MPS). 1: a card is one pod's own.
    pub pods_per_card: u32,
    /// It is a part of a card (MIG).
    pub mig: bool,
    /// The CUDA compute capability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<ComputeCapability>,
    /// Where it was learnt of.
    pub origin: Origin,
    /// Node labels that select it, all of which must hold, in addition to `spec.accelerator.nodeSelector`.
    pub node_affinity: Vec<LabelRequirement>,
    /// Keys of taints to tolerate with operator Exists, in addition to `spec.accelerator.tolerations`.
    pub tolerated_taints: Vec<String>,
    /// Place in `spec.accelerator.products`, from 0. Absent: the spec names no products.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference: Option<usize>,
}

impl Accelerator {
    /// Whether several pods share one card, so that two accelerators of a pod may be one and the same card.
    pub fn shared(&self) -> bool {
        self.pods_per_card > 1
    }

    /// Whether a process must not be spread over several of these: they are shared cards or parts of a card.
    pub fn single(&self) -> bool {
        self.shared() || self.mig
    }

    /// The product, or the resource where the product is not known, for messages.
    pub fn name(&self) -> &str {
        self.product.as_deref().unwrap_or(&self.resource_name)
    }
}

/// The CUDA compute capability of a product. Ordered: 8.9 is less than 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ComputeCapability {
    /// The number before the point.
    pub major: u32,
    /// The number after the point.
    pub minor: u32,
}

impl std::fmt::Display for ComputeCapability {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// Where an accelerator was learnt of. Ordered by how much it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Origin {
    /// Nodes of the cluster have it.
    Nodes,
    /// The operator's configuration says that nodes can get it.
    Profile,
    /// `spec.accelerator` describes it.
    Spec,
    /// `spec.accelerator.products` names it, and the built-in table knows it.
    Table,
}

/// A demand on one label of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelRequirement {
    /// The label.
    pub key: String,
    /// Whether the label must, or must not, have one of the values. NotIn also holds where the label is absent.
    pub operator: LabelOperator,
    /// The values. Never empty.
    pub values: Vec<String>,
}

/// The operators of node affinity that are used, spelt as Kubernetes spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is absent.
    NotIn,
}

impl LabelOperator {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::In => "In",
            Self::NotIn => "NotIn",
        }
    }
}
