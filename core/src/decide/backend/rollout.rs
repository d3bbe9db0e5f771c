//! How a new version of the pods replaces the old one when accelerators are scarce.

use std::time::Duration;

use jiff::Timestamp;

use super::facts::{DeploymentFacts, PodFacts};
use crate::api::vllm::RolloutType;

/// How a rollout proceeds from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// An old pod ends before a new one starts.
    pub in_place: bool,
    /// When to look again, if nothing wakes us before.
    pub next: Option<Duration>,
    /// Why, in a sentence without times.
    pub why: String,
}

/// How a rollout proceeds from here.
pub fn decide(rollout_type: RolloutType, deployment: Option<&DeploymentFacts>, pods: &[PodFacts], now: Timestamp) -> Rollout {
    let _ = (deployment, pods, now);
    Rollout { in_place: rollout_type == RolloutType::InPlace, next: None, why: String::new() }
}
