//! What a budget says, as far as accounts ask.

use std::collections::BTreeMap;

use crate::api::token_budget::{Enforcement, WhenUsageUnknown};
use crate::decide::account::history::Covers;
use crate::decide::account::{Limits, PeriodId};

/// A period, and what may be used in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeriodTerms {
    /// The period.
    pub id: PeriodId,
    /// When it starts, in seconds since 1970.
    pub start: i64,
    /// When it ends, in seconds since 1970; none: never.
    pub end: Option<i64>,
    /// What may be used in it, extensions and what was carried over included.
    pub limits: Limits,
}

/// What a budget says, as far as accounts ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BudgetTerms {
    /// Its name, for people.
    pub name: String,
    /// The period that is open. One before that which is open in the accounts changes nothing of what may be used.
    pub period: PeriodTerms,
    /// The one that follows; none where there is none.
    pub next: Option<PeriodTerms>,
    /// What each caller may use of `period`, by name of the AgentPool: together no more than its limits. None: it is not
    /// shared.
    pub shares: Option<BTreeMap<String, Limits>>,
    /// Whom it covers, and on which routes; none: on all.
    pub covers: Covers,
    /// What happens at the limit.
    pub enforcement: Enforcement,
    /// What processes do that hear nothing of the operator any more.
    pub when_usage_unknown: WhenUsageUnknown,
    /// What the owner says to those who are refused.
    pub message: Option<String>,
    /// How much of an input token counts that a prefix cache served, in percent.
    pub cached_input_percent: u32,
}
