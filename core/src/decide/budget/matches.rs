//! Whose calls count for a budget.

use std::collections::BTreeSet;

use kube::core::{Selector, SelectorExt as _};

use super::observation::PoolFacts;
use crate::api::token_budget::AppliesTo;
pub use crate::decide::account::history::Covers;

/// A selector that is none: the schema refuses it, so that it was written under an older one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "spec.appliesTo.agentPoolSelector is no selector of labels ({0}): use the operators In and NotIn with values, and Exists and \
     DoesNotExist without"
)]
pub struct InvalidSelector(pub String);

/// Whom a budget covers, of these pools. Members that are there must all match, and one that is not restricts nothing. A pool
/// that may call no route has no key, and is nobody's caller. One that the selector finds counts with the routes that the
/// budget names, and only if it may call one of them.
///
/// # Errors
///
/// The selector cannot be understood.
pub fn covers(applies_to: &AppliesTo, pools: &[PoolFacts]) -> Result<Covers, InvalidSelector> {
    let selector = selector(applies_to)?;
    let routes = routes(applies_to);
    let calls = |pool: &PoolFacts| match &routes {
        Some(routes) => !routes.is_disjoint(&pool.routes),
        None => !pool.routes.is_empty(),
    };
    let covered = pools.iter().filter(|pool| calls(pool) && selector.matches(&pool.labels));
    Ok(covered.map(|pool| (pool.name.clone(), routes.clone())).collect())
}

/// The ModelRoutes whose calls count; none: all of them.
pub fn routes(applies_to: &AppliesTo) -> Option<BTreeSet<String>> {
    let routes = applies_to.model_routes.as_ref()?;
    Some(routes.iter().map(|route| route.name.clone()).collect())
}

/// Of the routes that a pool may call, those whose calls count for a budget that covers it.
pub fn counted<'a>(covers: &Covers, pool: &'a PoolFacts) -> Vec<&'a str> {
    let Some(routes) = covers.get(&pool.name) else { return Vec::new() };
    let counts = |route: &&String| routes.as_ref().is_none_or(|routes| routes.contains(*route));
    pool.routes.iter().filter(counts).map(String::as_str).collect()
}

fn selector(applies_to: &AppliesTo) -> Result<Selector, InvalidSelector> {
    let selector = applies_to.agent_pool_selector.clone().unwrap_or_default();
    Selector::try_from(selector).map_err(|error| InvalidSelector(error.0))
}

#[cfg(test)]
#[path = "matches_tests.rs"]
mod tests;
