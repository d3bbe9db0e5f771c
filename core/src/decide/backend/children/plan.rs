//! What the children of a self-hosted backend are made from.

use serde::{Deserialize, Serialize};

use crate::api::vllm::VllmSpec;
use crate::decide::backend::accelerator::LabelRequirement;
use crate::decide::backend::choice::Choice;
use crate::decide::backend::engine::Engine;
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
    /// `spec.vllm` of the backend.
    pub vllm: &'a VllmSpec,
    /// What was chosen.
    pub choice: &'a Choice,
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

impl super::Subject for Plan<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn namespace(&self) -> &str {
        self.namespace
    }

    fn uid(&self) -> &str {
        self.uid
    }

    fn replicas(&self) -> u32 {
        self.replicas
    }

    fn engine(&self) -> Engine {
        Engine::Vllm
    }

    fn settings(&self) -> &Settings {
        self.settings
    }
}

/// Where the pods may run, as the choice of an accelerator says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// The extended resource that the pods ask for, for example `nvidia.com/gpu`.
    pub resource_name: String,
    /// What the labels of a node must say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affinity: Vec<LabelRequirement>,
    /// Keys of taints that the pods tolerate beside the one named like the resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerate_keys: Vec<String>,
}
