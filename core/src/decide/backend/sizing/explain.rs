//! What was tried, what was chosen and why.

use serde::Serialize;

use super::{Refusal, Request, Sizing};
use crate::api::conditions::reasons;
use crate::decide::backend::accelerator::Accelerator;

/// What was tried, what was chosen and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The accelerators to choose from.
    pub accelerators: Vec<Accelerator>,
    /// What was tried, in order.
    pub candidates: Vec<Candidate>,
    /// The choice, or why there is none.
    pub outcome: Result<Sizing, Refusal>,
    /// The arithmetic of the choice, one step a line.
    pub arithmetic: Vec<String>,
}

/// One combination that was tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Name of the accelerator.
    pub accelerator: String,
    /// Accelerators that share every layer.
    pub tensor: u32,
    /// Groups of accelerators that hold successive layers.
    pub pipeline: u32,
    /// Copies of the model within one pod.
    pub data: u32,
    /// Whether it could be used.
    pub fits: bool,
    /// The numbers, or why not.
    pub outcome: String,
}

/// Sizes a model and tells how.
pub fn explain(request: &Request<'_>) -> Explanation {
    let _ = request;
    Explanation {
        accelerators: vec![],
        candidates: vec![],
        outcome: Err(Refusal::new(reasons::MODEL_UNKNOWN, "")),
        arithmetic: vec![],
    }
}

/// Sizes a model: the outcome of [`explain`].
pub fn size(request: &Request<'_>) -> Result<Sizing, Refusal> {
    explain(request).outcome
}
