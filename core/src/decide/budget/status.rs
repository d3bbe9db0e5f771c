//! What the status of a budget shows. Steps, phases, limits and periods are shown at once; figures that change with every call
//! at most every [`FIGURES`], and a forecast that changes by itself seldom: a budget at rest is not written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::forecast::{self, BurnRate};
use super::in_force::InForce;
use super::observation::{AccountFacts, Accounts, ClosedFacts, Observation, PerUnit};
use super::{check, matches};
use crate::api::token_budget::Enforcement;
use crate::api::token_budget_status::{
    BudgetSummary, Consumer, MAX_CONSUMERS, MAX_HISTORY, MAX_TOUCHED, PastPeriod, PeriodStatus, Phase, TokenBudgetStatus, Touches,
    amount,
};
use crate::decide::account::Unit;
use crate::decide::account::history::{Covers, counted_tokens};

/// The shortest time between two writes of figures alone.
pub const FIGURES: Duration = Duration::from_secs(30);

/// The shortest time between two writes of a forecast alone: what nobody uses any more fades for hours.
pub const FORECAST: Duration = Duration::from_secs(600);

/// Whom a budget concerns, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The AgentPools that it covers.
    pub pools: BTreeSet<String>,
    /// The ModelRoutes that they call.
    pub routes: BTreeSet<String>,
    /// The InferenceBackends that answer there.
    pub backends: BTreeSet<String>,
}

impl Touched {
    /// Whom a budget that covers these concerns.
    pub fn of(covers: &Covers, observation: &Observation) -> Self {
        let covered = observation.pools.iter().filter(|pool| covers.contains_key(&pool.name));
        let called: BTreeSet<&str> = covered.flat_map(|pool| matches::counted(covers, pool)).collect();
        let routes = || observation.routes.iter().filter(|route| called.contains(route.name.as_str()));
        Self {
            pools: covers.keys().cloned().collect(),
            routes: routes().map(|route| route.name.clone()).collect(),
            backends: routes().flat_map(|route| &route.backends).cloned().collect(),
        }
    }

    fn shown(&self) -> Touches {
        let first = |names: &BTreeSet<String>| names.iter().take(MAX_TOUCHED).cloned().collect();
        Touches { agent_pools: first(&self.pools), model_routes: first(&self.routes), inference_backends: first(&self.backends) }
    }
}

/// What is shown of a budget whether its use is known or not.
pub fn of_spec(observation: &Observation, in_force: Option<&InForce>, touched: &Touched) -> TokenBudgetStatus {
    TokenBudgetStatus {
        phase: Some(Phase::Pending),
        enforcement: Some(observation.budget.spec.enforcement.unwrap_or_default()),
        period: in_force.map(|in_force| PeriodStatus {
            start: Time(in_force.period.start),
            end: in_force.period.end.map(Time),
            resets: in_force.resets.clone(),
        }),
        limit_tokens: in_force.and_then(|in_force| in_force.limits.tokens),
        limit_cost: in_force.and_then(|in_force| in_force.limits.cost).map(amount),
        matches: Some(u32::try_from(touched.pools.len()).unwrap_or(u32::MAX)),
        touches: Some(touched.shown()),
        ..TokenBudgetStatus::default()
    }
}

/// The figures of a budget, added to what else is shown of it. `units`: what was used, by the limits that are in force.
pub fn with_figures(
    status: TokenBudgetStatus,
    observation: &Observation,
    accounts: &Accounts,
    units: &PerUnit<AccountFacts>,
    previous: &TokenBudgetStatus,
    now: Timestamp,
) -> TokenBudgetStatus {
    let spec = &observation.budget.spec;
    let burn = observation.burn.map(|burn| burn.shown(check::cached_input_percent(spec)));
    let told = previous.projected_exhaustion.as_ref().map(|told| told.0);
    let end = status.period.as_ref().and_then(|period| period.end.as_ref()).map(|end| end.0);
    let counted = |unit: Unit| accounts.units.of(unit).map(|account| account.used);
    TokenBudgetStatus {
        used_tokens: counted(Unit::Tokens),
        remaining_tokens: units.tokens.map(|account| account.left()),
        estimated_tokens: accounts.units.tokens.map(|account| account.estimated),
        used_cost: counted(Unit::Cost).map(amount),
        remaining_cost: units.cost.map(|account| amount(account.left())),
        percent_used: units.values().map(AccountFacts::percent).max(),
        burn_rate_per_hour: burn.map(|burn| burn.tokens_per_hour),
        burn_cost_per_hour: burn.filter(|_| units.cost.is_some()).map(|burn| amount(burn.cost_per_hour)),
        projected_exhaustion: burn.and_then(|burn| forecast::exhaustion(units, burn, end, told, now)).map(Time),
        consumers: consumers(observation, accounts, units),
        would_have_refused: (check::enforcement(spec) != Enforcement::Block).then_some(accounts.refused),
        history: history(accounts, previous),
        summary: Some(summary(units, burn)),
        ..status
    }
}

/// Who has used how much: the largest first.
fn consumers(observation: &Observation, accounts: &Accounts, units: &PerUnit<AccountFacts>) -> Vec<Consumer> {
    let cached_input_percent = check::cached_input_percent(&observation.budget.spec);
    let mut used: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (caller, counts) in &observation.by_caller {
        used.insert(caller, (counted_tokens(counts, cached_input_percent), counts.cost));
    }
    // What accounts say of shares is exact, and what the caller table says of callers is as of its last report.
    for (caller, share) in &accounts.shares {
        let (tokens, cost) = used.entry(caller).or_default();
        *tokens = share.tokens.map_or(*tokens, |account| account.used);
        *cost = share.cost.map_or(*cost, |account| account.used);
    }
    let mut used: Vec<(&str, (u64, u64))> = used.into_iter().collect();
    used.retain(|(caller, (tokens, cost))| *tokens > 0 || *cost > 0 || accounts.shares.contains_key(*caller));
    let by_cost = units.tokens.is_none();
    // Names stay in order where as much was used.
    used.sort_by_key(|(_, (tokens, cost))| std::cmp::Reverse(if by_cost { (*cost, *tokens) } else { (*tokens, *cost) }));
    let consumer = |(caller, (tokens, cost)): (&str, (u64, u64))| {
        let share = accounts.shares.get(caller);
        Consumer {
            agent_pool: caller.to_owned(),
            tokens,
            cost: units.cost.map(|_| amount(cost)),
            share: share.and_then(|share| share.tokens).map(|account| account.limit),
            share_cost: share.and_then(|share| share.cost).map(|account| amount(account.limit)),
        }
    };
    used.into_iter().take(MAX_CONSUMERS).map(consumer).collect()
}

/// The periods that are over, the latest first: those of the accounts, and what the status remembers beyond them.
fn history(accounts: &Accounts, previous: &TokenBudgetStatus) -> Vec<PastPeriod> {
    let mut periods: Vec<PastPeriod> = accounts.history.iter().filter_map(|closed| past(closed, previous)).collect();
    let is_older = |remembered: &&PastPeriod| {
        let start = remembered.start.0.as_second();
        start < accounts.period.0 && accounts.history.iter().all(|closed| closed.id.0 != start)
    };
    periods.extend(previous.history.iter().filter(is_older).cloned());
    periods.sort_by_key(|period| std::cmp::Reverse(period.start.0));
    periods.truncate(MAX_HISTORY);
    periods
}

fn past(closed: &ClosedFacts, previous: &TokenBudgetStatus) -> Option<PastPeriod> {
    let start = Timestamp::from_second(closed.id.0).ok()?;
    let remembered = previous.history.iter().find(|period| period.start.0 == start);
    let just_over = previous.period.as_ref().filter(|period| period.start.0 == start);
    Some(PastPeriod {
        start: Time(start),
        end: closed.end.and_then(|end| Timestamp::from_second(end).ok()).map(Time),
        limit_tokens: closed.limits.tokens,
        used_tokens: closed.used.tokens,
        estimated_tokens: closed.estimated.tokens,
        limit_cost: closed.limits.cost.map(amount),
        used_cost: closed.used.cost.filter(|_| closed.limits.cost.is_some()).map(amount),
        phase: remembered.and_then(|period| period.phase).or_else(|| just_over.and(previous.phase)),
    })
}

/// The figures of the unit of which more is used.
fn summary(units: &PerUnit<AccountFacts>, burn: Option<BurnRate>) -> BudgetSummary {
    let fuller = match (&units.tokens, &units.cost) {
        (Some(tokens), Some(cost)) if cost.percent() > tokens.percent() => Unit::Cost,
        (None, Some(_)) => Unit::Cost,
        _ => Unit::Tokens,
    };
    let text = |number: u64| match fuller {
        Unit::Tokens => number.to_string(),
        Unit::Cost => amount(number),
    };
    let account = units.of(fuller);
    BudgetSummary {
        limit: account.map(|account| text(account.limit)),
        used: account.map(|account| text(account.used)),
        remaining: account.map(|account| text(account.left())),
        burn_rate: burn.map(|burn| text(if fuller == Unit::Tokens { burn.tokens_per_hour } else { burn.cost_per_hour })),
    }
}

/// A status as it is written now, and when figures of it that are held back may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The status.
    pub status: TokenBudgetStatus,
    /// When to look again.
    pub next: Option<Duration>,
}

/// Holds the figures of a status back while those that are shown are young, unless something else is written anyway.
pub fn throttled(fresh: TokenBudgetStatus, previous: &TokenBudgetStatus, changed: Option<Timestamp>, now: Timestamp) -> Written {
    // What nobody uses any more fades by itself, and nothing wakes the budget for it.
    let fades = fresh.burn_rate_per_hour.is_some_and(|rate| rate > 0).then_some(FORECAST);
    let interval = match () {
        () if edges(&fresh) != edges(previous) => Duration::ZERO,
        () if figures(&fresh) != figures(previous) => FIGURES,
        () if all_figures(&fresh) != all_figures(previous) => FORECAST,
        () => return Written { status: fresh, next: fades },
    };
    // A time of the future was written by a clock that has gone back since.
    let age = changed.map_or(Some(Duration::MAX), |changed| Duration::try_from(now.duration_since(changed)).ok());
    match age.and_then(|age| interval.checked_sub(age)).filter(|wait| !wait.is_zero()) {
        None => Written { status: fresh, next: fades },
        Some(wait) => Written { status: with_figures_of(fresh, previous), next: Some(wait) },
    }
}

/// What is shown at once.
fn edges(status: &TokenBudgetStatus) -> TokenBudgetStatus {
    TokenBudgetStatus {
        phase: status.phase,
        enforcement: status.enforcement,
        period: status.period.clone(),
        limit_tokens: status.limit_tokens,
        limit_cost: status.limit_cost.clone(),
        verdict: status.verdict.clone(),
        ..TokenBudgetStatus::default()
    }
}

/// What changes with every call.
fn figures(status: &TokenBudgetStatus) -> TokenBudgetStatus {
    let mut figures = all_figures(status);
    (figures.burn_rate_per_hour, figures.burn_cost_per_hour, figures.projected_exhaustion) = (None, None, None);
    if let Some(summary) = &mut figures.summary {
        summary.burn_rate = None;
    }
    figures
}

/// What changes with every call, or by itself.
fn all_figures(status: &TokenBudgetStatus) -> TokenBudgetStatus {
    with_figures_of(TokenBudgetStatus::default(), status)
}

fn with_figures_of(status: TokenBudgetStatus, figures: &TokenBudgetStatus) -> TokenBudgetStatus {
    TokenBudgetStatus {
        used_tokens: figures.used_tokens,
        remaining_tokens: figures.remaining_tokens,
        estimated_tokens: figures.estimated_tokens,
        used_cost: figures.used_cost.clone(),
        remaining_cost: figures.remaining_cost.clone(),
        percent_used: figures.percent_used,
        burn_rate_per_hour: figures.burn_rate_per_hour,
        burn_cost_per_hour: figures.burn_cost_per_hour.clone(),
        projected_exhaustion: figures.projected_exhaustion.clone(),
        consumers: figures.consumers.clone(),
        would_have_refused: figures.would_have_refused,
        history: figures.history.clone(),
        summary: figures.summary.clone(),
        ..status
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
