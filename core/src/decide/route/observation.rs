//! What a decision about a ModelRoute may look at.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::conditions::{reasons, types};
use crate::api::model_route::RouteCaller;
use crate::api::{InferenceBackend, ModelRoute};
use crate::decide::backend::facts::DeploymentFacts;
use crate::decide::decision::Refusal;
use crate::decide::gateway::assemble::Finding;

/// Everything that a decision about a route may look at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observation {
    /// When this was observed; only in a recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Timestamp>,
    /// The object itself, with its status.
    pub route: ModelRoute,
    /// What assembling the plan of its namespace has found about it.
    #[serde(default)]
    pub finding: Finding,
    /// This generation of it has yet to be part of that: nothing is found so far.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// The InferenceBackends that its spec names, as far as they exist.
    #[serde(default)]
    pub backends: BTreeMap<String, BackendState>,
    /// The callers whose calls budgets hold back, by name of the pool and of the budget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<RouteCaller>,
    /// The gateway of its namespace.
    #[serde(default)]
    pub gateway: GatewayFacts,
    /// Fields that the served schema lacks.
    #[serde(default)]
    pub outdated_schema: Arc<Vec<String>>,
}

/// Whether an InferenceBackend can answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendState {
    /// At least one of its replicas or keys answers.
    pub available: bool,
    /// It will not answer by itself.
    pub stalled: bool,
    /// Why it can or cannot.
    pub reason: String,
    /// A route whose calls stay in the cluster may ask it.
    #[serde(default)]
    pub self_hosted: bool,
}

impl BackendState {
    /// What the status of a backend says.
    pub fn of(backend: &InferenceBackend) -> Self {
        let conditions = backend.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let find = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
        let available = find(types::AVAILABLE).is_some_and(|condition| condition.status == "True");
        // Of a backend that cannot answer, Ready tells more.
        let told = if available { find(types::AVAILABLE) } else { find(types::READY).filter(|ready| ready.status == "False") };
        let reason = told.or(find(types::AVAILABLE)).map_or(reasons::PROGRESSING, |condition| condition.reason.as_str());
        let stalled = find(types::STALLED).is_some_and(|condition| condition.status == "True");
        let self_hosted = backend.spec.external.as_ref().is_none_or(|external| external.service_ref.is_some());
        Self { available, stalled, reason: reason.to_owned(), self_hosted }
    }
}

/// What runs the gateway of a namespace, as far as a route depends on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GatewayFacts {
    /// Its Deployment; absent before it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentFacts>,
    /// Its replicas that are ready, by name of the pod: the generation of this route that each has in force, by the hash of the
    /// plan that it reports. Nothing where its plan lacks the route, or where it reports none.
    pub ready: BTreeMap<String, Option<i64>>,
    /// The operator has just begun with the namespace, and a replica that is ready has yet to tell it of a plan that it knows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unheard: bool,
    /// The operator's configuration has no `gateway.image`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_image: bool,
    /// What is wrong with the ConfigMap `quartermaster-gateway`, whose last good form stays in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings_problem: Option<String>,
    /// Its objects that could not be applied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}
