//! A budget of a small team for tests: a thousand tokens a month, for two pools and two routes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::observation::{AccountFacts, Accounts, Observation, PerUnit, PoolFacts, RouteFacts};
use crate::api::TokenBudget;
use crate::api::agent_pool::Criticality;
use crate::api::token_budget::TokenBudgetSpec;
use crate::decide::account::PeriodId;

/// When the open period starts: the 1st of November 2026.
pub(super) const NOVEMBER: &str = "2026-11-01T00:00:00Z";
/// When the next one does.
pub(super) const DECEMBER: &str = "2026-12-01T00:00:00Z";
/// A time within the open period.
pub(super) const NOW: &str = "2026-11-26T12:00:00Z";

pub(super) fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// So many seconds after [`NOW`].
pub(super) fn after(seconds: i64) -> Timestamp {
    Timestamp::from_second(at(NOW).as_second() + seconds).unwrap()
}

pub(super) fn period(start: &str) -> PeriodId {
    PeriodId(at(start).as_second())
}

/// The spec of the budget, with these members in place of its own. Null takes one away.
pub(super) fn spec(members: &Value) -> TokenBudgetSpec {
    let mut spec = json!({ "tokens": 1000, "period": { "type": "Monthly" }, "appliesTo": {} });
    for (name, value) in members.as_object().unwrap() {
        spec[name] = value.clone();
    }
    spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    serde_json::from_value(spec).unwrap_or_else(|error| panic!("{error}: {members}"))
}

pub(super) fn budget(members: &Value) -> TokenBudget {
    let mut budget = TokenBudget::new("sprint", spec(members));
    budget.metadata.namespace = Some("team".to_owned());
    budget.metadata.uid = Some("u-1".to_owned());
    budget.metadata.generation = Some(1);
    budget
}

pub(super) fn pool(name: &str, routes: &[&str], criticality: Criticality) -> PoolFacts {
    PoolFacts {
        name: name.to_owned(),
        labels: BTreeMap::from([("team".to_owned(), "dev".to_owned())]),
        routes: routes.iter().map(|route| (*route).to_owned()).collect(),
        criticality,
    }
}

/// A pool that matters less, and one that matters more.
pub(super) fn pools() -> Vec<PoolFacts> {
    vec![pool("batch", &["router"], Criticality::BestEffort), pool("coder", &["assistant", "router"], Criticality::Standard)]
}

fn route(name: &str, backends: &[&str]) -> RouteFacts {
    RouteFacts { name: name.to_owned(), backends: backends.iter().map(|backend| (*backend).to_owned()).collect() }
}

pub(super) fn account(limit: u64, used: u64) -> AccountFacts {
    AccountFacts { limit, used, estimated: 0 }
}

pub(super) fn tokens(limit: u64, used: u64) -> PerUnit<AccountFacts> {
    PerUnit { tokens: Some(account(limit, used)), cost: None }
}

/// Accounts of the open period, of so many tokens.
pub(super) fn accounts(limit: u64, used: u64) -> Accounts {
    Accounts { period: period(NOVEMBER), units: tokens(limit, used), ..Accounts::default() }
}

/// The budget, of which so many tokens are used.
pub(super) fn observe(members: &Value, used: u64) -> Observation {
    let budget = budget(members);
    let limit = u64::try_from(budget.spec.tokens.unwrap_or(0)).unwrap();
    Observation {
        observed_at: None,
        budget,
        pools: pools(),
        routes: vec![route("assistant", &["large"]), route("router", &["claude", "small"]), route("other", &["unused"])],
        unpriced: ["claude".to_owned(), "unused".to_owned()].into(),
        accounts: Some(accounts(limit, used)),
        unknown_because: None,
        by_caller: BTreeMap::new(),
        burn: None,
        figures_changed: None,
        outdated_schema: Arc::default(),
    }
}
