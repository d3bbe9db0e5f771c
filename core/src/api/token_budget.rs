//! TokenBudget: what may be spent.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agent_pool::{Criticality, ModelRouteReference};
use super::model_route::Tier;
use super::price::Amount;
use super::token_budget_status::TokenBudgetStatus;

/// Any new value of this annotation of a TokenBudget confirms what it shows as used after its ledger was lost.
pub const CONFIRM_USAGE: &str = "quartermaster.dev/confirm-usage";

/// The largest limit in tokens, 2^53: up to it every whole number is exact for clients that read the numbers of JSON as
/// floating-point ones.
pub const MAX_TOKENS: i64 = 1 << 53;

/// What the agents of pools may spend in a period.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "quartermaster.dev",
    version = "v1alpha1",
    kind = "TokenBudget",
    namespaced,
    status = "TokenBudgetStatus",
    derive = "PartialEq",
    shortname = "tb",
    category = "quartermaster",
    doc = "What may be spent: tokens or money in a period, and what happens before and at the limit.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "How far it is used."),
    printcolumn(name = "Limit", type_ = "string", json_path = ".status.summary.limit", description = "The limit of the period: tokens, or an amount where more of the money is used."),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.summary.used", description = "What was used in the period."),
    printcolumn(name = "Remaining", type_ = "string", json_path = ".status.summary.remaining", description = "What is left in the period."),
    printcolumn(name = "Used%", type_ = "integer", json_path = ".status.percentUsed", description = "What was used, in percent of the limit."),
    printcolumn(name = "Resets", type_ = "string", json_path = ".status.period.resets", description = "When the period ends, by the clocks of its time zone."),
    printcolumn(name = "Pools", type_ = "integer", json_path = ".status.matches", description = "AgentPools whose calls count."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation."),
    printcolumn(name = "Burn/H", type_ = "string", json_path = ".status.summary.burnRate", description = "What is used in an hour at present.", priority = 1),
    printcolumn(name = "Exhausted-At", type_ = "string", json_path = ".status.projectedExhaustion", description = "When it is used up if that goes on. Empty: not within the period.", priority = 1),
    printcolumn(name = "Enforcement", type_ = "string", json_path = ".status.enforcement", description = "What happens at the limit.", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is ready or not.", priority = 1),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must be a DNS label, without dots"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters, as those of the other kinds")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.tokens) || has(self.cost)").message("spec.tokens or spec.cost is required: a budget without either limits nothing"))]
#[x_kube(validation = Rule::new("!has(self.cost) || self.cost.matches('[1-9]')").message("spec.cost must be more than 0: remove it where money is not limited").field_path(".cost"))]
#[x_kube(validation = Rule::new("self.period.type == oldSelf.period.type").message("spec.period.type is immutable: create another TokenBudget instead").field_path(".period.type"))]
#[x_kube(validation = Rule::new("!has(self.thresholds) || !self.thresholds.exists(threshold, threshold.action == 'Redistribute') || has(self.share) && self.share.type != 'None'").message("the action Redistribute needs shares: set spec.share.type to Equal or Weighted, or remove the threshold").field_path(".thresholds"))]
#[x_kube(validation = Rule::new("!has(self.extensions) || self.extensions.all(extension, (!has(extension.tokens) || has(self.tokens)) && (!has(extension.cost) || has(self.cost)))").message("spec.extensions can add to a limit that there is: set spec.tokens or spec.cost as well, or remove the extension's").field_path(".extensions"))]
pub struct TokenBudgetSpec {
    /// The most tokens that may be used in a period, of prompts and answers together. At most 9007199254740992. Default: tokens
    /// are not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_TOKENS))]
    pub tokens: Option<i64>,
    /// The most that the calls of a period may cost, in the operator's currency, as quoted text such as "250.00". It needs the
    /// price of every backend that is called. Beside tokens, the one counts of which more is used in percent. Default: money is
    /// not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Amount>,
    /// The time for which the limit is, and after which it begins anew.
    pub period: PeriodSpec,
    /// Whose calls count. {}: those of every AgentPool of the namespace.
    pub applies_to: AppliesTo,
    /// What happens at the limit. Default: Block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforcement>,
    /// What happens before the limit. An empty list: nothing. Default: an Alert at 80 percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["atPercent".into(), "action".into()]))]
    pub thresholds: Option<Vec<Threshold>>,
    /// How tokens are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counting: Option<Counting>,
    /// What those read who are refused, beside what the gateway says: whom to ask, for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub message: Option<String>,
    /// How the limit is divided among the AgentPools. Default: it is not, and who comes first has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// What is left at the end of a period is added to the next one, and what was used beyond the limit is taken off. Default:
    /// each period begins with the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carry_over: Option<CarryOver>,
    /// What is added to the limit for a while. Those that are over may be removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub extensions: Vec<Extension>,
    /// What the gateway does when it has not heard of the operator for too long. Default: Hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_usage_unknown: Option<WhenUsageUnknown>,
    /// Stop acting on this object, and keep showing its state: calls are counted, and nobody is held back. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// The time for which a limit is. Local times and days are those of timeZone: where clocks change, a day has 23 or 25 hours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type != 'Sprint' || has(self.start) && has(self.lengthDays)").message("period.type Sprint needs period.start and period.lengthDays: write for example start: \"2026-11-16T09:00\" and lengthDays: 14"))]
#[x_kube(validation = Rule::new("self.type != 'Once' || has(self.start) && has(self.end)").message("period.type Once needs period.start and period.end: write for example start: \"2026-11-16T09:00\" and end: \"2026-11-30T18:00\""))]
#[x_kube(validation = Rule::new("!has(self.start) || self.type in ['Sprint', 'Once']").message("period.start belongs to the types Sprint and Once, others start by the calendar: remove it").field_path(".start"))]
#[x_kube(validation = Rule::new("!has(self.end) || self.type == 'Once'").message("period.end belongs to the type Once: remove it; a Sprint ends by period.lengthDays").field_path(".end"))]
#[x_kube(validation = Rule::new("!has(self.lengthDays) || self.type == 'Sprint'").message("period.lengthDays belongs to the type Sprint: remove it").field_path(".lengthDays"))]
#[x_kube(validation = Rule::new("!has(self.weekStart) || self.type == 'Weekly'").message("period.weekStart belongs to the type Weekly: remove it").field_path(".weekStart"))]
#[x_kube(validation = Rule::new("!has(self.dayOfMonth) || self.type == 'Monthly'").message("period.dayOfMonth belongs to the type Monthly: remove it").field_path(".dayOfMonth"))]
#[x_kube(validation = Rule::new("!(has(self.start) && has(self.end)) || self.start < self.end").message("period.end must be after period.start").field_path(".end"))]
pub struct PeriodSpec {
    /// Hourly, Daily, Weekly and Monthly follow the calendar, a Sprint repeats from its start on, Once is a single time.
    /// Immutable.
    #[serde(rename = "type")]
    pub type_: PeriodType,
    /// Weekly: the day at whose midnight a week starts. Default: Monday.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub week_start: Option<Weekday>,
    /// Monthly: the day at whose midnight a month starts; the last one where a month has no such day. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31))]
    pub day_of_month: Option<u8>,
    /// Sprint and Once: when the first one starts, as a local time such as 2026-11-16T09:00. Before it nothing is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::local_time")]
    pub start: Option<String>,
    /// Once: when it ends, as a local time such as 2026-11-30T18:00. After it the budget stays used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::local_time")]
    pub end: Option<String>,
    /// Sprint: days from one start to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 366))]
    pub length_days: Option<u32>,
    /// The time zone, by its name in the IANA database, such as Europe/Madrid. Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^(UTC|[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)+)$"))]
    pub time_zone: Option<String>,
}

/// What a period is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PeriodType {
    /// An hour of the clock.
    Hourly,
    /// A day, from midnight on.
    Daily,
    /// A week, from midnight of weekStart on.
    Weekly,
    /// A month, from midnight of dayOfMonth on.
    #[default]
    Monthly,
    /// So many days as lengthDays says, again and again from start on.
    Sprint,
    /// From start to end, and never again.
    Once,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Weekday {
    /// The first by ISO 8601.
    #[default]
    Monday,
    /// The second.
    Tuesday,
    /// The third.
    Wednesday,
    /// The fourth.
    Thursday,
    /// The fifth.
    Friday,
    /// The sixth.
    Saturday,
    /// The seventh.
    Sunday,
}

/// Whose calls count: those that all members are about. A member that is absent restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppliesTo {
    /// The AgentPools of the namespace with these labels. {}: all. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::label_selector")]
    pub agent_pool_selector: Option<LabelSelector>,
    /// Calls of these ModelRoutes. Default: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub model_routes: Option<Vec<ModelRouteReference>>,
}

/// What happens at the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Enforcement {
    /// Calls are refused, and none is begun that could pass the limit.
    #[default]
    Block,
    /// Thresholds act, and nobody is refused.
    Alert,
    /// Nothing acts, and everything is shown.
    DryRun,
}

/// What happens when so much of the limit is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.action == 'Downgrade') == has(self.tier)").message("thresholds[].tier goes with the action Downgrade, and with no other: set it to Economy or Standard for Downgrade, or remove it").field_path(".tier"))]
#[x_kube(validation = Rule::new("!has(self.tier) || self.tier != 'Premium'").message("thresholds[].tier Premium excludes no backend: set it to Economy or Standard").field_path(".tier"))]
#[x_kube(validation = Rule::new("!has(self.belowCriticality) || self.action == 'PausePools'").message("thresholds[].belowCriticality belongs to the action PausePools: remove it").field_path(".belowCriticality"))]
#[x_kube(validation = Rule::new("!has(self.belowCriticality) || self.belowCriticality != 'BestEffort'").message("thresholds[].belowCriticality BestEffort pauses no pool: set it to Standard or Critical, or remove it to pause all").field_path(".belowCriticality"))]
#[x_kube(validation = Rule::new("!has(self.severity) || self.action == 'Alert'").message("thresholds[].severity belongs to the action Alert: remove it").field_path(".severity"))]
pub struct Threshold {
    /// How much of the limit is used, in percent; for Redistribute, of the fullest share.
    #[schemars(range(min = 1, max = 100))]
    pub at_percent: u32,
    /// What happens then, until the period ends or the limit is raised, whatever is used meanwhile.
    pub action: ThresholdAction,
    /// Alert: how grave it is. It stands in the Event and in status.verdict.steps, and an Info is no warning. Default: Warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// Downgrade, which needs it: the highest class of backends that answer from then on, Economy or Standard. Default: none,
    /// and only for Downgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// PausePools: those pools pause whose criticality is below this one, Standard or Critical. Default: all pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below_criticality: Option<Criticality>,
}

/// What happens at a threshold, in the order of what it does to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ThresholdAction {
    /// It is told.
    Alert,
    /// What pools leave of their shares goes to those that need more.
    Redistribute,
    /// Only backends up to a class answer.
    Downgrade,
    /// Pools begin no new task, and busy agents finish.
    PausePools,
}

/// How grave an alert is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    /// To know.
    Info,
    /// To look at.
    #[default]
    Warning,
    /// To act upon.
    Critical,
}

/// How tokens are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counting {
    /// How much of an input token counts that the backend's prefix cache served, in percent. Money goes by its own price.
    /// Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub cached_input_percent: Option<u32>,
}

/// How the limit is divided among the AgentPools whose calls count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == 'Weighted' || !has(self.weights)").message("share.weights belongs to the type Weighted: remove it, or set share.type to Weighted").field_path(".weights"))]
#[x_kube(validation = Rule::new("self.type != 'Weighted' || has(self.weights) && size(self.weights) > 0").message("share.type Weighted needs share.weights: write for example weights: {planner: 3, coder: 5}").field_path(".weights"))]
pub struct Share {
    /// None: not at all. Equal: into equal parts. Weighted: by weights.
    #[serde(rename = "type")]
    pub type_: ShareType,
    /// Weighted: the parts, by name of the AgentPool. One that is not named has 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::weights")]
    pub weights: Option<BTreeMap<String, u32>>,
}

/// How a limit is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ShareType {
    /// Not at all.
    #[default]
    None,
    /// Each has as much as any other.
    Equal,
    /// Each has as much as its weight says.
    Weighted,
}

/// What goes from one period into the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CarryOver {
    /// The most that is added, in percent of the limit in the spec. What was itself carried over is not carried further.
    #[schemars(range(min = 1, max = 100))]
    pub max_percent: u32,
}

/// What is added to the limit for a while. It has no name: the whole list is written at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.tokens) || has(self.cost)").message("an extension needs tokens or cost"))]
#[x_kube(validation = Rule::new("!has(self.cost) || self.cost.matches('[1-9]')").message("extensions[].cost must be more than 0").field_path(".cost"))]
pub struct Extension {
    /// Tokens that are added. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_TOKENS))]
    pub tokens: Option<i64>,
    /// What is added to cost, as quoted text such as "25.00". Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Amount>,
    /// When it ends at the latest, with its offset from UTC, such as 2026-11-28T00:00:00Z. It counts at once, in the period that is
    /// open when it is written, and ends with that period if this time is after its end: it is given once.
    pub until: Time,
    /// Why it was given, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub reason: Option<String>,
}

/// What the gateway does when it has not heard of the operator for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WhenUsageUnknown {
    /// Each replica spends what it was granted, and then refuses. The limit holds.
    #[default]
    Hold,
    /// It refuses at once. The limit holds.
    Block,
    /// It goes on, and counts what is used. The limit may be passed.
    Allow,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: &Value) -> TokenBudgetSpec {
        serde_json::from_value(spec.clone()).unwrap()
    }

    #[test]
    fn the_shortest_spec_is_read_and_written_as_it_is() {
        let spec = json!({ "cost": "250.00", "period": { "type": "Monthly" }, "appliesTo": {} });
        assert_eq!(serde_json::to_value(read(&spec)).unwrap(), spec);
    }

    #[test]
    fn no_thresholds_are_another_thing_than_thresholds_of_which_nothing_is_said() {
        let mut spec = json!({ "tokens": 1, "period": { "type": "Daily" }, "appliesTo": {} });
        assert_eq!(read(&spec).thresholds, None);
        spec["thresholds"] = json!([]);
        assert_eq!(read(&spec).thresholds, Some(Vec::new()));
        assert_eq!(serde_json::to_value(read(&spec)).unwrap(), spec);
    }

    #[test]
    fn all_pools_by_an_empty_selector_are_written_as_such() {
        let all = json!({ "agentPoolSelector": {} });
        let read: AppliesTo = serde_json::from_value(all.clone()).unwrap();
        assert_eq!(read.agent_pool_selector, Some(LabelSelector::default()));
        assert_eq!(serde_json::to_value(read).unwrap(), all);
    }

    #[test]
    fn a_spec_without_a_period_or_without_whom_it_is_about_or_an_extension_without_end_is_not_read() {
        for (spec, missing) in [
            (json!({ "tokens": 1, "appliesTo": {} }), "`period`"),
            (json!({ "tokens": 1, "period": { "type": "Daily" } }), "`appliesTo`"),
            (json!({ "tokens": 1, "period": {}, "appliesTo": {} }), "`type`"),
            (json!({ "tokens": 1, "period": { "type": "Daily" }, "appliesTo": {}, "extensions": [{ "tokens": 1 }] }), "`until`"),
        ] {
            let error = serde_json::from_value::<TokenBudgetSpec>(spec).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }
}
