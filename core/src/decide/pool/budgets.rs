//! What budgets mean for a pool: whether one pauses it, and what is shown of all that cover it.

use std::cmp::Reverse;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::{Deserialize, Serialize};

use crate::api::TokenBudget;
use crate::api::conditions::{reasons, types};
use crate::api::status::BudgetState;
use crate::api::token_budget_status::Phase;
use crate::decide::budget::consumers;
use crate::decide::conditions::{Status, Verdict, truncated};
use crate::decide::decision::Event;

/// The most budgets that are named where somebody reads about a pause.
const NAMES: usize = 5;

/// What a budget that covers a pool says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetFacts {
    /// Name of the TokenBudget.
    pub name: String,
    /// How far it is used.
    pub phase: Phase,
    /// It pauses the pool.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pauses: bool,
}

/// What a pause does to the agents of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// They end, those at work as the spec says of any that are too many.
    End,
    /// They stay, since nobody would know how many to bring back.
    NothingToGoBackTo,
    /// They stay, since the spec contradicts itself.
    InvalidSpec,
    /// They stay, since the pool is suspended.
    Suspended,
}

/// What budgets, by name, say of a pool, in the order of their names.
pub fn of(budgets: &[(String, &TokenBudget)], pool: &str) -> Vec<BudgetFacts> {
    let of_one = |budget: &(String, &TokenBudget)| {
        let found = consumers::of_pool(std::slice::from_ref(budget), pool);
        let pauses = found.paused_by.is_some();
        found.budgets.into_iter().map(move |budget| BudgetFacts { name: budget.name, phase: budget.phase, pauses })
    };
    let mut facts: Vec<BudgetFacts> = budgets.iter().flat_map(of_one).collect();
    facts.sort_by(|one, other| one.name.cmp(&other.name));
    facts
}

/// Whether a budget pauses the pool.
pub fn pauses(budgets: &[BudgetFacts]) -> bool {
    budgets.iter().any(|budget| budget.pauses)
}

/// Who pauses the pool, such as `budget sprint-42 pauses the pool`.
pub fn who(budgets: &[BudgetFacts]) -> String {
    let names: Vec<&str> = budgets.iter().filter(|budget| budget.pauses).map(|budget| budget.name.as_str()).collect();
    let first = names.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 | 1 => format!("budget {first} pauses the pool"),
        2..=NAMES => format!("budgets {first} pause the pool"),
        _ => format!("budgets {first} and others pause the pool"),
    }
}

/// The condition `PausedByBudget`.
pub fn verdict(budgets: &[BudgetFacts], effect: Effect) -> Verdict {
    if !pauses(budgets) {
        return Verdict::fails(types::PAUSED_BY_BUDGET, reasons::NOT_PAUSED, "no budget pauses the pool");
    }
    let agents = match effect {
        Effect::End => "no agent is made, and those at work finish",
        Effect::NothingToGoBackTo => {
            "its agents stay all the same, since neither spec.queues nor spec.replicas says how many there should be afterwards"
        }
        Effect::InvalidSpec => "its agents stay as they are until the spec is corrected",
        Effect::Suspended => "its agents stay as they are, since spec.suspend is true",
    };
    let message = format!("{}: {agents}; it goes on when the period ends, or the limit is raised", who(budgets));
    Verdict::holds(types::PAUSED_BY_BUDGET, reasons::PAUSED, message)
}

/// Tells that a pause begins, or ends.
pub fn event(before: &[Condition], verdict: &Verdict) -> Option<Event> {
    let is_pause = |condition: &Condition| condition.type_ == types::PAUSED_BY_BUDGET && condition.status == "True";
    let (was_paused, is_paused) = (before.iter().any(is_pause), verdict.status == Status::True);
    let event = || Event { warning: is_paused, reason: verdict.reason.to_owned(), note: truncated(verdict.message.clone()) };
    (was_paused != is_paused).then(event)
}

/// The budgets that cover the pool, as many as its status has room for.
pub fn shown(budgets: &[BudgetFacts]) -> Vec<BudgetState> {
    BudgetState::listed(budgets.iter().map(|budget| BudgetState { name: budget.name.clone(), phase: budget.phase }).collect())
}

/// The budget that says most, such as `sprint-42: Throttled`: one that pauses the pool, else that of which most is used.
pub fn summary(budgets: &[BudgetFacts]) -> Option<String> {
    let first = budgets.iter().min_by_key(|budget| (!budget.pauses, Reverse(budget.phase)))?;
    Some(format!("{}: {:?}", first.name, first.phase))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A budget with this phase, that covers `coder` and `batch`, and pauses these.
    fn budget(name: &str, phase: &str, paused: &[&str]) -> (String, TokenBudget) {
        let caller = |pool: &&str| json!({ "agentPool": pool, "modelRoute": "router", "blocked": false, "newTasksRefused": false, "paused": true });
        let callers: Vec<Value> = paused.iter().map(caller).collect();
        let budget = json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget", "metadata": { "name": name },
            "spec": { "tokens": 1000, "period": { "type": "Daily" }, "appliesTo": {} },
            "status": {
                "phase": phase, "touches": { "agentPools": ["batch", "coder"] },
                "verdict": { "level": "PausePools", "callers": callers },
            },
        });
        (name.to_owned(), serde_json::from_value(budget).unwrap())
    }

    fn facts(name: &str, phase: Phase, pauses: bool) -> BudgetFacts {
        BudgetFacts { name: name.into(), phase, pauses }
    }

    #[test]
    fn a_pool_knows_every_budget_that_covers_it_and_each_that_pauses_it() {
        let budgets = [
            budget("sprint", "Throttled", &["batch"]),
            budget("day", "Exhausted", &["batch", "coder"]),
            budget("year", "Active", &[]),
        ];
        let budgets: Vec<(String, &TokenBudget)> = budgets.iter().map(|(name, budget)| (name.clone(), budget)).collect();
        let expected = |sprint_pauses| {
            [
                facts("day", Phase::Exhausted, true),
                facts("sprint", Phase::Throttled, sprint_pauses),
                facts("year", Phase::Active, false),
            ]
        };
        assert_eq!(of(&budgets, "batch"), expected(true));
        assert_eq!(of(&budgets, "coder"), expected(false));
        assert_eq!(of(&budgets, "stranger"), []);
    }

    #[test]
    fn whoever_pauses_is_named_and_of_many_the_first() {
        let pausing = |number: usize| facts(&format!("b{number}"), Phase::Exhausted, true);
        let of = |count: usize| who(&(0..count).map(pausing).chain([facts("free", Phase::Active, false)]).collect::<Vec<_>>());
        assert_eq!(of(1), "budget b0 pauses the pool");
        assert_eq!(of(2), "budgets b0, b1 pause the pool");
        assert_eq!(of(5), "budgets b0, b1, b2, b3, b4 pause the pool");
        assert_eq!(of(7), "budgets b0, b1, b2, b3, b4 and others pause the pool");
    }

    #[test]
    fn the_column_shows_the_budget_that_pauses_before_one_of_which_more_is_used() {
        let budgets = [facts("a", Phase::Active, false), facts("b", Phase::Exhausted, false), facts("c", Phase::Throttled, true)];
        assert_eq!(summary(&budgets).as_deref(), Some("c: Throttled"));
        assert_eq!(summary(&budgets[..2]).as_deref(), Some("b: Exhausted"));
        assert_eq!(summary(&[]), None);
        let alike = [facts("a", Phase::Active, false), facts("b", Phase::Active, false)];
        assert_eq!(summary(&alike).as_deref(), Some("a: Active"), "the first by name");
    }

    #[test]
    fn a_pause_is_told_when_it_begins_and_when_it_ends_whoever_it_is_by_meanwhile() {
        let mut before: Vec<Condition> = Vec::new();
        let mut told = |budgets: &[BudgetFacts]| {
            let verdict = verdict(budgets, Effect::End);
            let told = event(&before, &verdict).map(|event| (event.warning, event.reason));
            before = crate::decide::conditions::merge(
                &before,
                vec![verdict],
                &[types::PAUSED_BY_BUDGET],
                None,
                jiff::Timestamp::UNIX_EPOCH,
            );
            told
        };
        let paused = |name: &str| [facts(name, Phase::Throttled, true)];
        assert_eq!(told(&[]), None);
        assert_eq!(told(&paused("a")), Some((true, reasons::PAUSED.to_owned())));
        assert_eq!(told(&paused("a")), None);
        assert_eq!(told(&paused("b")), None);
        assert_eq!(told(&[facts("b", Phase::Active, false)]), Some((false, reasons::NOT_PAUSED.to_owned())));
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn the_condition_says_what_becomes_of_the_agents() {
        let paused = [facts("sprint", Phase::Throttled, true)];
        for (effect, words) in [
            (Effect::End, "those at work finish"),
            (Effect::NothingToGoBackTo, "neither spec.queues nor spec.replicas"),
            (Effect::InvalidSpec, "until the spec is corrected"),
            (Effect::Suspended, "spec.suspend"),
        ] {
            let verdict = verdict(&paused, effect);
            assert_eq!((verdict.status, verdict.reason), (Status::True, reasons::PAUSED));
            assert!(
                verdict.message.starts_with("budget sprint pauses the pool: ") && verdict.message.contains(words),
                "{}",
                verdict.message
            );
        }
        let free = verdict(&[], Effect::End);
        assert_eq!((free.status, free.reason), (Status::False, reasons::NOT_PAUSED));
    }
}
