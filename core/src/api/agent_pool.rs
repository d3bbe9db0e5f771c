//! AgentPool: who does the work.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::Duration;
use super::price::Amount;
use super::queue::QueueSpec;
use super::scaling::ScalingSpec;
use super::status::{BudgetState, MAX_BUDGETS};
use super::token_budget::MAX_TOKENS;

/// Agents that take tasks from queues.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "quartermaster.dev",
    version = "v1alpha1",
    kind = "AgentPool",
    namespaced,
    status = "AgentPoolStatus",
    derive = "PartialEq",
    shortname = "apool",
    category = "quartermaster",
    doc = "Who does the work: agents that take tasks from queues, as many as the queues need.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether there are as many agents as there should be."),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredReplicas", description = "Replicas that there should be."),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.replicas", description = "Replicas that exist."),
    printcolumn(name = "Queue", type_ = "integer", json_path = ".status.queueDepth", description = "Tasks that wait, rounded."),
    printcolumn(name = "In-Flight", type_ = "integer", json_path = ".status.inFlight", description = "Tasks that agents work on, rounded."),
    printcolumn(name = "Budget", type_ = "string", json_path = ".status.budgetSummary", description = "The budget that pauses the pool; else that of which most is used."),
    printcolumn(name = "Limited-By", type_ = "string", json_path = ".status.limitedBy", description = "What holds the replicas back."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation."),
    printcolumn(name = "Decision", type_ = "string", json_path = ".status.decision", description = "Why there are as many replicas.", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is ready or not.", priority = 1),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must be a DNS label, without dots"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters: the names of the objects that are made from it append to it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.template) && has(self.targetRef))").message("spec.template and spec.targetRef exclude each other: keep template for agents that the pool makes, or targetRef for ones that exist"))]
#[x_kube(validation = Rule::new("has(self.template) == has(oldSelf.template) && has(self.targetRef) == has(oldSelf.targetRef)").message("a pool keeps what it was created with, template, targetRef or neither: create another AgentPool instead"))]
#[x_kube(validation = Rule::new("!(has(self.scaling) && has(self.scaling.age) && has(self.queues) && self.queues.exists(queue, !has(queue.redisStream)))").message("spec.scaling.age needs queues that tell the age of their tasks: only redisStream does").field_path(".scaling.age"))]
#[x_kube(validation = Rule::new("!has(self.minReplicas) || self.minReplicas <= (has(self.maxReplicas) ? self.maxReplicas : 10)").message("spec.minReplicas must not be above spec.maxReplicas, which is 10 where it is not set").field_path(".minReplicas"))]
#[x_kube(validation = Rule::new("!has(self.requestLabels) || !('priority' in self.requestLabels) || self.requestLabels['priority'] in ['P0', 'P1', 'P2', 'P3', 'P4']").message("spec.requestLabels.priority must be one of P0, P1, P2, P3, P4").field_path(".requestLabels"))]
pub struct AgentPoolSpec {
    /// The agents' pods: metadata.labels, metadata.annotations and spec, as in a Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::pod_template")]
    pub template: Option<serde_json::Value>,
    /// Agents that exist already, instead of template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetReference>,
    /// Which of several pools on one queue comes first. Default: Standard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub criticality: Option<Criticality>,
    /// The ModelRoutes that the agents may call. With any, the pool gets a key of the namespace's gateway in the Secret {name}-caller,
    /// and agents of a template have it as OPENAI_API_KEY, OPENAI_BASE_URL, ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL. Default: none, and
    /// no key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub model_routes: Vec<ModelRouteReference>,
    /// Labels of all calls with the pool's key, which rules of ModelRoutes ask about: taskType, priority (P0 to P4), userTier, complexity,
    /// or any other. A client cannot change them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::request_labels")]
    pub request_labels: BTreeMap<String, String>,
    /// Pins the pool to this number of replicas: queues are shown and not followed. Default: the queues decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub replicas: Option<u32>,
    /// The fewest replicas. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub min_replicas: Option<u32>,
    /// The most replicas. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub max_replicas: Option<u32>,
    /// The queues that the agents take their tasks from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub queues: Vec<QueueSpec>,
    /// How the number of agents follows their queues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingSpec>,
    /// How many tasks an agent takes at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Which agents end when there are too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_in: Option<ScaleIn>,
    /// What one task may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_limits: Option<TaskLimits>,
    /// Stop acting on this object, and keep showing its state. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// A ModelRoute of the namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRouteReference {
    /// Name of the ModelRoute.
    #[schemars(length(min = 1, max = 52), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// Agents that exist already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.apiVersion == 'apps/v1'").message("targetRef.apiVersion must be apps/v1: a Deployment or a StatefulSet").field_path(".apiVersion"))]
pub struct TargetReference {
    /// apps/v1.
    #[schemars(length(min = 1, max = 253))]
    pub api_version: String,
    /// Deployment or StatefulSet.
    pub kind: TargetKind,
    /// Name of the object, in the namespace of the pool.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// A kind that a pool can scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// apps/v1 Deployment.
    Deployment,
    /// apps/v1 StatefulSet.
    StatefulSet,
}

/// Which of several pools comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Criticality {
    /// Has what the others leave.
    BestEffort,
    /// Between the two.
    #[default]
    Standard,
    /// Comes first.
    Critical,
}

/// How many tasks an agent takes at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    /// Tasks that an agent takes at a time. It is passed to the agents as QUARTERMASTER_BATCH_MAX_TASKS. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_tasks: Option<u32>,
}

/// Which agents end when there are too many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaleIn {
    /// Which agents end first. Default: Idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<Prefer>,
    /// How long the end of agents at work is put off for them to become idle. Default: not at all; they are asked to finish
    /// by SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_for_idle: Option<Duration>,
}

/// Which agents end first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Prefer {
    /// Those without a task, as far as the queues tell.
    #[default]
    Idle,
    /// As Kubernetes decides.
    Any,
}

/// What one task may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.maxCostPerTask) || self.maxCostPerTask.matches('[1-9]')").message("taskLimits.maxCostPerTask must be more than 0: remove it where money is not limited").field_path(".maxCostPerTask"))]
pub struct TaskLimits {
    /// The most tokens that one model call of a task may use, of its prompt and its answer together. The gateway refuses a call that could
    /// use more, by the upper bound that budgets reserve too, and gives one that sets no limit of output one that fits. Held to as
    /// maxTokensPerTask. Default: not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_TOKENS))]
    pub max_tokens_per_request: Option<i64>,
    /// The most tokens that all model calls of one task may use, of prompts and answers together. The namespace's gateway refuses the
    /// calls that could pass it, of clients that name the task in the header x-quartermaster-task-id. At most 9007199254740992.
    /// Default: not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_TOKENS))]
    pub max_tokens_per_task: Option<i64>,
    /// The most that all model calls of one task may cost, in the operator's currency, as quoted text such as "2.00". It needs the price
    /// of every backend that is called. Held to by the gateway, as maxTokensPerTask. Default: not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost_per_task: Option<Amount>,
    /// How often one task may make the same model call, byte for byte: an agent that goes round in a circle is stopped. Held to by the
    /// gateway, as maxTokensPerTask. Default: not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_identical_requests: Option<u32>,
    /// Steps of a task. Passed to the agents as QUARTERMASTER_TASK_MAX_STEPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_steps: Option<u32>,
    /// Tool calls of a task. Passed to the agents as QUARTERMASTER_TASK_MAX_TOOL_CALLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_tool_calls: Option<u32>,
    /// Retries of one tool. Passed to the agents as QUARTERMASTER_TASK_MAX_RETRIES_PER_TOOL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_retries_per_tool: Option<u32>,
    /// Time that a task takes at most. Passed to the agents in seconds as QUARTERMASTER_TASK_TIMEOUT_SECONDS, and the time that
    /// an agent has to finish after SIGTERM, with 30 seconds more. Default: 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// What the operator observed and decided about a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentPoolStatus {
    /// The generation of the spec that this status describes. -1: not seen yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions: Ready, AbleToScale, ScalingActive, ScalingLimited, MetricsAvailable, PausedByBudget, Suspended; Reconciling,
    /// Stalled and SchemaOutdated only while True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Since when it waits for what the condition Ready tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Time>,
    /// Replicas that there should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<u32>,
    /// Replicas that exist, ready or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Replicas that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<u32>,
    /// Label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Tasks that wait in all queues, rounded. Absent while a queue cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_depth: Option<u64>,
    /// Tasks that agents work on, rounded. Absent where the queues do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Why there are as many replicas, with the figures of the moment when that was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// What holds the replicas back from what the queues ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<LimitedBy>,
    /// The last changes of the replicas, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub decisions: Vec<ScalingDecision>,
    /// The TokenBudgets that the calls of the pool count for: at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_BUDGETS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub budgets: Vec<BudgetState>,
    /// The one that pauses the pool, else that of which most is used, for the column of kubectl get, such as sprint-42: Throttled.
    /// Not for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_summary: Option<String>,
}

/// A change of the replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingDecision {
    /// When.
    pub time: Time,
    /// Replicas before.
    pub from: u32,
    /// Replicas after.
    pub to: u32,
    /// Why.
    pub reason: String,
}

/// What holds the replicas back from what the queues ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LimitedBy {
    /// spec.suspend.
    Suspended,
    /// A TokenBudget that pauses the pool.
    Budget,
    /// spec.replicas.
    Pinned,
    /// spec.maxReplicas.
    MaxReplicas,
    /// spec.minReplicas.
    MinReplicas,
    /// The policies of spec.scaling.behavior.scaleUp.
    ScaleUpPolicy,
    /// The policies of spec.scaling.behavior.scaleDown.
    ScaleDownPolicy,
    /// A stabilization window of spec.scaling.behavior.
    StabilizationWindow,
    /// spec.scaling.cooldown.
    Cooldown,
    /// Agents at work, whose end is put off by spec.scaleIn.waitForIdle.
    BusyAgents,
    /// A queue that cannot be read.
    QueueFailure,
}
