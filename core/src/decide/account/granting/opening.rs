//! How an account opens in which something may have been used already: with what the caller table says of its callers in the
//! period, less what processes count in the account themselves. So nothing is free because a budget was deleted and applied
//! again.
//!
//! The table and what processes say have to be of the same time. So an account is told with nothing to spend, and opens when
//! every process has said that it counts in it, by the table as it is then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::budget::Budget;
use super::period_account::PeriodAccount;
use super::process::Process;
use super::share::{Share, ShareKey};
use super::terms::BudgetTerms;
use crate::decide::account::history::{History, counted_tokens};
use crate::decide::account::{Now, Unit};
use crate::decide::gateway::exchange::usage::{Counts, HOURS_KEPT, Hour, Usage};

/// How long an account waits for processes that say nothing, or for the table. It then opens with what is known: what a process
/// says later that it had used is charged in full, though the table may have a part of it.
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
        Self { since, found: BTreeMap::new() }
    }
}

impl Found {
    fn new(terms: &BudgetTerms, unit: Unit, most: &Counts, certain: &Counts) -> Self {
        let amount = |counts: &Counts| match unit {
            Unit::Tokens => counted_tokens(counts, terms.cached_input_percent),
            Unit::Cost => counts.cost,
        };
        let bounds = match unit {
            Unit::Tokens => most.estimated,
            Unit::Cost => 0,
        };
        let most = amount(most);
        Self { most, estimated: most.saturating_sub(amount(certain)).saturating_add(bounds).min(most) }
    }

    /// Charges it to a share, less what processes count in it themselves.
    fn charge(self, account: &mut PeriodAccount, share: &ShareKey, counted: u64) -> bool {
        let charge = self.most.saturating_sub(counted);
        if charge > 0 {
            account.settle(share, charge, self.estimated.min(charge), 0);
        }
        charge > 0
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

/// What a caller that has a share from now on used in the period before.
pub(super) fn before(history: &History, terms: &BudgetTerms, caller: &str, unit: Unit, span: (i64, i64)) -> u64 {
    found(history, terms, Some(caller), unit, span).most
}

impl Budget {
    /// Whether an account of the open period is not open yet.
    pub(super) fn is_opening(&self) -> bool {
        let period = self.periods.get(&self.open);
        period.is_some_and(|period| period.accounts.each().any(|(_, account)| account.opening.is_some()))
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
        let open = self.open;
        let Self { terms, periods, met, .. } = self;
        let Some(period) = periods.get_mut(&open) else { return false };
        let span = period.span();
        let mut has_opened = false;
        for (unit, account) in period.accounts.each_mut() {
            let Some(mut opening) = account.opening.take() else { continue };
            let shares: Vec<ShareKey> = account.open_shares().map(|(key, _)| key.clone()).collect();
            if let Some(history) = history {
                let of_share = |share: &ShareKey| (share.clone(), found(history, terms, share.as_deref(), unit, span));
                opening.found = shares.iter().map(of_share).collect();
            }
            let is_found = history.is_some() || !opening.found.is_empty();
            let is_unused = is_found && opening.found.values().all(|found| found.most == 0);
            let is_overdue = now >= opening.since.saturating_add(LONGEST_OPENING);
            let is_known = history.is_some()
                && now >= started.saturating_add(UNKNOWN_PROCESSES)
                && processes.values().all(|process| process.knows(uid, unit, open));
            if !(is_unused || is_overdue || is_known) {
                account.opening = Some(opening);
                continue;
            }
            for (share, found) in opening.found {
                let counted = account.shares().get(&share).map_or(0, Share::live);
                found.charge(account, &share, counted);
            }
            if !is_unused {
                met.extend(processes.iter().filter(|(_, process)| process.knows(uid, unit, open)).map(|(epoch, _)| *epoch));
            }
            has_opened = true;
        }
        has_opened
    }

    /// A process is heard of for the first time in an account of the budget. What it used before it knew of that is in nobody's
    /// account: it is charged. `table`: all that it used. Whether anything is.
    pub(super) fn meet(&mut self, epoch: u64, table: &Usage, now: Now) -> bool {
        // While an account is not open, what was used before is a part of what it will open with.
        if self.met.contains(&epoch) || self.is_opening() {
            return false;
        }
        self.met.insert(epoch);
        let Self { terms, periods, open, .. } = self;
        let Some(period) = periods.get_mut(&*open) else { return false };
        let callers = by_caller(table, terms, period.span(), now.wall);
        let mut has_used = false;
        for (unit, account) in period.accounts.each_mut().filter(|(_, account)| account.opening.is_none()) {
            let shares: Vec<ShareKey> = account.open_shares().map(|(key, _)| key.clone()).collect();
            for share in shares {
                let (mut most, mut certain) = (Counts::default(), Counts::default());
                for (_, used) in callers.iter().filter(|(caller, _)| share.as_deref().is_none_or(|of| of == **caller)) {
                    most.add(&used.most);
                    certain.add(&used.certain);
                }
                let counted = account.grant(&share, epoch).map_or(0, |grant| grant.reported.used);
                has_used |= Found::new(terms, unit, &most, &certain).charge(account, &share, counted);
            }
        }
        has_used
    }
}

/// What a caller used in a span of time.
#[derive(Default)]
struct UsedByCaller {
    most: Counts,
    certain: Counts,
}

/// What a process says that callers which a budget covers used in a span of time.
fn by_caller<'a>(
    table: &'a Usage,
    terms: &BudgetTerms,
    (from, to): (i64, i64),
    wall: Timestamp,
) -> BTreeMap<&'a str, UsedByCaller> {
    let mut callers: BTreeMap<&str, UsedByCaller> = BTreeMap::new();
    // All hours before those that are kept apart are one row.
    let reaches_back = from < wall.as_second().saturating_sub(i64::from(HOURS_KEPT) * HOUR);
    for (hour, series, counts) in table.rows() {
        let (start, end) = (hour.start(), hour.start().saturating_add(HOUR));
        let overlaps = if hour == Hour::EARLIER { reaches_back } else { start < to && from < end };
        let covers = |routes: &Option<BTreeSet<String>>| routes.as_ref().is_none_or(|routes| routes.contains(&series.route));
        if !overlaps || !terms.covers.get(&series.caller).is_some_and(covers) {
            continue;
        }
        let used = callers.entry(&series.caller).or_default();
        used.most.add(counts);
        if hour != Hour::EARLIER && from <= start && end <= to {
            used.certain.add(counts);
        }
    }
    callers
}

#[cfg(test)]
#[path = "opening_tests.rs"]
mod tests;
