//! Whom a budget covers of those who used something.
//!
//! A table has the names of pools, and not their labels. A budget for all pools covers everybody in it, also pools that are
//! gone by now. One for some of them is asked about the pools that there are.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::api::token_budget::AppliesTo;
use crate::decide::account::history::{Covers, History, OTHER};
use crate::decide::budget::matches::{self, InvalidSelector};
use crate::decide::budget::observation::PoolFacts;

/// Nobody can say whom a budget covers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoveredError {
    /// Its selector is none.
    #[error(transparent)]
    InvalidSelector(#[from] InvalidSelector),
    /// It goes by labels, and there are no pools that could have any.
    #[error("spec.appliesTo.agentPoolSelector goes by labels, and no AgentPools are known: add a file that has them")]
    PoolsUnknown,
}

/// Those whom a budget covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    /// The callers, and the routes of each whose calls count.
    pub covers: Covers,
    /// Callers of the table of which nobody knows whether they are covered, as their pools are not known. They are left out.
    pub unknown: Vec<String>,
}

/// Whom a budget covers of the callers of a table, and of these pools.
///
/// # Errors
///
/// It cannot be said.
pub fn covered(applies_to: &AppliesTo, pools: &[PoolFacts], history: &History) -> Result<Covered, CoveredError> {
    let mut covers = matches::covers(applies_to, pools)?;
    let callers = callers(history).into_iter().filter(|caller| !pools.iter().any(|pool| pool.name == *caller));
    if applies_to.agent_pool_selector.as_ref().is_none_or(is_empty) {
        let routes = matches::routes(applies_to);
        covers.extend(callers.map(|caller| (caller.to_owned(), routes.clone())));
        return Ok(Covered { covers, unknown: Vec::new() });
    }
    if pools.is_empty() {
        return Err(CoveredError::PoolsUnknown);
    }
    Ok(Covered { covers, unknown: callers.map(str::to_owned).collect() })
}

/// The callers of a table, in the order of their names, without what stands for the smallest of very many.
fn callers(history: &History) -> Vec<&str> {
    let mut callers: Vec<&str> =
        history.rows().map(|(_, series, _)| series.caller.as_str()).filter(|caller| *caller != OTHER).collect();
    // Rows are by caller.
    callers.dedup();
    callers
}

fn is_empty(selector: &LabelSelector) -> bool {
    let LabelSelector { match_labels, match_expressions } = selector;
    match_labels.as_ref().is_none_or(|labels| labels.is_empty())
        && match_expressions.as_ref().is_none_or(|expressions| expressions.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::{Value, json};

    use super::*;
    use crate::decide::account::history::fixtures::{covers, input, table};

    fn applies_to(value: Value) -> AppliesTo {
        serde_json::from_value(value).unwrap()
    }

    fn pool(name: &str, team: &str) -> PoolFacts {
        PoolFacts {
            name: name.to_owned(),
            labels: BTreeMap::from([("team".to_owned(), team.to_owned())]),
            routes: BTreeSet::from(["smart".to_owned()]),
            ..PoolFacts::default()
        }
    }

    fn used() -> History {
        table([
            ("2026-11-26T09:10:00Z", ["coder", "smart", "qwen"], input(1)),
            ("2026-11-26T10:10:00Z", ["coder", "smart", "qwen"], input(1)),
            ("2026-11-26T09:10:00Z", ["gone", "cheap", "qwen"], input(1)),
        ])
    }

    #[test]
    fn a_budget_for_all_pools_covers_those_that_are_gone_and_those_that_have_used_nothing() {
        for all in [json!({}), json!({ "agentPoolSelector": {} })] {
            let of = covered(&applies_to(all.clone()), &[pool("coder", "dev"), pool("idle", "dev")], &used()).unwrap();
            assert_eq!(of.covers, covers(&[("coder", &[]), ("gone", &[]), ("idle", &[])]), "{all}");
            assert_eq!(covered(&applies_to(all), &[], &used()).unwrap().covers, covers(&[("coder", &[]), ("gone", &[])]));
        }
        let of_route = applies_to(json!({ "modelRoutes": [{ "name": "cheap" }] }));
        // The pool may not call that route, and it is known.
        let of = covered(&of_route, &[pool("coder", "dev")], &used()).unwrap();
        assert_eq!((of.covers, of.unknown), (covers(&[("gone", &["cheap"])]), Vec::new()));
    }

    #[test]
    fn a_budget_for_some_pools_asks_about_those_that_there_are() {
        let of_team = applies_to(json!({ "agentPoolSelector": { "matchLabels": { "team": "dev" } } }));
        let of = covered(&of_team, &[pool("coder", "dev"), pool("idle", "research")], &used()).unwrap();
        assert_eq!((of.covers, of.unknown), (covers(&[("coder", &[])]), vec!["gone".to_owned()]));
        assert_eq!(covered(&of_team, &[], &used()), Err(CoveredError::PoolsUnknown));
        let invalid = applies_to(json!({ "agentPoolSelector": { "matchExpressions": [{ "key": "team", "operator": "Like" }] } }));
        assert!(matches!(covered(&invalid, &[], &used()), Err(CoveredError::InvalidSelector(_))));
    }
}
