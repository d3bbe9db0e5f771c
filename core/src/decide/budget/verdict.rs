//! What budgets mean for those whom they cover, for each caller and route.
//!
//! One budget's verdict is data: [`of`] makes it for the gateways, and `decide` for the status, by the same rules. [`combine`]
//! makes one of all that cover a call: the least of refused, a tier, and free.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::in_force::{self, InForce, State};
use super::observation::{AccountFacts, Accounts, PerUnit, PoolFacts};
use super::{check, matches, thresholds};
use crate::api::TokenBudget;
use crate::api::conditions::{reasons, types};
use crate::api::model_route::Tier;
use crate::api::token_budget::{Enforcement, ShareType, TokenBudgetSpec};
use crate::api::token_budget_status::{MAX_CALLERS, Phase, VerdictCaller, VerdictStep};
use crate::decide::account::message::{CallerRow, RouteRow};
use crate::decide::account::{AccountId, Limits, PeriodId, Unit};

/// What a budget means for those whom it covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BudgetVerdict {
    /// The uid of the TokenBudget.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// By name of the AgentPool, and of each ModelRoute that it may call and that counts.
    pub callers: BTreeMap<String, BTreeMap<String, RouteVerdict>>,
}

/// What a budget means for the calls of a caller on a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteVerdict {
    /// The accounts in which they are reserved.
    pub accounts: Vec<AccountId>,
    /// The highest tier that may answer; none: any.
    pub tier_ceiling: Option<Tier>,
    /// The account in which nothing is left, so that all are refused.
    pub refused: Option<AccountId>,
    /// The account for which calls of new tasks are refused: nothing is left in it, or a step pauses the pool.
    pub new_tasks_refused: Option<AccountId>,
    /// Whether the pool is paused: by a step, or because what it may use is used up. While that is only as good as used up, its
    /// calls are let through that fit.
    pub paused: bool,
    /// How much is used of the accounts, in percent: the highest. 0 for a budget that does nothing.
    pub used_percent: u32,
}

/// What a status remembers of a period.
#[derive(Clone, Copy, Debug, Default)]
pub struct Remembered<'a> {
    /// The steps that were taken in it.
    pub steps: &'a [VerdictStep],
    /// Whether its limit was reached.
    pub exhausted: bool,
}

/// What a verdict is made of.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// What is in force.
    pub in_force: &'a InForce,
    /// What the accounts say of the budget as a whole, by the limits that are in force; none: that is not known.
    pub units: Option<&'a PerUnit<AccountFacts>>,
    /// What the accounts say; none: that is not known.
    pub accounts: Option<&'a Accounts>,
    /// The steps that are taken.
    pub steps: &'a [VerdictStep],
    /// Whether the limit is reached.
    pub exhausted: bool,
}

/// What a budget means for its callers, given what its status says of the steps that were taken. Nothing where it is not in
/// force, and of one that does nothing only what counts. What the accounts do not tell yet is not held against a caller here:
/// they refuse by themselves what they have no room for.
pub fn of(budget: &TokenBudget, pools: &[PoolFacts], accounts: Option<&Accounts>, now: Timestamp) -> BudgetVerdict {
    let checked = check::check(&budget.spec).ok();
    let in_force = in_force::of(budget, checked.as_ref(), pools, accounts, now).filter(|known| known.state != State::Before);
    let Some(in_force) = in_force.filter(|_| budget.metadata.deletion_timestamp.is_none()) else { return named(budget) };
    let accounts = accounts.filter(|accounts| accounts.period == in_force.period.id);
    let units = accounts.and_then(|accounts| units(in_force.limits, accounts));
    let remembered = remembered(budget, in_force.period.id).unwrap_or_default();
    let is_exhausted =
        |units: &PerUnit<AccountFacts>| is_exhausted(units, in_force.enforcement, accounts.map_or(0, |accounts| accounts.refused));
    let standing = Standing {
        in_force: &in_force,
        units: units.as_ref(),
        accounts,
        steps: remembered.steps,
        exhausted: remembered.exhausted || units.as_ref().is_some_and(is_exhausted),
    };
    let mut verdict = judge(budget, &standing, pools);
    if in_force.enforcement == Enforcement::DryRun {
        verdict.callers.values_mut().flat_map(BTreeMap::values_mut).for_each(RouteVerdict::do_nothing);
    }
    verdict
}

impl RouteVerdict {
    /// Calls are counted, and that is all.
    fn do_nothing(&mut self) {
        *self = Self { accounts: std::mem::take(&mut self.accounts), ..Self::default() };
    }
}

/// What the status of a budget remembers of a period; none: it is about another one.
pub fn remembered(budget: &TokenBudget, period: PeriodId) -> Option<Remembered<'_>> {
    let status = budget.status.as_ref()?;
    status.period.as_ref().filter(|shown| shown.start.0.as_second() == period.0)?;
    let steps = status.verdict.as_ref().map(|verdict| verdict.steps.as_slice()).unwrap_or_default();
    // The end of the only period is nothing to remember: it may have been moved since.
    let has_ended = |condition: &Condition| condition.type_ == types::EXHAUSTED && condition.reason == reasons::PERIOD_ENDED;
    let exhausted = status.phase == Some(Phase::Exhausted) && !status.conditions.iter().any(has_ended);
    Some(Remembered { steps, exhausted })
}

/// What the accounts say of a budget as a whole, by these limits; none: they have yet to take up a unit that is limited.
pub fn units(limits: Limits, accounts: &Accounts) -> Option<PerUnit<AccountFacts>> {
    let of_unit = |unit: Unit| Some(AccountFacts { limit: limits.of(unit)?, ..*accounts.units.of(unit)? });
    let units = PerUnit::from_units(of_unit);
    let is_complete = Unit::ALL.into_iter().all(|unit| limits.of(unit).is_some() == units.of(unit).is_some());
    is_complete.then_some(units)
}

/// Whether a limit is reached. Calls reserve the most that they can use, so that under Block the use of a budget comes to an
/// end shortly before its limit: where calls were refused for want of room and less than a hundredth is left, that counts as
/// reached. What still fits is let through all the same.
pub fn is_exhausted(units: &PerUnit<AccountFacts>, enforcement: Enforcement, refused: u64) -> bool {
    let is_short = enforcement == Enforcement::Block && refused > 0;
    units.values().any(|account| account.is_spent() || is_short && account.is_nearly_spent())
}

/// What a budget means for each of its callers; one that does nothing, what it would mean if it did.
pub fn judge(budget: &TokenBudget, standing: &Standing<'_>, pools: &[PoolFacts]) -> BudgetVerdict {
    let mut verdict = named(budget);
    let enforcement = if_acting(standing.in_force.enforcement, &budget.spec);
    for pool in pools {
        let routes = matches::counted(&standing.in_force.covers, pool);
        if routes.is_empty() {
            continue;
        }
        let of_caller = of_caller(&verdict.uid, enforcement, is_shared(&budget.spec), standing, pool);
        let of_routes = routes.into_iter().map(|route| (route.to_owned(), of_caller.clone())).collect();
        verdict.callers.insert(pool.name.clone(), of_routes);
    }
    verdict
}

fn named(budget: &TokenBudget) -> BudgetVerdict {
    let metadata = &budget.metadata;
    let (uid, name) = (metadata.uid.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
    BudgetVerdict { uid, name, callers: BTreeMap::new() }
}

fn is_shared(spec: &TokenBudgetSpec) -> bool {
    spec.share.as_ref().is_some_and(|share| share.type_ != ShareType::None)
}

/// What happens at the limit, or would if the budget did anything: whoever only tries one tries a wall, unless the spec says
/// that there would be none.
fn if_acting(enforcement: Enforcement, spec: &TokenBudgetSpec) -> Enforcement {
    match (enforcement, spec.enforcement) {
        (Enforcement::DryRun, Some(Enforcement::Alert)) => Enforcement::Alert,
        (Enforcement::DryRun, _) => Enforcement::Block,
        (acting, _) => acting,
    }
}

fn of_caller(uid: &str, enforcement: Enforcement, shared: bool, standing: &Standing<'_>, pool: &PoolFacts) -> RouteVerdict {
    let InForce { state, limits, thresholds, .. } = standing.in_force;
    let id = |unit: Unit| AccountId { budget: uid.to_owned(), unit, caller: shared.then(|| pool.name.clone()) };
    let limited = || Unit::ALL.into_iter().filter(move |unit| limits.of(*unit).is_some());
    let accounts: Vec<AccountId> = limited().map(id).collect();
    let share = standing.accounts.and_then(|accounts| accounts.shares.get(&pool.name)).filter(|_| shared);
    // A call is refused where the budget has nothing left, or its caller's share.
    let own = if shared { share } else { standing.units };
    let is_spent =
        |of: Option<&PerUnit<AccountFacts>>, unit: Unit| of.and_then(|of| of.of(unit)).is_some_and(AccountFacts::is_spent);
    let spent = limited().find(|unit| *state == State::Over || is_spent(standing.units, *unit) || is_spent(own, *unit));
    let percent = |unit: Unit| own.and_then(|own| own.of(unit)).map_or(0, AccountFacts::percent);
    // Of two that are equally full the last one is taken.
    let fullest = limited().rev().max_by_key(|unit| percent(*unit));
    let is_walled = enforcement == Enforcement::Block;
    let refused = spent.filter(|_| is_walled);
    let refusals = standing.accounts.map_or(0, |accounts| accounts.refused);
    let share_is_exhausted = share.is_some_and(|share| is_exhausted(share, enforcement, refusals));
    let is_used_up = standing.exhausted || *state == State::Over || share_is_exhausted;
    let step_pauses = thresholds::pauses(thresholds, standing.steps, pool.criticality);
    RouteVerdict {
        accounts,
        tier_ceiling: thresholds::tier_ceiling(thresholds, standing.steps),
        refused: refused.map(id),
        new_tasks_refused: refused.or(fullest.filter(|_| step_pauses)).map(id),
        paused: step_pauses || is_walled && is_used_up,
        used_percent: fullest.map_or(0, percent),
    }
}

/// What all budgets of a namespace mean for its callers: what the gateways are told. Callers whom none covers are not there.
pub fn combine(verdicts: &[BudgetVerdict]) -> BTreeMap<String, CallerRow> {
    let mut in_order: Vec<&BudgetVerdict> = verdicts.iter().collect();
    in_order.sort_by(|one, other| (&one.name, &one.uid).cmp(&(&other.name, &other.uid)));
    let mut rows: BTreeMap<String, CallerRow> = BTreeMap::new();
    for verdict in in_order {
        for (caller, routes) in &verdict.callers {
            let row = rows.entry(caller.clone()).or_default();
            for (route, verdict) in routes {
                add(row.routes.entry(route.clone()).or_default(), verdict);
            }
        }
    }
    rows
}

fn add(row: &mut RouteRow, verdict: &RouteVerdict) {
    row.accounts.extend(verdict.accounts.iter().cloned());
    row.tier_ceiling = [row.tier_ceiling, verdict.tier_ceiling].into_iter().flatten().min();
    row.refused = row.refused.take().or_else(|| verdict.refused.clone());
    row.new_tasks_refused = row.new_tasks_refused.take().or_else(|| verdict.new_tasks_refused.clone());
    row.used_percent = row.used_percent.max(verdict.used_percent);
}

/// Those who are held back, as a status lists them, in the order of their names, and whether it has no room for all. Then it
/// lists every pool once before it lists any twice, so that pools find themselves there for as long as that is possible at all.
pub fn held_back(verdict: &BudgetVerdict) -> (Vec<VerdictCaller>, bool) {
    // Whose calls are refused is paused as well.
    let held = |verdict: &RouteVerdict| verdict.tier_ceiling.is_some() || verdict.paused;
    let mut rows: Vec<(usize, VerdictCaller)> = Vec::new();
    for (caller, routes) in &verdict.callers {
        let routes = routes.iter().filter(|(_, verdict)| held(verdict));
        rows.extend(routes.enumerate().map(|(number, (route, verdict))| {
            let row = VerdictCaller {
                agent_pool: caller.clone(),
                model_route: route.clone(),
                tier_ceiling: verdict.tier_ceiling,
                blocked: verdict.refused.is_some(),
                new_tasks_refused: verdict.new_tasks_refused.is_some(),
                paused: verdict.paused,
            };
            (number, row)
        }));
    }
    let is_cut = rows.len() > MAX_CALLERS;
    // Paused pools first: the others have nothing to find out here that their calls would not tell.
    rows.sort_by_key(|(number, row)| (*number, !row.paused));
    rows.truncate(MAX_CALLERS);
    let mut rows: Vec<VerdictCaller> = rows.into_iter().map(|(_, row)| row).collect();
    rows.sort_by(|one, other| (&one.agent_pool, &one.model_route).cmp(&(&other.agent_pool, &other.model_route)));
    (rows, is_cut)
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
