//! Whom a change of a budget concerns: the pools, routes and backends that find something else about themselves in its status
//! than before. Figures change with every call and concern nobody.

use std::collections::BTreeSet;

use kube::ResourceExt as _;

use super::consumers;
use crate::api::TokenBudget;
use crate::api::token_budget_status::{Phase, Touches, VerdictStatus};

/// Objects of the budget's namespace, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concerned {
    /// AgentPools.
    pub pools: BTreeSet<String>,
    /// ModelRoutes.
    pub routes: BTreeSet<String>,
    /// InferenceBackends.
    pub backends: BTreeSet<String>,
}

impl Concerned {
    /// Those whom the change of a budget concerns; none: there was no such budget, or there is none any more.
    pub fn by(before: Option<&TokenBudget>, after: Option<&TokenBudget>) -> Self {
        if before.map(read) == after.map(read) {
            return Self::default();
        }
        let (mut concerned, named_after) = (Self::named(before), Self::named(after));
        concerned.pools.extend(named_after.pools);
        concerned.routes.extend(named_after.routes);
        concerned.backends.extend(named_after.backends);
        let (before, after) = (listed(before), listed(after));
        concerned.pools.retain(|pool| consumers::of_pool(&before, pool) != consumers::of_pool(&after, pool));
        concerned.routes.retain(|route| consumers::of_route(&before, route) != consumers::of_route(&after, route));
        concerned.backends.retain(|backend| consumers::of_backend(&before, backend) != consumers::of_backend(&after, backend));
        concerned
    }

    /// All that the status of a budget names.
    fn named(budget: Option<&TokenBudget>) -> Self {
        let Some(status) = budget.and_then(|budget| budget.status.as_ref()) else { return Self::default() };
        let mut named = Self::default();
        if let Some(touches) = &status.touches {
            named.pools.extend(touches.agent_pools.iter().cloned());
            named.routes.extend(touches.model_routes.iter().cloned());
            named.backends.extend(touches.inference_backends.iter().cloned());
        }
        for row in status.verdict.iter().flat_map(|verdict| &verdict.callers) {
            named.pools.insert(row.agent_pool.clone());
            named.routes.insert(row.model_route.clone());
        }
        named
    }
}

/// What the others read of a budget: whether it does what the rest says, and that.
type Read<'a> = (bool, Option<Phase>, Option<&'a VerdictStatus>, Option<&'a Touches>);

fn read(budget: &TokenBudget) -> Read<'_> {
    let status = budget.status.as_ref();
    let verdict = status.and_then(|status| status.verdict.as_ref());
    let touches = status.and_then(|status| status.touches.as_ref());
    let phase = status.and_then(|status| status.phase);
    (consumers::acts(budget), phase, verdict, touches)
}

fn listed(budget: Option<&TokenBudget>) -> Vec<(String, &TokenBudget)> {
    budget.into_iter().map(|budget| (budget.name_any(), budget)).collect()
}

#[cfg(test)]
#[path = "concerned_tests.rs"]
mod tests;
