//! What was decided about a backend, before it is written as a status.

use std::time::Duration;

use crate::api::conditions::reasons;
use crate::api::status::InferenceBackendStatus;
use crate::decide::conditions::Verdict;
use crate::decide::decision::Children;
use crate::decide::readiness::Readiness;

/// What was decided about a backend, before it is written as conditions.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The children that should exist.
    pub children: Children,
    /// The status without conditions and generation.
    pub status: InferenceBackendStatus,
    /// Whether the backend does what it is for.
    pub ready: Readiness,
    /// The conditions of this kind: Sized, Available, ModelLoaded, UpdateAvailable.
    pub verdicts: Vec<Verdict>,
    /// When to look again.
    pub next: Option<Duration>,
}

impl Outcome {
    /// A backend with no member of the union, which the schema refuses.
    pub fn none() -> Self {
        let message = "exactly one of spec.vllm, spec.ollama, spec.external must be set";
        Self::keep(Readiness::stalled(reasons::INVALID_SPEC, message), InferenceBackendStatus::default())
    }

    /// What exists stays as it is.
    pub fn keep(ready: Readiness, status: InferenceBackendStatus) -> Self {
        Self { children: Children::Keep, status, ready, verdicts: Vec::new(), next: None }
    }
}
