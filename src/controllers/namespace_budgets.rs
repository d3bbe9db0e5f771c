//! The TokenBudgets of a namespace, in whose status pools, routes and backends find themselves.

use std::sync::Arc;

use quartermaster_core::api::TokenBudget;

use super::token_budget::readable;
use crate::operate::cache::Cache;
use crate::operate::object::Stored;

/// The TokenBudgets of a namespace, in the order of their names. One that this version cannot read goes on holding its callers back
/// as its status says.
pub struct NamespaceBudgets(Vec<(String, Arc<TokenBudget>)>);

impl NamespaceBudgets {
    /// Those that there are.
    pub fn of(budgets: &Cache<Stored<TokenBudget>>, namespace: &str) -> Self {
        Self(budgets.owned_by(namespace).into_iter().map(|(key, stored)| (key.name, readable(&stored))).collect())
    }

    /// The same as decisions take them.
    pub fn by_name(&self) -> Vec<(String, &TokenBudget)> {
        self.0.iter().map(|(name, budget)| (name.clone(), budget.as_ref())).collect()
    }
}

#[cfg(test)]
mod tests {
    use kube::api::DynamicObject;
    use quartermaster_core::decide::pool::budgets;
    use serde_json::{Value, json};

    use super::*;
    use crate::operate::key::ObjectKey;

    fn stored(namespace: &str, name: &str, spec: &Value) -> Stored<TokenBudget> {
        let row = json!({ "agentPool": "coder", "modelRoute": "router", "blocked": true, "newTasksRefused": true, "paused": true });
        let callers = json!([row]);
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget",
            "metadata": { "namespace": namespace, "name": name, "uid": name, "resourceVersion": "1" },
            "spec": spec,
            "status": { "phase": "Exhausted", "enforcement": "Block", "verdict": { "level": "Block", "callers": callers } },
        }))
        .unwrap();
        Stored::of(object)
    }

    #[test]
    fn budgets_of_the_namespace_alone_are_read_and_one_that_cannot_be_decoded_goes_on_holding_back() {
        let cache: Cache<Stored<TokenBudget>> = Cache::default();
        let spec = json!({ "tokens": 1000, "period": { "type": "Daily" }, "appliesTo": {} });
        let later = json!({ "tokens": 1000, "period": { "type": "Lunar" }, "appliesTo": {} });
        for (namespace, name, spec) in [("team", "sprint", &spec), ("team", "moon", &later), ("other", "day", &spec)] {
            let stored = stored(namespace, name, spec);
            assert_eq!(stored.object.is_err(), name == "moon");
            cache.set(ObjectKey::new(namespace, name), Some(stored), None);
        }
        let read = NamespaceBudgets::of(&cache, "team");
        let of_pool = budgets::of(&read.by_name(), "coder");
        let pausing: Vec<(&str, bool)> = of_pool.iter().map(|budget| (budget.name.as_str(), budget.pauses)).collect();
        assert_eq!(pausing, [("moon", true), ("sprint", true)]);
        assert!(NamespaceBudgets::of(&cache, "empty").by_name().is_empty());
    }
}
