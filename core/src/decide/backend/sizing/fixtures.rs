//! Accelerators and models that the tests of sizing share.

use crate::api::architecture::ModelArchitecture;
use crate::api::vllm::VllmSpec;
use crate::decide::backend::accelerator::products::{find, usable_bytes};
use crate::decide::backend::accelerator::{Accelerator, Origin};
use crate::decide::backend::model::catalogue;

/// Nodes of the cluster with `gpus_per_node` of a product of the table.
pub(super) fn nodes_with(product: &str, gpus_per_node: u32) -> Accelerator {
    let row = find(product).unwrap();
    Accelerator {
        resource_name: row.resource_name.to_owned(),
        product: Some(row.name.to_owned()),
        memory_bytes: Some(usable_bytes(row.memory_mib)),
        gpus_per_node,
        nodes: 2,
        cordoned_nodes: 0,
        pods_per_card: 1,
        mig: false,
        compute_capability: row.compute_capability(),
        origin: Origin::Nodes,
        node_affinity: Vec::new(),
        tolerated_taints: vec![row.resource_name.to_owned()],
        preference: None,
    }
}

pub(super) fn h100(gpus_per_node: u32) -> Accelerator {
    nodes_with("NVIDIA-H100-80GB-HBM3", gpus_per_node)
}

pub(super) fn l4(gpus_per_node: u32) -> Accelerator {
    nodes_with("NVIDIA-L4", gpus_per_node)
}

/// A row of the catalogue.
pub(super) fn catalogued(id: &str) -> ModelArchitecture {
    catalogue::find(id).unwrap_or_else(|| panic!("{id} is not in the catalogue")).architecture.clone()
}

pub(super) fn architecture(yaml: &str) -> ModelArchitecture {
    serde_saphyr::from_str(yaml).unwrap()
}

pub(super) fn spec(yaml: &str) -> VllmSpec {
    serde_saphyr::from_str(yaml).unwrap()
}
