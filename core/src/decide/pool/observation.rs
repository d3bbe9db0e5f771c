//! What a decision about a pool may look at.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::budgets::BudgetFacts;
use super::caller::CallerSecret;
use super::facts::QueueFacts;
use super::scaling::history::History;
use super::scaling::share::Taker;
use super::scaling::victims::Agent;
use crate::api::AgentPool;
use crate::decide::backend::facts::{DeploymentFacts, PodFacts};
use crate::decide::decision::Refusal;

/// Everything that a decision about a pool may look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observation {
    /// When this was observed; only in a recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Timestamp>,
    /// The pool.
    pub pool: AgentPool,
    /// What is known about its queues, in the order of the spec.
    #[serde(default)]
    pub queues: Vec<QueueFacts>,
    /// The other pools that take from a queue, by the queue's name in this pool's spec.
    #[serde(default)]
    pub takers: BTreeMap<String, Vec<Taker>>,
    /// What the budgets that cover the pool say of it, by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<BudgetFacts>,
    /// What the pool wanted and what was done.
    #[serde(default)]
    pub history: History,
    /// What runs the agents.
    pub workload: Workload,
    /// Label selector of the target's pods; absent without a target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_selector: Option<String>,
    /// The agents that are there and not ending.
    #[serde(default)]
    pub agents: Vec<Agent>,
    /// The pods of the pool, as far as they tell what keeps them from running.
    #[serde(default)]
    pub pods: Vec<PodFacts>,
    /// Names of pods whose deletion was made cheap.
    #[serde(default)]
    pub cheap: Vec<String>,
    /// What the annotations of the Secret with its key say, if it exists and is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_secret: Option<CallerSecret>,
    /// Random bytes for a new key, in hexadecimal. Never recorded.
    #[serde(default, skip)]
    pub entropy: String,
    /// Children that could not be applied.
    #[serde(default)]
    pub refusals: Vec<Refusal>,
    /// Fields that the served schema lacks.
    #[serde(default)]
    pub outdated_schema: Arc<Vec<String>>,
}

/// What runs the agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Workload {
    /// There is none, or none yet: the pool's own Deployment is to be made, or neither template nor targetRef is set.
    None,
    /// A Deployment or a StatefulSet.
    Found(DeploymentFacts),
    /// The target does not exist.
    TargetMissing,
    /// It is there, and is scaled by somebody else.
    TargetInUse {
        /// By whom, for example `HorizontalPodAutoscaler web`.
        by: String,
        /// What it is.
        workload: DeploymentFacts,
    },
    /// The target cannot be read.
    TargetUnreadable {
        /// What the API server says.
        message: String,
        /// The operator's account may not.
        forbidden: bool,
    },
}
