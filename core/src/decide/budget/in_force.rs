//! What of a budget is in force: what its spec says; or, while that cannot be understood, what was in force before.

use jiff::Timestamp;

use super::check::{self, Checked};
use super::limit::{self, Closed};
use super::matches;
use super::observation::{Accounts, PoolFacts};
use super::period::{Calendar, Period, When};
use crate::api::TokenBudget;
use crate::api::token_budget::{Enforcement, PeriodType, Threshold, TokenBudgetSpec};
use crate::api::token_budget_status::{ExtensionStatus, Phase, TokenBudgetStatus};
use crate::decide::account::history::Covers;
use crate::decide::account::{Limits, PeriodId, Unit};

/// What of a budget is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    /// Whether it limits anything.
    pub state: State,
    /// The period that is open, the first one, or the last one.
    pub period: Period,
    /// When the period ends, by the clocks of its time zone.
    pub resets: Option<String>,
    /// What may be used in it.
    pub limits: Limits,
    /// The period that follows, with what may be used in it. What will be carried into it from the open one is not known yet,
    /// and not part of that; what is carried as a debt is.
    pub next: Option<(Period, Limits)>,
    /// What happens before the limit, in the order in which it does.
    pub thresholds: Vec<Threshold>,
    /// What happens at the limit: nothing while the budget is suspended.
    pub enforcement: Enforcement,
    /// Whom it covers.
    pub covers: Covers,
    /// The extensions that have begun, and when each of them ends.
    pub extensions: Vec<ExtensionStatus>,
}

/// Whether a budget limits anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its first period has not started: it does not.
    Before,
    /// A period is open.
    Open,
    /// Its only period is over: nothing can be used any more.
    Over,
}

/// What of a budget is in force; none: it never was. `accounts`: what the leader's accounts say of it; none: it has none, or
/// they are not known.
///
/// Ids of periods only grow, whatever clocks and edits do. Where the calendar would go back behind the period that is open,
/// that one stays, and ends when the calendar's period does.
///
/// A spec that cannot be understood leaves the period and the limits in force that the accounts have. Nobody knows then when
/// the next period starts: the open one goes on until the spec is mended.
pub fn of(
    budget: &TokenBudget,
    checked: Option<&Checked>,
    pools: &[PoolFacts],
    accounts: Option<&Accounts>,
    now: Timestamp,
) -> Option<InForce> {
    let covers = matches::covers(&budget.spec.applies_to, pools).unwrap_or_else(|_| covered_before(budget, pools));
    match checked {
        Some(checked) => Some(of_spec(budget, checked, covers, accounts, now)),
        None => of_status(budget, covers, accounts, now),
    }
}

/// The limits that a status shows.
pub fn limits_shown(status: &TokenBudgetStatus) -> Limits {
    Limits { tokens: status.limit_tokens, cost: status.limit_cost.as_deref().and_then(millionths) }
}

fn of_spec(budget: &TokenBudget, checked: &Checked, covers: Covers, accounts: Option<&Accounts>, now: Timestamp) -> InForce {
    let (spec, calendar) = (&budget.spec, &checked.calendar);
    let open = accounts.map(|accounts| accounts.period);
    let when = calendar.never_back(now, open);
    let period = not_back(when.period(), open);
    let extensions = limit::begun(spec, extensions_shown(budget), &period);
    let limit = |unit: Unit, period: &Period, before: Option<Closed>| limit::of(spec, unit, period, before, &extensions, now);
    let before = |unit: Unit| closed(spec, unit, calendar, &period, &extensions, accounts);
    let limits = limits_of(|unit| Some(limit(unit, &period, before(unit))?.total()));
    let follows = |next: Period| {
        let used = |unit: Unit| accounts.and_then(|accounts| accounts.units.of(unit)).map_or(0, |account| account.used);
        // Without a base nothing is carried, and what is used beyond the limit still is.
        let so_far = |unit: Unit| Closed { limit: limits.of(unit).unwrap_or(u64::MAX), used: used(unit), base: 0 };
        (next, limits_of(|unit| Some(limit(unit, &next, Some(so_far(unit)))?.total())))
    };
    let next = calendar.next(&period).map(follows);
    InForce {
        state: match when {
            When::Before(_) => State::Before,
            When::In(_) => State::Open,
            When::After(_) => State::Over,
        },
        period,
        resets: calendar.resets(&period),
        limits,
        next,
        thresholds: checked.thresholds.clone(),
        enforcement: check::enforcement(spec),
        covers,
        extensions,
    }
}

/// The period of a calendar, or that which is open if it is a later one.
fn not_back(period: Period, open: Option<PeriodId>) -> Period {
    match open {
        Some(id) if id > period.id => Period { id, start: Timestamp::from_second(id.0).unwrap_or(period.start), ..period },
        _ => period,
    }
}

fn limits_of(of: impl Fn(Unit) -> Option<u64>) -> Limits {
    Limits { tokens: of(Unit::Tokens), cost: of(Unit::Cost) }
}

/// How the period before has ended, in a unit; none where that is not known. What the spec gave then is not written down
/// anywhere: what it gives now stands for it, or the limit of then where that was less, so that at most too little is carried.
fn closed(
    spec: &TokenBudgetSpec,
    unit: Unit,
    calendar: &Calendar,
    period: &Period,
    extensions: &[ExtensionStatus],
    accounts: Option<&Accounts>,
) -> Option<Closed> {
    let before = accounts?.before.as_ref()?;
    let previous = calendar.previous(period).filter(|previous| previous.id == before.id)?;
    let (limit, used) = (before.limits.of(unit)?, *before.used.of(unit)?);
    let at = |now: Timestamp| limit::of(spec, unit, &previous, None, extensions, now);
    let extended = |now: Timestamp| at(now).map_or(0, |limit| limit.extended);
    // The limit with which it ended is without the extensions that had ended by then, and they could be used all the same.
    let last = previous.end.and_then(|end| Timestamp::from_second(end.as_second().saturating_sub(1)).ok());
    let ended = extended(previous.start).saturating_sub(extended(last.unwrap_or(previous.start)));
    Some(Closed { limit: limit.saturating_add(ended), used, base: at(previous.start)?.base })
}

fn of_status(budget: &TokenBudget, covers: Covers, accounts: Option<&Accounts>, now: Timestamp) -> Option<InForce> {
    let spec = &budget.spec;
    let status = budget.status.as_ref();
    let shown = status.filter(|status| status.phase.is_some_and(|phase| phase != Phase::Pending));
    let shown = shown.and_then(|status| Some((status, status.period.as_ref()?)));
    let (id, limits) = match (accounts, shown) {
        (Some(accounts), _) => (accounts.period, limits_of(|unit| accounts.units.of(unit).map(|account| account.limit))),
        (None, Some((status, period))) => (PeriodId(period.start.0.as_second()), limits_shown(status)),
        (None, None) => return None,
    };
    let shown = shown.map(|(_, period)| period).filter(|period| period.start.0.as_second() == id.0);
    let end = shown.and_then(|period| period.end.as_ref()).map(|end| end.0);
    let has_ended = end.is_some_and(|end| end <= now);
    let state = if has_ended && spec.period.type_ == PeriodType::Once { State::Over } else { State::Open };
    let end = end.filter(|_| !has_ended || state == State::Over);
    Some(InForce {
        state,
        period: Period { id, start: Timestamp::from_second(id.0).ok()?, end },
        resets: shown.filter(|_| end.is_some()).and_then(|period| period.resets.clone()),
        limits,
        next: None,
        thresholds: check::usable_thresholds(spec),
        enforcement: check::enforcement(spec),
        covers,
        extensions: extensions_shown(budget).to_vec(),
    })
}

/// What the status remembers of extensions.
fn extensions_shown(budget: &TokenBudget) -> &[ExtensionStatus] {
    budget.status.as_ref().map(|status| status.extensions.as_slice()).unwrap_or_default()
}

/// Those of the pools that the status says are covered.
fn covered_before(budget: &TokenBudget, pools: &[PoolFacts]) -> Covers {
    let touches = budget.status.as_ref().and_then(|status| status.touches.as_ref());
    let covered = touches.map(|touches| touches.agent_pools.as_slice()).unwrap_or_default();
    let routes = matches::routes(&budget.spec.applies_to);
    let exists = |name: &&String| pools.iter().any(|pool| pool.name == **name);
    covered.iter().filter(exists).map(|name| (name.clone(), routes.clone())).collect()
}

/// An amount as a status shows it.
fn millionths(shown: &str) -> Option<u64> {
    let (whole, decimals) = shown.split_once('.').unwrap_or((shown, ""));
    let decimals = Some(decimals).filter(|decimals| decimals.len() <= 6)?;
    let whole: u64 = whole.parse().ok()?;
    let decimals: u64 = format!("{decimals:0<6}").parse().ok()?;
    whole.checked_mul(1_000_000)?.checked_add(decimals)
}

#[cfg(test)]
#[path = "in_force_tests.rs"]
mod tests;
