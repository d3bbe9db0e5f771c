//! What budgets mean for the callers of a route: who is held back, how far, and who has no backend left.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::observation::Observation;
use crate::api::TokenBudget;
use crate::api::conditions::{reasons, types};
use crate::api::model_route::{DataPolicy, Fallback, FallbackCause, MAX_CALLERS, RouteBackend, RouteCaller, Tier};
use crate::decide::budget::consumers::{self, RouteCallerLine};
use crate::decide::conditions::{Verdict, truncated};
use crate::decide::decision::Event;
use crate::decide::gateway::route_entry;
use crate::decide::gateway::route_problem::Problem;

/// The most callers that a message names.
const NAMES: usize = 5;

impl From<RouteCallerLine> for RouteCaller {
    fn from(line: RouteCallerLine) -> Self {
        let RouteCallerLine { agent_pool, tier, blocked, budget, phase } = line;
        Self { agent_pool, tier, blocked, budget, phase }
    }
}

/// The callers of a route that budgets, by name, hold back: by name of the pool, and of the budget.
pub fn of(budgets: &[(String, &TokenBudget)], route: &str) -> Vec<RouteCaller> {
    consumers::of_route(budgets, route).into_iter().map(RouteCaller::from).collect()
}

/// As many as the status has room for: those who are held back most.
pub fn shown(callers: &[RouteCaller]) -> Vec<RouteCaller> {
    let mut shown: Vec<&RouteCaller> = callers.iter().collect();
    shown.sort_by_key(|caller| gravity(caller));
    shown.truncate(MAX_CALLERS);
    shown.sort_by(|one, other| (&one.agent_pool, &one.budget).cmp(&(&other.agent_pool, &other.budget)));
    shown.into_iter().cloned().collect()
}

/// The caller who is held back most, such as `coder: Economy by sprint-42`.
pub fn summary(callers: &[RouteCaller]) -> Option<String> {
    let worst = callers.iter().min_by_key(|caller| gravity(caller))?;
    Some(format!("{}: {}", worst.agent_pool, how(worst)))
}

/// Who is held back most comes first.
fn gravity(caller: &RouteCaller) -> (bool, Tier) {
    (!caller.blocked, caller.tier.unwrap_or(Tier::Premium))
}

/// How far a caller is held back, and by which budget.
fn how(caller: &RouteCaller) -> String {
    let budget = &caller.budget;
    match (caller.blocked, caller.tier) {
        (true, _) => format!("blocked by {budget}"),
        (false, Some(tier)) => format!("{tier:?} by {budget}"),
        (false, None) => format!("paused by {budget}"),
    }
}

/// The condition `LimitedByBudget`; none: nobody is held back.
pub fn verdict(observation: &Observation) -> Option<Verdict> {
    let callers = &observation.callers;
    if callers.is_empty() {
        return None;
    }
    let stranded = stranded(observation);
    let (reason, message) = if stranded.is_empty() {
        let held_back = callers.iter().map(|caller| format!("{} ({})", caller.agent_pool, how(caller)));
        (reasons::CALLERS_HELD_BACK, format!("budgets hold callers back: {}", listed(held_back, ", ")))
    } else {
        let advice = "such calls are refused with no_backend_in_tier until the period ends, or the limit is raised: name a backend \
                      of that tier there, or as a fallback";
        (reasons::NO_BACKEND_IN_TIER, format!("{}; {advice}", listed(stranded, "; ")))
    };
    Some(Verdict::holds(types::LIMITED_BY_BUDGET, reason, message))
}

/// Tells that callers have no backend left.
pub fn event(before: &[Condition], verdict: &Verdict) -> Option<Event> {
    let tells =
        |condition: &Condition| condition.type_ == types::LIMITED_BY_BUDGET && condition.reason == reasons::NO_BACKEND_IN_TIER;
    let is_news = verdict.reason == reasons::NO_BACKEND_IN_TIER && !before.iter().any(tells);
    let event = || Event { warning: true, reason: verdict.reason.to_owned(), note: truncated(verdict.message.clone()) };
    is_news.then(event)
}

fn listed(items: impl IntoIterator<Item = String>, separator: &str) -> String {
    let mut items = items.into_iter();
    let first: Vec<String> = items.by_ref().take(NAMES).collect();
    let others = if items.next().is_some() { format!("{separator}and others") } else { String::new() };
    format!("{}{others}", first.join(separator))
}

/// Backends that answer together, and whose calls they answer.
struct Group<'a> {
    /// The field that names them.
    field: String,
    /// Names of the AgentPools whose calls they are; of all where there are none.
    callers: &'a [String],
    /// The lowest class among them, and among the fallback that stands in for them.
    lowest: Tier,
}

/// The callers whose budgets leave nobody for some of their calls, in words.
fn stranded(observation: &Observation) -> Vec<String> {
    let generation = observation.route.metadata.generation.unwrap_or_default();
    // What another form says, which is in force in place of this one, is not known here.
    if observation.finding.in_force != Some(generation) {
        return Vec::new();
    }
    let groups = groups(observation);
    let of_caller = |(caller, (ceiling, budget)): (&str, (Tier, &str))| {
        let concerns = |group: &&Group<'_>| group.callers.is_empty() || group.callers.iter().any(|one| one == caller);
        let group = groups.iter().filter(concerns).find(|group| group.lowest > ceiling)?;
        let field = &group.field;
        Some(format!("budget {budget} allows {caller} backends up to {ceiling:?}, and neither {field} nor spec.fallback has one"))
    };
    ceilings(&observation.callers).into_iter().filter_map(of_caller).collect()
}

/// The highest class that each caller may use, and the budget that says so. A caller whose calls are all refused has none.
fn ceilings(callers: &[RouteCaller]) -> BTreeMap<&str, (Tier, &str)> {
    let blocked: BTreeSet<&str> = callers.iter().filter(|caller| caller.blocked).map(|caller| caller.agent_pool.as_str()).collect();
    let mut ceilings: BTreeMap<&str, (Tier, &str)> = BTreeMap::new();
    for caller in callers.iter().filter(|caller| !blocked.contains(caller.agent_pool.as_str())) {
        let Some(tier) = caller.tier else { continue };
        let ceiling = ceilings.entry(caller.agent_pool.as_str()).or_insert((tier, caller.budget.as_str()));
        if tier < ceiling.0 {
            *ceiling = (tier, caller.budget.as_str());
        }
    }
    ceilings
}

/// The backends of the route that answer together, as far as any of them can be asked at all.
fn groups(observation: &Observation) -> Vec<Group<'_>> {
    let spec = &observation.route.spec;
    let tiers = route_entry::tiers(spec);
    let tier = |stated: Option<Tier>, name: &str| stated.unwrap_or_else(|| route_entry::tier_of(&tiers, name));
    let lowest = |backends: &[RouteBackend]| {
        let asked = backends.iter().filter(|backend| may_be_asked(observation, &backend.name));
        asked.map(|backend| tier(backend.tier, &backend.name)).min()
    };
    // What a filter leaves out counts as unavailable.
    let stands_in = |fallback: &&Fallback| {
        (fallback.causes.is_empty() || fallback.causes.contains(&FallbackCause::Unavailable))
            && may_be_asked(observation, &fallback.name)
    };
    let fallback = spec.fallback.iter().filter(stands_in).map(|fallback| tier(fallback.tier, &fallback.name)).min();
    let everybody: &[String] = &[];
    let plain = (!spec.backends.is_empty()).then(|| ("spec.backends".to_owned(), everybody, lowest(&spec.backends)));
    // A rule for callers of whose budgets little is used is no longer about those whom one holds back.
    let rules = spec.rules.iter().filter(|rule| rule.when.budget_used_percent.and_then(|range| range.at_most).is_none());
    let of_rules = rules.map(|rule| {
        let field = format!("spec.rules[{}].backends", rule.name);
        (field, rule.when.agent_pools.as_slice(), lowest(&rule.backends))
    });
    let group = |(field, callers, own): (String, _, Option<Tier>)| {
        Some(Group { field, callers, lowest: own.into_iter().chain(fallback).min()? })
    };
    plain.into_iter().chain(of_rules).filter_map(group).collect()
}

/// Whether calls of the route can be sent to a backend, as far as budgets have nothing to do with it.
fn may_be_asked(observation: &Observation, name: &str) -> bool {
    let unusable = |problem: &Problem| matches!(problem, Problem::BackendUnusable { backend, .. } if backend == name);
    let allows_all = observation.route.spec.data_policy.unwrap_or_default() == DataPolicy::Any;
    let state = observation.backends.get(name).filter(|_| !observation.finding.unresolved.iter().any(unusable));
    state.is_some_and(|backend| allows_all || backend.self_hosted)
}

#[cfg(test)]
#[path = "budgets_tests.rs"]
mod tests;
