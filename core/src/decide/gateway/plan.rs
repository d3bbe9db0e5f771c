//! The plan of a namespace: all that its gateway needs to answer calls, and nothing secret.
//!
//! It is made of accepted routes, their backends and their callers by the operator, and of files by the command line. A gateway
//! swaps a new one in as a whole between two calls. Which pods of a backend are ready changes far more often than the plan and
//! is not part of it: see [`Endpoints`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::api::external::Provider;
use crate::api::format::Format;
use crate::api::model_route::{DataPolicy, FallbackCause, Strategy, Tier, When};
use crate::api::token_budget::{Enforcement, WhenUsageUnknown};

/// The version of this form that this code writes. A gateway takes no plan of a later one.
pub const SCHEMA: u32 = 1;

/// What the gateway of one namespace does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The version of this form: [`SCHEMA`].
    pub schema: u32,
    /// The namespace.
    pub namespace: String,
    /// Who may call, by name of the AgentPool.
    pub callers: BTreeMap<String, Caller>,
    /// By name of the ModelRoute.
    pub routes: BTreeMap<String, Route>,
    /// By name of the InferenceBackend: those that a route names.
    pub backends: BTreeMap<String, Backend>,
    /// Whose calls budgets cover, for a process that no operator has told more. At most [`super::planned_budgets::MOST`], and at most
    /// [`super::planned_budgets::LIMIT`] bytes: of more, one stands for all, and for every caller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<PlannedBudget>,
}

impl Plan {
    /// A SHA-256 over the plan, in hexadecimal: the same for the same plan, on any machine.
    ///
    /// # Errors
    ///
    /// When the plan cannot be written as JSON, which no value of these types leads to.
    pub fn hash(&self) -> serde_json::Result<String> {
        let digest = Sha256::digest(serde_json::to_vec(self)?);
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Who may call: an AgentPool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// SHA-256 of its keys, in lower-case hexadecimal. Two while a key is being rotated.
    pub key_hashes: BTreeSet<String>,
    /// Labels that are bound to its keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The ModelRoutes that it may call.
    pub routes: BTreeSet<String>,
    /// What each of its tasks may use.
    #[serde(default, skip_serializing_if = "TaskLimits::is_none")]
    pub task_limits: TaskLimits,
}

/// What one task of a caller may use; none: that is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskLimits {
    /// Tokens of one of its calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_per_request: Option<u64>,
    /// Tokens of all its calls together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// What they may cost, in millionths of the operator's currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<u64>,
    /// How often it may make the same request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_identical_requests: Option<u32>,
}

impl TaskLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Whose calls a TokenBudget covers. What is left of it is no part of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedBudget {
    /// Its name, for people.
    pub name: String,
    /// The callers, by name of the AgentPool.
    pub callers: BTreeSet<String>,
    /// The ModelRoutes of which calls count; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<BTreeSet<String>>,
    /// From when it covers them, in seconds since 1970: the start of its first period. None: it always did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// What happens at the limit.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// What happens while nobody says what is left.
    #[serde(default)]
    pub when_usage_unknown: WhenUsageUnknown,
}

/// Which backend answers calls of a model name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// What clients put into "model".
    pub model_name: String,
    /// Other names for it. "*" is every name that no route has.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub aliases: BTreeSet<String>,
    /// How a backend is chosen among `backends`.
    pub strategy: Strategy,
    /// The backends that answer where no rule matches.
    pub backends: Vec<Candidate>,
    /// The first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Labels that a client may set itself.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub trusted_labels: BTreeSet<String>,
    /// Who answers when those before have failed, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<FallbackCandidate>,
    /// How long is waited.
    pub timeouts: Timeouts,
    /// How often a failed call is tried again.
    pub retries: Retries,
    /// When a backend that fails is left alone.
    pub circuit_breaker: CircuitBreaker,
    /// Which backends may see the calls.
    pub data_policy: DataPolicy,
    /// Regions whose backends come first, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub region_preference: Vec<String>,
}

/// Other backends for some calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The calls that it is about.
    pub when: When,
    /// How a backend is chosen among `backends`.
    pub strategy: Strategy,
    /// The backends that answer these calls.
    pub backends: Vec<Candidate>,
}

/// A backend that may answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Name of the InferenceBackend, a key of [`Plan::backends`].
    pub backend: String,
    /// Its class, with all defaults applied.
    pub tier: Tier,
    /// Its share of the strategy Weighted; 0: only when the others fail.
    pub weight: u32,
}

/// A backend that may answer when others have failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FallbackCandidate {
    /// Name of the InferenceBackend, a key of [`Plan::backends`].
    pub backend: String,
    /// Its class, with all defaults applied.
    pub tier: Tier,
    /// The kinds of failure for which it answers: never empty.
    pub causes: BTreeSet<FallbackCause>,
}

/// How long is waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// All attempts together: to a stream's first content, or a plain answer's end.
    #[serde(with = "milliseconds")]
    pub request: Duration,
    /// One attempt, to a stream's first content.
    #[serde(with = "milliseconds")]
    pub backend_request: Duration,
    /// Silence in a stream that has begun.
    #[serde(with = "milliseconds")]
    pub stream_idle: Duration,
}

/// How often a failed call is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Retries of one call, fallbacks apart.
    pub max_retries: u32,
    /// The longest wait before the first retry; doubled with each.
    #[serde(with = "milliseconds")]
    pub initial: Duration,
    /// The longest wait before any retry.
    #[serde(with = "milliseconds")]
    pub max: Duration,
    /// Retries as a percentage of the route's calls.
    pub budget_percent: u32,
}

/// When a backend that fails is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Failures within `window` that open it: at least 1.
    pub failures: u32,
    /// The time in which failures count together.
    #[serde(with = "milliseconds")]
    pub window: Duration,
    /// How long the backend is left alone; then one call tries it.
    #[serde(with = "milliseconds")]
    pub cooldown: Duration,
}

/// A backend that calls can be sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// What answers there: decides paths, authentication, names of fields and what is refused.
    pub server: Server,
    /// The formats that it speaks.
    pub formats: BTreeSet<Format>,
    /// The model as the backend names it.
    pub model: String,
    /// Where it is called, without a trailing slash: what the paths of `server` are appended to. For a server with pods of its
    /// own this is its Service, which is used where no [`Endpoints`] are known.
    pub base_url: String,
    /// Whether it counts as one's own for [`DataPolicy::SelfHostedOnly`].
    pub self_hosted: bool,
    /// Names of its API keys. Their values stand in the gateway's Secret as `<backend>.<key name>`. Empty: it takes none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Headers that every call carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
    /// The certificates (PEM) of a private authority that sign its certificate. Not secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// The largest context in tokens, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// The most tokens of output, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// What it costs, where known. Unknown is not free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// What answers at a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Server {
    /// vLLM, in pods of this namespace.
    Vllm,
    /// Ollama, in pods of this namespace.
    Ollama,
    /// A hosted provider, or a server that speaks like one.
    Provider(Provider),
}

/// A header that every call to a backend carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: HeaderValue,
}

/// The value of a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeaderValue {
    /// As it stands here.
    Plain(String),
    /// An entry of the gateway's Secret.
    SecretEntry(String),
}

/// Prices in millionths of the currency for a million tokens: "0.20" is 200,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Price {
    /// Tokens of input that no cache served.
    pub input: u64,
    /// Tokens of output, reasoning included.
    pub output: u64,
    /// Tokens of input that the backend's prefix cache served.
    pub cached_input: u64,
    /// Tokens of input that were written into the backend's prefix cache.
    pub cache_write: u64,
}

/// Where the pods of backends can be reached now, by name of the InferenceBackend. A backend that is missing here is called at
/// its `base_url`.
pub type Endpoints = BTreeMap<String, BackendEndpoints>;

/// Where the pods of a backend can be reached now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendEndpoints {
    /// Its ready pods. Empty: none is ready, and the backend is skipped.
    pub ready: BTreeSet<SocketAddr>,
    /// Seconds until one is expected to be ready, where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_in_seconds: Option<u32>,
}

/// Durations as whole milliseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
