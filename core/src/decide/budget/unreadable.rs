//! A budget whose stored form does not fit the schema of this version: an earlier or a later one has written it. What its
//! status says was in force stays in force until a valid form is applied. Without that, it would free everybody.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use serde_json::Value;

use crate::api::conditions::types;
use crate::api::token_budget::{AppliesTo, TokenBudgetSpec};
use crate::api::{TokenBudget, TokenBudgetStatus};

/// What stands for a budget that cannot be read: its metadata and its status, as far as that can be read, with a spec that
/// nobody understands, as which [`super::in_force`] and [`crate::decide::gateway::planned_budgets`] treat it. Of what happens
/// before the limit, of shares and of what the owner says to those who are refused, nothing is known.
pub fn stand_in(metadata: &ObjectMeta, status: &Value) -> TokenBudget {
    let status: Option<TokenBudgetStatus> = serde_json::from_value(status.clone()).ok();
    let holds = |type_: &str| {
        let conditions = status.iter().flat_map(|status| &status.conditions);
        conditions.filter(|condition| condition.type_ == type_).any(|condition| condition.status == "True")
    };
    let spec = TokenBudgetSpec {
        applies_to: AppliesTo { agent_pool_selector: Some(nobody_knows_whom()), model_routes: None },
        enforcement: status.as_ref().and_then(|status| status.enforcement),
        thresholds: Some(Vec::new()),
        suspend: holds(types::SUSPENDED).then_some(true),
        ..TokenBudgetSpec::default()
    };
    TokenBudget { metadata: metadata.clone(), spec, status }
}

/// A selector that cannot be understood: whom the status names is covered.
fn nobody_knows_whom() -> LabelSelector {
    let requirement = LabelSelectorRequirement { key: "unknown".to_owned(), operator: "Unknown".to_owned(), values: None };
    LabelSelector { match_expressions: Some(vec![requirement]), match_labels: None }
}

#[cfg(test)]
#[path = "unreadable_tests.rs"]
mod tests;
