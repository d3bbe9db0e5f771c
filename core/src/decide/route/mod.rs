//! ModelRoute: what its status says.
//!
//! [`decide()`] is the whole decision; it makes nothing. What of the route comes into force is decided for all routes of a namespace
//! together ([`crate::decide::gateway::assemble`]), and is part of the [`observation`]. [`verdicts`] makes the conditions of it,
//! [`backends`] the list of backends, and [`budgets`] says which callers budgets hold back.

pub mod backends;
pub mod budgets;
pub mod observation;
pub mod verdicts;

use std::time::Duration;

use jiff::Timestamp;

use super::conditions;
use super::decision::{Children, Decision, Event};
use super::gateway::{children, route_entry};
use super::overdue::{self, Previous};
use super::readiness;
use crate::api::conditions::types;
use crate::api::model_route::ModelRouteStatus;
use observation::Observation;

/// The types of conditions that this decision writes.
pub const CONDITIONS: &[&str] = &[
    types::READY,
    types::RECONCILING,
    types::STALLED,
    types::SUSPENDED,
    types::SCHEMA_OUTDATED,
    types::ACCEPTED,
    types::RESOLVED_REFS,
    types::PROGRAMMED,
    types::LIMITED_BY_BUDGET,
];

/// Time until a route is looked at again that its namespace's plan has yet to take in, or of whose replicas nothing is known yet; both
/// wake it before.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// What the status of a route should say.
pub fn decide(observation: &Observation, now: Timestamp) -> Decision<ModelRouteStatus> {
    let route = &observation.route;
    let name = route.metadata.name.as_deref().unwrap_or_default();
    let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
    let previous = route.status.clone().unwrap_or_default();
    let generation = route.metadata.generation;
    let is_said = previous.observed_generation.is_some() && previous.observed_generation == generation;
    if observation.pending || is_said && observation.gateway.unheard {
        // What was said stays until more is known than nothing.
        let status = previous;
        return Decision { children: Children::Keep, patches: Vec::new(), status, events: Vec::new(), next: Some(FIRST_LOOK) };
    }
    let backends = backends::of(observation);
    let remembered = Previous {
        conditions: &previous.conditions,
        observed_generation: previous.observed_generation,
        waiting_since: previous.waiting_since.as_ref(),
    };
    let judged = overdue::judge(verdicts::readiness(observation, &backends), remembered, generation, now);
    let mut events: Vec<Event> = readiness::event(&previous.conditions, &judged.ready).into_iter().collect();
    let limited = budgets::verdict(observation);
    events.extend(limited.as_ref().and_then(|limited| budgets::event(&previous.conditions, limited)));
    let suspended = route.spec.suspend == Some(true);
    let of_kind = verdicts::of(observation).into_iter().chain(limited).collect();
    let verdicts = readiness::conditions(&judged.ready, of_kind, suspended, &observation.outdated_schema);
    let status = ModelRouteStatus {
        observed_generation: generation,
        conditions: conditions::merge(&previous.conditions, verdicts, CONDITIONS, generation, now),
        waiting_since: judged.since,
        model_name: Some(route_entry::model_name(name, &route.spec)),
        strategy: Some(route.spec.strategy.unwrap_or_default()),
        endpoint: observation.finding.in_force.map(|_| children::service::endpoint(namespace)),
        ready_backends: Some(backends::summary(&backends)),
        backends: backends::shown(backends),
        callers: budgets::shown(&observation.callers),
        budget_summary: budgets::summary(&observation.callers),
    };
    Decision { children: Children::Keep, patches: Vec::new(), status, events, next: judged.next }
}

#[cfg(test)]
mod decide_tests;
