//! From one leader to the next: what the ledger says of a budget, and a budget as the ledger has it.
//!
//! Who reads a ledger knows of each process that it has no more than its ceiling, and of all together that they have no more
//! than the bound leaves beside what is settled: the pool. Ceilings may add up to more. As processes are heard, the pool
//! becomes what the others may have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::budget::{self, Budget, Period};
use super::grant::Grant;
use super::grants::PART_OF_NEXT;
use super::opening::Opening;
use super::period_account::PeriodAccount;
use super::share::{Share, ShareKey};
use super::snapshot::ClosedPeriod;
use super::terms::{BudgetTerms, PeriodTerms};
use crate::decide::account::ledger::{AccountLedger, BudgetLedger, ClosedLedger, PeriodLedger, ProcessLedger, ShareLedger, Units};
use crate::decide::account::message::SpentRow;
use crate::decide::account::{Amounts, PeriodId, Unit};

/// A ceiling leaves room for such a part of the limit of its share: all those of a process together for such a part of the limit of the
/// budget. So much is charged where it vanishes together with the leader.
const PART_OF_CEILING: u64 = 100;

/// How a period stands to the open one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is over: nothing more is granted of it.
    Over,
    Open,
    /// It is next.
    Next,
}

/// What a ledger is made of beside the budgets.
#[derive(Clone, Copy)]
pub(super) struct Writing<'a> {
    /// The processes that have said that they are about to leave, and have nothing reserved.
    pub(super) finished: &'a BTreeSet<u64>,
    /// How many times the usual room ceilings leave.
    pub(super) factor: u64,
    pub(super) now: Duration,
}

impl Budget {
    /// What the ledger says, with these terms. Processes that have `ended` meanwhile may have used what they could.
    pub(super) fn inherited(ledger: &BudgetLedger, terms: &BudgetTerms, ended: &BTreeSet<u64>, now: Duration) -> Self {
        let mut budget = Self::new(terms);
        (budget.open, budget.told, budget.unconfirmed) = (ledger.open, ledger.open, ledger.unconfirmed);
        budget.closed = ledger.closed.iter().map(|(id, closed)| (*id, ClosedPeriod::inherited(*id, closed))).collect();
        for (id, of_ledger) in &ledger.periods {
            let PeriodLedger { start, end, limits, accounts } = of_ledger;
            let mut period = Period::new(PeriodTerms { id: *id, start: *start, end: *end, limits: *limits });
            for (unit, account) in accounts.each() {
                let limit = limits.of(unit).unwrap_or(0);
                *period.accounts.of_mut(unit) = Some(PeriodAccount::inherited(account, limit, now));
            }
            let missing = Unit::ALL.into_iter().filter(|unit| *id <= ledger.open && accounts.of(*unit).is_none());
            for (unit, limit) in missing.filter_map(|unit| Some((unit, limits.of(unit)?))) {
                // What was used of it was to be found out.
                let mut account = PeriodAccount::new(limit, u64::MAX);
                account.opening = Some(Opening::new(now));
                account.cover(limit, &budget::shares(terms, unit, limit), |_| 0);
                *period.accounts.of_mut(unit) = Some(account);
            }
            budget.met.extend(period.accounts.each().flat_map(|(_, account)| account.unheard()));
            budget.periods.insert(*id, period);
        }
        match budget.periods.get(&ledger.open) {
            // What may be used in a later period than that of the terms is what the ledger says.
            Some(open) if terms.period.id < ledger.open => {
                budget.terms.period = open.terms;
                budget.terms.next = None;
            }
            Some(_) => {}
            // Somebody has edited it.
            None => (budget.open, budget.told) = (terms.period.id, terms.period.id),
        }
        for epoch in ended {
            budget.leave(*epoch, false);
        }
        budget
    }

    /// As the ledger has it.
    pub(super) fn ledger(&mut self, writing: Writing<'_>) -> BudgetLedger {
        let is_bound = self.is_bound();
        let open = self.open;
        let mut periods = BTreeMap::new();
        for (id, period) in &mut self.periods {
            let stage = match id.cmp(&open) {
                std::cmp::Ordering::Less => Stage::Over,
                std::cmp::Ordering::Equal => Stage::Open,
                std::cmp::Ordering::Greater => Stage::Next,
            };
            let mut accounts = Units::default();
            // One that is not open yet opens again with another leader.
            for (unit, account) in period.accounts.each_mut().filter(|(_, account)| account.opening.is_none()) {
                *accounts.of_mut(unit) = Some(account.ledger(stage, is_bound, writing));
            }
            let PeriodTerms { start, end, limits, .. } = period.terms;
            periods.insert(*id, PeriodLedger { start, end, limits, accounts });
        }
        let closed = self.closed.iter().map(|(id, closed)| (*id, closed.ledger())).collect();
        BudgetLedger { open, unconfirmed: self.unconfirmed, periods, closed }
    }

    /// This stands.
    pub(super) fn written(&mut self, ledger: &BudgetLedger) {
        self.told = self.told.max(ledger.open);
        for (id, period) in &mut self.periods {
            let of_period = ledger.periods.get(id);
            for (unit, account) in period.accounts.each_mut() {
                let of_account = of_period.and_then(|of_period| of_period.accounts.of(unit));
                account.stands(of_account);
            }
        }
    }

    /// A ledger stands that does not know the budget.
    pub(super) fn is_missing(&mut self) {
        self.periods.values_mut().flat_map(|period| period.accounts.each_mut()).for_each(|(_, account)| account.stands(None));
    }

    /// Nobody knows which ledger stands.
    pub(super) fn write_failed(&mut self) {
        self.periods.values_mut().flat_map(|period| period.accounts.each_mut()).for_each(|(_, account)| account.write_failed());
    }
}

impl PeriodAccount {
    fn inherited(ledger: &AccountLedger, limit: u64, now: Duration) -> Self {
        let settled = ledger.shares.values().map(|share| share.settled).fold(0, u64::saturating_add);
        let pool = ledger.bound.map_or(u64::MAX, |bound| bound.saturating_sub(settled));
        let mut account = Self::new(limit, pool);
        for (key, of_share) in &ledger.shares {
            let ShareLedger { settled, estimated, refused, before, ref processes } = *of_share;
            let key: ShareKey = (!key.is_empty()).then(|| key.clone());
            account.inherit(key.clone(), Share { before, settled, estimated, refused, ..Share::default() });
            for (epoch, process) in processes {
                let ProcessLedger { live, estimated, refused, ceiling } = *process;
                let reported = SpentRow { used: live, estimated, refused, ..SpentRow::default() };
                account.add(&key, *epoch, Grant::inherited(reported, ceiling, now));
            }
        }
        account
    }

    fn ledger(&mut self, stage: Stage, is_bound: bool, writing: Writing<'_>) -> AccountLedger {
        let committed = self.committed();
        let most = match stage {
            Stage::Over => 0,
            Stage::Open => self.limit,
            Stage::Next => self.limit / PART_OF_NEXT,
        };
        let bound = is_bound.then(|| most.max(committed));
        // What others have not used they may give back. So that what is moved from one to another need not be written, it may pass
        // into anybody's ceiling: all together are held to the bound.
        let leaves = bound.map_or(u64::MAX, |bound| bound.saturating_sub(self.used_for_good()));
        self.write(bound.unwrap_or(u64::MAX), |share, epoch, pool, grant| {
            if !grant.heard {
                return grant.reach();
            }
            let is_finished = writing.finished.contains(&epoch);
            let part = share.limit.unwrap_or(0).div_ceil(PART_OF_CEILING);
            let wished = grant.headroom(part, writing.factor, writing.now);
            let more = if stage == Stage::Over || share.limit.is_none() || is_finished { 0 } else { wished };
            let left = if is_bound { share.leaves(pool).min(leaves) } else { leaves };
            grant.promised().saturating_add(more.min(left.saturating_sub(grant.unused())))
        });
        let grants = self.shares().values().flat_map(|share| &share.grants);
        let mut named: BTreeSet<u64> = grants.filter(|(_, grant)| !says_nothing(grant)).map(|(epoch, _)| *epoch).collect();
        let shares = self.shares().iter().map(|(key, share)| (key.clone().unwrap_or_default(), share_ledger(share, &mut named)));
        AccountLedger { bound, shares: shares.collect() }
    }

    /// What stands in the ledger; none: nothing of this account.
    fn stands(&mut self, ledger: Option<&AccountLedger>) {
        let bound = ledger.map_or(0, |ledger| ledger.bound.unwrap_or(u64::MAX));
        self.written(bound, |share, epoch| {
            let share = ledger.and_then(|ledger| ledger.shares.get(share.as_deref().unwrap_or_default()));
            share.and_then(|share| share.processes.get(&epoch)).map_or(0, |process| process.ceiling)
        });
    }
}

/// Whether a process has used and refused nothing, and may use nothing before a ledger stands that says so.
fn says_nothing(grant: &Grant) -> bool {
    grant.written_ceiling() == 0 && grant.reported == SpentRow::default()
}

/// `named`: the processes that the ledger names in the account. Of whom nothing is said in any of its shares is named in the first, as
/// it may yet have to be heard, and what it had used before it knew of the budget is charged already.
fn share_ledger(share: &Share, named: &mut BTreeSet<u64>) -> ShareLedger {
    let is_named = |(epoch, grant): &(&u64, &Grant)| !says_nothing(grant) || named.insert(**epoch);
    let process = |grant: &Grant| {
        let SpentRow { used, estimated, refused, .. } = grant.reported;
        ProcessLedger { live: used, estimated, refused, ceiling: grant.written_ceiling() }
    };
    ShareLedger {
        settled: share.settled,
        estimated: share.estimated,
        refused: share.refused,
        before: share.before,
        processes: share.grants.iter().filter(is_named).map(|(epoch, grant)| (*epoch, process(grant))).collect(),
    }
}

impl ClosedPeriod {
    fn inherited(id: PeriodId, closed: &ClosedLedger) -> Self {
        let amounts = |of: &Units<u64>| Amounts { tokens: of.tokens.unwrap_or_default(), cost: of.cost.unwrap_or_default() };
        Self { id, end: closed.end, limits: closed.limits, used: amounts(&closed.used), estimated: amounts(&closed.estimated) }
    }

    fn ledger(&self) -> ClosedLedger {
        let units = |amounts: Amounts| {
            let of = |unit: Unit| Some(amounts.of(unit)).filter(|amount| *amount > 0);
            Units { tokens: of(Unit::Tokens), cost: of(Unit::Cost) }
        };
        ClosedLedger { end: self.end, limits: self.limits, used: units(self.used), estimated: units(self.estimated) }
    }
}
