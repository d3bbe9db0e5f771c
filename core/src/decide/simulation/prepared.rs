//! From objects in files to what is simulated: as the API server would have stored them, with the plan of their gateway.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;

use super::statuses;
use super::trace::{Kind, Trace};
use super::{Setup, SetupError};
use crate::api::conditions::types;
use crate::api::{AgentPool, InferenceBackend, ModelRoute, TokenBudget};
use crate::decide::backend;
use crate::decide::budget::check;
use crate::decide::budget::observation::{PoolFacts, RouteFacts};
use crate::decide::gateway::assemble::{self, Assembled, Finding, Resources};
use crate::decide::gateway::backend::BackendFacts;
use crate::decide::gateway::plan::{Caller, Plan};
use crate::decide::gateway::planned_budgets;
use crate::decide::pool::task_limits;

/// What stays as it is while time goes by.
pub(super) struct Prepared {
    pub(super) plan: Plan,
    /// What was found about each route, by its name.
    pub(super) findings: BTreeMap<String, Finding>,
    pub(super) routes: Vec<ModelRoute>,
    pub(super) backends: Vec<InferenceBackend>,
    pub(super) pools: Vec<AgentPool>,
    pub(super) budgets: Vec<TokenBudget>,
    pub(super) pool_facts: Vec<PoolFacts>,
    pub(super) route_facts: Vec<RouteFacts>,
    /// The backends that have no price.
    pub(super) unpriced: BTreeSet<String>,
    /// What of the files is not simulated as it stands there.
    pub(super) notes: Vec<String>,
}

impl Prepared {
    /// # Errors
    ///
    /// A spec that would not come into force, and a call of the trace that its pool cannot make.
    pub(super) fn new(setup: &Setup, trace: &Trace) -> Result<Self, SetupError> {
        let Setup { mut routes, mut backends, mut pools, mut budgets, .. } = setup.clone();
        let namespaced = routes.iter().find_map(|route| route.metadata.namespace.clone());
        let namespace = namespaced.unwrap_or_else(|| "default".to_owned());
        routes.iter_mut().for_each(|route| (route.status, route.metadata) = (None, stored(&route.metadata, &namespace)));
        pools.iter_mut().for_each(|pool| (pool.status, pool.metadata) = (None, stored(&pool.metadata, &namespace)));
        budgets.iter_mut().for_each(|budget| (budget.status, budget.metadata) = (None, stored(&budget.metadata, &namespace)));
        backends.iter_mut().for_each(|backend| backend.metadata = stored(&backend.metadata, &namespace));
        pools.sort_by_key(AgentPool::name_any);
        budgets.sort_by_key(TokenBudget::name_any);
        budgets.iter().try_for_each(check_budget)?;
        let mut notes: Vec<String> = pools.iter().filter_map(without_task_limits).collect();
        notes.extend(budgets.iter().filter_map(without_cached_input));
        notes.extend(backends.iter().filter_map(without_cache_prices));
        let (first, _) = trace.span();
        let start = Timestamp::from_millisecond(first).unwrap_or_default();
        if !setup.nodes.is_empty() {
            notes.extend(backends.iter_mut().filter_map(|backend| size(backend, setup, start)));
        }
        let pool_facts: Vec<PoolFacts> = pools.iter().map(PoolFacts::of).collect();
        let resources = Resources {
            namespace,
            routes: routes.clone(),
            backends: backends
                .iter()
                .map(|backend| BackendFacts { backend: backend.clone(), certificate_authority: None })
                .collect(),
            callers: pools.iter().map(|pool| (pool.name_any(), caller(pool))).collect(),
            budgets: planned_budgets::of(&budgets, &pool_facts),
            ..Resources::default()
        };
        let Assembled { plan, routes: findings, .. } = assemble::assemble(&resources);
        for (name, finding) in &findings {
            if let Some(problem) = &finding.refused {
                return Err(SetupError::Object { kind: "ModelRoute", name: name.clone(), problem: problem.to_string() });
            }
            notes.extend(finding.limited.iter().chain(&finding.unresolved).map(|problem| format!("ModelRoute {name}: {problem}")));
        }
        trace.kinds().iter().try_for_each(|kind| check_kind(kind, &plan))?;
        Ok(Self {
            route_facts: routes.iter().map(RouteFacts::of).collect(),
            unpriced: backends.iter().filter(|backend| !is_priced(backend)).map(InferenceBackend::name_any).collect(),
            plan,
            findings,
            routes,
            backends,
            pools,
            budgets,
            pool_facts,
            notes,
        })
    }
}

/// The metadata of an object that was just stored.
fn stored(metadata: &ObjectMeta, namespace: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        generation: Some(1),
        uid: Some(format!("simulated-{}", metadata.name.as_deref().unwrap_or_default())),
        deletion_timestamp: None,
        ..metadata.clone()
    }
}

/// A pool as it calls, without its key.
fn caller(pool: &AgentPool) -> Caller {
    let routes = pool.spec.model_routes.iter().map(|route| route.name.clone()).collect();
    Caller { labels: pool.spec.request_labels.clone(), routes, ..Caller::default() }
}

/// That a pool's limits of a task are not simulated, where the gateway would hold to any.
fn without_task_limits(pool: &AgentPool) -> Option<String> {
    let held = task_limits::held_by_gateway(pool.spec.task_limits.as_ref()?);
    let note = || format!("AgentPool {}: tasks are not held to spec.taskLimits ({}) here", pool.name_any(), held.join(", "));
    (!held.is_empty()).then(note)
}

/// That a budget counts all input in full, where it would not count that which a prefix cache served.
fn without_cached_input(budget: &TokenBudget) -> Option<String> {
    let percent = check::cached_input_percent(&budget.spec);
    let note = || {
        format!(
            "TokenBudget {}: spec.counting.cachedInputPercent is {percent}, and all input counts in full here: no prefix cache serves any",
            budget.name_any()
        )
    };
    (percent < 100).then(note)
}

/// That the prices of a backend for input of its prefix cache are of no use.
fn without_cache_prices(backend: &InferenceBackend) -> Option<String> {
    let price = backend.spec.price.as_ref()?;
    let is_set = price.cached_input_per_million_tokens.is_some() || price.cache_write_per_million_tokens.is_some();
    let note = || {
        format!(
            "InferenceBackend {}: all input costs spec.price.inputPerMillionTokens here: no prefix cache serves or takes any",
            backend.name_any()
        )
    };
    is_set.then(note)
}

fn check_budget(budget: &TokenBudget) -> Result<(), SetupError> {
    let Err(problems) = check::check(&budget.spec) else { return Ok(()) };
    let problem = problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ");
    Err(SetupError::Object { kind: "TokenBudget", name: budget.name_any(), problem })
}

/// Sizes a backend on the nodes that there are. What keeps it from being what its spec says.
fn size(backend: &mut InferenceBackend, setup: &Setup, start: Timestamp) -> Option<String> {
    let status = backend::decide(&statuses::of_backend(backend, setup), start).status;
    let stalled = status.conditions.iter().find(|condition| condition.type_ == types::STALLED);
    let note = stalled.map(|stalled| format!("InferenceBackend {}: {}: {}", backend.name_any(), stalled.reason, stalled.message));
    backend.status = Some(status);
    note
}

/// Pods of one's own cost nothing by the call unless they have a price.
fn is_priced(backend: &InferenceBackend) -> bool {
    let spec = &backend.spec;
    spec.price.is_some() || spec.vllm.is_some() || spec.ollama.is_some()
}

/// Whether calls of this kind can be made.
fn check_kind(kind: &Kind, plan: &Plan) -> Result<(), SetupError> {
    let listed = |names: Vec<&String>| names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let wrong = |problem: String| Err(SetupError::Call { line: kind.line, problem });
    let Some(caller) = plan.callers.get(&kind.pool) else {
        return wrong(format!(
            "there is no AgentPool {}; those of the files are: {}",
            kind.pool,
            listed(plan.callers.keys().collect())
        ));
    };
    if !plan.routes.contains_key(&kind.route) {
        return wrong(format!(
            "there is no ModelRoute {}; those of the files are: {}",
            kind.route,
            listed(plan.routes.keys().collect())
        ));
    }
    if !caller.routes.contains(&kind.route) {
        let may = listed(caller.routes.iter().collect());
        return wrong(format!("the AgentPool {} may not call the ModelRoute {}; it may call: {may}", kind.pool, kind.route));
    }
    Ok(())
}
