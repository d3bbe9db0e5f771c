//! What the operator's leader does about budgets: it hears the gateway's replicas, keeps the accounts, decides about each budget when
//! something has changed, and tells the replicas. Nothing is lost on the way, and its ledger is written at once when it is due.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::calls::{Replica, Reported};
use super::prepared::Prepared;
use super::rationed::{Around, Rationed};
use super::result::BudgetOutcome;
use super::statuses::Events;
use crate::api::TokenBudget;
use crate::decide::account::granting::{BudgetTerms, Granting, Heard};
use crate::decide::account::history::History;
use crate::decide::account::message::{CallerRow, Told};
use crate::decide::account::{Now, callers};
use crate::decide::budget::concerned::Concerned;
use crate::decide::budget::observation::{Accounts, PoolFacts, RouteFacts};
use crate::decide::budget::verdict;
use crate::decide::gateway::exchange::message::GatewayMessage;
use crate::decide::gateway::exchange::usage_totals::UsageTotals;

/// The namespace of all that is simulated, as far as the accounts ask.
const NAMESPACE: &str = "simulated";

/// How long the operator's word holds: it is never away.
const VALID: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The operator's leader.
pub(super) struct Operator {
    granting: Granting,
    /// What callers used.
    history: History,
    totals: UsageTotals,
    budgets: Vec<Rationed>,
    terms: BTreeMap<String, BudgetTerms>,
    /// What all budgets mean for each caller.
    callers: BTreeMap<String, CallerRow>,
    pools: Vec<PoolFacts>,
    routes: Vec<RouteFacts>,
    unpriced: BTreeSet<String>,
    /// The shortest time between two looks at figures alone.
    figures: Duration,
}

impl Operator {
    /// A leader that finds no ledger. Figures alone are looked at after this time.
    pub(super) fn new(prepared: &Prepared, figures: Duration, now: Now) -> Self {
        Self {
            granting: Granting::new(1, None, now),
            history: History::default(),
            totals: UsageTotals::default(),
            budgets: prepared.budgets.iter().map(|budget| Rationed::new(budget, &prepared.pool_facts)).collect(),
            terms: BTreeMap::new(),
            callers: BTreeMap::new(),
            pools: prepared.pool_facts.clone(),
            routes: prepared.route_facts.clone(),
            unpriced: prepared.unpriced.clone(),
            figures,
        }
    }

    /// Hears all replicas, decides what is to be decided, and tells them what is new. Whom budgets mean something else to from now on.
    pub(super) fn exchange(&mut self, replicas: &mut [Replica], events: &mut Events, now: Now) -> Concerned {
        for replica in replicas.iter_mut() {
            self.hear(replica, now);
        }
        self.history.compact(now.wall);
        self.tick(now);
        let concerned = self.look(events, now);
        for replica in replicas {
            self.tell(replica, now);
        }
        concerned
    }

    /// When it has something to do by itself, since the beginning; none: not before something happens.
    pub(super) fn next(&self, now: Now) -> Option<Duration> {
        let budgets = self.budgets.iter().map(Rationed::due);
        budgets.chain(self.granting.ledger_due(now)).min()
    }

    /// The budgets, by name.
    pub(super) fn budgets(&self) -> Vec<(String, &TokenBudget)> {
        self.budgets.iter().map(|rationed| (rationed.name.clone(), &rationed.budget)).collect()
    }

    /// Takes down what was used by now. `refused`: calls that each budget has refused since the beginning, by name.
    pub(super) fn sample(&mut self, refused: &BTreeMap<String, u64>, now: Now) {
        for rationed in &mut self.budgets {
            let refused = refused.get(&rationed.name).copied().unwrap_or(0);
            rationed.point(refused, now.wall);
        }
    }

    /// What became of the budgets.
    pub(super) fn outcome(self) -> Vec<BudgetOutcome> {
        let Self { granting, budgets, .. } = self;
        let outcome = |mut rationed: Rationed| {
            if let Some(snapshot) = granting.snapshot(&rationed.uid) {
                rationed.record(&snapshot, true);
            }
            rationed.outcome()
        };
        budgets.into_iter().map(outcome).collect()
    }

    /// Hears a report.
    fn hear(&mut self, replica: &mut Replica, now: Now) {
        let Replica { epoch, spending, usage, reported, .. } = replica;
        let Reported { seq, spent, used, told, .. } = reported;
        *seq += 1;
        let (accounts, spent_now) = spending.report(*spent, *seq);
        let message = GatewayMessage { epoch: *epoch, seq: *seq, usage: usage.since(*used), accounts, ..GatewayMessage::default() };
        (*spent, *used) = (spent_now, usage.changes());
        self.history.take(*epoch, &message.usage);
        self.totals.take(NAMESPACE, &message);
        let Some(table) = self.totals.of_epoch(NAMESPACE, *epoch) else { return };
        let heard = Heard { listens: true, acknowledged: *told, draining: false };
        self.granting.receive(*epoch, heard, &message.accounts, table, now);
    }

    /// Grants, recalls, and opens periods; and writes the ledger where it is due.
    fn tick(&mut self, now: Now) {
        let Self { granting, history, .. } = self;
        if granting.is_opening() {
            granting.open(history, now);
        }
        granting.tick(now);
        if granting.ledger_due(now).is_some_and(|due| due <= now.elapsed) {
            let ledger = granting.ledger(now);
            granting.written(&ledger, now);
            // What has waited for it is granted.
            granting.tick(now);
        }
    }

    /// Decides about the budgets of which something has changed. First all statuses are stored, then they are obeyed.
    fn look(&mut self, events: &mut Events, now: Now) -> Concerned {
        let Self { granting, history, budgets, pools, routes, unpriced, figures, .. } = self;
        let around = Around { pools, routes, unpriced, history, figures: *figures };
        let mut concerned = Concerned::default();
        let mut is_news = false;
        for rationed in budgets {
            let snapshot = granting.snapshot(&rationed.uid);
            if let Some(snapshot) = &snapshot {
                rationed.record(snapshot, false);
            }
            if !rationed.is_due(snapshot.as_ref(), around.figures, now) {
                continue;
            }
            let accounts = snapshot.as_ref().map(Accounts::from);
            let (before, told) = rationed.decide(accounts.as_ref(), &around, now);
            events.tell(("TokenBudget", &rationed.name), told, now.wall);
            let by_it = Concerned::by(Some(&before), Some(&rationed.budget));
            concerned.pools.extend(by_it.pools);
            concerned.routes.extend(by_it.routes);
            concerned.backends.extend(by_it.backends);
            is_news |= rationed.ration(around.pools, accounts.as_ref(), now);
        }
        if is_news {
            self.obey(now);
        }
        concerned
    }

    /// Gives the accounts and the gateways what the budgets say.
    fn obey(&mut self, now: Now) {
        let terms = self.budgets.iter().filter_map(|rationed| Some((rationed.uid.clone(), rationed.terms.clone()?)));
        self.terms = terms.collect();
        let verdicts: Vec<_> = self.budgets.iter().map(|rationed| rationed.verdict.clone()).collect();
        self.callers = callers::with_accounts(&verdict::combine(&verdicts), &self.terms);
        self.granting.configure(&self.terms, &self.history, now);
        self.tick(now);
    }

    /// Tells a replica what it does not know yet.
    fn tell(&mut self, replica: &mut Replica, now: Now) {
        let Replica { epoch, spending, reported, .. } = replica;
        reported.told += 1;
        let rows = self.granting.rows(*epoch, reported.told, reported.changes);
        reported.changes = rows.changes;
        let mut told = Told { all: reported.told == 1, ..Told::default() };
        for account in rows.gone(&reported.accounts) {
            reported.accounts.remove(&account);
            told.accounts.insert(account, None);
        }
        for (account, row) in rows.rows {
            if reported.accounts.get(&account) != Some(&row) {
                reported.accounts.insert(account.clone(), row.clone());
                told.accounts.insert(account, Some(row));
            }
        }
        if reported.callers != self.callers {
            let gone = reported.callers.keys().filter(|caller| !self.callers.contains_key(*caller));
            told.callers.extend(gone.map(|caller| (caller.clone(), None)));
            let changed = self.callers.iter().filter(|(caller, row)| reported.callers.get(*caller) != Some(*row));
            told.callers.extend(changed.map(|(caller, row)| (caller.clone(), Some(row.clone()))));
            reported.callers.clone_from(&self.callers);
        }
        if told == Told::default() {
            spending.heard(reported.seq, VALID, now);
        } else {
            spending.take(&told, reported.seq, VALID, now);
        }
    }
}
