//! From the spec of a ModelRoute to its entry in the plan. All defaults of a route are applied here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::backend::Entry as BackendEntry;
use super::plan::{Candidate, CircuitBreaker, FallbackCandidate, Retries, Route, Rule, Timeouts};
use super::route_problem::Problem;
use super::{route_formats, route_rules};
use crate::api::duration::Duration as Text;
use crate::api::model_route::{self, DataPolicy, FallbackCause, ModelRouteSpec, RouteBackend, Strategy, Tier};

const REQUEST: Duration = Duration::from_secs(600);
const BACKEND_REQUEST: Duration = Duration::from_secs(120);
const STREAM_IDLE: Duration = Duration::from_secs(60);
const MAX_RETRIES: u32 = 2;
const BACKOFF_INITIAL: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const BUDGET_PERCENT: u32 = 20;
const FAILURES: u32 = 3;
const WINDOW: Duration = Duration::from_secs(60);
const COOLDOWN: Duration = Duration::from_secs(30);
const WEIGHT: u32 = 1;
const EVERY_CAUSE: [FallbackCause; 5] = [
    FallbackCause::RateLimited,
    FallbackCause::Timeout,
    FallbackCause::Unavailable,
    FallbackCause::NotFound,
    FallbackCause::ContextLengthExceeded,
];

/// The backends of a namespace by name: their entries, or why no call can be sent to them.
pub type Backends = BTreeMap<String, Result<BackendEntry, Problem>>;

/// The entry of a route, and what of its spec is not in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What the plan says of it. Backends that cannot be called are left out.
    pub route: Route,
    /// What is accepted, and limited.
    pub limited: Vec<Problem>,
}

/// What clients put into "model".
pub fn model_name(name: &str, spec: &ModelRouteSpec) -> String {
    spec.model_name.clone().unwrap_or_else(|| name.to_owned())
}

/// The entry of a route that was accepted before, whatever has become of its backends since.
///
/// # Errors
///
/// A duration cannot be read.
pub fn of_accepted(name: &str, spec: &ModelRouteSpec, backends: &Backends) -> Result<Entry, Problem> {
    let tiers = tiers(spec);
    let usable = |name: &str| backends.get(name).is_some_and(Result::is_ok);
    let candidates = |list: &[RouteBackend]| -> Vec<Candidate> {
        let usable = list.iter().filter(|backend| usable(&backend.name));
        let tier = |backend: &RouteBackend| backend.tier.unwrap_or_else(|| tier_of(&tiers, &backend.name));
        let weight = |backend: &RouteBackend| backend.weight.unwrap_or(WEIGHT);
        usable.map(|backend| Candidate { backend: backend.name.clone(), tier: tier(backend), weight: weight(backend) }).collect()
    };
    let strategy = spec.strategy.unwrap_or_default();
    let rule = |rule: &model_route::RouteRule| Rule {
        name: rule.name.clone(),
        when: rule.when.clone(),
        strategy: rule.strategy.unwrap_or(strategy),
        backends: candidates(&rule.backends),
    };
    let fallback = spec.fallback.iter().filter(|fallback| usable(&fallback.name)).map(|fallback| FallbackCandidate {
        backend: fallback.name.clone(),
        tier: fallback.tier.unwrap_or_else(|| tier_of(&tiers, &fallback.name)),
        causes: if fallback.causes.is_empty() { EVERY_CAUSE.into() } else { fallback.causes.iter().copied().collect() },
    });
    let route = Route {
        model_name: model_name(name, spec),
        aliases: spec.aliases.iter().filter(|alias| **alias != model_name(name, spec)).cloned().collect(),
        strategy,
        backends: candidates(&spec.backends),
        // A rule without a backend that can be called stays: its calls go to the fallback, and not where they should not.
        rules: spec.rules.iter().map(rule).collect(),
        trusted_labels: spec.trusted_labels.iter().cloned().collect(),
        fallback: fallback.collect(),
        timeouts: timeouts(spec)?,
        retries: retries(spec)?,
        circuit_breaker: circuit_breaker(spec)?,
        data_policy: spec.data_policy.unwrap_or_default(),
        region_preference: spec.region_preference.clone(),
    };
    Ok(Entry { route, limited: Vec::new() })
}

/// The entry of a route whose spec has yet to be accepted.
///
/// # Errors
///
/// What is wrong with it.
pub fn of_new(name: &str, spec: &ModelRouteSpec, backends: &Backends) -> Result<Entry, Problem> {
    route_rules::check(&spec.rules)?;
    named_once("spec.backends", spec.backends.iter().map(|backend| &backend.name))?;
    named_once("spec.fallback", spec.fallback.iter().map(|fallback| &fallback.name))?;
    weights("spec.backends", spec.strategy.unwrap_or_default(), &spec.backends)?;
    for rule in &spec.rules {
        let field = format!("spec.rules[{}].backends", rule.name);
        named_once(&field, rule.backends.iter().map(|backend| &backend.name))?;
        weights(&field, rule.strategy.or(spec.strategy).unwrap_or_default(), &rule.backends)?;
    }
    if spec.backends.is_empty() && spec.rules.is_empty() {
        return Err(Problem::field("spec.backends", "is empty, and there are no rules: name the backends that answer"));
    }
    let mut entry = of_accepted(name, spec, backends)?;
    if let Some(first) = unresolved(spec, backends).first()
        && references(spec).all(|(_, name)| !backends.get(name).is_some_and(Result::is_ok))
    {
        return Err(Problem::NoBackend { first: first.to_string() });
    }
    allowed(spec, &entry.route, backends)?;
    entry.limited = route_formats::check(&entry.route, backends)?;
    Ok(entry)
}

/// Every backend that a spec names, with the field that does, each once, in the order of the spec.
pub fn references(spec: &ModelRouteSpec) -> impl Iterator<Item = (String, &str)> {
    let of_route = spec.backends.iter().map(|backend| (format!("spec.backends[{}]", backend.name), backend.name.as_str()));
    let of_rules = spec.rules.iter().flat_map(|rule| {
        let field = |backend: &str| format!("spec.rules[{}].backends[{backend}]", rule.name);
        rule.backends.iter().map(move |backend| (field(&backend.name), backend.name.as_str()))
    });
    let of_fallback = spec.fallback.iter().map(|fallback| (format!("spec.fallback[{}]", fallback.name), fallback.name.as_str()));
    let mut seen = BTreeSet::new();
    of_route.chain(of_rules).chain(of_fallback).filter(move |(_, name)| seen.insert(*name))
}

/// What is wrong with the backends that a spec names, in the order of the spec.
pub fn unresolved(spec: &ModelRouteSpec, backends: &Backends) -> Vec<Problem> {
    references(spec)
        .filter_map(|(field, name)| match backends.get(name) {
            None => Some(Problem::BackendNotFound { field, backend: name.to_owned() }),
            Some(Err(problem)) => Some(problem.clone()),
            Some(Ok(_)) => None,
        })
        .collect()
}

/// The classes that `spec.backends` states, by name of the InferenceBackend.
pub(crate) fn tiers(spec: &ModelRouteSpec) -> BTreeMap<&str, Tier> {
    spec.backends.iter().filter_map(|backend| Some((backend.name.as_str(), backend.tier?))).collect()
}

/// The class of a backend where the place that names it states none.
pub(crate) fn tier_of(tiers: &BTreeMap<&str, Tier>, backend: &str) -> Tier {
    tiers.get(backend).copied().unwrap_or_default()
}

fn named_once<'a>(field: &str, names: impl Iterator<Item = &'a String>) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Problem::field(field, format!("names {name} twice: keep one")));
        }
    }
    Ok(())
}

fn weights(field: &str, strategy: Strategy, backends: &[RouteBackend]) -> Result<(), Problem> {
    let none = !backends.is_empty() && backends.iter().all(|backend| backend.weight == Some(0));
    if strategy == Strategy::Weighted && none {
        let problem = "has the weight 0 for every backend, so that none is ever chosen first: give at least one a weight";
        return Err(Problem::field(field, problem));
    }
    Ok(())
}

/// Whether the data policy leaves somebody to answer wherever backends can be called at all.
fn allowed(spec: &ModelRouteSpec, route: &Route, backends: &Backends) -> Result<(), Problem> {
    if route.data_policy == DataPolicy::Any {
        return Ok(());
    }
    let self_hosted =
        |name: &str| backends.get(name).and_then(|entry| entry.as_ref().ok()).is_some_and(|entry| entry.backend.self_hosted);
    if route.fallback.iter().any(|fallback| self_hosted(&fallback.backend)) {
        return Ok(());
    }
    let of_rules = route.rules.iter().map(|rule| (format!("spec.rules[{}].backends", rule.name), &rule.backends));
    let default = (!spec.backends.is_empty()).then(|| ("spec.backends".to_owned(), &route.backends));
    for (field, candidates) in default.into_iter().chain(of_rules) {
        let none = candidates.iter().all(|candidate| !self_hosted(&candidate.backend));
        if !candidates.is_empty() && none {
            return Err(Problem::NoBackendAllowed { field });
        }
    }
    Ok(())
}

fn timeouts(spec: &ModelRouteSpec) -> Result<Timeouts, Problem> {
    let stated = spec.timeouts.clone().unwrap_or_default();
    Ok(Timeouts {
        request: some_time("spec.timeouts.request", stated.request.as_ref(), REQUEST)?,
        backend_request: some_time("spec.timeouts.backendRequest", stated.backend_request.as_ref(), BACKEND_REQUEST)?,
        stream_idle: some_time("spec.timeouts.streamIdle", stated.stream_idle.as_ref(), STREAM_IDLE)?,
    })
}

fn retries(spec: &ModelRouteSpec) -> Result<Retries, Problem> {
    let stated = spec.retries.clone().unwrap_or_default();
    let backoff = stated.backoff.unwrap_or_default();
    Ok(Retries {
        max_retries: stated.max_retries.unwrap_or(MAX_RETRIES),
        initial: time("spec.retries.backoff.initial", backoff.initial.as_ref(), BACKOFF_INITIAL)?,
        max: time("spec.retries.backoff.max", backoff.max.as_ref(), BACKOFF_MAX)?,
        budget_percent: stated.budget_percent.unwrap_or(BUDGET_PERCENT),
    })
}

fn circuit_breaker(spec: &ModelRouteSpec) -> Result<CircuitBreaker, Problem> {
    let stated = spec.circuit_breaker.clone().unwrap_or_default();
    Ok(CircuitBreaker {
        failures: stated.failures.unwrap_or(FAILURES),
        window: some_time("spec.circuitBreaker.window", stated.window.as_ref(), WINDOW)?,
        cooldown: time("spec.circuitBreaker.cooldown", stated.cooldown.as_ref(), COOLDOWN)?,
    })
}

fn time(field: &str, stated: Option<&Text>, default: Duration) -> Result<Duration, Problem> {
    stated.map_or(Ok(default), |text| text.to_std().map_err(|error| Problem::field(field, format!("cannot be read: {error}"))))
}

fn some_time(field: &str, stated: Option<&Text>, default: Duration) -> Result<Duration, Problem> {
    match time(field, stated, default)? {
        Duration::ZERO => Err(Problem::field(field, "is 0, in which nothing can happen: remove it, or set a time")),
        time => Ok(time),
    }
}

#[cfg(test)]
#[path = "route_entry_tests.rs"]
mod tests;
