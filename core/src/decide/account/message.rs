//! What the two halves tell each other about accounts: part of the messages of the exchange. What a gateway reports is cumulative
//! since its process began and keyed by the period in which a call was admitted, so that a report that is lost, repeated or late
//! changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tasks::Tasks;
use super::{AccountId, PeriodId};
use crate::api::model_route::Tier;
use crate::api::token_budget::{Enforcement, WhenUsageUnknown};

/// What the operator tells one process of a gateway: the rows that changed since those that it has acknowledged, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Told {
    /// Whether these are all rows: what is missing is gone. Otherwise what is missing has not changed.
    pub all: bool,
    /// By account; null: the account is gone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub accounts: BTreeMap<AccountId, Option<AccountRow>>,
    /// By name of the AgentPool; null: no budget covers it any more.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub callers: BTreeMap<String, Option<CallerRow>>,
    /// What all other processes said of tasks, where it has become more: what is missing is as it was, also where these are all rows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: Tasks,
}

/// An account, as one process of a gateway is to see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccountRow {
    /// The name of the budget, for people.
    pub budget: String,
    /// The period that is open.
    pub period: PeriodId,
    /// When it ends, in seconds since 1970; none: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_end: Option<i64>,
    /// The most that this process may ever use in the account and period.
    pub allowance: u64,
    /// What the allowance is to be lowered to, or to what was used and reserved if that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<u64>,
    /// The period that follows, so that nobody stops at its start for want of an operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<NextPeriod>,
    /// The limit of the account in the period, extensions and what was carried over included.
    pub limit: u64,
    /// What all processes together have used in the account and period.
    pub used: u64,
    /// What this process could still be granted beyond its allowance, with all that others neither used nor reserved.
    pub free: u64,
    /// How much of the limit is used, in percent: rounded down.
    pub percent: u32,
    /// What happens at the limit.
    pub enforcement: Enforcement,
    /// What happens when nothing is heard of the operator any more.
    pub when_usage_unknown: WhenUsageUnknown,
    /// What the budget's owner says to those who are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How much of an input token counts that the backend's prefix cache served, in percent.
    pub cached_input_percent: u32,
}

/// The period that follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NextPeriod {
    /// The period.
    pub period: PeriodId,
    /// When it ends, in seconds since 1970; none: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_end: Option<i64>,
    /// The most that this process may ever use in the account and that period, until it hears more.
    pub allowance: u64,
}

/// What the budgets of a caller mean for its calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CallerRow {
    /// By name of the ModelRoute: those that a budget covers.
    pub routes: BTreeMap<String, RouteRow>,
}

/// What the budgets of a caller mean for its calls of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteRow {
    /// The accounts in which a call is reserved.
    pub accounts: Vec<AccountId>,
    /// The highest tier that may answer; none: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier_ceiling: Option<Tier>,
    /// The account whose budget refuses every call; none: none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<AccountId>,
    /// The account whose budget refuses calls of tasks that are new; none: none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_tasks_refused: Option<AccountId>,
    /// How much of its budgets is used, in percent: the highest. What rules compare with `budgetUsedPercent`.
    pub used_percent: u32,
}

/// What one process of a gateway reports: the rows that changed since those that were acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// By account and period, cumulative since the process began.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub accounts: BTreeMap<AccountId, BTreeMap<PeriodId, SpentRow>>,
    /// What calls wait for, beyond the allowance: all that wait, and all that is asked ahead.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub asks: BTreeMap<AccountId, Ask>,
    /// The tasks whose calls it let begin, and what they used where that is more than a small part of a limit, cumulative since the
    /// process began.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: Tasks,
}

/// What one process of a gateway has spent in an account and period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpentRow {
    /// What its settled calls used.
    pub used: u64,
    /// The part of `used` that is an upper bound, since nobody said what was used.
    pub estimated: u64,
    /// What its running calls can use at most.
    pub reserved: u64,
    /// The most that it may ever use, as it understands it.
    pub allowance: u64,
    /// Calls that were refused for want of room in the account, or, where the budget refuses nothing, would have been.
    pub refused: u64,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ask {
    /// What waiting calls need beyond the allowance, all together.
    pub waiting: u64,
    /// The least that lets one of them begin.
    pub smallest: u64,
    /// What the process would like to hold beyond its allowance, though nobody waits for it yet.
    pub ahead: u64,
}
