//! The conditions of a route: whether its spec is accepted, its backends exist, the gateway goes by it, and calls are answered.

use super::observation::{GatewayFacts, Observation};
use crate::api::conditions::{reasons, types};
use crate::api::model_route::BackendState;
use crate::decide::conditions::Verdict;
use crate::decide::decision::{Refusal, RefusalCause};
use crate::decide::gateway::children::NAME;
use crate::decide::gateway::route_problem::Problem;
use crate::decide::readiness::Readiness;
use crate::decide::refused;

/// The conditions Accepted, ResolvedRefs and Programmed.
pub fn of(observation: &Observation) -> Vec<Verdict> {
    vec![accepted(observation), resolved(observation), programmed(observation)]
}

fn generation(observation: &Observation) -> i64 {
    observation.route.metadata.generation.unwrap_or_default()
}

fn is_suspended(observation: &Observation) -> bool {
    observation.route.spec.suspend == Some(true)
}

/// What goes on being in force in place of the spec.
fn what_stays(observation: &Observation) -> String {
    match observation.finding.in_force {
        Some(in_force) if in_force == generation(observation) => "; what is left of it stays in force".to_owned(),
        Some(in_force) => format!("; generation {in_force} stays in force"),
        None => String::new(),
    }
}

fn joined(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn accepted(observation: &Observation) -> Verdict {
    let finding = &observation.finding;
    if let Some(problem) = &finding.refused {
        let message = format!("{problem}{}", what_stays(observation));
        return Verdict::fails(types::ACCEPTED, problem.reason(), message);
    }
    match finding.limited.first() {
        Some(first) => Verdict::holds(types::ACCEPTED, first.reason(), joined(&finding.limited)),
        None => Verdict::holds(types::ACCEPTED, reasons::ACCEPTED, "the spec can come into force"),
    }
}

fn resolved(observation: &Observation) -> Verdict {
    let unresolved = &observation.finding.unresolved;
    match unresolved.first() {
        Some(first) => Verdict::fails(types::RESOLVED_REFS, first.reason(), joined(unresolved)),
        None => Verdict::holds(types::RESOLVED_REFS, reasons::RESOLVED_REFS, "every backend that the route names exists"),
    }
}

fn programmed(observation: &Observation) -> Verdict {
    let finding = &observation.finding;
    let fails = |reason, message: String| Verdict::fails(types::PROGRAMMED, reason, message);
    if let Some(problem) = &finding.too_large {
        return fails(problem.reason(), format!("{problem}{}", what_stays(observation)));
    }
    if finding.in_force != Some(generation(observation)) {
        if is_suspended(observation) {
            return fails(reasons::SUSPENDED, format!("spec.suspend is true{}", what_stays(observation)));
        }
        return fails(reasons::NOT_ACCEPTED, format!("the spec is not accepted{}", what_stays(observation)));
    }
    let ready = &observation.gateway.ready;
    if ready.is_empty() {
        return fails(reasons::GATEWAY_NOT_READY, NO_REPLICA.to_owned());
    }
    if !is_live(observation) {
        return fails(reasons::PROGRESSING, COMES.to_owned());
    }
    match unusable_settings(&observation.gateway) {
        Some((problem, what_stays)) => {
            let message = format!("every ready replica of the gateway goes by the spec; {problem}, so that {what_stays}");
            Verdict::holds(types::PROGRAMMED, reasons::INVALID_GATEWAY_SETTINGS, message)
        }
        None => Verdict::holds(types::PROGRAMMED, reasons::PROGRAMMED, "every ready replica of the gateway goes by the spec"),
    }
}

const NO_REPLICA: &str = "no replica of the gateway is ready yet";
const COMES: &str = "the replicas of the gateway are taking the spec over";

/// What is wrong with what the gateway is made by, and what that leaves as it is.
fn unusable_settings(gateway: &GatewayFacts) -> Option<(String, &'static str)> {
    if gateway.no_image {
        let problem = "gateway.image of the operator's configuration is not set, without which no gateway can be made";
        return Some((problem.to_owned(), "the one that there is stays as it is"));
    }
    let problem = gateway.settings_problem.as_ref()?;
    Some((format!("the ConfigMap {NAME}: {problem}"), "its last good form stays in force"))
}

/// Whether every ready replica has in force what is meant to be.
fn is_live(observation: &Observation) -> bool {
    let ready = &observation.gateway.ready;
    !ready.is_empty() && ready.values().all(|generation| *generation == observation.finding.in_force)
}

/// Whether calls are answered as the spec says.
pub fn readiness(observation: &Observation, backends: &[BackendState]) -> Readiness {
    let finding = &observation.finding;
    if let Some(problem) = &finding.refused {
        let message = format!("{problem}{}", what_stays(observation));
        return match problem {
            // Whoever makes the backend gets the route further.
            Problem::NoBackend { .. } => Readiness::waiting(problem.reason(), message),
            _ => Readiness::stalled(problem.reason(), message),
        };
    }
    if let Some(problem) = &finding.too_large {
        return Readiness::stalled(problem.reason(), format!("{problem}{}", what_stays(observation)));
    }
    if finding.in_force.is_none() {
        let message = "spec.suspend is true: the route comes into force once it is removed";
        return Readiness::progressing(reasons::SUSPENDED, message);
    }
    if let Some(not_ready) = gateway(observation) {
        return not_ready;
    }
    if !is_live(observation) {
        return Readiness::progressing(reasons::PROGRESSING, COMES);
    }
    answering(observation, backends)
}

/// What keeps the gateway from being as it should be.
fn gateway(observation: &Observation) -> Option<Readiness> {
    let gateway = &observation.gateway;
    let settings = format!("the ConfigMap {NAME}");
    // Replicas may answer without it, but not as they should: without their policy anybody may connect to them.
    let lasts = |refusal: &&Refusal| !matches!(refusal.cause, RefusalCause::Transient | RefusalCause::Leftover);
    if let Some(refusal) = gateway.refusals.iter().find(lasts) {
        return Some(refused::readiness(refusal, &settings));
    }
    if !gateway.ready.is_empty() {
        return None;
    }
    if let Some((problem, _)) = unusable_settings(gateway) {
        return Some(Readiness::stalled(reasons::INVALID_GATEWAY_SETTINGS, problem));
    }
    if let Some(refusal) = gateway.refusals.first() {
        return Some(refused::readiness(refusal, &settings));
    }
    let deployment = gateway.deployment.as_ref();
    if let Some(message) = deployment.and_then(|deployment| deployment.replica_failure.as_ref()) {
        let message = format!("the API server refuses the gateway's pods: {message}");
        return Some(Readiness::waiting(reasons::POD_CREATION_FAILED, message));
    }
    if deployment.is_some_and(|deployment| deployment.deadline_exceeded) {
        let message =
            format!("the gateway does not become ready in time: see the events and logs of the pods of Deployment {NAME}");
        return Some(Readiness::stalled(reasons::START_TIMEOUT, message));
    }
    Some(Readiness::progressing(reasons::GATEWAY_NOT_READY, NO_REPLICA))
}

/// Whether backends can answer.
fn answering(observation: &Observation, backends: &[BackendState]) -> Readiness {
    let missing: Vec<String> =
        backends.iter().filter(|backend| !backend.ready).map(|backend| format!("{} ({})", backend.name, backend.reason)).collect();
    if missing.is_empty() {
        return Readiness::ready(reasons::AVAILABLE, "calls are answered, and every backend can");
    }
    let missing = missing.join(", ");
    if backends.iter().any(|backend| backend.ready) {
        let message = format!("calls are answered, but these backends cannot: {missing}");
        return Readiness::ready(reasons::PARTIALLY_AVAILABLE, message);
    }
    let message = format!("no backend can answer: {missing}");
    let stalled = |backend: &BackendState| observation.backends.get(&backend.name).is_none_or(|state| state.stalled);
    match backends.iter().all(stalled) {
        true => Readiness::stalled(reasons::NO_BACKEND_READY, format!("{message}; see their conditions")),
        false => Readiness::progressing(reasons::NO_BACKEND_READY, message),
    }
}
