//! How the number of agents follows their queues.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::Duration;

/// How the number of agents follows their queues: at most one of proportional, step, age. None of them: proportional, with
/// batch.maxTasks for each replica, or one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.proportional), has(self.step), has(self.age)].filter(x, x).size() <= 1").message("at most one of scaling.proportional, scaling.step, scaling.age can be set: keep one"))]
pub struct ScalingSpec {
    /// As many replicas as the tasks need, waiting and in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proportional: Option<Proportional>,
    /// A few replicas more above one number of tasks, a few less below another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// One replica more for as long as the oldest waiting task is too old. Only for queues that tell the age of their tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<Age>,
    /// What several queues mean together. Default: Max.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combine: Option<Combine>,
    /// How fast replicas may be added and removed, as in a HorizontalPodAutoscaler. Default: as there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Behavior>,
    /// Time between two looks at the queues. Default: 5s; at least 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_interval: Option<Duration>,
    /// Time without any task, waiting or in flight, until the last replica ends. Default: 300s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<Duration>,
    /// What happens while a queue cannot be read. Default: the replicas stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_metric_failure: Option<OnMetricFailure>,
}

/// As many replicas as the tasks need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proportional {
    /// Tasks, waiting or in flight, for each replica.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub tasks_per_replica: u32,
}

/// A few replicas more above one number of tasks, a few less below another, one step in each poll interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.low < self.high").message("scaling.step.low must be less than scaling.step.high: between them, nothing is changed").field_path(".low"))]
pub struct Step {
    /// Above this number of tasks, waiting and in flight, replicas are added.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub high: u64,
    /// Below this number of tasks, waiting and in flight, replicas are removed.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub low: u64,
    /// Replicas of one step. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub size: Option<u32>,
}

/// One replica more for as long as the oldest waiting task is too old.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Age {
    /// The age that no waiting task should reach.
    pub max_task_age: Duration,
}

/// What several queues mean together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Combine {
    /// The queue that needs the most replicas decides.
    #[default]
    Max,
    /// The replicas that the queues need are added.
    Sum,
}

/// What happens while a queue cannot be read: first the replicas stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnMetricFailure {
    /// How long the replicas stay as they are. Default: 3m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Duration>,
    /// How many replicas a queue counts as needing after that. Default: they stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub then_replicas: Option<u32>,
}

/// How fast replicas may be added and removed: the HorizontalPodAutoscaler's behavior.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Behavior {
    /// How replicas are added. Default: no stabilization window, and the most of 4 pods and 100 percent in 15 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_up: Option<ScalingRules>,
    /// How replicas are removed. Default: a stabilization window of 300 seconds, and 100 percent in 15 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScalingRules>,
}

/// How replicas are added, or removed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingRules {
    /// Seconds whose recommendations are all considered, so that a short peak or dip changes nothing. Default: 0 for
    /// scaleUp, 300 for scaleDown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub stabilization_window_seconds: Option<u32>,
    /// Which policy counts where there are several. Default: Max.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_policy: Option<SelectPolicy>,
    /// How many replicas may be changed in how much time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub policies: Vec<ScalingPolicy>,
    /// Share of the present replicas by which the demand must differ before anything is changed, for example 0.1. Default: 0
    /// for scaleUp, 0.1 for scaleDown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Quantity>,
}

/// Which policy counts where there are several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SelectPolicy {
    /// The one that allows the most change.
    #[default]
    Max,
    /// The one that allows the least change.
    Min,
    /// Nothing is changed in this direction.
    Disabled,
}

/// How many replicas may be changed in how much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingPolicy {
    /// What the value counts.
    #[serde(rename = "type")]
    pub type_: PolicyType,
    /// Pods, or percent of the replicas at the beginning of the period.
    #[schemars(range(min = 1, max = 100_000))]
    pub value: u32,
    /// Seconds in which that much may be changed.
    #[schemars(range(min = 1, max = 1800))]
    pub period_seconds: u32,
}

/// What the value of a policy counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyType {
    /// Pods.
    Pods,
    /// Percent of the replicas at the beginning of the period.
    Percent,
}
