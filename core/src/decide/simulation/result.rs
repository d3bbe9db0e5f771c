//! What would have happened. Amounts of money are in millionths of the operator's currency.

use jiff::Timestamp;
use serde::Serialize;

use crate::api::token_budget::ThresholdAction;
use crate::decide::budget::observation::{AccountFacts, PerUnit};
use crate::decide::pool::simulation::Waits;

/// What would have happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// When it begins.
    pub start: Timestamp,
    /// When it ends: nothing is left to be done then, or it was to end.
    pub end: Timestamp,
    /// What became of the calls.
    pub calls: Calls,
    /// The budgets, by name.
    pub budgets: Vec<BudgetOutcome>,
    /// The pools, by name.
    pub pools: Vec<PoolOutcome>,
    /// The backends that were called, by name.
    pub backends: Vec<BackendOutcome>,
    /// What was told of budgets, and of routes and backends as far as budgets have to do with it: the first ones.
    pub events: Vec<EventOutcome>,
    /// What of the files is not simulated as it stands there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What became of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Calls {
    /// All of the trace.
    pub traced: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Those that waited for an allowance, whatever became of them.
    pub waited: u64,
    /// Refused with 429 `budget_exceeded`: a budget has no room for them.
    pub exceeded: u64,
    /// Refused with 429 `budget_exceeded`: a budget lets no new task begin.
    pub new_task_refused: u64,
    /// Refused with 503 `budget_busy`: there was room, and it did not come in time.
    pub busy: u64,
    /// Refused with 503 `budget_unknown`.
    pub unknown: u64,
    /// Refused since a budget counts cost and the backend has no price.
    pub price_missing: u64,
    /// Refused with 429 `no_backend_in_tier`: a budget leaves them none.
    pub no_backend_in_tier: u64,
    /// Those that no backend could answer for another reason: their prompt is too long for all, say.
    pub failed: u64,
    /// Those that were not made, or are not over at the end: one before of the same task was not answered, or the task waits for an agent.
    pub not_made: u64,
}

impl Calls {
    /// Those that budgets have refused.
    pub fn refused(&self) -> u64 {
        self.exceeded + self.new_task_refused + self.busy + self.unknown + self.price_missing + self.no_backend_in_tier
    }
}

/// What became of a budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetOutcome {
    /// Its name.
    pub name: String,
    /// Its time zone, by the name of the IANA database.
    pub time_zone: String,
    /// Its periods, in their order.
    pub periods: Vec<PeriodOutcome>,
    /// What was used over time.
    pub points: Vec<BudgetPoint>,
}

/// What became of a period.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeriodOutcome {
    /// When it started.
    pub start: Timestamp,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Timestamp>,
    /// Limit and use of tokens and money, as far as they are limited.
    #[serde(flatten)]
    pub units: PerUnit<AccountFacts>,
    /// Calls that were refused for want of room, or would have been.
    pub refused: u64,
    /// The steps that were taken.
    pub steps: Vec<StepOutcome>,
    /// When it was exhausted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exhausted: Option<Timestamp>,
}

/// A step that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepOutcome {
    /// When.
    pub time: Timestamp,
    /// Its threshold.
    pub at_percent: u32,
    /// What is done.
    pub action: ThresholdAction,
    /// What was used by then.
    pub used: PerUnit<u64>,
}

/// A budget at some time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetPoint {
    /// The time.
    pub time: Timestamp,
    /// Limit and use of the period that is open then.
    #[serde(flatten)]
    pub units: PerUnit<AccountFacts>,
    /// Calls that the budget has refused since the beginning.
    pub refused: u64,
}

/// What became of a pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolOutcome {
    /// Its name.
    pub name: String,
    /// Tasks that came.
    pub tasks: u64,
    /// Those that were done.
    pub done: u64,
    /// Those that ended because a call was not answered.
    pub ended_early: u64,
    /// Those that wait or are in flight at the end.
    pub left: u64,
    /// Seconds that tasks waited for an agent.
    pub waits: Waits,
    /// The most agents at the same time.
    pub most_agents: u32,
    /// Changes of the replicas.
    pub changes: u64,
    /// Agents that were asked to end while they had a task.
    pub ended_at_work: u64,
    /// When budgets paused it.
    pub pauses: Vec<Pause>,
    /// The pool over time. Nothing of one without agents.
    pub points: Vec<PoolPoint>,
}

/// A time in which a pool was paused.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Since when.
    pub from: Timestamp,
    /// Until when; absent: it was at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// By whom.
    pub by: String,
}

/// A pool at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolPoint {
    /// The time.
    pub time: Timestamp,
    /// Replicas that there should be.
    pub desired: u32,
    /// Agents that are there.
    pub agents: u32,
    /// Tasks that wait.
    pub waiting: u64,
}

/// What a backend answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendOutcome {
    /// Its name.
    pub name: String,
    /// Calls.
    pub calls: u64,
    /// Tokens of input.
    pub input: u64,
    /// Tokens of output.
    pub output: u64,
    /// What they cost; absent: it has no price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
}

/// Something that was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventOutcome {
    /// When.
    pub time: Timestamp,
    /// The kind of the object, such as TokenBudget.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether somebody should act on it.
    pub warning: bool,
    /// Why.
    pub reason: String,
    /// In words.
    pub note: String,
}
