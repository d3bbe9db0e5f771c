//! ModelRoute: which backend answers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::Duration;
use super::token_budget_status::Phase;

/// The most callers that a status lists as held back: those who are held back most.
pub const MAX_CALLERS: usize = 50;

/// Which backend answers a model call.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "quartermaster.dev",
    version = "v1alpha1",
    kind = "ModelRoute",
    namespaced,
    status = "ModelRouteStatus",
    derive = "PartialEq",
    shortname = "mroute",
    category = "quartermaster",
    doc = "Which backend answers a model call: by rule, strategy and fallback.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether calls are answered."),
    printcolumn(name = "Model-Name", type_ = "string", json_path = ".status.modelName", description = "What clients put into \"model\"."),
    printcolumn(name = "Strategy", type_ = "string", json_path = ".status.strategy", description = "How a backend is chosen among several."),
    printcolumn(name = "Backends", type_ = "string", json_path = ".status.readyBackends", description = "Backends that are ready, of all that the route names."),
    printcolumn(name = "Budget", type_ = "string", json_path = ".status.budgetSummary", description = "The caller that a budget holds back most, how far, and which budget."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation."),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint", description = "Where the gateway answers.", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is ready or not.", priority = 1),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must be a DNS label, without dots"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters: the names of the objects that are made from it append to it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.backends) && size(self.backends) > 0 || has(self.rules) && size(self.rules) > 0").message("spec.backends is required, or rules that name backends: a route without either answers nothing").field_path(".backends"))]
pub struct ModelRouteSpec {
    /// What clients put into "model". Default: metadata.name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"))]
    pub model_name: Option<String>,
    /// Other names under which clients ask for this route. "*" is every name that no other route of the namespace has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253), regex(pattern = r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/@-]*)$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub aliases: Vec<String>,
    /// How a backend is chosen among several. Default: RoundRobin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// The backends that answer where no rule says otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub backends: Vec<RouteBackend>,
    /// Other backends for some calls. The first rule that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub rules: Vec<RouteRule>,
    /// Labels that a client may set itself; all others come from its key. "priority" may only be lowered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63), regex(pattern = r"^[a-z]([A-Za-z0-9-]*[A-Za-z0-9])?$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub trusted_labels: Vec<String>,
    /// Who answers, in this order, when those before have failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub fallback: Vec<Fallback>,
    /// How long is waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// How often a failed call is tried again. Never where the caller is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// When a backend that fails is left alone for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Which backends may see the calls at all: the others never do, whatever fails. Default: Any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_policy: Option<DataPolicy>,
    /// Regions whose backends come first, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub region_preference: Vec<String>,
    /// Stop acting on this object, and keep showing its state: the gateway goes on with the form that it has. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// How a backend is chosen among several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Strategy {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// Each as often as its weight says.
    Weighted,
    /// The cheapest one by its price; those without a price come last.
    LowestCost,
    /// The first of the list that can answer.
    Priority,
}

/// The class of a backend in a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Tier {
    /// Below Standard.
    Economy,
    /// Between the two.
    #[default]
    Standard,
    /// Above Standard.
    Premium,
}

/// Which backends may see the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DataPolicy {
    /// All.
    #[default]
    Any,
    /// vllm, ollama, and external with serviceRef.
    SelfHostedOnly,
}

/// A backend of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteBackend {
    /// Name of the InferenceBackend.
    #[schemars(length(min = 1, max = 52), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Its class. Default: in spec.backends Standard, elsewhere what spec.backends says of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// How often it is chosen by the strategy Weighted, as a share of the sum; 0: only when the others fail. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: Option<u32>,
}

/// Other backends for some calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteRule {
    /// Its name, which replies and the routing log show.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The calls that it is about: all members must hold, of a list one.
    pub when: When,
    /// How a backend is chosen among several. Default: spec.strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// The backends that answer these calls. They need not be in spec.backends.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub backends: Vec<RouteBackend>,
}

/// The calls that a rule is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct When {
    /// Length of the prompt, estimated from its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<Range>,
    /// How much of the caller's budgets is used, in percent: of several the highest, and 0 of a caller that no TokenBudget covers. So
    /// atMost takes its calls, and atLeast above 0 does not. It is more than 100 where a budget lets calls pass its limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_used_percent: Option<Range>,
    /// The label taskType is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub task_types: Vec<String>,
    /// The label priority is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub priorities: Vec<Priority>,
    /// The label userTier is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub user_tiers: Vec<String>,
    /// The label complexity is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub complexity: Vec<String>,
    /// The AgentPool that calls is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 52)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub agent_pools: Vec<String>,
    /// Each of these labels is one of its values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Vec<String>>,
}

/// A range of whole numbers, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    /// The smallest. Default: no lower end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub at_least: Option<u64>,
    /// The largest. Default: no upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub at_most: Option<u64>,
}

/// How urgent a call is: P0 most, P4 least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Priority {
    /// Most urgent.
    P0,
    /// Urgent.
    P1,
    /// Usual.
    P2,
    /// Can wait.
    P3,
    /// Least urgent.
    P4,
}

/// Who answers when those before have failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// Name of the InferenceBackend.
    #[schemars(length(min = 1, max = 52), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Its class. Default: what spec.backends says of the same name, else Standard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// The kinds of failure for which it answers. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub causes: Vec<FallbackCause>,
}

/// A kind of failure for which a fallback answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FallbackCause {
    /// Too many calls, or a quota that is used up.
    RateLimited,
    /// No answer in time.
    Timeout,
    /// No answer, one that cannot be read, or a key that is refused.
    Unavailable,
    /// The model does not exist there, or no more.
    NotFound,
    /// The prompt is too long for the backend.
    ContextLengthExceeded,
}

/// How long is waited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// All attempts together: to a stream's first content, or a plain answer's end. Default: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// One attempt, to a stream's first content. A plain answer has the time of request. Default: 2m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
    /// Silence in a stream that has begun. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_idle: Option<Duration>,
}

/// How often a failed call is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Retries of a call, fallbacks apart. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub max_retries: Option<u32>,
    /// The wait before a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// Retries as a percentage of the route's calls, so that an outage is not made worse. Default: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub budget_percent: Option<u32>,
}

/// The wait before a retry: a random time up to this, doubled with each retry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backoff {
    /// Before the first retry, at most. Default: 500ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Duration>,
    /// Before any retry, at most. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
}

/// When a backend that fails is left alone for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Failures within window that open it. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub failures: Option<u32>,
    /// Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
    /// How long the backend is left alone; then one call tries it. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<Duration>,
}

/// What the operator observed and decided about a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelRouteStatus {
    /// The generation of the spec that this status describes. -1: not seen yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions: Ready, Accepted, ResolvedRefs, Programmed, Suspended; LimitedByBudget, Reconciling, Stalled and
    /// SchemaOutdated only while True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Since when it waits for what the condition Ready tells. The wait becomes Stalled after 10 minutes. Absent while nothing is
    /// waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Time>,
    /// What clients put into "model".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// How a backend is chosen among several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Where the gateway answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Backends that are ready, of all that the route names, such as 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_backends: Option<String>,
    /// The backends that the route names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub backends: Vec<BackendState>,
    /// The callers whom a budget holds back, once for each such budget: at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_CALLERS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["agentPool".into(), "budget".into()]))]
    pub callers: Vec<RouteCaller>,
    /// The one that is held back most, for the column of kubectl get, such as coder: Economy by sprint-42. Not for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_summary: Option<String>,
}

/// A caller whom a budget holds back on a route: all its calls, or all but those that a lower class answers. Where neither is said,
/// the budget pauses the pool; by PausePools, calls of new tasks are refused as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteCaller {
    /// Name of the AgentPool that calls.
    pub agent_pool: String,
    /// The highest class of backends that answer. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Whether all its calls are refused.
    pub blocked: bool,
    /// Name of the TokenBudget.
    pub budget: String,
    /// How far that is used.
    pub phase: Phase,
}

/// A backend that a route names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendState {
    /// Name of the InferenceBackend.
    pub name: String,
    /// Whether it can answer.
    pub ready: bool,
    /// What it is for.
    pub role: Role,
    /// Why it can or cannot.
    pub reason: String,
}

/// What a backend is for in a route. One that is named several times has the first of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// It stands in spec.backends.
    Backend,
    /// It stands in a rule.
    Rule,
    /// It is a fallback.
    Fallback,
}
