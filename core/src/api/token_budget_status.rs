//! What the operator says about a TokenBudget. Other kinds look themselves up here, by name, and nowhere else.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model_route::Tier;
use super::token_budget::{Enforcement, Severity, ThresholdAction};

/// The most consumers that a status lists: the largest.
pub const MAX_CONSUMERS: usize = 50;
/// The most pairs of a caller and a route that a verdict lists. With the longest names they are about 50 KB of the 1.5 MB that
/// an object may have.
pub const MAX_CALLERS: usize = 200;
/// The most names of each kind that a status lists as touched.
pub const MAX_TOUCHED: usize = 50;
/// The most past periods that a status lists.
pub const MAX_HISTORY: usize = 12;

/// What the operator observed and decided about a budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenBudgetStatus {
    /// The generation of the spec that this status describes. -1: not seen yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The conditions: Ready, UsageKnown, Exhausted, OnTrack, Suspended; Reconciling, Stalled and SchemaOutdated only while
    /// True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Since when it waits for what the condition Ready tells. The wait becomes Stalled after 10 minutes. Absent while nothing
    /// is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Time>,
    /// How far it is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What happens at the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforcement>,
    /// The period that the figures are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<PeriodStatus>,
    /// The limit of the period in tokens, with what was carried over and with extensions. Absent where tokens are not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_tokens: Option<u64>,
    /// Tokens that were used in the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_tokens: Option<u64>,
    /// Tokens that are left in the period. Absent where tokens are not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_tokens: Option<u64>,
    /// The part of usedTokens that is an upper bound and never below the truth, since nobody said what was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_tokens: Option<u64>,
    /// The limit of the period in the operator's currency. Absent where money is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_cost: Option<String>,
    /// What the calls of the period cost, in the operator's currency, as far as their backends have a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_cost: Option<String>,
    /// What is left of the money in the period. Absent where money is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_cost: Option<String>,
    /// What was used in percent of the limit, rounded down: of tokens and money, that of which more is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent_used: Option<u32>,
    /// Tokens that are used in an hour at present, to two digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burn_rate_per_hour: Option<u64>,
    /// What an hour costs at present, in the operator's currency, to two digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burn_cost_per_hour: Option<String>,
    /// When the budget is used up if that goes on. Absent where that is not within the period, or is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected_exhaustion: Option<Time>,
    /// AgentPools whose calls count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<u32>,
    /// Who has used how much in the period: the 50 largest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_CONSUMERS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["agentPool".into()]))]
    pub consumers: Vec<Consumer>,
    /// What the budget means for its callers at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<VerdictStatus>,
    /// Whom the budget concerns, whether it holds them back or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub touches: Option<Touches>,
    /// Attempts of calls of the period for which the limit had no room: Block would have refused them for that. Only with DryRun
    /// and Alert, and while spec.suspend is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_have_refused: Option<u64>,
    /// Those of spec.extensions that have begun, with the time at which each of them ends. It is how the operator knows in a later
    /// period that one was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub extensions: Vec<ExtensionStatus>,
    /// The last periods, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_HISTORY))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub history: Vec<PastPeriod>,
    /// The same in short, for the columns of kubectl get. Not for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<BudgetSummary>,
}

/// How far a budget is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Its first period has not started, or it has not come into force. It limits nothing.
    #[default]
    Pending,
    /// No threshold was reached.
    Active,
    /// A threshold was reached whose action is Alert.
    Warning,
    /// A threshold was reached whose action does something to callers.
    Throttled,
    /// The limit is reached.
    Exhausted,
}

/// A period of a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeriodStatus {
    /// When it starts.
    pub start: Time,
    /// When it ends, and the next one starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Time>,
    /// When it ends by the clocks of its time zone, such as Nov 30 09:00 CET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets: Option<String>,
}

/// What an AgentPool has used in the period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Consumer {
    /// Name of the AgentPool.
    pub agent_pool: String,
    /// Tokens that it has used.
    pub tokens: u64,
    /// What its calls cost, in the operator's currency. Absent where money is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// The tokens that are its share of the limit. Absent without shares, and where tokens are not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<u64>,
    /// The money that is its share of the limit. Absent without shares, and where money is not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_cost: Option<String>,
}

/// What a budget means for its callers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerdictStatus {
    /// The gravest step that was taken.
    pub level: VerdictLevel,
    /// Since when. Absent while no step was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// The thresholds that were reached in the period, the lowest first. With DryRun they are shown and do nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["atPercent".into(), "action".into()]))]
    pub steps: Vec<VerdictStep>,
    /// Who is held back, and where: at most 200. Who is not listed is free while there are fewer; of more, pools that are not
    /// listed do not pause. With DryRun, and while spec.suspend is true, who would be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_CALLERS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["agentPool".into(), "modelRoute".into()]))]
    pub callers: Vec<VerdictCaller>,
}

/// What was done, in the order of what it does to callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VerdictLevel {
    /// Nothing.
    #[default]
    Free,
    /// It was told.
    Alert,
    /// What pools leave of their shares goes to those that need more.
    Redistribute,
    /// Only backends up to a class answer.
    Downgrade,
    /// Pools begin no new task.
    PausePools,
    /// The limit is reached: calls that have no room are refused, and pools are paused.
    Block,
}

/// A threshold that was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerdictStep {
    /// That of the threshold.
    pub at_percent: u32,
    /// What is done.
    pub action: ThresholdAction,
    /// Alert: how grave it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// When the threshold was reached.
    pub since: Time,
}

/// What a budget means for the calls of an AgentPool to a ModelRoute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerdictCaller {
    /// Name of the AgentPool.
    pub agent_pool: String,
    /// Name of the ModelRoute.
    pub model_route: String,
    /// The highest class of backends that answer. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier_ceiling: Option<Tier>,
    /// Whether its calls are refused, since nothing is left.
    pub blocked: bool,
    /// Whether its calls of new tasks are refused: by PausePools, or since all calls are.
    pub new_tasks_refused: bool,
    /// Whether the pool is paused: by PausePools, or since the limit is reached, or since calls had no room and less than a
    /// hundredth is left. Where only this is so, all its calls are answered that have room. Absent: it is not paused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// Whom a budget concerns, by name: at most 50 of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Touches {
    /// The AgentPools whose calls count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_TOUCHED))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub agent_pools: Vec<String>,
    /// The ModelRoutes that they call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_TOUCHED))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub model_routes: Vec<String>,
    /// The InferenceBackends that answer there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_TOUCHED))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub inference_backends: Vec<String>,
}

/// An extension that has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExtensionStatus {
    /// Its tokens, as in the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<i64>,
    /// Its cost, as in the spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// Its until, as in the spec.
    pub until: Time,
    /// When it ends: at until, or with the period in which it has begun, if that ends before.
    pub ends: Time,
}

/// A period that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastPeriod {
    /// When it started.
    pub start: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Time>,
    /// Its limit in tokens. Absent where tokens were not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_tokens: Option<u64>,
    /// Tokens that were used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_tokens: Option<u64>,
    /// The part of usedTokens that is an upper bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_tokens: Option<u64>,
    /// Its limit in the operator's currency. Absent where money was not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_cost: Option<String>,
    /// What its calls cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_cost: Option<String>,
    /// How far it was used when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
}

/// Short forms for the columns of kubectl get: tokens as whole numbers, or amounts with decimals where more of the money is
/// used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetSummary {
    /// The limit of the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// What was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
    /// What is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<String>,
    /// What is used in an hour at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burn_rate: Option<String>,
}

/// An amount of the operator's currency as a status shows it, from millionths: with two decimals, and with more where there are
/// more, so that nothing is rounded. 250,000,000 is `250.00`, 1,500 is `0.0015`.
pub fn amount(millionths: u64) -> String {
    let rest = format!("{:04}", millionths % 10_000);
    format!("{}.{:02}{}", millionths / 1_000_000, millionths / 10_000 % 100, rest.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::price::Amount;

    #[test]
    fn an_amount_is_shown_with_two_decimals_and_with_as_many_more_as_it_has() {
        for (millionths, text) in [
            (0, "0.00"),
            (1, "0.000001"),
            (1_500, "0.0015"),
            (10_000, "0.01"),
            (250_000_000, "250.00"),
            (999_999_999_999_999, "999999999.999999"),
            (u64::MAX, "18446744073709.551615"),
        ] {
            assert_eq!(amount(millionths), text);
        }
    }

    #[test]
    fn what_is_shown_can_be_written_into_a_spec() {
        for millionths in [0, 7, 120_000, 1_000_001, 999_999_999_999_999] {
            assert_eq!(Amount(amount(millionths)).millionths(), Ok(millionths));
        }
    }

    #[test]
    fn later_levels_and_phases_are_graver() {
        assert!(VerdictLevel::Free < VerdictLevel::Alert && VerdictLevel::PausePools < VerdictLevel::Block);
        assert!(Phase::Warning < Phase::Throttled && Phase::Throttled < Phase::Exhausted);
    }
}
