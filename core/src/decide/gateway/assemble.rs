//! From the resources of a namespace to its plan: all accepted routes, their backends and their callers.
//!
//! One route never takes another out of the plan. A route whose edit cannot be accepted stays in force in the form that was
//! accepted last ([`AcceptedForm`]). A name belongs to the oldest route that asks for it. What exceeds the room of a ConfigMap
//! stays out, the newest first.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

use super::backend::{self, BackendFacts};
use super::model_names::ModelNames;
use super::plan::{self, Caller, Plan, PlannedBudget};
use super::planned_budgets;
use super::room::{self, Choice, Form, LeftOut};
use super::route_entry::{self, Backends};
use super::route_problem::Problem;
use crate::api::ModelRoute;
use crate::api::model_route::ModelRouteSpec;
use crate::api::references::SecretKeyReference;

/// The most bytes that the plan and the accepted forms may have together. The API server takes 1 MiB of values in a ConfigMap
/// (kubernetes/kubernetes, pkg/apis/core/validation, MaxSecretSize); the rest is room for what the sum leaves out.
pub const LIMIT: usize = (1 << 20) - (64 << 10);

/// What a plan is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// The namespace.
    pub namespace: String,
    /// All its ModelRoutes, in any order.
    #[serde(default)]
    pub routes: Vec<ModelRoute>,
    /// The forms of routes that were accepted last, by name of the route, as the ConfigMap of the plan has them.
    #[serde(default)]
    pub accepted: BTreeMap<String, AcceptedForm>,
    /// All its InferenceBackends, in any order.
    #[serde(default)]
    pub backends: Vec<BackendFacts>,
    /// Who may call, by name of the AgentPool.
    #[serde(default)]
    pub callers: BTreeMap<String, Caller>,
    /// Whose calls budgets cover ([`planned_budgets::of`]), in any order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<PlannedBudget>,
}

/// A form of a route that was accepted: it stays in force while an edit of the route cannot be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcceptedForm {
    /// Uid of the ModelRoute: another object of the same name starts anew.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Generation of the ModelRoute.
    #[serde(default)]
    pub generation: i64,
    /// What it says.
    pub spec: ModelRouteSpec,
}

/// A plan, and what was found about each route on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Assembled {
    /// The plan.
    pub plan: Plan,
    /// What to keep in place of [`Resources::accepted`].
    pub accepted: BTreeMap<String, AcceptedForm>,
    /// Which key of which Secret of the namespace each entry of the gateway's Secret is a copy of.
    pub secret_entries: BTreeMap<String, SecretKeyReference>,
    /// What was found about each route, by its name.
    pub routes: BTreeMap<String, Finding>,
}

/// What was found about a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Finding {
    /// Why its spec as it is now is not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Problem>,
    /// What of its spec is left out, or limited, while the rest is accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limited: Vec<Problem>,
    /// Backends that its spec names and that no call can be sent to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unresolved: Vec<Problem>,
    /// Its spec is accepted, and the plan has no room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub too_large: Option<Problem>,
    /// The generation that the plan has of it. Absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<i64>,
}

/// The plan of a namespace, and what was found about each of its routes. The order of routes and backends does not matter.
pub fn assemble(resources: &Resources) -> Assembled {
    let entry = |facts| backend::entry(facts, &resources.namespace);
    let backends: Backends = resources.backends.iter().map(|facts| (facts.backend.name_any(), entry(facts))).collect();
    let mut plan = Plan {
        schema: plan::SCHEMA,
        namespace: resources.namespace.clone(),
        callers: callers(&resources.callers),
        budgets: planned_budgets::bounded(&resources.budgets, &resources.callers),
        ..Plan::default()
    };
    let (choices, mut findings) = fitting(resources, &plan, &backends);
    let mut accepted = BTreeMap::new();
    let mut secret_entries = BTreeMap::new();
    for Choice { name, wanted, .. } in choices {
        let Some(form) = wanted else { continue };
        for backend in form.backends() {
            if let Some(Ok(entry)) = backends.get(backend) {
                plan.backends.insert(backend.to_owned(), entry.backend.clone());
                secret_entries.extend(entry.secret_entries.clone());
            }
        }
        if let Some(route) = form.route {
            findings.entry(name.clone()).or_default().in_force = Some(form.accepted.generation);
            plan.routes.insert(name.clone(), route);
        }
        accepted.insert(name, form.accepted);
    }
    let Plan { callers, routes, .. } = &mut plan;
    callers.values_mut().for_each(|caller| caller.routes.retain(|route| routes.contains_key(route)));
    Assembled { plan, accepted, secret_entries, routes: findings }
}

/// What the plan has of each route, so that all of it has room, and what was found about each. A form that has none is as if it was not
/// there: it takes no name from another route.
fn fitting(resources: &Resources, base: &Plan, backends: &Backends) -> (Vec<Choice>, BTreeMap<String, Finding>) {
    let routes = by_age(&resources.routes);
    let mut left_out = BTreeMap::new();
    loop {
        let mut names = ModelNames::default();
        let mut findings = BTreeMap::new();
        let mut choices = Vec::new();
        for route in &routes {
            let (choice, finding) = choose(route, resources, backends, &mut names, &left_out);
            findings.insert(choice.name.clone(), finding);
            choices.push(choice);
        }
        let too_large = room::too_large(&choices, base, backends);
        if too_large.is_empty() {
            return (choices, findings);
        }
        // Each round leaves out more than the one before, so that one is the last.
        left_out.extend(too_large);
    }
}

/// The routes from the oldest to the newest, and those of the same time by name. Those that are being deleted are none.
fn by_age(routes: &[ModelRoute]) -> Vec<&ModelRoute> {
    let mut routes: Vec<&ModelRoute> = routes.iter().filter(|route| route.metadata.deletion_timestamp.is_none()).collect();
    // One without a time, such as one in a file, has not been made yet.
    let made = |route: &ModelRoute| route.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
    routes.sort_by_cached_key(|route| (made(route), route.name_any()));
    routes
}

/// Who may call. A key that two have belongs to the first by name: a gateway takes no plan in which it is not clear who calls.
fn callers(callers: &BTreeMap<String, Caller>) -> BTreeMap<String, Caller> {
    let mut callers = callers.clone();
    let mut seen = BTreeSet::new();
    callers.values_mut().for_each(|caller| caller.key_hashes.retain(|hash| seen.insert(hash.clone())));
    callers
}

/// Which form of a route is wanted, by its own merits, by the names that older routes have taken, and by what has no room.
fn choose(
    route: &ModelRoute,
    resources: &Resources,
    backends: &Backends,
    names: &mut ModelNames,
    left_out: &BTreeMap<String, LeftOut>,
) -> (Choice, Finding) {
    let name = route.name_any();
    let uid = route.metadata.uid.clone().unwrap_or_default();
    let generation = route.metadata.generation.unwrap_or_default();
    let before = resources.accepted.get(&name).filter(|form| form.uid == uid);
    let entry_before = |form: &AcceptedForm| route_entry::of_accepted(&name, &form.spec, backends).ok().map(|entry| entry.route);
    let left_out = left_out.get(&name);
    let suspended = route.spec.suspend == Some(true) && before.is_none_or(|form| form.generation != generation);
    let mut finding = Finding {
        unresolved: route_entry::unresolved(&route.spec, backends),
        too_large: left_out.map(|_| Problem::PlanTooLarge { limit: LIMIT }),
        ..Finding::default()
    };
    let accepted = route_entry::of_new(&name, &route.spec, backends).and_then(|mut entry| {
        // A form that is not to come into force takes no names.
        let stays_out = suspended || left_out.is_some();
        let lost = if stays_out { Vec::new() } else { names.take(&name, &mut entry.route, &route.spec)? };
        finding.limited = lost.into_iter().chain(entry.limited).collect();
        Ok(entry.route)
    });
    match accepted {
        Ok(entry) if !suspended && left_out.is_none() => {
            let form = AcceptedForm { uid, generation, spec: route.spec.clone() };
            let is_new = before != Some(&form);
            let in_force = before.filter(|_| is_new).map(|form| Form::new(form.clone(), entry_before(form)));
            (Choice { name, wanted: Some(Form::new(form, Some(entry))), in_force, is_new }, finding)
        }
        refused => {
            finding.refused = refused.err();
            let wanted = before.filter(|_| left_out != Some(&LeftOut::All)).map(|form| {
                let entry = entry_before(form);
                let entry = entry.and_then(|mut entry| names.take(&name, &mut entry, &form.spec).is_ok().then_some(entry));
                Form::new(form.clone(), entry)
            });
            (Choice { name, wanted, in_force: None, is_new: false }, finding)
        }
    }
}

#[cfg(test)]
#[path = "assemble_golden_tests.rs"]
mod golden_tests;
#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
