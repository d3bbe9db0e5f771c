//! From nodes, profiles and the spec to the accelerators that a model server can run on.

use super::Accelerator;
use crate::api::accelerator::AcceleratorSpec;
use crate::api::conditions::reasons;
use crate::api::configuration::AcceleratorProfile;
use crate::decide::backend::facts::NodeFacts;
use crate::decide::backend::sizing::Refusal;

/// The accelerators that the pods can get. Never empty.
pub fn candidates(
    spec: Option<&AcceleratorSpec>,
    nodes: &[NodeFacts],
    profiles: &[AcceleratorProfile],
) -> Result<Vec<Accelerator>, Refusal> {
    let _ = (spec, nodes, profiles);
    Err(Refusal::new(reasons::NO_ACCELERATOR_KNOWN, ""))
}
