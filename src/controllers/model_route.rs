//! ModelRoute: what is observed of a route. What comes into force of it is decided for its whole namespace, by [`super::gateway`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use quartermaster_core::api::{InferenceBackend, ModelRoute, ModelRouteSpec, TokenBudget};
use quartermaster_core::decide::decision::{Decision, Refusal};
use quartermaster_core::decide::route;
use quartermaster_core::decide::route::observation::{BackendState, Observation};
use serde_json::Value;
use tokio::sync::watch;

use super::gateway::Gateways;
use super::namespace_budgets::NamespaceBudgets;
use crate::operate::cache::Cache;
use crate::operate::children::ChildKind;
use crate::operate::control::{Control, DecideError};
use crate::operate::key::ObjectKey;
use crate::operate::object::Stored;

/// ModelRoutes, as a kind.
pub const MODEL_ROUTE: ChildKind =
    ChildKind { kind: "ModelRoute", group: "quartermaster.dev", version: "v1alpha1", plural: "modelroutes", watched_whole: true };

/// The controller of ModelRoutes. It makes nothing: the objects of a namespace's gateway belong to all its routes.
pub struct Routes {
    /// What was found about routes.
    pub gateways: Arc<Gateways>,
    /// The InferenceBackends.
    pub backends: Arc<Cache<Stored<InferenceBackend>>>,
    /// The TokenBudgets.
    pub budgets: Arc<Cache<Stored<TokenBudget>>>,
    /// Fields that the served schema lacks.
    pub outdated_schema: watch::Receiver<Arc<Vec<String>>>,
}

impl Control for Routes {
    type Object = ModelRoute;
    type Observation = Observation;

    const KIND: ChildKind = MODEL_ROUTE;
    const MANAGER: &'static str = "quartermaster-modelroute";
    const CHILDREN: &'static [ChildKind] = &[];
    const CONDITIONS: &'static [&'static str] = route::CONDITIONS;

    async fn observe(&self, object: Arc<ModelRoute>, _refusals: Vec<Refusal>) -> Observation {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let found = self.gateways.facts(&object);
        let pending = found.is_none();
        let (finding, gateway) = found.unwrap_or_default();
        let state = |name: &str| {
            let stored = self.backends.get(&ObjectKey::new(namespace, name))?;
            let backend = stored.object.as_ref().ok()?;
            Some((name.to_owned(), BackendState::of(backend)))
        };
        let backends: BTreeMap<_, _> = names(&object.spec).into_iter().filter_map(state).collect();
        let budgets = NamespaceBudgets::of(&self.budgets, namespace);
        let name = object.metadata.name.as_deref().unwrap_or_default();
        Observation {
            observed_at: None,
            finding,
            pending,
            backends,
            callers: route::budgets::of(&budgets.by_name(), name),
            gateway,
            outdated_schema: self.outdated_schema.borrow().clone(),
            route: ModelRoute::clone(&object),
        }
    }

    fn decide(observation: &Observation, now: Timestamp) -> Result<Decision<Value>, DecideError> {
        Ok(route::decide(observation, now).into_json()?)
    }

    fn forget(&self, _key: &ObjectKey) {}
}

/// The InferenceBackends that a route names.
pub fn names(spec: &ModelRouteSpec) -> BTreeSet<&str> {
    let of_rules = spec.rules.iter().flat_map(|rule| &rule.backends);
    let backends = spec.backends.iter().chain(of_rules).map(|backend| backend.name.as_str());
    backends.chain(spec.fallback.iter().map(|fallback| fallback.name.as_str())).collect()
}
