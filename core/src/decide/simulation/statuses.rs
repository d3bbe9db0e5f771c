//! What routes and backends say while budgets concern them: their own decisions, whenever a budget means something else to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt as _;

use super::Setup;
use super::prepared::Prepared;
use super::result::EventOutcome;
use crate::api::conditions::reasons;
use crate::api::{InferenceBackend, ModelRoute, TokenBudget};
use crate::decide::backend::facts::{HubFacts, SecretFacts, SecretValue, TrafficFacts};
use crate::decide::backend::secrets;
use crate::decide::budget::concerned::Concerned;
use crate::decide::decision::Event;
use crate::decide::gateway::assemble::Finding;
use crate::decide::route::observation::{BackendState, GatewayFacts};
use crate::decide::{backend, route};

/// The most events that are kept.
const EVENTS: usize = 2_000;

/// What routes and backends say.
pub(super) struct Statuses {
    routes: BTreeMap<String, route::observation::Observation>,
    backends: BTreeMap<String, backend::facts::Observation>,
}

/// What was told.
#[derive(Default)]
pub(super) struct Events(pub(super) Vec<EventOutcome>);

impl Events {
    /// Takes down what was told of an object.
    pub(super) fn tell(&mut self, (kind, name): (&str, &str), events: Vec<Event>, time: Timestamp) {
        let room = EVENTS.saturating_sub(self.0.len());
        self.0.extend(events.into_iter().take(room).map(|event| EventOutcome {
            time,
            kind: kind.to_owned(),
            name: name.to_owned(),
            warning: event.warning,
            reason: event.reason,
            note: event.note,
        }));
    }
}

impl Statuses {
    /// All routes and backends, as they are before any budget concerns them.
    pub(super) fn new(setup: &Setup, prepared: &Prepared, now: Timestamp) -> Self {
        let states: BTreeMap<String, BackendState> = prepared.backends.iter().map(ready).collect();
        let of_route = |route: &ModelRoute| {
            let finding = prepared.findings.get(&route.name_any()).cloned().unwrap_or_default();
            (route.name_any(), self::of_route(route, finding, states.clone()))
        };
        let of_backend = |backend: &InferenceBackend| (backend.name_any(), self::of_backend(backend, setup));
        let mut statuses = Self {
            routes: prepared.routes.iter().map(of_route).collect(),
            backends: prepared.backends.iter().map(of_backend).collect(),
        };
        // What they say of themselves was told before.
        statuses.routes.values_mut().for_each(|observation| _ = decide_route(observation, now));
        statuses.backends.values_mut().for_each(|observation| _ = decide_backend(observation, now));
        statuses
    }

    /// A budget means something else to these from now on.
    pub(super) fn look(&mut self, concerned: &Concerned, budgets: &[(String, &TokenBudget)], now: Timestamp, events: &mut Events) {
        for name in &concerned.routes {
            let Some(observation) = self.routes.get_mut(name) else { continue };
            observation.callers = route::budgets::of(budgets, name);
            events.tell(("ModelRoute", name), decide_route(observation, now), now);
        }
        for name in &concerned.backends {
            let Some(observation) = self.backends.get_mut(name) else { continue };
            observation.budgets = backend::budgets::of(budgets, name);
            events.tell(("InferenceBackend", name), decide_backend(observation, now), now);
        }
    }
}

fn decide_route(observation: &mut route::observation::Observation, now: Timestamp) -> Vec<Event> {
    let decision = route::decide(observation, now);
    observation.route.status = Some(decision.status);
    decision.events
}

fn decide_backend(observation: &mut backend::facts::Observation, now: Timestamp) -> Vec<Event> {
    let decision = backend::decide(observation, now);
    observation.backend.status = Some(decision.status);
    decision.events
}

/// A route whose gateway goes by its spec.
fn of_route(route: &ModelRoute, finding: Finding, backends: BTreeMap<String, BackendState>) -> route::observation::Observation {
    let ready = BTreeMap::from([("gateway".to_owned(), finding.in_force)]);
    route::observation::Observation {
        observed_at: None,
        route: route.clone(),
        finding,
        pending: false,
        backends,
        callers: Vec::new(),
        gateway: GatewayFacts { ready, ..GatewayFacts::default() },
        outdated_schema: Arc::default(),
    }
}

/// A backend that answers.
fn ready(backend: &InferenceBackend) -> (String, BackendState) {
    let state =
        BackendState { available: true, stalled: false, reason: reasons::AVAILABLE.to_owned(), ..BackendState::of(backend) };
    (backend.name_any(), state)
}

/// A backend on the nodes that there are, of which nothing was made yet. Secrets that its spec refers to exist, and no hub is asked.
pub(super) fn of_backend(backend: &InferenceBackend, setup: &Setup) -> backend::facts::Observation {
    let of_vllm = backend.spec.vllm.iter().flat_map(secrets::of_vllm);
    let of_external = backend.spec.external.iter().flat_map(secrets::of_external);
    let mut keys: BTreeMap<String, BTreeMap<String, SecretValue>> = BTreeMap::new();
    for reference in of_vllm.chain(of_external) {
        keys.entry(reference.target.name.clone()).or_default().insert(reference.target.key.clone(), SecretValue::Line);
    }
    backend::facts::Observation {
        observed_at: None,
        backend: backend.clone(),
        nodes: Arc::clone(&setup.nodes),
        settings: Arc::clone(&setup.settings),
        hub: HubFacts::NotAsked,
        secrets: keys.into_iter().map(|(name, keys)| (name, SecretFacts::Present { keys, version: String::new() })).collect(),
        deployment: None,
        pods: Vec::new(),
        api_key_exists: true,
        entropy: String::new(),
        health: None,
        engines: Vec::new(),
        traffic: TrafficFacts::default(),
        budgets: Vec::new(),
        refusals: Vec::new(),
        outdated_schema: Arc::default(),
    }
}
