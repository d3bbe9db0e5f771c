//! What a process of a gateway has said, and what it has taken of what it was told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Heard;
use crate::decide::account::message::{Ask, Report, SpentRow};
use crate::decide::account::{AccountId, PeriodId, Unit};

/// A process of a gateway.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// All that it says that it spent. What it says changes by rows, also before there is an account for them, so that they are
    /// kept.
    rows: BTreeMap<AccountId, BTreeMap<PeriodId, SpentRow>>,
    /// What it asks for.
    pub(super) asks: BTreeMap<AccountId, Ask>,
    /// Whether it has ever gone by what this leader says.
    pub(super) heard: bool,
    /// Whether it did so when it last reported.
    pub(super) listens: bool,
    /// The highest message of this leader that it has taken on its connection.
    pub(super) acknowledged: u64,
    pub(super) draining: bool,
    /// Whether it was ever told anything by this leader.
    pub(super) told: bool,
    /// The budgets, by uid, in which it waited when it was last told. What it is told of them depends on what others have heard.
    pub(super) waits: BTreeSet<String>,
    /// The messages that it has not taken as far as is known, each with the number of reports that this leader had heard by
    /// then.
    under_way: VecDeque<(u64, u64)>,
    /// The number of reports that this leader had heard when it sent what the last report was made after.
    pub(super) answers: u64,
}

impl Process {
    /// Takes a report.
    pub(super) fn take(&mut self, heard: Heard, report: &Report) {
        self.listens = heard.listens;
        self.heard |= heard.listens;
        self.acknowledged = heard.acknowledged;
        self.draining = heard.draining;
        for (account, periods) in &report.accounts {
            match self.rows.get_mut(account) {
                Some(rows) => rows.extend(periods),
                None => _ = self.rows.insert(account.clone(), periods.clone()),
            }
        }
        while let Some((_, reports)) = self.under_way.front().copied().filter(|(seq, _)| *seq <= heard.acknowledged) {
            self.under_way.pop_front();
            self.answers = self.answers.max(reports);
        }
    }

    /// It is told something in message `seq`, when this leader has heard so many reports.
    pub(super) fn tell(&mut self, seq: u64, reports: u64) {
        self.told = true;
        match self.under_way.back_mut().filter(|(last, _)| *last >= seq) {
            Some((_, before)) => *before = reports,
            None => self.under_way.push_back((seq, reports)),
        }
    }

    /// What it says that it spent of the accounts of a budget.
    pub(super) fn of_budget(&self, uid: &str) -> impl Iterator<Item = (&AccountId, &BTreeMap<PeriodId, SpentRow>)> {
        let first = AccountId { budget: uid.to_owned(), unit: Unit::Tokens, caller: None };
        let budget = first.budget.clone();
        self.rows.range(first..).take_while(move |(account, _)| account.budget == budget)
    }

    /// What it says that it spent of an account in a period; none: it was not told of them.
    #[cfg(test)]
    fn row(&self, account: &AccountId, period: PeriodId) -> Option<&SpentRow> {
        self.rows.get(account)?.get(&period)
    }

    /// Whether it has said what it spent of some account of a budget and unit in a period.
    pub(super) fn knows(&self, uid: &str, unit: Unit, period: PeriodId) -> bool {
        self.of_budget(uid).any(|(account, periods)| account.unit == unit && periods.contains_key(&period))
    }

    /// Whether it has opened this period of a budget, so that no call begins any more in those before. That it knows the period
    /// does not say so, as it hears of it before it is open. That calls began in it does, and that it knows a later one, of
    /// which it only hears when this one is open.
    pub(super) fn has_opened(&self, uid: &str, period: PeriodId) -> bool {
        let is_open = |(known, row): (&PeriodId, &SpentRow)| *known > period || row.used > 0 || row.reserved > 0;
        self.listens && self.of_budget(uid).any(|(_, periods)| periods.range(period..).any(is_open))
    }

    /// Forgets what it said of periods of a budget before this one. They are settled.
    pub(super) fn forget(&mut self, uid: &str, first: PeriodId) {
        let accounts: Vec<AccountId> = self.of_budget(uid).map(|(account, _)| account.clone()).collect();
        for account in accounts {
            if let Some(periods) = self.rows.get_mut(&account) {
                periods.retain(|period, _| *period >= first);
            }
        }
    }

    /// Whether it said that it is about to leave, and has nothing reserved: all that it will ever use is used.
    pub(super) fn is_finished(&self) -> bool {
        self.draining && self.rows.values().flat_map(BTreeMap::values).all(|row| row.reserved == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(text: &str) -> AccountId {
        text.parse().unwrap()
    }

    fn report(rows: &[(&str, i64, SpentRow)]) -> Report {
        let mut report = Report::default();
        for (id, period, row) in rows {
            report.accounts.entry(account(id)).or_default().insert(PeriodId(*period), *row);
        }
        report
    }

    fn used(used: u64) -> SpentRow {
        SpentRow { used, ..SpentRow::default() }
    }

    fn listening(acknowledged: u64) -> Heard {
        Heard { listens: true, acknowledged, draining: false }
    }

    #[test]
    fn rows_that_are_left_out_have_not_changed() {
        let mut process = Process::default();
        process.take(listening(0), &report(&[("a/tokens", 1, used(5)), ("a/cost/coder", 1, used(6)), ("b/tokens", 1, used(7))]));
        process.take(listening(0), &report(&[("a/tokens", 2, used(1))]));
        let of_a: Vec<_> = process.of_budget("a").map(|(account, periods)| (account.to_string(), periods.len())).collect();
        assert_eq!(of_a, [("a/tokens".to_owned(), 2), ("a/cost/coder".to_owned(), 1)]);
        assert_eq!(process.row(&account("a/tokens"), PeriodId(1)), Some(&used(5)));
        assert!(process.knows("a", Unit::Cost, PeriodId(1)) && !process.knows("a", Unit::Cost, PeriodId(2)));
        assert_eq!(process.of_budget("c").count(), 0);
    }

    #[test]
    fn a_period_is_left_when_calls_began_in_the_next_or_the_one_after_it_is_known() {
        let mut process = Process::default();
        process.take(listening(0), &report(&[("a/tokens", 10, used(5)), ("a/tokens", 20, used(0))]));
        assert!(!process.has_opened("a", PeriodId(20)), "it was told of it as the next one");
        process.take(listening(0), &report(&[("a/tokens", 20, SpentRow { reserved: 1, ..SpentRow::default() })]));
        assert!(process.has_opened("a", PeriodId(20)));
        process.take(listening(0), &report(&[("a/tokens", 20, used(0)), ("a/cost", 30, used(0))]));
        assert!(process.has_opened("a", PeriodId(20)));
        process.forget("a", PeriodId(30));
        assert_eq!(process.row(&account("a/tokens"), PeriodId(10)), None);
        assert!(process.row(&account("a/cost"), PeriodId(30)).is_some());
    }

    #[test]
    fn a_report_answers_what_was_sent_before_it_was_made() {
        let mut process = Process::default();
        process.tell(4, 10);
        process.tell(5, 11);
        process.tell(5, 12);
        process.take(listening(4), &Report::default());
        assert_eq!(process.answers, 10);
        process.take(listening(0), &Report::default());
        assert_eq!(process.answers, 10, "another connection, on which nothing was taken yet");
        process.take(listening(7), &Report::default());
        assert_eq!(process.answers, 12);
    }

    #[test]
    fn only_who_is_about_to_leave_and_has_nothing_reserved_is_finished() {
        let mut process = Process::default();
        let reserved = SpentRow { used: 3, reserved: 1, ..SpentRow::default() };
        process.take(Heard { draining: true, ..listening(0) }, &report(&[("a/tokens", 1, reserved)]));
        assert!(!process.is_finished());
        process.take(Heard { draining: true, ..listening(0) }, &report(&[("a/tokens", 1, used(4))]));
        assert!(process.is_finished());
        process.take(listening(0), &Report::default());
        assert!(!process.is_finished());
    }
}
