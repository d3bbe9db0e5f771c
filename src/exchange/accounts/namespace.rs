//! The accounts of a namespace: what its processes report comes in, in any order with what the ledger and the budgets say, and what they
//! may spend goes out once all of it is known.
//!
//! * `process`: what is reported before there are accounts. * `claim`: how the ledger is claimed.
//! * `edges`: when a budget is told of something.

mod claim;
mod edges;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quartermaster_core::decide::account::granting::{AccountRows, BudgetTerms, Granting, Snapshot};
use quartermaster_core::decide::account::history::{History, Shard};
use quartermaster_core::decide::account::ledger::HotLedger;
use quartermaster_core::decide::account::message::{CallerRow, Report};
use quartermaster_core::decide::account::tasks::union::TaskUnion;
use quartermaster_core::decide::account::tasks::{self, Tasks};
use quartermaster_core::decide::account::{Now, callers};
use quartermaster_core::decide::gateway::exchange::message::GatewayMessage;
use quartermaster_core::decide::gateway::exchange::operator_session::Standing;
use quartermaster_core::decide::gateway::exchange::usage::Counts;
use quartermaster_core::decide::gateway::exchange::usage_totals::{CallerSeries, UsageTotals};

use self::claim::Claims;
use self::edges::Edges;
use self::process::{Departed, Process, heard};
use super::table::Table;

pub use self::claim::Claimed;

/// How often the accounts are looked at by themselves while there is any budget; and how often at most a budget is told of what changes.
const TICK: Duration = Duration::from_secs(1);

/// How often, at most, reports are a reason to look into the caller table, for budgets that open by it.
const OPENED_EVERY: Duration = Duration::from_millis(100);

/// What is to be done for a namespace.
#[derive(Debug)]
pub enum Task {
    /// Its hot ledger is to be claimed.
    Claim,
    /// Its hot ledger is to be written.
    Hot(Box<HotLedger>),
    /// Its caller table is to be written: these shards, which have so many changes.
    History {
        /// All of them.
        shards: Vec<Shard>,
        /// The changes that they have.
        changes: u64,
    },
}

#[derive(Debug)]
enum Stage {
    /// The ledger was not claimed.
    Unclaimed,
    /// It is being claimed.
    Claiming,
    /// It is not to be gone by.
    Held(String),
    /// It is known.
    Open(Box<Granting>),
}

/// The accounts of a namespace.
#[derive(Debug)]
pub(super) struct NamespaceAccounts {
    namespace: String,
    term: u64,
    /// When this process began to lead.
    began: Duration,
    totals: UsageTotals,
    /// The processes that live and have reported.
    processes: BTreeMap<u64, Process>,
    departed: BTreeMap<u64, Departed>,
    /// The pods that may have what an earlier leader granted and have not reported to this one. None: they are not known yet.
    awaited: Option<BTreeSet<String>>,
    /// None: it was not read yet.
    table: Option<Table>,
    /// None: nobody has said yet which budgets there are.
    terms: Option<BTreeMap<String, BudgetTerms>>,
    /// What their statuses mean for callers. None: nobody has said so yet.
    verdict: Option<BTreeMap<String, CallerRow>>,
    /// The same, as far as there are accounts for it.
    callers: Arc<BTreeMap<String, CallerRow>>,
    /// What its processes said of tasks.
    tasks: TaskUnion,
    stage: Stage,
    claims: Claims,
    /// The processes in which calls wait.
    waiting: BTreeSet<u64>,
    is_being_written: bool,
    /// When time was last let pass, and when a report was last a reason to look into the table.
    ticked: Option<Duration>,
    ticked_lately: Option<Duration>,
    edges: Edges,
    /// Budgets that are to be told of something, whatever their edges say.
    to_wake: BTreeSet<String>,
}

impl NamespaceAccounts {
    /// Nothing is known of it.
    pub(super) fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            term: 0,
            began: Duration::ZERO,
            totals: UsageTotals::default(),
            processes: BTreeMap::new(),
            departed: BTreeMap::new(),
            awaited: None,
            table: None,
            terms: None,
            verdict: None,
            callers: Arc::default(),
            tasks: TaskUnion::default(),
            stage: Stage::Unclaimed,
            claims: Claims::default(),
            waiting: BTreeSet::new(),
            is_being_written: false,
            ticked: None,
            ticked_lately: None,
            edges: Edges::default(),
            to_wake: BTreeSet::new(),
        }
    }

    /// This process leads from now on. `has_budgets`: whether there are TokenBudgets, of which more will be said. `pods`: those of the
    /// gateway that have an address.
    pub(super) fn begin(&mut self, term: u64, has_budgets: bool, pods: BTreeSet<String>, now: Now) {
        (self.term, self.began) = (term, now.elapsed);
        if !has_budgets {
            self.terms.get_or_insert_default();
            self.verdict.get_or_insert_default();
        }
        self.awaited.get_or_insert(pods);
        self.bury(now);
    }

    /// What stands of the caller table. `held`: why nothing is to be gone by, nor written.
    pub(super) fn load(&mut self, mut table: Table, held: Option<String>, now: Now) {
        for (epoch, departed) in &self.departed {
            table.take(*epoch, &departed.usage, now.elapsed);
            table.ended(*epoch, now.elapsed);
        }
        for epoch in self.processes.keys() {
            if let Some(usage) = self.totals.of_epoch(&self.namespace, *epoch) {
                table.take(*epoch, usage, now.elapsed);
            }
        }
        self.table = Some(table);
        if let Some(held) = held {
            self.stage = Stage::Held(held);
        }
        self.forget_departed();
        self.bury(now);
    }

    /// Whether the table may be written: not where what a later version wrote stands.
    fn may_write(&self) -> bool {
        !matches!(self.stage, Stage::Held(_))
    }

    /// These are all budgets from now on, by uid. Whether anything has changed.
    pub(super) fn configure(&mut self, budgets: BTreeMap<String, BudgetTerms>, now: Now) -> bool {
        if self.terms.as_ref() == Some(&budgets) {
            return false;
        }
        if let (Stage::Open(granting), Some(table)) = (&mut self.stage, &self.table) {
            granting.configure(&budgets, table.history(), now);
            tick(granting, table, now);
        }
        self.edges.retain(&budgets);
        self.edges.note();
        self.terms = Some(budgets);
        self.heed();
        self.forget_departed();
        true
    }

    /// What all budgets mean for each caller. Whether anything has changed.
    pub(super) fn judge(&mut self, callers: BTreeMap<String, CallerRow>) -> bool {
        if self.verdict.as_ref() == Some(&callers) {
            return false;
        }
        self.verdict = Some(callers);
        self.heed();
        true
    }

    /// Goes by what budgets mean for callers, once it is known which there are.
    fn heed(&mut self) {
        let (Some(terms), Some(verdict)) = (&self.terms, &self.verdict) else { return };
        let callers = callers::with_accounts(verdict, terms);
        if callers != *self.callers {
            self.callers = Arc::new(callers);
        }
        self.tasks.tell_all_of(tasks::nearly_used(&self.callers));
    }

    /// Takes a report of a process in this pod. Whether others may now be told something else.
    pub(super) fn receive(&mut self, pod: &str, message: &GatewayMessage, standing: Standing, now: Now) -> bool {
        self.totals.take(&self.namespace, message);
        let epoch = message.epoch;
        let Some(usage) = self.totals.of_epoch(&self.namespace, epoch) else { return false };
        if let Some(table) = &mut self.table {
            table.take(epoch, &message.usage, now.elapsed);
        }
        let is_new = self.processes.get(&epoch).is_none_or(|known| known.standing.listens != standing.listens);
        let process = self.processes.entry(epoch).or_insert_with(|| Process::new(standing));
        process.standing = standing;
        let Report { accounts, asks, tasks } = &message.accounts;
        let mut concerns_others = self.tasks.receive(epoch, tasks, now.elapsed);
        if asks.values().any(|ask| ask.waiting > 0) {
            self.waiting.insert(epoch);
        } else {
            self.waiting.remove(&epoch);
        }
        if let (Stage::Open(granting), Some(table)) = (&mut self.stage, &self.table) {
            granting.receive(epoch, heard(standing), &message.accounts, usage, now);
            if is_new || !accounts.is_empty() || !asks.is_empty() {
                if self.ticked_lately.is_some_and(|at| now.elapsed < at.saturating_add(OPENED_EVERY)) {
                    granting.tick(now);
                } else {
                    self.ticked_lately = Some(now.elapsed);
                    tick(granting, table, now);
                }
            }
            // While calls wait, what anybody gives back is theirs.
            concerns_others |= is_new || !asks.is_empty() || !self.waiting.is_empty() && !accounts.is_empty();
        } else {
            process.keep(&message.accounts);
        }
        if self.awaited.as_mut().is_some_and(|awaited| awaited.remove(pod)) {
            self.bury(now);
        }
        concerns_others
    }

    /// A pod is gone.
    pub(super) fn gone(&mut self, pod: &str, now: Now) {
        if self.awaited.as_mut().is_some_and(|awaited| awaited.remove(pod)) {
            self.bury(now);
        }
    }

    /// A process that has reported has ended.
    pub(super) fn ended(&mut self, epoch: u64, now: Now) {
        let process = self.processes.remove(&epoch);
        self.waiting.remove(&epoch);
        self.tasks.ended(epoch);
        if let Some(table) = &mut self.table {
            table.ended(epoch, now.elapsed);
        }
        if let (Stage::Open(granting), Some(table)) = (&mut self.stage, &self.table) {
            granting.ended(epoch, now);
            tick(granting, table, now);
            self.edges.note();
        } else if let Some(process) = process {
            let usage = self.totals.of_epoch(&self.namespace, epoch).cloned().unwrap_or_default();
            self.departed.insert(epoch, Departed { process, usage });
            self.forget_departed();
        }
        self.totals.end(&self.namespace, epoch);
    }

    /// Whoever has departed need not be remembered where there is nobody who would hear of it.
    fn forget_departed(&mut self) {
        if self.table.is_some() && self.terms.as_ref().is_some_and(BTreeMap::is_empty) {
            self.departed.clear();
        }
    }

    /// Once every pod that an earlier leader may have granted something is heard or gone, the processes that are known of and have not
    /// been heard have ended.
    fn bury(&mut self, now: Now) {
        if self.awaited.as_ref().is_none_or(|awaited| !awaited.is_empty()) {
            return;
        }
        if let Some(table) = &mut self.table {
            let ended: Vec<u64> = table.epochs().into_iter().filter(|epoch| !self.processes.contains_key(epoch)).collect();
            ended.into_iter().for_each(|epoch| table.ended(epoch, now.elapsed));
        }
        if let (Stage::Open(granting), Some(table)) = (&mut self.stage, &self.table) {
            for epoch in granting.unheard() {
                if !self.processes.contains_key(&epoch) {
                    granting.ended(epoch, now);
                    self.edges.note();
                }
            }
            tick(granting, table, now);
        }
    }

    /// The ledger is this leader's, and says this. Nothing was granted before.
    pub(super) fn claimed(&mut self, claimed: Claimed, now: Now) {
        let (Some(terms), Some(table)) = (&self.terms, &self.table) else { return };
        self.claims.succeeded();
        self.to_wake.extend(terms.keys().cloned());
        let ledger = match claimed.ledger(self.term, terms) {
            Ok(ledger) => ledger,
            Err(why) => {
                self.stage = Stage::Held(why);
                return;
            }
        };
        let mut granting = Box::new(Granting::new(self.term, ledger, Now { elapsed: self.began, ..now }));
        granting.expect(&table.epochs());
        granting.configure(terms, table.history(), now);
        for (epoch, Departed { mut process, usage }) in std::mem::take(&mut self.departed) {
            process.tell(&mut granting, epoch, &usage, now);
            granting.ended(epoch, now);
        }
        for (epoch, process) in &mut self.processes {
            if let Some(usage) = self.totals.of_epoch(&self.namespace, *epoch) {
                process.tell(&mut granting, *epoch, usage, now);
            }
        }
        tick(&mut granting, table, now);
        self.stage = Stage::Open(granting);
        self.edges.note();
        self.bury(now);
    }

    /// The ledger could not be claimed, for this reason.
    pub(super) fn claim_failed(&mut self, why: String, now: Now, jitter: f64) {
        self.stage = Stage::Unclaimed;
        self.claims.failed(why, now.elapsed, jitter);
    }

    /// That ledger stands; or nobody knows whether it does.
    pub(super) fn hot_written(&mut self, ledger: &HotLedger, stands: bool, now: Now) {
        self.is_being_written = false;
        if let (Stage::Open(granting), Some(table)) = (&mut self.stage, &self.table) {
            if stands {
                granting.written(ledger, now);
                // What waited for it is granted.
                tick(granting, table, now);
            } else {
                granting.write_failed(now);
            }
        }
    }

    /// The shards that have so many changes stand, or not.
    pub(super) fn history_written(&mut self, changes: u64, stand: bool, now: Now) {
        if let Some(table) = &mut self.table {
            table.was_written(changes, stand, now.elapsed);
        }
    }

    /// Whether the ledger is to be claimed: there are budgets, and it is known what their callers used.
    fn is_to_be_claimed(&self) -> bool {
        matches!(self.stage, Stage::Unclaimed) && self.table.is_some() && self.has_budgets()
    }

    fn has_budgets(&self) -> bool {
        self.terms.as_ref().is_some_and(|terms| !terms.is_empty())
    }

    /// When it is to be looked at again by itself; none: not before something happens.
    pub(super) fn next(&self, now: Now) -> Option<Duration> {
        let claim = self.is_to_be_claimed().then_some(self.claims.at());
        let tick = self.ticks().then(|| self.ticked.map_or(Duration::ZERO, |ticked| ticked.saturating_add(TICK)));
        let hot = match &self.stage {
            Stage::Open(granting) if !self.is_being_written => granting.ledger_due(now),
            _ => None,
        };
        let history = self.table.as_ref().filter(|_| self.may_write()).and_then(Table::next);
        let woken = (!self.to_wake.is_empty()).then_some(now.elapsed);
        [claim, tick, hot, history, woken].into_iter().flatten().min()
    }

    fn ticks(&self) -> bool {
        matches!(self.stage, Stage::Open(_)) && self.has_budgets()
    }

    /// Does what is due, and says what else is to be done, and which budgets are to be looked at. `at_once`: whatever has changed is to
    /// be written.
    pub(super) fn turn(&mut self, at_once: bool, now: Now) -> (Vec<Task>, Vec<String>) {
        let mut tasks = Vec::new();
        let mut woken = std::mem::take(&mut self.to_wake);
        if self.is_to_be_claimed() && self.claims.at() <= now.elapsed && !at_once {
            self.stage = Stage::Claiming;
            tasks.push(Task::Claim);
        }
        if self.ticks() && self.ticked.is_none_or(|ticked| ticked.saturating_add(TICK) <= now.elapsed) {
            self.ticked = Some(now.elapsed);
            woken.extend(self.tick(now));
        }
        if let Stage::Open(granting) = &mut self.stage
            && !self.is_being_written
            && granting.ledger_due(now).is_some_and(|due| at_once || due <= now.elapsed)
        {
            self.is_being_written = true;
            tasks.push(Task::Hot(Box::new(granting.ledger(now))));
        }
        if self.may_write()
            && let Some((shards, changes)) = self.table.as_mut().and_then(|table| table.turn(at_once, now.wall, now.elapsed))
        {
            tasks.push(Task::History { shards, changes });
        }
        (tasks, woken.into_iter().collect())
    }

    /// Lets time pass. The budgets of which something has changed that is shown.
    fn tick(&mut self, now: Now) -> Vec<String> {
        let (Stage::Open(granting), Some(terms), Some(table)) = (&mut self.stage, &self.terms, &self.table) else {
            return Vec::new();
        };
        tick(granting, table, now);
        self.edges.changed(terms, granting, now.wall.as_second())
    }

    /// What a process is to know from message `seq` on, of accounts as far as it may have changed since there were so many changes;
    /// none: that is not known yet, and what it knows stays.
    pub(super) fn rows(&mut self, epoch: u64, seq: u64, since: u64) -> Option<(AccountRows, Arc<BTreeMap<String, CallerRow>>)> {
        let _verdict = self.verdict.as_ref()?;
        if self.terms.as_ref()?.is_empty() {
            return Some((AccountRows::default(), Arc::default()));
        }
        match &mut self.stage {
            Stage::Open(granting) => Some((granting.rows(epoch, seq, since), Arc::clone(&self.callers))),
            Stage::Unclaimed | Stage::Claiming | Stage::Held(_) => None,
        }
    }

    /// What a process is to hear of tasks that has changed since there were so many changes, and how many there are now.
    pub(super) fn task_rows(&self, epoch: u64, since: u64) -> (Tasks, u64) {
        self.tasks.rows(epoch, since)
    }

    /// Whether a process that is about to leave is to stay until the ledger says what it used.
    pub(super) fn is_to_stay(&self, epoch: u64) -> bool {
        matches!(&self.stage, Stage::Open(granting) if granting.is_to_stay(epoch))
    }

    /// What is known of a budget.
    pub(super) fn snapshot(&self, uid: &str) -> Option<Snapshot> {
        match &self.stage {
            Stage::Open(granting) => granting.snapshot(uid),
            Stage::Unclaimed | Stage::Claiming | Stage::Held(_) => None,
        }
    }

    /// Somebody has looked at what was made anew, and says that it may stand.
    pub(super) fn confirm(&mut self, uid: &str) {
        if let Stage::Open(granting) = &mut self.stage {
            granting.confirm(uid);
            self.edges.note();
        }
    }

    /// The caller table.
    pub(super) fn history(&self) -> Option<&History> {
        self.table.as_ref().map(Table::history)
    }

    /// Why nothing is known of its budgets, where that lasts.
    pub(super) fn unknown_because(&self) -> Option<&str> {
        match &self.stage {
            Stage::Held(why) => Some(why),
            Stage::Unclaimed | Stage::Claiming => self.claims.failure(),
            Stage::Open(_) => None,
        }
    }

    /// What callers used in the whole life of every process that lived while this one led.
    pub(super) fn totals(&self) -> BTreeMap<CallerSeries, Counts> {
        self.totals.totals()
    }
}

fn tick(granting: &mut Granting, table: &Table, now: Now) {
    // It costs something to look into the table.
    if granting.is_opening() {
        granting.open(table.history(), now);
    }
    granting.tick(now);
}

#[cfg(test)]
#[path = "namespace_tests.rs"]
mod tests;
