//! What a decision about a TokenBudget may look at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

use super::forecast::BurnRate;
use crate::api::agent_pool::Criticality;
use crate::api::{AgentPool, ModelRoute, TokenBudget};
use crate::decide::account::granting::{ClosedPeriod, Known, Snapshot, UnitSnapshot};
use crate::decide::account::{Amounts, Limits, PeriodId, Unit};
use crate::decide::gateway::exchange::usage::Counts;

/// Everything that a decision about a budget may look at. Pools and routes are known by their specs and labels, and never by a
/// status: a status depends on budgets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observation {
    /// When this was observed; only in a recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Timestamp>,
    /// The object itself, with its status.
    pub budget: TokenBudget,
    /// All AgentPools of its namespace, in any order.
    #[serde(default)]
    pub pools: Vec<PoolFacts>,
    /// All ModelRoutes of its namespace, in any order.
    #[serde(default)]
    pub routes: Vec<RouteFacts>,
    /// InferenceBackends of its namespace that have no price. vllm and ollama have one: without spec.price they cost nothing.
    #[serde(default)]
    pub unpriced: BTreeSet<String>,
    /// What its accounts say. Absent: it has none yet, or they are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<Accounts>,
    /// Why they will not be known before somebody does something about it, and what: the ledger cannot be read, say. Absent:
    /// they will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_because: Option<String>,
    /// What those whom it covers have used since the start of the period that the accounts are in, by name of the AgentPool.
    #[serde(default)]
    pub by_caller: BTreeMap<String, Counts>,
    /// How fast those whom it covers use tokens and money. Absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burn: Option<BurnRate>,
    /// When the figures of its status last changed; absent: not in this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures_changed: Option<Timestamp>,
    /// Fields that the served schema lacks.
    #[serde(default)]
    pub outdated_schema: Arc<Vec<String>>,
}

/// An AgentPool, as far as budgets ask about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolFacts {
    /// Its name, which is that of the caller.
    pub name: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The ModelRoutes that its key may call. Without any it has no key, and no budget covers it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub routes: BTreeSet<String>,
    /// Which of several pools comes first.
    #[serde(default)]
    pub criticality: Criticality,
}

impl PoolFacts {
    /// Those of a pool.
    pub fn of(pool: &AgentPool) -> Self {
        Self {
            name: pool.name_any(),
            labels: pool.labels().clone(),
            routes: pool.spec.model_routes.iter().map(|route| route.name.clone()).collect(),
            criticality: pool.spec.criticality.unwrap_or_default(),
        }
    }
}

/// A ModelRoute, as far as budgets ask about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteFacts {
    /// Its name.
    pub name: String,
    /// The InferenceBackends that its spec names, wherever it does.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub backends: BTreeSet<String>,
}

impl RouteFacts {
    /// Those of a route.
    pub fn of(route: &ModelRoute) -> Self {
        let spec = &route.spec;
        let of_rules = spec.rules.iter().flat_map(|rule| &rule.backends);
        let backends = spec.backends.iter().chain(of_rules).map(|backend| backend.name.clone());
        let backends = backends.chain(spec.fallback.iter().map(|fallback| fallback.name.clone())).collect();
        Self { name: route.name_any(), backends }
    }
}

/// Something of each unit that there is something of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PerUnit<T> {
    /// Of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<T>,
    /// Of money, in millionths of the operator's currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<T>,
}

impl<T> PerUnit<T> {
    /// For each unit what a function says of it.
    pub fn from_units(mut of: impl FnMut(Unit) -> Option<T>) -> Self {
        Self { tokens: of(Unit::Tokens), cost: of(Unit::Cost) }
    }

    /// That of one unit.
    pub fn of(&self, unit: Unit) -> Option<&T> {
        match unit {
            Unit::Tokens => self.tokens.as_ref(),
            Unit::Cost => self.cost.as_ref(),
        }
    }

    /// Those that there are.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        [&self.tokens, &self.cost].into_iter().flatten()
    }
}

impl From<Amounts> for PerUnit<u64> {
    fn from(amounts: Amounts) -> Self {
        Self { tokens: Some(amounts.tokens), cost: Some(amounts.cost) }
    }
}

/// What the leader's accounts say of a budget: [`Snapshot`], as it can be recorded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Accounts {
    /// The period that is open.
    pub period: PeriodId,
    /// The budget as a whole, in the units that are limited.
    #[serde(default)]
    pub units: PerUnit<AccountFacts>,
    /// The shares, by name of the AgentPool. Nothing without shares.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shares: BTreeMap<String, PerUnit<AccountFacts>>,
    /// Whether that is all that was used.
    #[serde(default)]
    pub known: UsageKnown,
    /// The period before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<ClosedFacts>,
    /// The periods that are over, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<ClosedFacts>,
    /// Calls of the period that were refused for want of room, or would have been.
    #[serde(default)]
    pub refused: u64,
}

/// What one account says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccountFacts {
    /// Its limit.
    pub limit: u64,
    /// What was used.
    pub used: u64,
    /// The part of `used` that is an upper bound.
    #[serde(default)]
    pub estimated: u64,
}

impl AccountFacts {
    /// What is left.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// How much of the limit is used, in percent, rounded down. Of a limit of 0 all is.
    pub fn percent(&self) -> u32 {
        let percent = (u128::from(self.used) * 100).checked_div(u128::from(self.limit)).unwrap_or(100);
        u32::try_from(percent).unwrap_or(u32::MAX)
    }

    /// Whether all is used: whatever a call needs, there is no room for it.
    pub fn is_spent(&self) -> bool {
        self.used >= self.limit
    }

    /// Whether less than a hundredth is left.
    pub fn is_nearly_spent(&self) -> bool {
        u128::from(self.left()) * 100 < u128::from(self.limit) || self.is_spent()
    }
}

/// Whether accounts say all that was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UsageKnown {
    /// They do.
    #[default]
    Yes,
    /// They are new, and not every process of the gateway has said what was used before.
    Opening,
    /// The ledger is gone, or a part of the caller table that they opened by: they were made anew of what is left, and nobody has
    /// confirmed them.
    LedgerLost,
    /// A process of the gateway has not reported to the operator that leads.
    NotHeard,
}

/// A period that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClosedFacts {
    /// The period.
    pub id: PeriodId,
    /// When it ended, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    /// Its limits when it ended.
    #[serde(default)]
    pub limits: Limits,
    /// What was used.
    #[serde(default)]
    pub used: PerUnit<u64>,
    /// The part of `used` that is an upper bound.
    #[serde(default)]
    pub estimated: PerUnit<u64>,
}

impl From<&UnitSnapshot> for AccountFacts {
    fn from(snapshot: &UnitSnapshot) -> Self {
        Self { limit: snapshot.limit, used: snapshot.used, estimated: snapshot.estimated }
    }
}

impl From<&ClosedPeriod> for ClosedFacts {
    fn from(period: &ClosedPeriod) -> Self {
        Self { id: period.id, end: period.end, limits: period.limits, used: period.used.into(), estimated: period.estimated.into() }
    }
}

impl From<&Snapshot> for Accounts {
    fn from(snapshot: &Snapshot) -> Self {
        let units = |units: &BTreeMap<Unit, UnitSnapshot>| PerUnit::from_units(|unit| units.get(&unit).map(AccountFacts::from));
        Self {
            period: snapshot.period,
            units: units(&snapshot.units),
            shares: snapshot.shares.iter().map(|(caller, share)| (caller.clone(), units(share))).collect(),
            known: match snapshot.known {
                Known::Yes => UsageKnown::Yes,
                Known::Opening => UsageKnown::Opening,
                Known::LedgerLost => UsageKnown::LedgerLost,
                Known::NotHeard(_) => UsageKnown::NotHeard,
            },
            before: snapshot.before.as_ref().map(ClosedFacts::from),
            history: snapshot.history.iter().map(ClosedFacts::from).collect(),
            refused: snapshot.refused,
        }
    }
}

#[cfg(test)]
#[path = "observation_tests.rs"]
mod tests;
