//! Both halves against each other in virtual time, over a channel that loses, repeats, delays and reorders messages, with
//! connections, gateways and operators that end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::REPORT_INTERVAL;
use super::documents::{Desired, DocumentKind, PerDocument, Secrets};
use super::gateway_session::{Facts, GatewaySession};
use super::message::{GatewayMessage, OperatorMessage};
use super::operator_session::OperatorSession;
use super::usage::{Counts, Hour, Series, UsageCounters};
use super::usage_totals::UsageTotals;
use crate::decide::account::granting::AccountRows;
use crate::decide::account::message::{AccountRow, Ask, CallerRow, Report, RouteRow, SpentRow, Told};
use crate::decide::account::{AccountId, PeriodId, Unit};
use crate::decide::gateway::plan::{self, Endpoints, Plan};

/// The grain of virtual time.
const TICK: Duration = REPORT_INTERVAL;
/// Ticks after which nothing is late any more and both halves must agree: a document that was lost is sent again after 50, and
/// heartbeats come every 10.
const RECOVERY: u32 = 90;

/// What happens in one tick.
#[derive(Clone, Debug)]
enum Event {
    Nothing,
    /// A call of this backend used so many tokens.
    Call(usize, u64),
    /// So many hours pass in a moment.
    Hours(i64),
    /// The plan is to be this one.
    Desire(usize),
    /// Another thing is to be known of this account; or that it is gone.
    Account(usize, bool),
    /// So much was spent of this account, in this period, and so much more is asked for.
    Spend(usize, i64, u64),
    /// The connection breaks.
    Break,
    /// The gateway's process is killed and starts anew.
    KillGateway,
    /// Another operator takes over, with a higher term, and knows nothing.
    KillOperator,
}

/// What happens to one message: ticks after which each copy of it arrives. None: it is lost.
type Fate = Vec<u32>;

/// What a process is to know of accounts.
type Known = (BTreeMap<AccountId, AccountRow>, BTreeMap<String, CallerRow>);
/// What a process has spent.
type SpentRows = BTreeMap<AccountId, BTreeMap<PeriodId, SpentRow>>;

/// What a process has spent and asks for.
#[derive(Default)]
struct Spending {
    /// Each row, and the change that it was last part of.
    rows: BTreeMap<(AccountId, PeriodId), (SpentRow, u64)>,
    asks: BTreeMap<AccountId, Ask>,
    changes: u64,
}

impl Spending {
    fn spend(&mut self, account: AccountId, period: PeriodId, tokens: u64) {
        self.changes += 1;
        self.asks.insert(account.clone(), Ask { waiting: tokens, smallest: tokens, ahead: 0 });
        let (row, change) = self.rows.entry((account, period)).or_default();
        row.used += tokens;
        *change = self.changes;
    }

    fn since(&self, changes: u64) -> SpentRows {
        let mut rows = SpentRows::new();
        for ((account, period), (row, _)) in self.rows.iter().filter(|(_, (_, change))| *change > changes) {
            rows.entry(account.clone()).or_default().insert(*period, *row);
        }
        rows
    }
}

struct Late {
    connection: u64,
    arrives: u32,
    message: String,
}

struct Simulation {
    tick: u32,
    hours: i64,
    fates: Vec<Fate>,
    connection: Option<u64>,
    connections: u64,
    to_gateway: Vec<Late>,
    to_operator: Vec<Late>,
    gateway: GatewaySession,
    epoch: u64,
    /// What the process of this epoch has really used.
    truth: UsageCounters,
    /// And all before it.
    truth_before: u64,
    operator: OperatorSession,
    term: u64,
    desired: Arc<Desired>,
    totals: UsageTotals,
    heard: Option<u64>,
    ended: Vec<u64>,
    /// What this operator counted when the last process ended.
    settled: u64,
    counted: u64,
    /// What is to be known of accounts: each with a number that only grows.
    accounts: BTreeMap<AccountId, u64>,
    numbers: u64,
    /// What each account was to be after each change, from the first one on.
    changes: Vec<BTreeMap<AccountId, u64>>,
    /// What a process was to know when a message was sent to it, by term and number; none of one to whom nobody was known to listen.
    said: BTreeMap<(u64, u64), Known>,
    /// What the gateway knows.
    known: Known,
    /// The latest connection on which the process of this epoch has taken a message.
    listened: Option<u64>,
    /// What the process of this epoch has spent.
    spending: Spending,
    /// What this operator has heard of it.
    spent: SpentRows,
    asks: BTreeMap<AccountId, Ask>,
}

fn account(number: usize) -> AccountId {
    AccountId { budget: ["a", "b", "c"][number].to_owned(), unit: Unit::Tokens, caller: None }
}

/// The name of a budget by which the process is known to which its row is told.
fn meant_for(epoch: u64) -> String {
    format!("of process {epoch}")
}

/// Takes over rows of which the missing ones have not changed, or are gone.
fn apply<K: Ord, V>(known: &mut BTreeMap<K, V>, all: bool, rows: BTreeMap<K, Option<V>>) {
    if all {
        known.clear();
    }
    for (key, row) in rows {
        known.remove(&key);
        known.extend(row.map(|row| (key, row)));
    }
}

fn desired(number: usize) -> Arc<Desired> {
    let plan = Plan { schema: plan::SCHEMA, namespace: format!("team-{number}"), ..Plan::default() };
    Arc::new(Desired::new(&plan, &Secrets::default(), &Endpoints::new()).unwrap())
}

fn sum(usage: &UsageCounters) -> u64 {
    usage.since(0).rows().map(|(_, _, counts)| counts.input).sum()
}

impl Simulation {
    fn new(fates: Vec<Fate>) -> Self {
        let first = desired(0);
        Self {
            tick: 0,
            hours: 0,
            fates,
            connection: None,
            connections: 0,
            to_gateway: Vec::new(),
            to_operator: Vec::new(),
            gateway: GatewaySession::new(1, PerDocument::default()),
            epoch: 1,
            truth: UsageCounters::default(),
            truth_before: 0,
            operator: OperatorSession::new(1, Arc::clone(&first)),
            term: 1,
            desired: first,
            totals: UsageTotals::default(),
            heard: None,
            ended: Vec::new(),
            settled: 0,
            counted: 0,
            accounts: BTreeMap::new(),
            numbers: 0,
            changes: vec![BTreeMap::new()],
            said: BTreeMap::new(),
            known: Known::default(),
            listened: None,
            spending: Spending::default(),
            spent: SpentRows::new(),
            asks: BTreeMap::new(),
        }
    }

    /// What the process of this epoch is to know.
    fn wanted(&self, epoch: u64) -> Known {
        let row = |allowance: u64| AccountRow { budget: meant_for(epoch), allowance, ..AccountRow::default() };
        let rows = self.accounts.iter().map(|(id, number)| (id.clone(), row(*number))).collect();
        let caller = |id: &AccountId| {
            let route = RouteRow { accounts: vec![id.clone()], ..RouteRow::default() };
            (format!("caller of {}", id.budget), CallerRow { routes: [("smart-router".to_owned(), route)].into() })
        };
        (rows, self.accounts.keys().map(caller).collect())
    }

    /// What of that the operator's half does not know yet.
    fn changed(&mut self, mut rows: BTreeMap<AccountId, AccountRow>) -> AccountRows {
        if self.changes.last() != Some(&self.accounts) {
            self.changes.push(self.accounts.clone());
        }
        let changes = u64::try_from(self.changes.len()).unwrap();
        let Some(known) = usize::try_from(self.operator.accounts_known()).unwrap().checked_sub(1) else {
            return AccountRows { changes, ..AccountRows::all(rows) };
        };
        let known = &self.changes[known];
        let is_other = |account: &AccountId| known.get(account) != self.accounts.get(account);
        let accounts = known.keys().chain(self.accounts.keys());
        let budgets = accounts.filter(|account| is_other(account)).map(|account| account.budget.clone()).collect();
        rows.retain(|account, _| is_other(account));
        AccountRows { budgets: Some(budgets), rows, changes }
    }

    fn count(&self) -> u64 {
        self.totals.totals().values().map(|counts| counts.input).sum()
    }

    fn now(&self) -> Duration {
        TICK * self.tick
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Nothing => {}
            Event::Call(backend, tokens) => {
                let backend = ["a", "b", "c"][backend].to_owned();
                let series = Series { caller: "coder".to_owned(), route: "smart-router".to_owned(), backend };
                self.truth.record(series, self.hour(), self.hour(), &Counts { input: tokens, ..Counts::default() });
            }
            Event::Hours(hours) => self.hours += hours,
            Event::Desire(number) => {
                self.desired = desired(number);
                self.operator.desire(Arc::clone(&self.desired));
            }
            Event::Account(number, true) => {
                self.numbers += 1;
                self.accounts.insert(account(number), self.numbers);
            }
            Event::Account(number, false) => {
                self.accounts.remove(&account(number));
            }
            Event::Spend(number, period, tokens) => self.spending.spend(account(number), PeriodId(period), tokens),
            Event::Break => self.disconnect(),
            Event::KillGateway => {
                self.disconnect();
                (self.spending, self.known, self.listened) = (Spending::default(), Known::default(), None);
                self.truth_before += sum(&std::mem::take(&mut self.truth));
                self.epoch += 1;
                self.gateway = GatewaySession::new(self.epoch, PerDocument::default());
            }
            Event::KillOperator => {
                self.disconnect();
                self.term += 1;
                self.operator = OperatorSession::new(self.term, Arc::clone(&self.desired));
                (self.totals, self.heard) = (UsageTotals::default(), None);
                self.ended.clear();
                (self.settled, self.counted) = (0, 0);
                (self.spent, self.asks) = (SpentRows::new(), BTreeMap::new());
            }
        }
    }

    fn hour(&self) -> Hour {
        let begin: Timestamp = "2026-11-26T01:30:00Z".parse().unwrap();
        Hour::of(begin + SignedDuration::from_hours(self.hours))
    }

    fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.gateway.disconnected(connection);
            self.operator.disconnected();
        }
    }

    fn fate(&mut self) -> Fate {
        self.fates.pop().unwrap_or_else(|| vec![1])
    }

    fn step(&mut self, event: Event) -> Result<(), TestCaseError> {
        self.tick += 1;
        self.happens(event);
        if self.connection.is_none() {
            self.connections += 1;
            self.connection = Some(self.connections);
            self.operator.connected();
        }
        self.deliver()?;
        self.speak();
        let counted = self.count();
        prop_assert!(counted >= self.counted, "the sum became less");
        prop_assert!(counted <= self.truth_before + sum(&self.truth), "more was counted than was used");
        self.counted = counted;
        Ok(())
    }

    fn deliver(&mut self) -> Result<(), TestCaseError> {
        for late in take_arrived(&mut self.to_gateway, self.tick) {
            let message: OperatorMessage = serde_json::from_str(&late.message).unwrap();
            // A connection that is gone delivers nothing more. If it does, nobody listens.
            if Some(late.connection) != self.connection {
                let now = self.now();
                let is_over = self.listened.is_some_and(|listened| late.connection <= listened);
                prop_assert!(!is_over || self.gateway.receive(late.connection, message, now).is_err());
                continue;
            }
            let number = (message.term, message.seq);
            let taken = self.gateway.receive(late.connection, message, self.now());
            let taken = taken.map_err(|refused| TestCaseError::fail(refused.to_string()))?;
            self.listened = Some(late.connection);
            if !taken.update.is_empty() {
                self.gateway.applied(&taken.hashes, &Ok(()));
            }
            if let Some((told, _, _)) = taken.accounts {
                self.learn(number, told)?;
            }
        }
        for late in take_arrived(&mut self.to_operator, self.tick) {
            let message: GatewayMessage = serde_json::from_str(&late.message).unwrap();
            if Some(late.connection) == self.connection && self.operator.receive(&message).unwrap() {
                if let Some(ended) = self.heard.replace(message.epoch).filter(|before| *before != message.epoch) {
                    self.totals.end("team", ended);
                    self.ended.push(ended);
                    self.settled = self.count();
                    self.spent.clear();
                }
                self.hear(message.accounts.clone())?;
            }
            // Of a process that this operator has heard, even what a connection delivers that is gone does no harm.
            if self.heard == Some(message.epoch) || self.ended.contains(&message.epoch) {
                self.totals.take("team", &message);
            }
        }
        Ok(())
    }

    /// The gateway takes what a message says of accounts.
    fn learn(&mut self, number: (u64, u64), told: Told) -> Result<(), TestCaseError> {
        let before = self.known.0.clone();
        let Told { all, accounts, callers, .. } = told;
        apply(&mut self.known.0, all, accounts);
        apply(&mut self.known.1, all, callers);
        match self.said.get(&number) {
            Some(said) => prop_assert_eq!(&self.known, said, "it knows something else than it was to know by message {:?}", number),
            None => prop_assert_eq!(&self.known.0, &before),
        }
        for (id, row) in &self.known.0 {
            prop_assert_eq!(&row.budget, &meant_for(self.epoch));
            let number_before = before.get(id).map_or(0, |before| before.allowance);
            prop_assert!(row.allowance >= number_before, "it learns again what was before");
        }
        Ok(())
    }

    /// The operator takes what a report says of accounts.
    fn hear(&mut self, report: Report) -> Result<(), TestCaseError> {
        for (account, periods) in report.accounts {
            let known = self.spent.entry(account).or_default();
            for (period, row) in periods {
                let before = known.insert(period, row).unwrap_or_default();
                prop_assert!(row.used >= before.used, "less was spent than before");
            }
        }
        self.asks = report.asks;
        Ok(())
    }

    fn speak(&mut self) {
        let Some(connection) = self.connection else { return };
        let wanted = self.operator.standing().map(|standing| self.wanted(standing.epoch));
        if let Some((rows, callers)) = wanted.clone() {
            let rows = self.changed(rows);
            self.operator.desire_accounts(rows, Arc::new(callers));
        }
        let number = (self.term, self.operator.next_seq());
        if let Some(message) = self.operator.message(self.now()) {
            assert_eq!((message.term, message.seq), number);
            self.said.extend(wanted.map(|wanted| (number, wanted)));
            let message = serde_json::to_string(&message).unwrap();
            for delay in self.fate() {
                self.to_gateway.push(Late { connection, arrives: self.tick + delay, message: message.clone() });
            }
        }
        if self.gateway.report_due(true).is_some_and(|due| due <= self.now()) {
            let usage = self.truth.since(self.gateway.usage_known());
            let spent = self.spending.since(self.gateway.accounts_known());
            let accounts = Report { accounts: spent, asks: self.spending.asks.clone(), ..Report::default() };
            let (usage_changes, account_changes) = (self.truth.changes(), self.spending.changes);
            let facts = Facts { usage, usage_changes, accounts, account_changes, ..Facts::default() };
            let message = serde_json::to_string(&self.gateway.report(facts, self.now())).unwrap();
            for delay in self.fate() {
                self.to_operator.push(Late { connection, arrives: self.tick + delay, message: message.clone() });
            }
        }
    }
}

/// What arrives now, the last sent first, so that equal delays reorder as well.
fn take_arrived(under_way: &mut Vec<Late>, tick: u32) -> Vec<Late> {
    let (arrived, waiting) = std::mem::take(under_way).into_iter().partition(|late| late.arrives <= tick);
    *under_way = waiting;
    let mut arrived: Vec<_> = arrived;
    arrived.reverse();
    arrived
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        30 => Just(Event::Nothing),
        30 => (0_usize..3, 1_u64..1000).prop_map(|(backend, tokens)| Event::Call(backend, tokens)),
        3 => (1_i64..60).prop_map(Event::Hours),
        3 => (0_usize..4).prop_map(Event::Desire),
        6 => (0_usize..3, prop::bool::weighted(0.8)).prop_map(|(number, there)| Event::Account(number, there)),
        6 => (0_usize..3, 0_i64..3, 1_u64..1000).prop_map(|(number, period, tokens)| Event::Spend(number, period, tokens)),
        3 => Just(Event::Break),
        1 => Just(Event::KillGateway),
        1 => Just(Event::KillOperator),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(vec![1]),
        2 => Just(vec![]),
        2 => (1_u32..30).prop_map(|delay| vec![delay]),
        1 => (1_u32..10, 1_u32..30).prop_map(|(one, other)| vec![one, other]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn whatever_becomes_of_messages_every_token_is_counted_once_and_plan_and_accounts_arrive(
        events in prop::collection::vec(event(), 0..300),
        fates in prop::collection::vec(fate(), 0..200),
    ) {
        let mut simulation = Simulation::new(fates);
        for event in events {
            simulation.step(event)?;
        }
        // From here on the channel is a good one, and a heartbeat away both halves agree.
        simulation.fates.clear();
        for _ in 0..RECOVERY {
            simulation.step(Event::Nothing)?;
        }
        let replica = simulation.operator.replica().unwrap();
        for kind in DocumentKind::ALL {
            prop_assert_eq!(replica.hashes.get(kind).as_deref(), Some(simulation.desired.hash(kind)));
        }
        prop_assert_eq!(replica.epoch, simulation.epoch);
        prop_assert_eq!(simulation.counted, simulation.settled + sum(&simulation.truth));
        prop_assert_eq!(&simulation.known, &simulation.wanted(simulation.epoch));
        prop_assert_eq!(&simulation.spent, &simulation.spending.since(0));
        prop_assert_eq!(&simulation.asks, &simulation.spending.asks);
    }
}
