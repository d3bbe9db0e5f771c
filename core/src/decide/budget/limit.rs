//! The limit of a period: what the spec gives, what is carried over from the period before, and extensions.
//!
//! *Carried over.* With `carryOver`, what was left of the period before is added, up to `maxPercent` of the limit that the spec
//! gives now. It is counted against what the spec gave then, so that what had itself been carried over, or came of an
//! extension, is not carried a second time: nobody saves up for more than a period. What was used beyond the limit, which Alert
//! and Allow let happen, is a debt, and taken off. A debt of more than a whole period's limit closes one period and not the
//! next as well. Without `carryOver` every period starts anew, without savings and without debts.
//!
//! *Extensions.* An extension counts from when it is first seen until its `until`, or until the period ends in which that was,
//! whichever is first. The status remembers when each one ends ([`begun`]), so that none is given again in a later period. One of
//! which the status knows nothing and whose `until` has passed was one of the period that contains its `until`, if of any.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::period::Period;
use crate::api::price::Amount;
use crate::api::token_budget::{Extension, TokenBudgetSpec};
use crate::api::token_budget_status::ExtensionStatus;
use crate::decide::account::Unit;

/// The limit of one unit in a period, in its parts: tokens, or millionths of the operator's currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// What the spec gives.
    pub base: u64,
    /// What was left in the period before.
    pub carried: u64,
    /// What was used beyond the limit in the period before.
    pub debt: u64,
    /// What extensions add at present.
    pub extended: u64,
}

impl Limit {
    /// What may be used in the period: `base + carried + extended - debt`, and never below 0.
    pub fn total(&self) -> u64 {
        self.base.saturating_add(self.carried).saturating_add(self.extended).saturating_sub(self.debt)
    }
}

/// How a period ended, in one unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// What could be used in it: the total of its limit with all of its extensions, also of those that ended within it, or what
    /// was used rightly would be a debt. [`of`] gives it for the start of the period.
    pub limit: u64,
    /// What was used.
    pub used: u64,
    /// What the spec gave: the base of its limit.
    pub base: u64,
}

/// The limit of a unit in a period; none: the unit is not limited, whatever extensions there are.
///
/// `before` is the period before. None where there was none, or where it is not known how it ended: then nothing is carried.
/// `begun`: the extensions that have begun by the period that is open, as [`begun`] says. For the first period, which has not
/// begun, `now` may lie before its start: all of its extensions count then.
///
/// An amount that cannot be read, which the schema refuses, gives nothing: a budget that nobody understands is closed and not
/// open.
pub fn of(
    spec: &TokenBudgetSpec,
    unit: Unit,
    period: &Period,
    before: Option<Closed>,
    begun: &[ExtensionStatus],
    now: Timestamp,
) -> Option<Limit> {
    let base = amount(unit, spec.tokens, spec.cost.as_ref())?;
    let extensions = spec.extensions.iter().filter(|extension| counts(extension, begun, period, now));
    let extended = extensions.filter_map(|extension| amount(unit, extension.tokens, extension.cost.as_ref()));
    let (carried, debt) = match (&spec.carry_over, before) {
        (Some(carry_over), Some(before)) => {
            (before.unused().min(percent_of(base, carry_over.max_percent)), before.used.saturating_sub(before.limit))
        }
        _ => (0, 0),
    };
    Some(Limit { base, carried, debt, extended: extended.fold(0, u64::saturating_add) })
}

/// The extensions that have begun by this period, which is the one that is open, in the order of the spec: those that the status
/// remembers, and those that begin now. One that has begun in the period ends with it, also where the period has got another end
/// since; one of an earlier period has ended, whatever its `until`.
pub fn begun(spec: &TokenBudgetSpec, remembered: &[ExtensionStatus], period: &Period) -> Vec<ExtensionStatus> {
    let of_extension = |extension: &Extension| {
        let until = extension.until.0;
        match known(extension, remembered) {
            Some(ended) if ended.ends.0 <= period.start => Some(ended.clone()),
            None if until <= period.start => None,
            _ => Some(ExtensionStatus {
                tokens: extension.tokens,
                cost: extension.cost.as_ref().map(|cost| cost.0.clone()),
                until: extension.until.clone(),
                ends: Time(period.end.map_or(until, |end| end.min(until))),
            }),
        }
    };
    spec.extensions.iter().filter_map(of_extension).collect()
}

/// The extensions that are over, in the order of the spec: they do nothing any more, and are told of.
pub fn past_extensions<'a>(spec: &'a TokenBudgetSpec, begun: &[ExtensionStatus], now: Timestamp) -> Vec<&'a Extension> {
    spec.extensions.iter().filter(|extension| ends(extension, begun) <= now).collect()
}

impl Closed {
    /// What was left of what the spec gave. Where a debt had lowered the limit below that, what was left of the limit.
    fn unused(self) -> u64 {
        self.base.min(self.limit).saturating_sub(self.used)
    }
}

/// Whether the extension is one of the period and has not ended.
fn counts(extension: &Extension, begun: &[ExtensionStatus], period: &Period, now: Timestamp) -> bool {
    let ends = ends(extension, begun);
    now < ends && period.start < ends && period.end.is_none_or(|end| ends <= end)
}

/// When an extension ends, as far as that is known.
fn ends(extension: &Extension, begun: &[ExtensionStatus]) -> Timestamp {
    known(extension, begun).map_or(extension.until.0, |status| status.ends.0)
}

/// What is remembered of an extension. It has no name: another amount or another time makes it another one, and another reason
/// does not. A status may show times in whole seconds.
fn known<'a>(extension: &Extension, begun: &'a [ExtensionStatus]) -> Option<&'a ExtensionStatus> {
    let cost = extension.cost.as_ref().map(|cost| cost.0.as_str());
    let until = extension.until.0.as_second();
    let is_it = |status: &&ExtensionStatus| {
        status.tokens == extension.tokens && status.cost.as_deref() == cost && status.until.0.as_second() == until
    };
    begun.iter().find(is_it)
}

/// The amount of one unit; none where nothing is said of it.
fn amount(unit: Unit, tokens: Option<i64>, cost: Option<&Amount>) -> Option<u64> {
    match unit {
        Unit::Tokens => tokens.map(|tokens| u64::try_from(tokens).unwrap_or(0)),
        Unit::Cost => cost.map(|cost| cost.millionths().unwrap_or(0)),
    }
}

/// So many percent of an amount, rounded down.
fn percent_of(amount: u64, percent: u32) -> u64 {
    u64::try_from(u128::from(amount) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "limit_tests.rs"]
mod tests;
