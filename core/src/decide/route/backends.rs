//! The backends that a route names, what each is for, and whether it can answer.

use super::observation::Observation;
use crate::api::conditions::reasons;
use crate::api::model_route::{BackendState, Role};
use crate::decide::gateway::route_problem::Problem;

/// The most that the status has room for: the schema's bound.
const MOST: usize = 64;

/// Every backend that the spec names, once, in the order of the spec: those of the route, of its rules, of its fallback.
pub fn of(observation: &Observation) -> Vec<BackendState> {
    let spec = &observation.route.spec;
    let of_route = spec.backends.iter().map(|backend| (&backend.name, Role::Backend));
    let of_rules = spec.rules.iter().flat_map(|rule| &rule.backends).map(|backend| (&backend.name, Role::Rule));
    let of_fallback = spec.fallback.iter().map(|fallback| (&fallback.name, Role::Fallback));
    let mut backends: Vec<BackendState> = Vec::new();
    for (name, role) in of_route.chain(of_rules).chain(of_fallback) {
        if !backends.iter().any(|backend| backend.name == *name) {
            backends.push(state(observation, name, role));
        }
    }
    backends
}

fn state(observation: &Observation, name: &str, role: Role) -> BackendState {
    let unusable = |problem: &&Problem| matches!(problem, Problem::BackendUnusable { backend, .. } if backend == name);
    let unusable = observation.finding.unresolved.iter().find(unusable);
    let (ready, reason) = match (unusable, observation.backends.get(name)) {
        (Some(problem), _) => (false, problem.reason()),
        (None, None) => (false, reasons::BACKEND_NOT_FOUND),
        (None, Some(backend)) => (backend.available, backend.reason.as_str()),
    };
    BackendState { name: name.to_owned(), ready, role, reason: reason.to_owned() }
}

/// Those that can answer, of all, such as 2/3.
pub fn summary(backends: &[BackendState]) -> String {
    format!("{}/{}", backends.iter().filter(|backend| backend.ready).count(), backends.len())
}

/// As many as the status has room for.
pub fn shown(mut backends: Vec<BackendState>) -> Vec<BackendState> {
    backends.truncate(MOST);
    backends
}
