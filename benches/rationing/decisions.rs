//! A look at a budget of which nothing has changed: what the operator does of it beside reading its caches, and the decision
//! alone.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use quartermaster_core::api::TokenBudget;
use quartermaster_core::decide::account::history::History;
use quartermaster_core::decide::budget::observation::{Accounts, Observation, RouteFacts};
use quartermaster_core::decide::budget::{self, check, in_force, terms, verdict};
use quartermaster_core::decide::merge_patch;
use serde_json::Value;

use crate::fleet::{BACKEND, Fleet, NAMESPACE, ROUTE};

/// How long looks are repeated.
const LONG_ENOUGH: Duration = Duration::from_secs(3);
/// The same in a quick run.
const QUICK: Duration = Duration::from_millis(300);
/// Decisions until a status has come to rest, at most.
const DECISIONS: usize = 5;

/// What a look cost, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Looks {
    /// Budgets of the namespace.
    pub budgets: usize,
    /// The decision about one, and the difference to its stored status.
    pub decision: f64,
    /// The same with what is read of the accounts and the caller table for it, and with what it gives the accounts and the
    /// gateways.
    pub look: f64,
}

/// Looks at all budgets again and again.
pub fn measure(fleet: &Fleet, quick: bool) -> Looks {
    let long_enough = if quick { QUICK } else { LONG_ENOUGH };
    let now = Timestamp::now();
    let at_rest: Vec<(Observation, Value)> = fleet.budgets.iter().map(|budget| rest(fleet, budget, now)).collect();
    let decision = each(&at_rest, long_enough, |observation, stored| decide(observation, stored, now));
    let look = each(&at_rest, long_enough, |before, stored| {
        let observation = observe(fleet, &before.budget, now);
        black_box(terms::of(&observation.budget, &observation.pools, observation.accounts.as_ref(), now));
        black_box(verdict::of(&observation.budget, &observation.pools, observation.accounts.as_ref(), now));
        decide(&observation, stored, now);
    });
    Looks { budgets: fleet.budgets.len(), decision, look }
}

fn each(at_rest: &[(Observation, Value)], long_enough: Duration, look: impl Fn(&Observation, &Value)) -> f64 {
    let (mut looks, begun) = (0, Instant::now());
    while begun.elapsed() < long_enough {
        at_rest.iter().for_each(|(observation, stored)| look(observation, stored));
        looks += at_rest.len();
    }
    begun.elapsed().as_secs_f64() / looks as f64
}

/// As a reconcile that finds nothing to do.
fn decide(observation: &Observation, stored: &Value, now: Timestamp) {
    let decision = budget::decide(black_box(observation), now);
    let difference = merge_patch::difference(stored, &serde_json::to_value(decision.status).unwrap());
    assert_eq!(difference, None, "the budget has not come to rest");
}

/// A budget whose status says what there is to say, and that status.
fn rest(fleet: &Fleet, budget: &TokenBudget, now: Timestamp) -> (Observation, Value) {
    let mut observation = observe(fleet, budget, now);
    for _ in 0..DECISIONS {
        observation.budget.status = Some(budget::decide(&observation, now).status);
    }
    let stored = serde_json::to_value(&observation.budget.status).unwrap();
    (observation, stored)
}

/// What the operator observes of a budget.
fn observe(fleet: &Fleet, budget: &TokenBudget, now: Timestamp) -> Observation {
    let uid = budget.metadata.uid.as_deref().unwrap_or_default();
    let accounts = Accounts::from(&fleet.accounts.snapshot(NAMESPACE, uid).expect("it has accounts"));
    let checked = check::check(&budget.spec).ok();
    let in_force = in_force::of(budget, checked.as_ref(), &fleet.pools, Some(&accounts), now).expect("it is in force");
    let (covers, from) = (in_force.covers, accounts.period.0);
    let to = in_force.period.end.map_or(i64::MAX, Timestamp::as_second);
    let read = |history: &History| (history.by_caller(&covers, from, to), history.burn(&covers, now, from));
    let (by_caller, burn) = fleet.accounts.history(NAMESPACE, read).expect("the table was read");
    let route = RouteFacts { name: ROUTE.to_owned(), backends: BTreeSet::from([BACKEND.to_owned()]) };
    Observation {
        observed_at: None,
        budget: budget.clone(),
        pools: fleet.pools.clone(),
        routes: vec![route],
        unpriced: BTreeSet::new(),
        accounts: Some(accounts),
        unknown_because: None,
        by_caller,
        burn: Some(burn.into()),
        figures_changed: None,
        outdated_schema: Arc::default(),
    }
}
