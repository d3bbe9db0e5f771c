//! One unit of a budget in one period: its shares, what each process may use of them, and how much of the limit that leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::grant::{Grant, News, Source};
use super::opening::Opening;
use super::pacing::{Effect, Urgency};
use super::share::{Share, ShareKey, Totals};
use crate::decide::account::message::{Ask, SpentRow};

/// One unit of a budget in one period. Its sums are kept up to date with every change of a grant.
#[derive(Debug)]
pub(super) struct PeriodAccount {
    pub(super) limit: u64,
    /// Some while it is not known what was used of it. Nothing is granted until then.
    pub(super) opening: Option<Opening>,
    /// Whether it was told limits. Before, shares may be there as a ledger has them, which says nothing of their limits.
    is_covered: bool,
    shares: BTreeMap<ShareKey, Share>,
    /// What is settled of all shares.
    settled: u64,
    totals: Totals,
    /// The most that processes may use altogether that are not heard; of those that an earlier leader has granted something.
    pool: u64,
    /// What is settled and promised together does not pass this in any ledger of this leader that may stand.
    bound: u64,
    /// And in the one that is being written.
    writing: Option<u64>,
    /// The grants that wait, in the order in which they came.
    queue: BTreeSet<(u64, ShareKey, u64)>,
    /// The grants that are to be looked at.
    pub(super) touched: BTreeSet<(ShareKey, u64)>,
    /// All of them are.
    pub(super) is_stale: bool,
    /// Something is recalled for want of room.
    pub(super) is_recalling: bool,
    /// When it is to be looked at again, as somebody may be idle by then.
    pub(super) idle_at: Option<Duration>,
    /// When that was last arranged for.
    pub(super) wakes_at: Option<Duration>,
}

/// What others have said that they have reserved, and may not need any more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uncertain {
    /// Of all shares.
    pub(super) of_budget: u64,
    /// Of the share in question.
    pub(super) of_share: u64,
}

impl PeriodAccount {
    /// One of which no earlier leader has granted anything. `pool`: the most that processes may use of it that this leader has
    /// not heard; [`u64::MAX`] where there are none.
    pub(super) fn new(limit: u64, pool: u64) -> Self {
        Self {
            limit,
            opening: None,
            is_covered: false,
            shares: BTreeMap::new(),
            settled: 0,
            totals: Totals::default(),
            pool,
            bound: 0,
            writing: None,
            queue: BTreeSet::new(),
            touched: BTreeSet::new(),
            is_stale: true,
            is_recalling: false,
            idle_at: None,
            wakes_at: None,
        }
    }

    /// What was used of it.
    pub(super) fn used(&self) -> u64 {
        self.settled.saturating_add(self.totals.used)
    }

    /// What was used and can be used by running calls, as far as is known.
    pub(super) fn busy(&self) -> u64 {
        self.settled.saturating_add(self.totals.busy)
    }

    /// What was used and what may still be used without anybody being asked.
    pub(super) fn committed(&self) -> u64 {
        self.settled.saturating_add(self.totals.committed(self.pool))
    }

    /// What was used, and what those may use that are not heard: nobody gives it back.
    pub(super) fn used_for_good(&self) -> u64 {
        self.committed().saturating_sub(self.totals.unused())
    }

    /// The same of a share.
    pub(super) fn committed_of(&self, share: &Share) -> u64 {
        share.committed(self.pool)
    }

    pub(super) fn estimated(&self) -> u64 {
        self.shares.values().map(Share::estimated).fold(0, u64::saturating_add)
    }

    pub(super) fn refused(&self) -> u64 {
        self.shares.values().map(Share::refused).fold(0, u64::saturating_add)
    }

    /// What is promised at most, whichever ledger stands.
    pub(super) fn bound(&self) -> u64 {
        self.writing.map_or(self.bound, |writing| writing.min(self.bound))
    }

    /// Whether all together may use more than the bound, in the ledger that is being written, or else in the one that stands. While
    /// an account is not open, no ledger names it, and another leader opens it by the caller table.
    pub(super) fn is_beyond(&self) -> bool {
        self.opening.is_none() && self.committed() > self.writing.unwrap_or(self.bound)
    }

    /// Whether a process used and reserved more than its ceiling in that ledger, or anything while all together are beyond the bound.
    /// Only what was used and never granted makes it so.
    pub(super) fn outruns(&self, share: &ShareKey, epoch: u64) -> bool {
        let is_beyond = self.is_beyond();
        let outruns = |grant: &Grant| is_beyond || grant.busy() > grant.written_ceiling();
        self.opening.is_none() && self.grant(share, epoch).is_some_and(|grant| grant.busy() > 0 && outruns(grant))
    }

    /// The same of what a process used alone, of any share and by any ledger that may stand: nothing runs of who leaves.
    pub(super) fn may_outrun(&self, epoch: u64) -> bool {
        let is_beyond = self.committed() > self.bound();
        let outruns = |grant: &Grant| is_beyond || grant.reported.used > grant.ceiling();
        let mut grants = self.shares.values().filter_map(|share| share.grants.get(&epoch));
        self.opening.is_none() && grants.any(|grant| grant.reported.used > 0 && outruns(grant))
    }

    pub(super) fn shares(&self) -> &BTreeMap<ShareKey, Share> {
        &self.shares
    }

    /// The shares that there are now.
    pub(super) fn open_shares(&self) -> impl Iterator<Item = (&ShareKey, &Share)> {
        self.shares.iter().filter(|(_, share)| share.limit.is_some())
    }

    pub(super) fn grant(&self, share: &ShareKey, epoch: u64) -> Option<&Grant> {
        self.shares.get(share)?.grants.get(&epoch)
    }

    /// Those that wait, the first one first.
    pub(super) fn queue(&self) -> impl Iterator<Item = (&ShareKey, u64)> {
        self.queue.iter().map(|(_, share, epoch)| (share, *epoch))
    }

    /// What the limits leave to be granted of a share: that of the budget, and that of the share.
    pub(super) fn room(&self, share: &ShareKey) -> (u64, u64) {
        let of_budget = self.limit.saturating_sub(self.committed());
        (of_budget, self.shares.get(share).map_or(0, |share| share.room(self.pool)))
    }

    /// Whether more is promised of a share than its limit.
    pub(super) fn is_over(&self, share: &Share) -> bool {
        share.committed(self.pool) > share.limit.unwrap_or(0)
    }

    /// What each process has reserved of all shares together.
    pub(super) fn reserved(&self) -> BTreeMap<u64, u64> {
        let mut reserved: BTreeMap<u64, u64> = BTreeMap::new();
        for (epoch, grant) in self.shares.values().flat_map(|share| &share.grants) {
            let of_process = reserved.entry(*epoch).or_default();
            *of_process = of_process.saturating_add(grant.reported.reserved);
        }
        reserved
    }

    /// What the limits leave to a process of a share: beyond its allowance, with all that others neither used nor reserved. What
    /// is `uncertain` is not taken for reserved.
    pub(super) fn free(&self, share: &ShareKey, epoch: u64, uncertain: Uncertain) -> u64 {
        let Some(of_share) = self.shares.get(share) else { return 0 };
        let own = of_share.grants.get(&epoch).copied().unwrap_or_default();
        let held = own.sent.max(own.busy());
        let free = |limit: u64, busy: u64, uncertain: u64| {
            limit.saturating_sub(busy.saturating_sub(own.busy()).saturating_sub(uncertain).saturating_add(held))
        };
        let of_budget = free(self.limit, self.busy(), uncertain.of_budget);
        of_budget.min(free(of_share.limit.unwrap_or(0), of_share.busy(), uncertain.of_share))
    }

    /// These are the limits from now on: what is not named is no share any more. `before` says what a caller that has a share
    /// from now on had used.
    pub(super) fn cover(&mut self, limit: u64, shares: &BTreeMap<ShareKey, u64>, before: impl Fn(&str) -> u64) -> Effect {
        let is_raised = self.limit < limit;
        self.is_stale |= self.limit != limit;
        self.limit = limit;
        // While it is not known what was used, that is found out of shares as of everything. And who was not covered before
        // owes nothing.
        let was_whole = self.opening.is_none() && self.shares.contains_key(&None);
        // Whether there is a share that was not there before, or is larger now.
        let mut is_more = false;
        for (key, share) in &mut self.shares {
            let limit = shares.get(key).copied();
            self.is_stale |= share.limit != limit;
            is_more |= limit > share.limit;
            share.limit = limit;
        }
        for (key, limit) in shares {
            if !self.shares.contains_key(key) {
                let before = key.as_deref().filter(|_| was_whole).map_or(0, &before);
                self.shares.insert(key.clone(), Share { limit: Some(*limit), before, ..Share::default() });
                is_more = true;
            }
        }
        self.is_stale |= is_more;
        let was_covered = std::mem::replace(&mut self.is_covered, true);
        let urgency = is_raised.then_some(Urgency::AtOnce);
        Effect { changed: is_raised || is_more, urgency, grown: is_more && was_covered }
    }

    /// Puts a share as the ledger has it.
    pub(super) fn inherit(&mut self, key: ShareKey, share: Share) {
        self.settled = self.settled.saturating_add(share.settled);
        self.shares.insert(key, share);
    }

    /// Puts a grant that is not there.
    pub(super) fn add(&mut self, share: &ShareKey, epoch: u64, grant: Grant) {
        let of_share = self.shares.entry(share.clone()).or_default();
        let (nothing, sums) = (Totals::default(), Totals::of(&grant));
        of_share.totals.replace(&nothing, &sums);
        self.totals.replace(&nothing, &sums);
        of_share.grants.insert(epoch, grant);
    }

    /// Changes a grant.
    pub(super) fn change<T>(&mut self, share: &ShareKey, epoch: u64, change: impl FnOnce(&mut Grant) -> T) -> Option<T> {
        let of_share = self.shares.get_mut(share)?;
        let grant = of_share.grants.get_mut(&epoch)?;
        let before = Totals::of(grant);
        let outcome = change(grant);
        let after = Totals::of(grant);
        of_share.totals.replace(&before, &after);
        self.totals.replace(&before, &after);
        Some(outcome)
    }

    fn remove(&mut self, share: &ShareKey, epoch: u64) -> Option<Grant> {
        let of_share = self.shares.get_mut(share)?;
        let grant = of_share.grants.remove(&epoch)?;
        let (sums, nothing) = (Totals::of(&grant), Totals::default());
        of_share.totals.replace(&sums, &nothing);
        self.totals.replace(&sums, &nothing);
        if let Some(report) = grant.asked {
            self.queue.remove(&(report, share.clone(), epoch));
        }
        self.touched.remove(&(share.clone(), epoch));
        Some(grant)
    }

    /// So much was used, and no process that lives will report it.
    pub(super) fn settle(&mut self, share: &ShareKey, amount: u64, estimated: u64, refused: u64) {
        let of_share = self.shares.entry(share.clone()).or_default();
        of_share.settled = of_share.settled.saturating_add(amount);
        of_share.estimated = of_share.estimated.saturating_add(estimated);
        of_share.refused = of_share.refused.saturating_add(refused);
        self.settled = self.settled.saturating_add(amount);
        self.is_stale = true;
    }

    /// So much was used that counts in the account already, and may have been of this share.
    pub(super) fn settle_before(&mut self, share: &ShareKey, amount: u64) {
        let of_share = self.shares.entry(share.clone()).or_default();
        of_share.before = of_share.before.saturating_add(amount);
        self.is_stale = true;
    }

    /// A process says what it spent.
    pub(super) fn report(&mut self, share: &ShareKey, epoch: u64, row: &SpentRow, source: &Source) -> News {
        let is_new = self.grant(share, epoch).is_none();
        if is_new {
            self.add(share, epoch, Grant::new(source.now));
        }
        let mut news = self.change(share, epoch, |grant| grant.take(row, source)).unwrap_or_default();
        news.changed |= is_new;
        self.touched.insert((share.clone(), epoch));
        if let Some(allowance) = news.heard {
            self.draw(allowance);
            self.settle_vanished();
        }
        news
    }

    /// A process goes by what this leader says from now on: what it has said before is all that there is.
    pub(super) fn hear(&mut self, epoch: u64) {
        let said: Vec<ShareKey> = self.of_process(epoch, |grant| grant.said && !grant.heard && !grant.vanished);
        for share in said {
            if let Some(allowance) = self.change(&share, epoch, Grant::hear) {
                self.draw(allowance);
            }
            self.touched.insert((share, epoch));
        }
        self.settle_vanished();
    }

    /// So much of the pool is now known to be this process'.
    fn draw(&mut self, allowance: u64) {
        // One that knows no end stays so.
        if self.pool != u64::MAX {
            self.pool = self.pool.saturating_sub(allowance);
        }
    }

    /// A process asks for this; the default for nothing. `report`: the number of the report that says so.
    pub(super) fn ask(&mut self, share: &ShareKey, epoch: u64, ask: Ask, report: u64, now: Duration) {
        let Some(before) = self.grant(share, epoch).map(|grant| grant.asked) else { return };
        let after = self.change(share, epoch, |grant| {
            grant.ask(ask, report, now);
            grant.asked
        });
        if before != after.flatten() {
            self.queue.extend(after.flatten().map(|report| (report, share.clone(), epoch)));
            if let Some(before) = before {
                self.queue.remove(&(before, share.clone(), epoch));
            }
        }
        self.touched.insert((share.clone(), epoch));
    }

    /// Raises an allowance as far as ceilings and bound allow. By how much.
    pub(super) fn raise(&mut self, share: &ShareKey, epoch: u64, wish: u64, least: u64) -> u64 {
        let leaves = self.bound().saturating_sub(self.committed());
        self.change(share, epoch, |grant| grant.raise(wish, least, leaves)).unwrap_or(0)
    }

    /// A process has ended. `finished`: it had said that it would, and that nothing was reserved. Whether it had anything.
    ///
    /// Who was heard is charged what it may have used. Of who was not, that is known only when all others are heard: together
    /// they have no more than the pool.
    pub(super) fn leave(&mut self, epoch: u64, finished: bool) -> bool {
        let shares = self.of_process(epoch, |_| true);
        if let Some(mut opening) = self.opening.take() {
            for share in &shares {
                if let Some(grant) = self.remove(share, epoch) {
                    let SpentRow { used, estimated, refused, .. } = grant.reported;
                    let charge = grant.owes(finished);
                    self.settle(share, charge, estimated.saturating_add(charge - used), refused);
                    opening.counts(share, used);
                }
            }
            self.opening = Some(opening);
            return !shares.is_empty();
        }
        for share in &shares {
            if self.grant(share, epoch).is_some_and(|grant| !grant.heard) {
                self.vanish(share, epoch);
            } else if let Some(grant) = self.remove(share, epoch) {
                let SpentRow { used, estimated, refused, .. } = grant.reported;
                let charge = grant.owes(finished);
                self.settle(share, charge, estimated.saturating_add(charge - used), refused);
            }
        }
        self.settle_vanished();
        !shares.is_empty()
    }

    fn vanish(&mut self, share: &ShareKey, epoch: u64) {
        let asked = self.change(share, epoch, |grant| {
            grant.vanished = true;
            grant.asked.take()
        });
        if let Some(report) = asked.flatten() {
            self.queue.remove(&(report, share.clone(), epoch));
        }
    }

    /// A process has said all that it spent of late, and nothing of this period, in which it begins no calls any more: what it
    /// last said of it was heard by nobody who is still there.
    pub(super) fn miss(&mut self, epoch: u64) {
        for share in self.of_process(epoch, |grant| !grant.said && !grant.heard) {
            self.vanish(&share, epoch);
        }
        self.settle_vanished();
    }

    /// Charges processes that have ended without having been heard, once nobody is left who is not heard: what is left of the
    /// pool is theirs, and each has used no more than its ceiling.
    ///
    /// Of which share they used what is left of the pool nobody knows. So each share is charged as if it had been of that
    /// one, as far as ceilings go, or a caller could use more than its share; and the account is charged once.
    fn settle_vanished(&mut self) {
        if self.totals.vanished == 0 || self.totals.vanished < self.totals.unheard {
            return;
        }
        let spare_of_each = self.pool.saturating_sub(self.totals.busy_unheard);
        let mut spare = spare_of_each;
        let shares: Vec<ShareKey> = self.shares.keys().cloned().collect();
        for key in shares {
            let of_share = self.shares.get(&key).into_iter().flat_map(|share| &share.grants);
            let vanished: Vec<u64> = of_share.filter(|(_, grant)| grant.vanished).map(|(epoch, _)| *epoch).collect();
            let mut spare_of_share = spare_of_each;
            for epoch in vanished {
                let Some(grant) = self.remove(&key, epoch) else { continue };
                let SpentRow { used, estimated, refused, .. } = grant.reported;
                let possible = grant.reach().saturating_sub(grant.busy()).min(spare_of_share);
                spare_of_share -= possible;
                let extra = possible.min(spare);
                spare -= extra;
                let charge = grant.busy().saturating_add(extra);
                self.draw(charge);
                self.settle(&key, charge, estimated.saturating_add(charge - used), refused);
                if let Some(share) = self.shares.get_mut(&key) {
                    share.before = share.before.saturating_add(possible - extra);
                }
            }
        }
    }

    /// The shares of which a process has such a grant.
    fn of_process(&self, epoch: u64, is_meant: impl Fn(&Grant) -> bool) -> Vec<ShareKey> {
        let shares = self.shares.iter().filter(|(_, share)| share.grants.get(&epoch).is_some_and(&is_meant));
        shares.map(|(key, _)| key.clone()).collect()
    }

    /// The processes that have not been heard.
    pub(super) fn unheard(&self) -> impl Iterator<Item = u64> {
        // Most of the time there are none.
        let has_any = self.totals.unheard > 0;
        let shares = self.shares.values().filter(move |_| has_any);
        shares.flat_map(|share| share.grants.iter().filter(|(_, grant)| !grant.heard).map(|(epoch, _)| *epoch))
    }

    /// Whether nothing will be used of it any more, where `has_left` says that a process begins no calls in this period.
    pub(super) fn is_final(&self, has_left: impl Fn(u64) -> bool) -> bool {
        let mut grants = self.shares.values().flat_map(|share| &share.grants);
        grants.all(|(epoch, grant)| grant.heard && grant.reported.reserved == 0 && has_left(*epoch))
    }

    /// Takes grants over from the account of the period before.
    pub(super) fn carry_on(&mut self, before: &Self) {
        for (key, share) in &mut self.shares {
            let Some(of_before) = before.shares.get(key) else { continue };
            for (epoch, grant) in &mut share.grants {
                if let Some(before) = of_before.grants.get(epoch) {
                    before.carry_on(grant);
                }
            }
        }
    }

    /// Message `seq` tells a process its allowances.
    pub(super) fn tell(&mut self, epoch: u64, seq: u64) {
        for share in self.shares.values_mut() {
            if let Some(grant) = share.grants.get_mut(&epoch) {
                grant.tell(seq);
            }
        }
    }

    /// A ledger is being written, with this bound and these ceilings. `ceiling` is asked for each grant of a share, with
    /// the pool.
    pub(super) fn write(&mut self, bound: u64, mut ceiling: impl FnMut(&Share, u64, u64, &mut Grant) -> u64) {
        self.writing = Some(bound);
        let pool = self.pool;
        for share in self.shares.values_mut() {
            let mut grants = std::mem::take(&mut share.grants);
            for (epoch, grant) in &mut grants {
                let ceiling = ceiling(share, *epoch, pool, grant);
                grant.write(ceiling);
            }
            share.grants = grants;
        }
    }

    /// A ledger stands, with this bound and ceilings.
    pub(super) fn written(&mut self, bound: u64, ceiling: impl Fn(&ShareKey, u64) -> u64) {
        (self.bound, self.writing) = (bound, None);
        for (key, share) in &mut self.shares {
            for (epoch, grant) in &mut share.grants {
                grant.written(ceiling(key, *epoch));
            }
        }
    }

    /// Nobody knows which ledger stands.
    pub(super) fn write_failed(&mut self) {
        (self.bound, self.writing) = (self.bound(), None);
        self.shares.values_mut().flat_map(|share| share.grants.values_mut()).for_each(Grant::write_failed);
    }
}

#[cfg(test)]
#[path = "period_account_tests.rs"]
mod tests;
