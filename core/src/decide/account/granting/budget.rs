//! One budget: its periods, which of them is open, and what each process may use.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::grant::Source;
use super::grants::{self, Context};
use super::opening::{self, Opening};
use super::pacing::{Effect, Urgency};
use super::period_account::PeriodAccount;
use super::process::Process;
use super::share::ShareKey;
use super::snapshot::{ClosedPeriod, HISTORY};
use super::terms::{BudgetTerms, PeriodTerms};
use crate::api::token_budget::{Enforcement, WhenUsageUnknown};
use crate::decide::account::history::{History, Included};
use crate::decide::account::ledger::Units;
use crate::decide::account::message::SpentRow;
use crate::decide::account::{AccountId, Now, PeriodId, Unit};

/// For how long before its end a period grants of the next one, at most: ten minutes.
const BEFORE_NEXT: i64 = 600;

/// Which part of a period is that at most.
const PART_BEFORE_NEXT: i64 = 10;

/// A budget.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) terms: BudgetTerms,
    /// The period that is open. It only grows.
    pub(super) open: PeriodId,
    /// The one that processes are told to be open. It follows when a ledger stands that says so: a leader that comes after this
    /// one, by a clock that is behind, would else open an earlier one, in which nobody begins anything any more.
    pub(super) told: PeriodId,
    pub(super) periods: BTreeMap<PeriodId, Period>,
    pub(super) closed: BTreeMap<PeriodId, ClosedPeriod>,
    /// The processes of which it is known what they had used before they knew of the budget.
    pub(super) met: BTreeSet<u64>,
    /// What was charged of others when an account opened, as it was part of the caller table.
    pub(super) charged: BTreeMap<(u64, Unit), Included>,
    /// The ledger was lost, or a part of the caller table that an account opened by, and nobody has confirmed what was made in its
    /// place.
    pub(super) unconfirmed: bool,
    /// When the wall clock next says something that matters, as far as that was arranged for; in seconds since 1970.
    pub(super) alarm: Option<i64>,
}

/// A period of a budget.
#[derive(Debug)]
pub(super) struct Period {
    pub(super) terms: PeriodTerms,
    pub(super) accounts: Units<PeriodAccount>,
}

impl Period {
    pub(super) fn new(terms: PeriodTerms) -> Self {
        Self { terms, accounts: Units::default() }
    }

    /// Its start and end, in seconds since 1970.
    pub(super) fn span(&self) -> (i64, i64) {
        (self.terms.start, self.terms.end.unwrap_or(i64::MAX))
    }

    /// Whether it is not known yet what was used of it.
    pub(super) fn is_opening(&self) -> bool {
        self.accounts.each().any(|(_, account)| account.opening.is_some())
    }

    fn follows(&self, before: &PeriodTerms) -> bool {
        before.end == Some(self.terms.start)
    }
}

/// What is known of an account that is not there yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Missing {
    /// Nothing can have been used of it.
    Unused,
    /// What was used is to be found out, since this time.
    Unknown(Duration),
}

impl Budget {
    /// One of which nothing is known, with these terms.
    pub(super) fn new(terms: &BudgetTerms) -> Self {
        Self {
            terms: terms.clone(),
            open: terms.period.id,
            told: terms.period.id,
            periods: BTreeMap::new(),
            closed: BTreeMap::new(),
            met: BTreeSet::new(),
            charged: BTreeMap::new(),
            unconfirmed: false,
            alarm: None,
        }
    }

    /// Whether anybody is refused at the limit.
    pub(super) fn is_walled(&self) -> bool {
        self.terms.enforcement == Enforcement::Block
    }

    /// Whether nobody uses more than it was told it may.
    pub(super) fn is_bound(&self) -> bool {
        self.is_walled() && self.terms.when_usage_unknown != WhenUsageUnknown::Allow
    }

    pub(super) fn account(&self, period: PeriodId, unit: Unit) -> Option<&PeriodAccount> {
        self.periods.get(&period)?.accounts.of(unit)
    }

    pub(super) fn account_mut(&mut self, period: PeriodId, unit: Unit) -> Option<&mut PeriodAccount> {
        self.periods.get_mut(&period)?.accounts.of_mut(unit).as_mut()
    }

    fn accounts_mut(&mut self) -> impl Iterator<Item = &mut PeriodAccount> {
        self.periods.values_mut().flat_map(|period| period.accounts.each_mut()).map(|(_, account)| account)
    }

    /// Takes terms. A period before the one that is open changes nothing of what may be used.
    pub(super) fn configure(&mut self, terms: &BudgetTerms, history: &History, now: Duration) -> Effect {
        let before = std::mem::replace(&mut self.terms, terms.clone());
        if terms.period.id < self.open {
            self.terms.period = before.period;
            self.terms.next = before.next;
            self.terms.shares = before.shares;
        }
        if self.terms.period.id > self.open {
            return self.turn_over(Some(history), now);
        }
        self.lay_out(Missing::Unknown(now), Some(history))
    }

    /// Opens the next period, if the open one has ended by the wall clock. Whether it has.
    pub(super) fn roll(&mut self, now: Now) -> Option<Effect> {
        let (end, next) = self.terms.period.end.zip(self.terms.next)?;
        if next.id <= self.open || now.wall.as_second() < end.max(next.start) {
            return None;
        }
        self.terms.period = next;
        self.terms.next = None;
        Some(self.turn_over(None, now.elapsed))
    }

    /// Opens the period of the terms. The one before it stays until it is settled. One that follows it was not there before, so
    /// that nothing was used in it but what processes say; of any other nobody knows what was used.
    fn turn_over(&mut self, history: Option<&History>, now: Duration) -> Effect {
        let before = std::mem::replace(&mut self.open, self.terms.period.id);
        let period = self.periods.entry(self.open).or_insert_with(|| Period::new(self.terms.period));
        period.terms = self.terms.period;
        let ended = self.periods.get(&before).map(|period| period.terms);
        let follows = ended.is_some_and(|ended| self.periods.get(&self.open).is_some_and(|period| period.follows(&ended)));
        let missing = if follows { Missing::Unused } else { Missing::Unknown(now) };
        self.lay_out(missing, history);
        let old = self.periods.remove(&before);
        for (unit, account) in self.periods.get_mut(&self.open).into_iter().flat_map(|period| period.accounts.each_mut()) {
            account.is_stale = true;
            if !follows {
                account.opening.get_or_insert_with(|| Opening::new(now));
            } else if let Some(old) = old.as_ref().and_then(|old| old.accounts.of(unit)) {
                account.carry_on(old);
            }
        }
        self.periods.extend(old.map(|old| (before, old)));
        Effect { changed: true, urgency: Some(Urgency::AtOnce), ..Effect::default() }
    }

    /// Makes the accounts of the open period and the next as the terms say.
    pub(super) fn lay_out(&mut self, missing: Missing, history: Option<&History>) -> Effect {
        let mut effect = self.lay_out_period(self.terms.period, missing, history);
        if let Some(next) = self.terms.next.filter(|next| next.id > self.open) {
            effect.add(self.lay_out_period(next, Missing::Unused, None));
        }
        effect
    }

    fn lay_out_period(&mut self, of: PeriodTerms, missing: Missing, history: Option<&History>) -> Effect {
        let Self { terms, periods, .. } = self;
        let is_new = !periods.contains_key(&of.id);
        let period = periods.entry(of.id).or_insert_with(|| Period::new(of));
        let mut effect = Effect { changed: is_new || period.terms != of, ..Effect::default() };
        period.terms = of;
        let span = period.span();
        for unit in Unit::ALL {
            let place = period.accounts.of_mut(unit);
            let Some(limit) = of.limits.of(unit) else {
                effect.changed |= place.take().is_some();
                continue;
            };
            let account = place.get_or_insert_with(|| {
                let mut account = PeriodAccount::new(limit, u64::MAX);
                if let Missing::Unknown(now) = missing {
                    account.opening = Some(Opening::new(now));
                }
                account
            });
            let used = |caller: &str| history.map_or(0, |history| opening::before(history, terms, caller, unit, span));
            effect.add(account.cover(limit, &shares(terms, unit, limit), used));
        }
        effect
    }

    /// A process says what it spent of an account, if there is such an account. `newcomer`: this leader has told it nothing yet,
    /// so that what it may spend stands in the ledger, if that is not lost.
    pub(super) fn report(
        &mut self,
        epoch: u64,
        account: &AccountId,
        (period, row): (PeriodId, &SpentRow),
        source: &Source,
        newcomer: bool,
    ) -> Effect {
        let is_bound = self.is_bound();
        let Some(of_period) = self.account_mut(period, account.unit) else { return Effect::default() };
        let is_unknown = of_period.grant(&account.caller, epoch).is_none();
        let news = of_period.report(&account.caller, epoch, row, source);
        // A call that began before the budget covered it uses what nobody has granted, and no ceiling foresees: if process and
        // leader end before that is written, the next leader charges less than was used.
        let outruns = is_bound && of_period.outruns(&account.caller, epoch);
        self.unconfirmed |= newcomer && is_unknown && row.allowance > 0;
        Effect { changed: news.changed, urgency: outruns.then_some(Urgency::Now), ..Effect::default() }
    }

    /// Whether a process used more than a ledger says that may stand. Where nobody is bound, that is nothing unusual.
    pub(super) fn may_outrun(&self, epoch: u64) -> bool {
        let mut accounts = self.periods.values().flat_map(|period| period.accounts.each());
        self.is_bound() && accounts.any(|(_, account)| account.may_outrun(epoch))
    }

    /// Takes what processes said of accounts before these were there.
    pub(super) fn adopt(&mut self, uid: &str, processes: &BTreeMap<u64, Process>, now: Duration) -> Effect {
        let mut effect = Effect::default();
        for (epoch, process) in processes {
            let source = Source { listens: process.listens, acknowledged: process.acknowledged, now };
            for (account, periods) in process.of_budget(uid) {
                for (period, row) in periods {
                    let of_period = self.account(*period, account.unit);
                    let grant = of_period.map(|of_period| of_period.grant(&account.caller, *epoch));
                    // No such account; or the process says something that is not known yet.
                    if grant.is_some_and(|grant| grant.is_none_or(|grant| !grant.said)) {
                        effect.add(self.report(*epoch, account, (*period, row), &source, !process.told));
                    }
                }
            }
        }
        effect
    }

    /// A process goes by what this leader says from now on.
    pub(super) fn hear(&mut self, epoch: u64) {
        self.accounts_mut().for_each(|account| account.hear(epoch));
    }

    /// A process has ended. Whether it had anything.
    pub(super) fn leave(&mut self, epoch: u64, finished: bool) -> bool {
        self.met.remove(&epoch);
        self.charged.retain(|(of, _), _| *of != epoch);
        let mut had = false;
        for account in self.accounts_mut() {
            had |= account.leave(epoch, finished);
        }
        had
    }

    /// Grants and recalls in the open period, and grants of the next one. What the ledger was in the way of.
    pub(super) fn grant(&mut self, unit: Unit, processes: &BTreeMap<u64, Process>, now: Now) -> Option<Urgency> {
        let wall = now.wall.as_second();
        let context = Context {
            processes,
            now: now.elapsed,
            is_walled: self.is_walled(),
            is_over: self.terms.period.end.is_some_and(|end| wall >= end),
        };
        let next_id = self.terms.next.filter(|_| self.next_begins_soon(wall)).map(|next| next.id);
        let open = self.open;
        let account = self.account_mut(open, unit).filter(|account| account.opening.is_none())?;
        let mut urgency = grants::grant(account, &context).urgency;
        if let Some(next_id) = next_id
            && let Some(place) = self.periods.get_mut(&next_id).map(|period| period.accounts.of_mut(unit))
            && let Some(mut next) = place.take()
        {
            if let Some(account) = self.account(open, unit) {
                urgency = urgency.max(grants::grant_next(account, &mut next, &context).urgency);
            }
            if let Some(period) = self.periods.get_mut(&next_id) {
                *period.accounts.of_mut(unit) = Some(next);
            }
        }
        urgency
    }

    /// When the next period is granted of, in seconds since 1970; none where there is none.
    fn next_from(&self) -> Option<i64> {
        let (end, next) = self.terms.period.end.zip(self.terms.next)?;
        let length = end.saturating_sub(self.terms.period.start);
        (next.id > self.open).then(|| end.saturating_sub((length / PART_BEFORE_NEXT).clamp(0, BEFORE_NEXT)))
    }

    fn next_begins_soon(&self, wall: i64) -> bool {
        self.next_from().is_some_and(|from| wall >= from)
    }

    /// When the wall clock next says something that matters: that the next period is granted of, or that it begins.
    pub(super) fn next_alarm(&self, wall: i64) -> Option<i64> {
        let next = self.terms.next?;
        let begins = self.terms.period.end?.max(next.start);
        self.next_from().into_iter().chain([begins]).filter(|at| *at > wall).min()
    }

    /// Whether processes are told anything of the period that they are to open: a budget that is shared among nobody has no account for
    /// them.
    pub(super) fn is_told(&self) -> bool {
        let accounts = self.periods.get(&self.told).into_iter().flat_map(|period| period.accounts.each());
        accounts.into_iter().any(|(_, account)| account.open_shares().next().is_some())
    }

    /// Whether a period before the open one is not settled.
    pub(super) fn is_closing(&self) -> bool {
        self.periods.range(..self.open).next().is_some()
    }

    /// Settles the periods before the open one in which nobody begins anything any more, and nothing runs. Those that have
    /// been.
    pub(super) fn close(&mut self, uid: &str, processes: &BTreeMap<u64, Process>) -> Vec<PeriodId> {
        let over: Vec<PeriodId> = self.periods.range(..self.told).map(|(id, _)| *id).collect();
        over.into_iter().filter(|id| self.close_period(uid, *id, processes)).collect()
    }

    fn close_period(&mut self, uid: &str, id: PeriodId, processes: &BTreeMap<u64, Process>) -> bool {
        let (told, is_told) = (self.told, self.is_told());
        let Some(period) = self.periods.get_mut(&id) else { return false };
        let has_left = |epoch: u64| processes.get(&epoch).is_some_and(|process| process.has_opened(uid, told));
        // Who has said nothing of it may have used something before the budget was told of, or before it could be reached.
        if period.is_opening() || is_told && !processes.keys().all(|epoch| has_left(*epoch)) {
            return false;
        }
        for (_, account) in period.accounts.each_mut() {
            let missed: BTreeSet<u64> = account.unheard().filter(|epoch| has_left(*epoch)).collect();
            missed.into_iter().for_each(|epoch| account.miss(epoch));
        }
        if !period.accounts.each().all(|(_, account)| account.is_final(has_left)) {
            return false;
        }
        if let Some(period) = self.periods.remove(&id) {
            self.closed.insert(id, period.summary());
            while self.closed.len() > HISTORY {
                self.closed.pop_first();
            }
        }
        true
    }
}

/// The shares of a unit that has a limit; of a budget without shares the one that is all of it.
pub(super) fn shares(terms: &BudgetTerms, unit: Unit, limit: u64) -> BTreeMap<ShareKey, u64> {
    let Some(shares) = &terms.shares else { return BTreeMap::from([(None, limit)]) };
    shares.iter().map(|(caller, limits)| (Some(caller.clone()), limits.of(unit).unwrap_or(limit))).collect()
}
