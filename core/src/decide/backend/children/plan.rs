//! What the children of a self-hosted backend are made from.

use std::collections::BTreeMap;

use crate::api::InferenceBackend;
use crate::api::status::SizingStatus;
use crate::api::vllm::VllmSpec;
use crate::decide::backend::facts::Settings;

/// Everything that the children of one backend depend on. Equal plans make equal children.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Name of the backend.
    pub name: &'a str,
    /// Namespace of the backend and of its children.
    pub namespace: &'a str,
    /// Uid of the backend, for the owner references.
    pub uid: &'a str,
    /// The backend itself.
    pub backend: &'a InferenceBackend,
    /// `spec.vllm` of the backend.
    pub vllm: &'a VllmSpec,
    /// What was chosen.
    pub sizing: &'a SizingStatus,
    /// Where the pods may run.
    pub placement: Placement,
    /// Replicas that are wanted.
    pub replicas: u32,
    /// Replicas that a rollout may take away before new ones answer, as [`crate::decide::backend::rollout`] says. 0: none,
    /// and the new pod starts first.
    pub max_unavailable: u32,
    /// The image of the container.
    pub image: &'a str,
    /// The operator's configuration.
    pub settings: &'a Settings,
}

/// Where the pods may run, as the choice of an accelerator says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The extended resource that the pods ask for, for example `nvidia.com/gpu`.
    pub resource_name: String,
    /// Labels of which a node must carry one of the values each.
    pub affinity: Vec<(String, Vec<String>)>,
    /// Labels that a node must carry exactly.
    pub node_selector: BTreeMap<String, String>,
    /// Keys of taints that the pods tolerate beside the one named like the resource.
    pub tolerate_keys: Vec<String>,
}
