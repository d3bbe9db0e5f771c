//! A process of the operator that leads, or has led, in the simulation: what src/ does around `Granting`. It can end between any two
//! of its steps.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::super::granting::{BudgetTerms, Granting, Heard};
use super::super::ledger::HotLedger;
use super::super::message::{AccountRow, CallerRow};
use super::super::{AccountId, PeriodId};
use super::budget::{Budget, caller_rows};
use super::promise::Promises;
use super::store::Answer;
use super::{Clock, Common, NAMESPACE, Shared};
use crate::decide::gateway::exchange::message::GatewayMessage;
use crate::decide::gateway::exchange::operator_session::OperatorSession;
use crate::decide::gateway::exchange::usage_totals::UsageTotals;

/// For how long the answer to a write is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Leader {
    pub(super) number: u64,
    pub(super) term: u64,
    pub(super) clock: Clock,
    /// Until when it is suspended.
    pub(super) frozen: Option<Duration>,
    pub(super) granting: Granting,
    /// What it was last told of, and in which edit; none before it was told anything.
    pub(super) budgets: Vec<Budget>,
    edit: Option<u64>,
    /// By uid: the start of the period that it was told of.
    periods: BTreeMap<String, i64>,
    /// When it is told again.
    told_at: Option<u32>,
    callers: Arc<BTreeMap<String, CallerRow>>,
    /// By place of the gateway.
    replicas: Vec<Replica>,
    totals: UsageTotals,
    /// The processes whose end it has seen.
    buried: BTreeSet<u64>,
    /// The version of the ledger that it knows, and whether somebody may have written since.
    version: u64,
    is_outdated: bool,
    write: Option<Write>,
    /// What it began with.
    inherited: Option<HotLedger>,
}

struct Replica {
    session: OperatorSession,
    connection: Option<u64>,
    /// What the process that has reported on it is to know of accounts, by what the session was given.
    known: BTreeMap<AccountId, AccountRow>,
}

impl Replica {
    fn new(session: OperatorSession) -> Self {
        Self { session, connection: None, known: BTreeMap::new() }
    }
}

/// A write that is under way.
struct Write {
    number: u64,
    ledger: Rc<HotLedger>,
    sent: Duration,
}

/// What becomes of a leader in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    GoesOn,
    Ends,
    Freezes,
}

impl Leader {
    /// Begins with what the last one wrote.
    pub(super) fn new(number: u64, term: u64, clock: Clock, shared: &Shared) -> Self {
        let inherited = shared.store.ledger().map(|ledger| read(ledger));
        let mut granting = Granting::new(term, inherited.clone(), clock.now(shared.common.time));
        granting.expect(&shared.history.epochs());
        let session = || OperatorSession::new(term, Arc::clone(&shared.desired));
        Self {
            number,
            term,
            clock,
            frozen: None,
            granting,
            budgets: Vec::new(),
            edit: None,
            periods: BTreeMap::new(),
            told_at: None,
            callers: Arc::default(),
            replicas: shared.alive.iter().map(|_| Replica::new(session())).collect(),
            totals: UsageTotals::default(),
            buried: BTreeSet::new(),
            version: shared.store.version(),
            is_outdated: false,
            write: None,
            inherited,
        }
    }

    /// Takes a report. Whether it goes on.
    pub(super) fn receive(&mut self, shared: &mut Shared, slot: usize, connection: u64, message: &GatewayMessage) -> bool {
        let now = self.clock.now(shared.common.time);
        let replica = &mut self.replicas[slot];
        if replica.connection != Some(connection) {
            return true;
        }
        match replica.session.receive(message) {
            Ok(true) => {}
            Ok(false) => return true,
            Err(superseded) => {
                shared.common.tell(|| format!("leader {}: {superseded}", self.number));
                return false;
            }
        }
        let Some(standing) = replica.session.standing() else { return true };
        self.totals.take(NAMESPACE, message);
        let Some(table) = self.totals.of_epoch(NAMESPACE, message.epoch) else { return true };
        shared.history.take(message.epoch, table);
        let heard = Heard { listens: standing.listens, acknowledged: standing.acknowledged, draining: standing.draining };
        self.granting.receive(message.epoch, heard, &message.accounts, table, now);
        true
    }

    /// One step.
    pub(super) fn turn(&mut self, shared: &mut Shared) -> Turn {
        self.connect(shared);
        self.be_told(shared);
        if let Some(struck) = struck(&mut shared.common) {
            return struck;
        }
        self.bury(shared);
        if let Some(struck) = struck(&mut shared.common) {
            return struck;
        }
        let now = self.clock.now(shared.common.time);
        if self.granting.is_opening() {
            self.granting.open(&shared.history, now);
        }
        self.tick(shared);
        self.take_answer(shared);
        if let Some(struck) = struck(&mut shared.common) {
            return struck;
        }
        if !self.write(shared) {
            return Turn::Ends;
        }
        if let Some(struck) = struck(&mut shared.common) {
            return struck;
        }
        self.speak(shared)
    }

    /// It wakes when another one leads, and does what it was about to do before it notices.
    pub(super) fn last_words(&mut self, shared: &mut Shared) {
        self.take_answer(shared);
        self.tick(shared);
        self.speak(shared);
    }

    /// Grants and recalls what is to be.
    fn tick(&mut self, shared: &Shared) {
        let before = Promises::of(&self.granting, &self.budgets);
        self.granting.tick(self.clock.now(shared.common.time));
        before.hold(&Promises::of(&self.granting, &self.budgets), &self.granting);
    }

    /// Notices connections that are gone, and makes new ones.
    fn connect(&mut self, shared: &mut Shared) {
        for (slot, replica) in self.replicas.iter_mut().enumerate() {
            if replica.connection.take_if(|connection| !shared.network.is_open(*connection)).is_some() {
                replica.session.disconnected();
            }
            let is_reachable = shared.alive[slot].is_some() && shared.common.time >= shared.unreachable[slot];
            let is_slow = shared.common.is_stormy && shared.common.faults.network && shared.common.random.percent(50);
            if replica.connection.is_none() && is_reachable && !is_slow {
                replica.connection = Some(shared.network.connect(self.number, slot));
                replica.session.connected();
            }
        }
    }

    /// The period of a budget that it is to be told of: by its clock, but never one before the one that is open.
    fn period(&self, budget: &Budget, second: i64) -> i64 {
        let open = self.granting.snapshot(&budget.uid).map(|snapshot| snapshot.period.0);
        budget.period(second).max(open.unwrap_or(i64::MIN))
    }

    /// Is told of budgets soon after they change, or a period has ended.
    fn be_told(&mut self, shared: &mut Shared) {
        let second = self.clock.second(shared.common.time);
        let is_changed = |budget: &Budget| self.periods.get(&budget.uid) != Some(&self.period(budget, second));
        if self.edit == Some(shared.edits) && !self.budgets.iter().any(is_changed) {
            return;
        }
        // A new leader is told before anything else.
        let lag = if self.edit.is_none() { 0 } else { shared.common.random.steps(0, 3) };
        let step = shared.common.step;
        if *self.told_at.get_or_insert(step + lag) > step {
            return;
        }
        self.told_at = None;
        let periods: BTreeMap<String, i64> =
            shared.budgets.iter().map(|budget| (budget.uid.clone(), self.period(budget, second))).collect();
        for budget in &shared.budgets {
            let start = periods[&budget.uid];
            if !self.can_know(budget, start) {
                shared.oracle.opens_anew(&budget.uid, PeriodId(start));
            }
            shared.oracle.configured(budget, start);
        }
        self.edit = Some(shared.edits);
        self.budgets.clone_from(&shared.budgets);
        self.periods = periods;
        self.callers = Arc::new(caller_rows(&self.budgets));
        shared.common.tell(|| format!("leader {}: is told of {:?} in {:?}", self.number, self.budgets, self.periods));
        self.granting.configure(&self.terms(), &shared.history, self.clock.now(shared.common.time));
    }

    /// What it was last told.
    pub(super) fn terms(&self) -> BTreeMap<String, BudgetTerms> {
        let terms = |budget: &Budget| (budget.uid.clone(), budget.terms(self.periods[&budget.uid]));
        self.budgets.iter().map(terms).collect()
    }

    /// Whether it knows what was used of a period: it has been open, or next, or stands in the ledger.
    fn can_know(&self, budget: &Budget, start: i64) -> bool {
        let is_next = |before: i64| start == before || start == before + budget.length;
        match self.periods.get(&budget.uid) {
            Some(before) => is_next(*before),
            None => {
                let ledger = self.inherited.as_ref().and_then(|ledger| ledger.budgets.get(&budget.uid));
                let period = ledger.and_then(|ledger| ledger.periods.get(&PeriodId(start)));
                period.is_some_and(|period| budget.units().all(|(unit, _)| period.accounts.of(unit).is_some()))
            }
        }
    }

    /// Sees that processes have ended.
    fn bury(&mut self, shared: &mut Shared) {
        let now = self.clock.now(shared.common.time);
        for death in &shared.deaths {
            if death.seen <= shared.common.time && self.buried.insert(death.epoch) {
                shared.common.tell(|| format!("leader {}: sees that {} has ended", self.number, death.epoch));
                self.granting.ended(death.epoch, now);
                self.totals.end(NAMESPACE, death.epoch);
                shared.history.ended(death.epoch);
            }
        }
    }

    fn take_answer(&mut self, shared: &mut Shared) {
        let now = self.clock.now(shared.common.time);
        let Some(write) = self.write.take() else { return };
        match shared.store.answer(write.number, &shared.common) {
            Some(Answer::Written { version }) => {
                self.version = version;
                self.granting.written(&write.ledger, now);
            }
            None if shared.common.time < write.sent + ANSWER_WITHIN => self.write = Some(write),
            Some(Answer::Conflict | Answer::Refused) | None => {
                shared.common.tell(|| format!("leader {}: write {} has failed", self.number, write.number));
                self.is_outdated = true;
                self.granting.write_failed(now);
            }
        }
    }

    /// Writes the ledger when it is due. Whether it still leads.
    fn write(&mut self, shared: &mut Shared) -> bool {
        let now = self.clock.now(shared.common.time);
        if self.write.is_some() || self.granting.ledger_due(now).is_none_or(|due| now.elapsed < due) {
            return true;
        }
        if self.is_outdated {
            match shared.store.read(&shared.common) {
                None => return true,
                // Somebody else has written since: a later leader, or an earlier one whose write was late. What this one began with is
                // not what stands.
                Some((version, term)) if version != self.version && term != self.term => return false,
                Some((version, _)) => (self.version, self.is_outdated) = (version, false),
            }
        }
        let ledger = Rc::new(self.granting.ledger(now));
        let number = shared.store.write(self.version, self.term, Rc::clone(&ledger), &mut shared.common);
        shared.common.tell(|| format!("leader {}: writes {number}: {}", self.number, ledger.text().unwrap()));
        self.write = Some(Write { number, ledger, sent: shared.common.time });
        true
    }

    /// Tells each gateway what it is to know.
    fn speak(&mut self, shared: &mut Shared) -> Turn {
        let now = self.clock.now(shared.common.time);
        for replica in &mut self.replicas {
            let Some(connection) = replica.connection else { continue };
            if let Some(standing) = replica.session.standing()
                && !self.buried.contains(&standing.epoch)
            {
                let Replica { session, known, .. } = replica;
                let rows = self.granting.rows(standing.epoch, session.next_seq(), session.accounts_known());
                rows.clone().apply(known);
                self.granting.assert_told(standing.epoch, known);
                session.desire_accounts(rows, Arc::clone(&self.callers));
                session.keep(self.granting.is_to_stay(standing.epoch));
            }
            if let Some(struck) = struck(&mut shared.common) {
                return struck;
            }
            if let Some(message) = replica.session.message(now.elapsed) {
                shared.network.send_to_gateway(connection, message, &mut shared.common);
            }
        }
        Turn::GoesOn
    }

    /// Whether nothing is to be written, nor under way.
    pub(super) fn is_at_rest(&self, time: Duration) -> bool {
        self.write.is_none() && self.granting.ledger_due(self.clock.now(time)).is_none()
    }
}

/// The ledger as whoever comes next reads it.
pub(super) fn read(ledger: &HotLedger) -> HotLedger {
    HotLedger::read(&ledger.text().unwrap()).unwrap()
}

fn struck(common: &mut Common) -> Option<Turn> {
    if common.faults.leaders && common.strikes(1200) {
        return Some(Turn::Ends);
    }
    (common.faults.freezes && common.strikes(1200)).then_some(Turn::Freezes)
}
