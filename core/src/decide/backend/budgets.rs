//! The budgets whose callers can reach a backend. They decide nothing about it: a budget keeps calls from it, and nothing else.

use crate::api::TokenBudget;
use crate::api::status::BudgetState;
use crate::decide::budget::consumers::{self, BudgetPhase};

impl From<BudgetPhase> for BudgetState {
    fn from(budget: BudgetPhase) -> Self {
        Self { name: budget.name, phase: budget.phase }
    }
}

/// Those of the budgets, by name, whose callers can reach a backend, from the first threshold on that each has reached.
pub fn of(budgets: &[(String, &TokenBudget)], backend: &str) -> Vec<BudgetState> {
    consumers::of_backend(budgets, backend).into_iter().map(BudgetState::from).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::decide;
    use super::super::decide_tests::{now, observe};
    use super::*;
    use crate::api::token_budget_status::Phase;

    fn budget(name: &str, phase: &str, backends: &[&str]) -> TokenBudget {
        serde_json::from_value(json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget", "metadata": { "name": name },
            "spec": { "tokens": 1000, "period": { "type": "Daily" }, "appliesTo": {} },
            "status": { "phase": phase, "touches": { "inferenceBackends": backends } },
        }))
        .unwrap()
    }

    #[test]
    fn a_backend_shows_the_budgets_that_have_reached_a_threshold_whatever_it_is_and_nothing_else_of_it_changes() {
        let budgets = [
            ("active".to_owned(), budget("active", "Active", &["model"])),
            ("elsewhere".to_owned(), budget("elsewhere", "Exhausted", &["other"])),
            ("sprint".to_owned(), budget("sprint", "Throttled", &["model", "other"])),
        ];
        let budgets: Vec<(String, &TokenBudget)> = budgets.iter().map(|(name, budget)| (name.clone(), budget)).collect();
        let shown = [BudgetState { name: "sprint".into(), phase: Phase::Throttled }];
        let external = json!({ "provider": "OpenAICompatible", "model": "m", "baseURL": "https://llm.example/v1" });
        for spec in [
            json!({ "vllm": { "model": "Qwen/Qwen3-32B" } }),
            json!({ "ollama": { "model": "qwen3:8b" } }),
            json!({ "external": external }),
            json!({}),
        ] {
            let mut observation = observe(spec.clone());
            let without = decide(&observation, now());
            assert_eq!(without.status.budgets, [], "{spec}");
            observation.budgets = of(&budgets, "model");
            let mut with = decide(&observation, now());
            assert_eq!(with.status.budgets, shown, "{spec}");
            with.status.budgets.clear();
            assert_eq!(with, without, "{spec}");
        }
    }

    #[test]
    fn a_recording_of_a_version_that_knew_no_budgets_is_read() {
        let recorded = serde_json::to_value(observe(json!({}))).unwrap();
        assert!(recorded.get("budgets").is_none());
        let read: super::super::facts::Observation = serde_json::from_value(recorded).unwrap();
        assert_eq!(read.budgets, []);
    }
}
