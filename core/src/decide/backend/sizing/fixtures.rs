//! Accelerators and models that the tests of sizing share.

use super::fixes::to_come;
use crate::api::architecture::ModelArchitecture;
use crate::api::vllm::VllmSpec;
use crate::decide::backend::accelerator::products::find;
use crate::decide::backend::accelerator::{Accelerator, Origin};
use crate::decide::backend::model::catalogue;

/// Nodes of the cluster with `gpus_per_node` of a product of the table.
pub(super) fn nodes_with(product: &str, gpus_per_node: u32) -> Accelerator {
    let row = find(product).unwrap();
    Accelerator { nodes: 2, origin: Origin::Nodes, preference: None, ..to_come(row, gpus_per_node) }
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
