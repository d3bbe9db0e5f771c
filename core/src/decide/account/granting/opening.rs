//! How an account opens in which something may have been used already: with what the caller table says of its callers in the
//! period, less what processes count in the account themselves. So nothing is free because a budget was deleted and applied
//! again.
//!
//! The table and what processes say have to be of the same time. So an account is told with nothing to spend, and opens when
//! every process has said that it counts in it, by the table as it is then.
//!
//! Where a part of the table is missing, nobody knows what was used: the account opens with what is known, and somebody has to
//! confirm that, as after a ledger was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::budget::{Budget, Period};
use super::pacing::{Effect, Urgency};
use super::period_account::PeriodAccount;
use super::process::Process;
use super::share::{Share, ShareKey};
use super::terms::BudgetTerms;
use crate::decide::account::history::{History, Included, counted_tokens};
use crate::decide::account::{Now, Unit};
use crate::decide::gateway::exchange::usage::{Counts, HOURS_KEPT, Hour, Series, Usage};

/// How long an account waits for processes that say nothing, or for the table. It then opens with what is known: what a process
/// says later that it had used is charged as far as it was no part of the table.
pub(super) const LONGEST_OPENING: Duration = Duration::from_secs(20);

/// How long a new leader waits for processes of which it does not know, where callers have used something: they need so long to
/// be found and connected to.
const UNKNOWN_PROCESSES: Duration = Duration::from_secs(5);

/// Seconds of an hour.
const HOUR: i64 = 3600;

/// An account of which it is not known what was used.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    /// Since when.
    pub(super) since: Duration,
    /// What the caller table last said, of each share.
    found: BTreeMap<ShareKey, Found>,
    /// Whether nothing was missing from it.
    is_complete: bool,
    /// What processes that had not said what they count in the account had counted of it.
    included: BTreeMap<u64, Included>,
    /// What processes had counted in a share that have ended since. The table has it too.
    ended: BTreeMap<ShareKey, u64>,
}

/// What callers used of a unit in a period.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    /// At most.
    most: u64,
    /// The part of it that is no exact number.
    estimated: u64,
}

impl Opening {
    pub(super) fn new(since: Duration) -> Self {
        Self { since, found: BTreeMap::new(), is_complete: false, included: BTreeMap::new(), ended: BTreeMap::new() }
    }

    /// A process has ended that counted so much in a share.
    pub(super) fn counts(&mut self, share: &ShareKey, used: u64) {
        let ended = self.ended.entry(share.clone()).or_default();
        *ended = ended.saturating_add(used);
    }

    /// What processes count in a share themselves, or did.
    fn counted(&self, share: &Share, key: &ShareKey) -> u64 {
        share.live().saturating_add(self.ended.get(key).copied().unwrap_or(0))
    }
}

impl Found {
    fn new(terms: &BudgetTerms, unit: Unit, most: &Counts, certain: &Counts) -> Self {
        let bounds = match unit {
            Unit::Tokens => most.estimated,
            Unit::Cost => 0,
        };
        let most = amount(terms, unit, most);
        Self { most, estimated: most.saturating_sub(amount(terms, unit, certain)).saturating_add(bounds).min(most) }
    }

    /// Charges it to a share, less what processes count in it themselves. Of what they count elsewhere nobody knows of which share it
    /// is: the share is charged, and the account is not. Whether anything is.
    fn charge(self, account: &mut PeriodAccount, share: &ShareKey, counted: u64, elsewhere: &mut Elsewhere) -> bool {
        let charge = self.most.saturating_sub(counted);
        let known = charge.min(elsewhere.certain);
        let doubtful = (charge - known).min(elsewhere.possible);
        elsewhere.certain -= known;
        elsewhere.possible -= doubtful;
        if charge > known {
            let estimated = self.estimated.saturating_add(doubtful).min(charge - known);
            account.settle(share, charge - known, estimated, 0);
        }
        if known > 0 {
            account.settle_before(share, known);
        }
        charge > 0
    }
}

/// What processes count in shares that there are no more, since the budget was shared in another way: it is part of what the callers of
/// the shares used that there are.
#[derive(Clone, Copy, Debug, Default)]
struct Elsewhere {
    certain: u64,
    /// And so may this be.
    possible: u64,
}

impl Elsewhere {
    /// `counted`: what is counted in a share. `others`: what callers used whom the budget does not cover. It may have covered them.
    fn new(
        account: &PeriodAccount,
        terms: &BudgetTerms,
        counted: impl Fn(&ShareKey, &Share) -> u64,
        others: impl FnOnce() -> u64,
    ) -> Self {
        let mut elsewhere = Self::default();
        let whole = account.shares().get(&None);
        if let Some(whole) = whole.filter(|share| share.limit.is_none()) {
            let counted = counted(&None, whole);
            elsewhere.possible = if counted > 0 { counted.min(others()) } else { 0 };
            elsewhere.certain = counted - elsewhere.possible;
        } else if whole.is_some() {
            let is_meant = |caller: &String, share: &Share| share.limit.is_none() && terms.covers.contains_key(caller);
            for (caller, share) in account.shares() {
                if caller.as_ref().is_some_and(|caller| is_meant(caller, share)) {
                    elsewhere.certain = elsewhere.certain.saturating_add(counted(caller, share));
                }
            }
        }
        elsewhere
    }
}

/// What counts of a unit.
fn amount(terms: &BudgetTerms, unit: Unit, counts: &Counts) -> u64 {
    match unit {
        Unit::Tokens => counted_tokens(counts, terms.cached_input_percent),
        Unit::Cost => counts.cost,
    }
}

/// What the table says that callers of a share used in a period; `share` of none: all callers.
fn found(history: &History, terms: &BudgetTerms, share: Option<&str>, unit: Unit, (from, to): (i64, i64)) -> Found {
    let used = match share {
        None => history.used(&terms.covers, from, to),
        Some(caller) => {
            let covers = terms.covers.get_key_value(caller).map(|(caller, routes)| (caller.clone(), routes.clone()));
            history.used(&covers.into_iter().collect(), from, to)
        }
    };
    Found::new(terms, unit, &used.most(), &used.whole)
}

/// What the table says that callers used at most whom a budget does not cover.
fn others(history: &History, terms: &BudgetTerms, unit: Unit, (from, to): (i64, i64)) -> u64 {
    let mut others = Counts::default();
    for (bucket, series, counts) in history.rows() {
        if bucket.overlaps(from, to) && !is_covered(terms, series) {
            others.add(counts);
        }
    }
    amount(terms, unit, &others)
}

/// What a caller that has a share from now on used in the period before.
pub(super) fn before(history: &History, terms: &BudgetTerms, caller: &str, unit: Unit, span: (i64, i64)) -> u64 {
    found(history, terms, Some(caller), unit, span).most
}

impl Budget {
    /// Whether an account of the open period is not open yet.
    pub(super) fn is_opening(&self) -> bool {
        self.periods.get(&self.open).is_some_and(Period::is_opening)
    }

    /// Whether an account of some period is not open yet.
    pub(super) fn has_openings(&self) -> bool {
        self.periods.values().any(Period::is_opening)
    }

    /// Opens the accounts that can be. `history`: the caller table, of the same time as what processes last said; none: as it
    /// was before. `started`: when this leader began. Whether any has opened.
    pub(super) fn open_accounts(
        &mut self,
        uid: &str,
        history: Option<&History>,
        processes: &BTreeMap<u64, Process>,
        started: Duration,
        now: Duration,
    ) -> bool {
        let has_opened = self.open_accounts_of_open(uid, history, processes, started, now);
        let is_settled = now >= started.saturating_add(UNKNOWN_PROCESSES);
        history.filter(|_| is_settled).is_some_and(|history| self.open_accounts_of_over(uid, history, processes)) || has_opened
    }

    /// The same of the periods that are over: nobody waits for them, and nothing is forgotten, so that each process is heard first.
    fn open_accounts_of_over(&mut self, uid: &str, history: &History, processes: &BTreeMap<u64, Process>) -> bool {
        let (open, told, is_told) = (self.open, self.told, self.is_told());
        let Self { terms, periods, unconfirmed, .. } = self;
        let mut over = periods.range_mut(..open).map(|(_, period)| period).filter(|period| period.is_opening()).peekable();
        if over.peek().is_none() || is_told && !processes.values().all(|process| process.has_opened(uid, told)) {
            return false;
        }
        for period in over {
            let span = period.span();
            *unconfirmed |= !history.is_complete_since(span.0);
            for (unit, account) in period.accounts.each_mut() {
                let Some(opening) = account.opening.take() else { continue };
                let shares: Vec<ShareKey> = account.open_shares().map(|(key, _)| key.clone()).collect();
                let counted_in = |key: &ShareKey, share: &Share| opening.counted(share, key);
                let mut elsewhere = Elsewhere::new(account, terms, counted_in, || others(history, terms, unit, span));
                for share in shares {
                    let found = found(history, terms, share.as_deref(), unit, span);
                    let counted = account.shares().get(&share).map_or(0, |of_share| opening.counted(of_share, &share));
                    found.charge(account, &share, counted, &mut elsewhere);
                }
            }
        }
        true
    }

    fn open_accounts_of_open(
        &mut self,
        uid: &str,
        history: Option<&History>,
        processes: &BTreeMap<u64, Process>,
        started: Duration,
        now: Duration,
    ) -> bool {
        let open = self.open;
        let Self { terms, periods, met, charged, unconfirmed, .. } = self;
        let Some(period) = periods.get_mut(&open) else { return false };
        let span = period.span();
        let mut has_opened = false;
        for (unit, account) in period.accounts.each_mut() {
            let Some(mut opening) = account.opening.take() else { continue };
            let shares: Vec<ShareKey> = account.open_shares().map(|(key, _)| key.clone()).collect();
            let is_known_to = |epoch: &u64| processes.get(epoch).is_some_and(|process| process.knows(uid, unit, open));
            if let Some(history) = history {
                let of_share = |share: &ShareKey| (share.clone(), found(history, terms, share.as_deref(), unit, span));
                opening.found = shares.iter().map(of_share).collect();
                opening.is_complete = history.is_complete_since(span.0);
                let unknown = processes.keys().filter(|epoch| !is_known_to(epoch));
                opening.included = unknown.map(|epoch| (*epoch, history.included(*epoch, &terms.covers))).collect();
            }
            let is_unused = opening.is_complete && opening.found.values().all(|found| found.most == 0);
            let is_overdue = now >= opening.since.saturating_add(LONGEST_OPENING);
            let is_known =
                history.is_some() && now >= started.saturating_add(UNKNOWN_PROCESSES) && processes.keys().all(is_known_to);
            if !(is_unused || is_overdue || is_known) {
                account.opening = Some(opening);
                continue;
            }
            *unconfirmed |= !opening.is_complete;
            let others = || history.map_or(u64::MAX, |history| others(history, terms, unit, span));
            let counted_in = |key: &ShareKey, share: &Share| opening.counted(share, key);
            let mut elsewhere = Elsewhere::new(account, terms, counted_in, others);
            for (share, found) in &opening.found {
                let counted = account.shares().get(share).map_or(0, |of_share| opening.counted(of_share, share));
                found.charge(account, share, counted, &mut elsewhere);
            }
            charged.retain(|(_, of), _| *of != unit);
            if !is_unused {
                met.extend(processes.keys().filter(|epoch| is_known_to(epoch)));
                let included = opening.included.into_iter().filter(|(epoch, included)| !is_known_to(epoch) && !included.is_empty());
                charged.extend(included.map(|(epoch, included)| ((epoch, unit), included)));
            }
            has_opened = true;
        }
        has_opened
    }

    /// A process is heard of for the first time in an account of the budget. What it used before it knew of that is in nobody's
    /// account, but for what the account opened with: it is charged. `table`: all that it used.
    pub(super) fn meet(&mut self, epoch: u64, table: &Usage, now: Now) -> Effect {
        let mut effect = Effect::default();
        // While an account is not open, what was used before is a part of what it will open with.
        if self.met.contains(&epoch) || self.is_opening() {
            return effect;
        }
        self.met.insert(epoch);
        let is_bound = self.is_bound();
        let Self { terms, periods, open, charged, .. } = self;
        let Some(period) = periods.get_mut(&*open) else { return effect };
        let (callers, others) = by_caller(table, terms, period.span(), now.wall);
        for (unit, account) in period.accounts.each_mut().filter(|(_, account)| account.opening.is_none()) {
            let included = charged.remove(&(epoch, unit));
            let shares: Vec<ShareKey> = account.open_shares().map(|(key, _)| key.clone()).collect();
            let counted_in = |share: &Share| share.grants.get(&epoch).map_or(0, |grant| grant.reported.used);
            let mut elsewhere = Elsewhere::new(account, terms, |_, share| counted_in(share), || amount(terms, unit, &others));
            let mut has_used = false;
            for share in shares {
                let (mut most, mut certain) = (Counts::default(), Counts::default());
                for (_, used) in callers.iter().filter(|(caller, _)| share.as_deref().is_none_or(|of| of == **caller)) {
                    most.add(&used.most);
                    certain.add(&used.certain);
                }
                let mut found = Found::new(terms, unit, &most, &certain);
                if let Some(included) = &included {
                    found.most = found.most.min(amount(terms, unit, &beyond(table, terms, share.as_deref(), included)));
                }
                let counted = account.shares().get(&share).map_or(0, counted_in);
                has_used |= found.charge(account, &share, counted, &mut elsewhere);
            }
            // Nobody has granted it, and no ledger foresees it: another leader would leave as much to others.
            let is_beyond = has_used && is_bound && account.is_beyond();
            effect.add(Effect { changed: has_used, urgency: is_beyond.then_some(Urgency::Now), ..Effect::default() });
        }
        effect
    }
}

/// What a caller used in a span of time.
#[derive(Default)]
struct UsedByCaller {
    most: Counts,
    certain: Counts,
}

/// What a process says that callers which a budget covers used in a span of time, and at most all others.
fn by_caller<'a>(
    table: &'a Usage,
    terms: &BudgetTerms,
    (from, to): (i64, i64),
    wall: Timestamp,
) -> (BTreeMap<&'a str, UsedByCaller>, Counts) {
    let (mut callers, mut others): (BTreeMap<&str, UsedByCaller>, Counts) = Default::default();
    // All hours before those that are kept apart are one row.
    let reaches_back = from < wall.as_second().saturating_sub(i64::from(HOURS_KEPT) * HOUR);
    for (hour, series, counts) in table.rows() {
        let (start, end) = (hour.start(), hour.start().saturating_add(HOUR));
        let overlaps = if hour == Hour::EARLIER { reaches_back } else { start < to && from < end };
        if !overlaps {
            continue;
        }
        if !is_covered(terms, series) {
            others.add(counts);
            continue;
        }
        let used = callers.entry(&series.caller).or_default();
        used.most.add(counts);
        if hour != Hour::EARLIER && from <= start && end <= to {
            used.certain.add(counts);
        }
    }
    (callers, others)
}

/// What a process has counted of the calls of a share, all callers where it is none, beyond what is included already.
fn beyond(table: &Usage, terms: &BudgetTerms, share: Option<&str>, included: &Included) -> Counts {
    let mut counted: BTreeMap<&Series, Counts> = BTreeMap::new();
    let is_meant = |series: &Series| is_covered(terms, series) && share.is_none_or(|caller| caller == series.caller);
    for (_, series, counts) in table.rows().filter(|(_, series, _)| is_meant(series)) {
        counted.entry(series).or_default().add(counts);
    }
    let mut beyond = Counts::default();
    counted.iter().for_each(|(series, counts)| beyond.add(&included.beyond(series, counts)));
    beyond
}

fn is_covered(terms: &BudgetTerms, series: &Series) -> bool {
    let covers = |routes: &Option<BTreeSet<String>>| routes.as_ref().is_none_or(|routes| routes.contains(&series.route));
    terms.covers.get(&series.caller).is_some_and(covers)
}

#[cfg(test)]
#[path = "opening_tests.rs"]
mod tests;
