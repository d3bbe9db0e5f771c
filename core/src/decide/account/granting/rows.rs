//! What a process is to see of a budget's accounts.

use std::collections::BTreeMap;

use super::budget::Budget;
use super::period_account::PeriodAccount;
use super::process::Process;
use super::share::{Share, ShareKey};
use super::terms::PeriodTerms;
use crate::decide::account::message::{AccountRow, NextPeriod};
use crate::decide::account::{AccountId, Unit};

impl Budget {
    /// The rows of a process. The allowances in them count as sent in message `seq`.
    pub(super) fn rows(
        &mut self,
        uid: &str,
        epoch: u64,
        seq: u64,
        processes: &BTreeMap<u64, Process>,
    ) -> Vec<(AccountId, AccountRow)> {
        let mut rows = Vec::new();
        let next = self.next_told();
        if let Some(period) = self.periods.get(&self.told) {
            for (unit, account) in period.accounts.each() {
                for (key, share) in account.shares() {
                    // What is no share any more is said until the period is over, so that what it holds is given back, and what
                    // was used of it stays known.
                    if share.limit.is_some() || share.grants.contains_key(&epoch) {
                        let row = self.row((unit, account), (key, share), epoch, period.terms, next, processes);
                        rows.push((AccountId { budget: uid.to_owned(), unit, caller: key.clone() }, row));
                    }
                }
            }
        }
        for period in [Some(self.told), next.map(|next| next.id)].into_iter().flatten() {
            for unit in Unit::ALL {
                if let Some(account) = self.account_mut(period, unit) {
                    account.tell(epoch, seq);
                }
            }
        }
        rows
    }

    /// The period after the one that processes are told to be open.
    fn next_told(&self) -> Option<PeriodTerms> {
        if self.told == self.open {
            return self.terms.next.filter(|next| next.id > self.open);
        }
        let told = self.periods.get(&self.told)?.terms;
        self.periods.values().map(|period| period.terms).find(|next| Some(next.start) == told.end && next.id > told.id)
    }

    fn row(
        &self,
        (unit, account): (Unit, &PeriodAccount),
        (key, share): (&ShareKey, &Share),
        epoch: u64,
        period: PeriodTerms,
        next: Option<PeriodTerms>,
        processes: &BTreeMap<u64, Process>,
    ) -> AccountRow {
        let grant = share.grants.get(&epoch).copied().unwrap_or_default();
        let is_recalled = share.limit.is_none() || grant.is_recalled();
        let limit = share.limit.unwrap_or(0);
        let terms = &self.terms;
        // Who waits is told that there is no room by what the others have said since, as they may have settled for less.
        let asked = grant.asked;
        let has_settled = |other: u64| {
            let answers = processes.get(&other).map(|process| process.answers);
            asked.zip(answers).is_some_and(|(asked, answers)| answers < asked)
        };
        let has_settled: Option<&dyn Fn(u64) -> bool> = if asked.is_some() { Some(&has_settled) } else { None };
        let next = next.filter(|_| share.limit.is_some()).map(|next| {
            let account = self.account(next.id, unit);
            let grant = account.and_then(|account| account.grant(key, epoch)).filter(|grant| grant.heard);
            NextPeriod { period: next.id, period_end: next.end, allowance: grant.map_or(0, |grant| grant.sent) }
        });
        AccountRow {
            budget: terms.name.clone(),
            period: period.id,
            period_end: period.end,
            allowance: if grant.heard { grant.sent } else { 0 },
            recall: is_recalled.then_some(0),
            next,
            limit,
            used: share.used(),
            free: account.free(key, epoch, has_settled),
            percent: percent(share.used(), limit),
            enforcement: terms.enforcement,
            when_usage_unknown: terms.when_usage_unknown,
            message: terms.message.clone(),
            cached_input_percent: terms.cached_input_percent,
        }
    }
}

/// How much of a limit is used, in percent, rounded down. Of a limit of 0 all is.
fn percent(used: u64, limit: u64) -> u32 {
    let percent = (u128::from(used) * 100).checked_div(u128::from(limit)).unwrap_or(100);
    u32::try_from(percent).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
