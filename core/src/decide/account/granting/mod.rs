//! The operator's half: what each process of a gateway may use of each account, and what was used. One for each namespace.
//!
//! An account opens, is spent from by processes that are told their allowances, and is settled when its period is over and
//! every process has said so or is gone. Nothing here hangs on when a message comes, or whether: what a process holds counts as
//! used until it says otherwise, and what it holds stands in the ledger before it hears of it.
//!
//! * `terms`: what a budget says. `budget`: a budget with its periods, and how one follows another.
//! * `period_account`: one unit of it in one period; `share`: its parts, with their sums; `grant`: what one process holds of
//!   one.
//! * `process`: what a process has said, and what it has taken of what it was told.
//! * `grants`: who is granted what, and from whom it is recalled.
//! * `opening`: what had been used before an account was there.
//! * `recovery`: from one leader to the next, by the ledger; `pacing`: when that is written.
//! * `rows`: what a process is told; `snapshot`: what the status says; `changes`: of which budgets it may have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::history::History;
use super::ledger::{BudgetLedger, HotLedger, SCHEMA_VERSION};
use super::message::Report;
use super::{AccountId, Now, Unit};
use crate::decide::gateway::exchange::usage::Usage;

use self::budget::Budget;
use self::changes::Changes;
use self::grant::Source;
use self::pacing::{Effect, Pacing, Urgency};
use self::process::Process;
use self::recovery::Writing;

pub use self::rows::AccountRows;
pub use self::snapshot::{ClosedPeriod, Known, Snapshot, UnitSnapshot};
pub use self::terms::{BudgetTerms, PeriodTerms};

#[cfg(test)]
pub(in crate::decide::account) use self::inspect::{HeldBy, Holding};

mod budget;
mod changes;
mod grant;
mod grants;
mod opening;
mod pacing;
mod period_account;
mod process;
mod recovery;
mod rows;
mod share;
mod snapshot;
mod terms;

/// How a process stands to this leader, by its last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Whether it goes by what this leader says: only then the allowances that it reports are all that it has.
    pub listens: bool,
    /// The highest message of this leader that it has taken on its connection; 0 for none.
    pub acknowledged: u64,
    /// Whether it is about to leave, and lets no call in any more.
    pub draining: bool,
}

/// The accounts of a namespace, as one leader keeps them.
///
/// Whoever runs it gives it each report that is news, tells it of the budgets, and calls [`Self::tick`] after that and at least
/// once a second; then [`Self::ledger_due`], and [`Self::rows`] for each process that has reported on its connection. What it
/// is given has to be in order: no report after a later one of the same process.
#[derive(Debug)]
pub struct Granting {
    term: u64,
    started: Duration,
    /// What the ledger says of budgets that were not yet told.
    stored: BTreeMap<String, BudgetLedger>,
    budgets: BTreeMap<String, Budget>,
    /// Which of them may have changed: whoever changes anything that is told or shown of one has to note so.
    changes: Changes,
    /// The processes that live, as far as is known, by epoch.
    processes: BTreeMap<u64, Process>,
    /// Those that have ended.
    ended: BTreeSet<u64>,
    /// The reports until now: a clock of what came before what.
    reports: u64,
    /// The accounts in which something is to be decided.
    dirty: BTreeSet<(String, Unit)>,
    /// Those that will be granted more once the ledger was written.
    hungry: BTreeSet<(String, Unit)>,
    /// The budgets with accounts that are not open yet.
    openings: BTreeSet<String>,
    /// The budgets with periods that are over and not settled.
    closing: BTreeSet<String>,
    /// When accounts are to be looked at again, by the clock that only grows.
    wakes: BTreeSet<(Duration, String, Unit)>,
    /// When budgets are to be looked at again, in seconds since 1970.
    alarms: BTreeSet<(i64, String)>,
    pacing: Pacing,
}

impl Granting {
    /// Begins to lead in this term, with the ledger that stands; none: none was found.
    ///
    /// Nobody is granted anything before this leader has written the ledger itself. So a write of an earlier one that comes
    /// late finds another version, and what was read is what stands.
    pub fn new(term: u64, ledger: Option<HotLedger>, now: Now) -> Self {
        let stored = ledger.map(|ledger| ledger.budgets).unwrap_or_default();
        let periods = stored.values().flat_map(|budget| budget.periods.values());
        let shares = periods.flat_map(|period| period.accounts.each()).flat_map(|(_, account)| account.shares.values());
        let processes = shares.flat_map(|share| share.processes.keys()).map(|epoch| (*epoch, Process::default())).collect();
        Self {
            term,
            started: now.elapsed,
            stored,
            budgets: BTreeMap::new(),
            changes: Changes::default(),
            processes,
            ended: BTreeSet::new(),
            reports: 0,
            dirty: BTreeSet::new(),
            hungry: BTreeSet::new(),
            openings: BTreeSet::new(),
            closing: BTreeSet::new(),
            wakes: BTreeSet::new(),
            alarms: BTreeSet::new(),
            pacing: Pacing::default(),
        }
    }

    /// Takes the budgets of the namespace, by uid: all of them. Those that are missing are forgotten at once.
    ///
    /// `history` has to have taken all that was given to [`Self::receive`] as `table`. A budget that is new opens by it: see
    /// [`Self::open`].
    pub fn configure(&mut self, budgets: &BTreeMap<String, BudgetTerms>, history: &History, now: Now) {
        self.forget_all_but(budgets, now);
        for (uid, terms) in budgets {
            if self.budgets.get(uid).is_none_or(|budget| budget.terms != *terms) {
                self.configure_one(uid, terms, history, now);
            }
        }
        self.open(history, now);
    }

    fn forget_all_but(&mut self, budgets: &BTreeMap<String, BudgetTerms>, now: Now) {
        let count = self.stored.len() + self.budgets.len();
        self.stored.retain(|uid, _| budgets.contains_key(uid));
        self.budgets.retain(|uid, _| budgets.contains_key(uid));
        if count == self.stored.len() + self.budgets.len() {
            return;
        }
        self.changes.retain(|uid| budgets.contains_key(uid));
        self.dirty.retain(|(uid, _)| budgets.contains_key(uid));
        self.hungry.retain(|(uid, _)| budgets.contains_key(uid));
        self.openings.retain(|uid| budgets.contains_key(uid));
        self.closing.retain(|uid| budgets.contains_key(uid));
        self.wakes.retain(|(_, uid, _)| budgets.contains_key(uid));
        self.alarms.retain(|(_, uid)| budgets.contains_key(uid));
        self.pacing.change(now.elapsed);
    }

    fn configure_one(&mut self, uid: &str, terms: &BudgetTerms, history: &History, now: Now) {
        let Self { stored, budgets, processes, ended, pacing, .. } = self;
        let mut effect = Effect::default();
        let budget = budgets.entry(uid.to_owned()).or_insert_with(|| match stored.remove(uid) {
            Some(ledger) => {
                // The first thing to write: what this leader has read is then what stands.
                effect = Effect { changed: true, urgency: Some(Urgency::Soon), ..Effect::default() };
                Budget::inherited(&ledger, terms, ended, now.elapsed)
            }
            None => Budget::new(terms),
        });
        effect.add(budget.configure(terms, history, now.elapsed));
        effect.add(budget.adopt(uid, processes, now.elapsed));
        pacing.take(effect, now.elapsed);
        if budget.has_openings() {
            self.openings.insert(uid.to_owned());
        }
        self.look_again(uid, now);
    }

    /// Opens the accounts that wait for it, where that is possible: every process has to have said what it used of them, and
    /// `history` to have taken all that was given to [`Self::receive`] as `table`.
    ///
    /// To be called with each [`Self::tick`] while [`Self::is_opening`] says so. Without, they open after 20 s by what the
    /// history said when the budget was last configured, which lacks what was used in the moment before processes heard of it.
    pub fn open(&mut self, history: &History, now: Now) {
        self.open_accounts(Some(history), now);
    }

    /// Whether accounts wait to be opened.
    pub fn is_opening(&self) -> bool {
        !self.openings.is_empty()
    }

    fn open_accounts(&mut self, history: Option<&History>, now: Now) {
        for uid in std::mem::take(&mut self.openings) {
            let Self { budgets, processes, started, .. } = self;
            let Some(budget) = budgets.get_mut(&uid) else { continue };
            let has_opened = budget.open_accounts(&uid, history, processes, *started, now.elapsed);
            let is_opening = budget.has_openings();
            if has_opened {
                // Without processes nobody waits for it.
                let urgency = (!self.processes.is_empty()).then_some(Urgency::AtOnce);
                self.pacing.take(Effect { changed: true, urgency, ..Effect::default() }, now.elapsed);
                self.look_again(&uid, now);
            }
            if is_opening {
                self.openings.insert(uid);
            }
        }
    }

    /// Takes a report of a process. `table`: all its rows of usage so far, as the same report has them.
    pub fn receive(&mut self, epoch: u64, heard: Heard, report: &Report, table: &Usage, now: Now) {
        if self.ended.contains(&epoch) {
            return;
        }
        self.reports += 1;
        let number = self.reports;
        let process = self.processes.entry(epoch).or_default();
        let is_newcomer = !process.heard;
        let is_first = is_newcomer && heard.listens;
        let asked: BTreeSet<AccountId> = process.asks.keys().cloned().collect();
        process.take(heard, report);
        process.asks.clone_from(&report.asks);
        let source = Source { listens: heard.listens, acknowledged: heard.acknowledged, now: now.elapsed };
        let mut effect = Effect::default();
        for (account, periods) in &report.accounts {
            let Some(budget) = self.budgets.get_mut(&account.budget) else { continue };
            self.changes.note(&account.budget);
            for (period, row) in periods {
                effect.add(budget.report(epoch, account, (*period, row), &source, is_newcomer));
            }
            self.dirty.insert((account.budget.clone(), account.unit));
        }
        for account in report.accounts.keys() {
            if let Some(budget) = self.budgets.get_mut(&account.budget) {
                effect.add(budget.meet(epoch, table, now));
            }
        }
        for account in asked.iter().chain(report.asks.keys()) {
            self.ask(epoch, account, report, number, now);
        }
        if is_first {
            for (uid, budget) in &mut self.budgets {
                budget.hear(epoch);
                self.dirty.extend(Unit::ALL.map(|unit| (uid.clone(), unit)));
            }
            self.changes.note_any();
        }
        self.pacing.take(effect, now.elapsed);
    }

    fn ask(&mut self, epoch: u64, account: &AccountId, report: &Report, number: u64, now: Now) {
        let Some(budget) = self.budgets.get_mut(&account.budget) else { return };
        // What is asked for is meant of the period that the process was told to be open.
        let is_meant = budget.told == budget.open;
        let ask = report.asks.get(account).copied().filter(|_| is_meant).unwrap_or_default();
        let open = budget.open;
        if let Some(of_period) = budget.account_mut(open, account.unit) {
            of_period.ask(&account.caller, epoch, ask, number, now.elapsed);
            self.changes.note(&account.budget);
            self.dirty.insert((account.budget.clone(), account.unit));
        }
    }

    /// The process is gone, and will use nothing any more. What it says afterwards is not heard.
    pub fn ended(&mut self, epoch: u64, now: Now) {
        if !self.ended.insert(epoch) {
            return;
        }
        let finished = self.processes.remove(&epoch).is_some_and(|process| process.is_finished());
        self.changes.note_any();
        let mut had_any = false;
        for (uid, budget) in &mut self.budgets {
            if budget.leave(epoch, finished) {
                had_any = true;
                self.dirty.extend(Unit::ALL.map(|unit| (uid.clone(), unit)));
            }
        }
        if had_any {
            self.pacing.take(Effect { changed: true, urgency: Some(Urgency::Soon), ..Effect::default() }, now.elapsed);
        }
    }

    /// Whether a process is to stay that has said that it is about to leave, and has nothing reserved: it used what it was never
    /// granted, and nobody knows yet that a ledger stands which says so. Until then its last report is not to be acknowledged: if
    /// it went and this leader ended, the next one would charge less than was used.
    pub fn is_to_stay(&self, epoch: u64) -> bool {
        let is_leaving = self.processes.get(&epoch).is_some_and(Process::is_finished);
        is_leaving && self.budgets.values().any(|budget| budget.may_outrun(epoch))
    }

    /// Processes that live, such as those of [`History::epochs`], though they may not have reported to this leader. What they
    /// used may be in the history: no account opens by it before each of them has reported, or ended.
    pub fn expect(&mut self, epochs: &BTreeSet<u64>) {
        for epoch in epochs.difference(&self.ended) {
            self.processes.entry(*epoch).or_default();
        }
    }

    /// The processes that are expected, or named by the ledger, and have not been heard. When each pod of the gateway has
    /// reported, those that are still here have ended, and somebody has to say so.
    pub fn unheard(&self) -> BTreeSet<u64> {
        self.processes.iter().filter(|(_, process)| !process.heard).map(|(epoch, _)| *epoch).collect()
    }

    /// Does what is due: opens periods, grants and recalls, and settles what is over. It costs as much as has changed.
    pub fn tick(&mut self, now: Now) {
        self.open_accounts(None, now);
        self.ring(now);
        while self.wakes.first().is_some_and(|(at, _, _)| *at <= now.elapsed) {
            let Some((_, uid, unit)) = self.wakes.pop_first() else { break };
            if let Some(account) = self.open_account(&uid, unit) {
                (account.wakes_at, account.is_stale) = (None, true);
                self.dirty.insert((uid, unit));
            }
        }
        for (uid, unit) in std::mem::take(&mut self.dirty) {
            self.decide(uid, unit, now);
        }
        self.close(now);
    }

    /// Looks at the budgets for which the wall clock says something.
    fn ring(&mut self, now: Now) {
        let wall = now.wall.as_second();
        while self.alarms.first().is_some_and(|(at, _)| *at <= wall) {
            let Some((_, uid)) = self.alarms.pop_first() else { break };
            let Self { budgets, processes, pacing, .. } = self;
            let Some(budget) = budgets.get_mut(&uid) else { continue };
            budget.alarm = None;
            if let Some(mut effect) = budget.roll(now) {
                effect.add(budget.adopt(&uid, processes, now.elapsed));
                pacing.take(effect, now.elapsed);
                if budget.has_openings() {
                    self.openings.insert(uid.clone());
                }
            }
            self.look_again(&uid, now);
        }
    }

    /// Something else may be open, next or over in a budget.
    fn look_again(&mut self, uid: &str, now: Now) {
        self.changes.note(uid);
        self.dirty.extend(Unit::ALL.map(|unit| (uid.to_owned(), unit)));
        let Some(budget) = self.budgets.get_mut(uid) else { return };
        if budget.is_closing() {
            self.closing.insert(uid.to_owned());
        }
        let alarm = budget.next_alarm(now.wall.as_second());
        let before = std::mem::replace(&mut budget.alarm, alarm);
        if before != alarm {
            self.alarms.extend(alarm.map(|at| (at, uid.to_owned())));
            if let Some(before) = before {
                self.alarms.remove(&(before, uid.to_owned()));
            }
        }
    }

    fn open_account(&mut self, uid: &str, unit: Unit) -> Option<&mut period_account::PeriodAccount> {
        let budget = self.budgets.get_mut(uid)?;
        let open = budget.open;
        budget.account_mut(open, unit)
    }

    fn decide(&mut self, uid: String, unit: Unit, now: Now) {
        let Self { budgets, changes, processes, pacing, .. } = self;
        let Some(budget) = budgets.get_mut(&uid) else { return };
        changes.note(&uid);
        if let Some(urgency) = budget.grant(unit, processes, now) {
            pacing.hurry(urgency);
            self.hungry.insert((uid.clone(), unit));
        }
        let open = budget.open;
        let Some(account) = budget.account_mut(open, unit) else { return };
        let before = std::mem::replace(&mut account.wakes_at, account.idle_at);
        if before != account.idle_at {
            self.wakes.extend(account.idle_at.map(|at| (at, uid.clone(), unit)));
            if let Some(before) = before {
                self.wakes.remove(&(before, uid, unit));
            }
        }
    }

    /// Settles the periods that are over for every process.
    fn close(&mut self, now: Now) {
        let Self { closing, budgets, changes, processes, pacing, .. } = self;
        closing.retain(|uid| {
            let Some(budget) = budgets.get_mut(uid) else { return false };
            if !budget.close(uid, processes).is_empty() {
                // One may be settled before an earlier one.
                let first = budget.periods.keys().next().copied().unwrap_or(budget.open);
                processes.values_mut().for_each(|process| process.forget(uid, first));
                pacing.change(now.elapsed);
                changes.note(uid);
            }
            budget.is_closing()
        });
    }

    /// When the ledger is to be written, since the origin of the process: not later than now if it is due. None: there is
    /// nothing to write, or a write is under way.
    pub fn ledger_due(&self, _now: Now) -> Option<Duration> {
        self.pacing.due()
    }

    /// The ledger, to be written now over the version that was read or written last, and over no other. One write at a time:
    /// each is followed by [`Self::written`] or [`Self::write_failed`].
    pub fn ledger(&mut self, now: Now) -> HotLedger {
        let factor = self.pacing.begin(now.elapsed);
        let finished = self.processes.iter().filter(|(_, process)| process.is_finished()).map(|(epoch, _)| *epoch).collect();
        let writing = Writing { finished: &finished, factor, now: now.elapsed };
        let mut budgets = self.stored.clone();
        budgets.extend(self.budgets.iter_mut().map(|(uid, budget)| (uid.clone(), budget.ledger(writing))));
        HotLedger { schema_version: SCHEMA_VERSION, term: self.term, budgets }
    }

    /// The ledger stands as it was to be written, and no other one that was to be before.
    pub fn written(&mut self, ledger: &HotLedger, _now: Now) {
        self.pacing.written();
        for (uid, budget) in &mut self.budgets {
            let told = budget.told;
            match ledger.budgets.get(uid) {
                Some(of_budget) => budget.written(of_budget),
                None => budget.is_missing(),
            }
            if budget.told != told {
                self.changes.note(uid);
            }
        }
        self.dirty.append(&mut self.hungry);
    }

    /// The ledger was not written, or nobody knows whether it was. It is tried again after a pause. Until one stands nothing is
    /// granted that either of the two would not allow.
    pub fn write_failed(&mut self, now: Now) {
        self.pacing.write_failed(now.elapsed);
        self.budgets.values_mut().for_each(Budget::write_failed);
    }

    /// What the accounts say of a budget; none: it was not told, or is gone.
    pub fn snapshot(&self, uid: &str) -> Option<Snapshot> {
        self.budgets.get(uid).map(Budget::snapshot)
    }

    /// Somebody has confirmed what was made in place of a ledger that was lost.
    pub fn confirm(&mut self, uid: &str) {
        if let Some(budget) = self.budgets.get_mut(uid)
            && std::mem::take(&mut budget.unconfirmed)
        {
            self.changes.note(uid);
            self.pacing.hurry(Urgency::AtOnce);
        }
    }
}

#[cfg(test)]
mod carry_over_tests;
#[cfg(test)]
mod granting_tests;
#[cfg(test)]
#[path = "inspect_tests.rs"]
mod inspect;
#[cfg(test)]
mod invariant_tests;
#[cfg(test)]
mod takeover_tests;
#[cfg(test)]
mod testing;
