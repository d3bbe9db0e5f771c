//! A replica of the gateway without its sockets: the gateway's own bookkeeping and its half of the exchange, and the operator's
//! end of the connection to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quartermaster::exchange::accounts::Accounts;
use quartermaster_core::decide::account::Now;
use quartermaster_core::decide::account::spending::{Most, Short, Spending, Ticket, Used};
use quartermaster_core::decide::gateway::exchange::documents::{Desired, PerDocument};
use quartermaster_core::decide::gateway::exchange::gateway_session::{Facts, GatewaySession};
use quartermaster_core::decide::gateway::exchange::message::{GatewayMessage, OperatorMessage};
use quartermaster_core::decide::gateway::exchange::operator_session::OperatorSession;
use quartermaster_core::decide::gateway::exchange::usage::{Counts, Hour, Series, UsageCounters};

use crate::fleet::{BACKEND, NAMESPACE, ROUTE, TERM};

/// The one connection that there is.
const CONNECTION: u64 = 1;
/// What a call reserves.
const MOST: Most = Most { tokens: 6_000, cost: None };
/// What it uses.
const USED: Used = Used { input: 1_000, cached_input: 0, cache_write: 0, output: 500, cost: None, exact: true };

/// A replica, and the connection to it.
pub struct Replica {
    process: GatewaySession,
    spending: Spending,
    usage: UsageCounters,
    /// The callers, by number, whose call waits for room.
    waiting: BTreeMap<usize, Ticket>,
    /// The operator's half of the exchange.
    leader: OperatorSession,
    pod: String,
}

impl Replica {
    /// One that was just connected to.
    pub fn new(epoch: u64, desired: Arc<Desired>) -> Self {
        let mut leader = OperatorSession::new(TERM, desired);
        leader.connected();
        Self {
            process: GatewaySession::new(epoch, PerDocument::default()),
            spending: Spending::default(),
            usage: UsageCounters::default(),
            waiting: BTreeMap::new(),
            leader,
            pod: format!("pod-{epoch}"),
        }
    }

    /// Each of these callers makes a call, which is answered at once. How many of them have to wait for room.
    pub fn work(&mut self, callers: &[String], now: Now) -> usize {
        let not_calling = self.waiting.split_off(&callers.len());
        not_calling.into_values().for_each(|ticket| self.spending.withdraw(ticket));
        for (number, caller) in callers.iter().enumerate() {
            let ticket = self.waiting.remove(&number);
            match self.spending.reserve(caller, ROUTE, MOST, ticket, now) {
                Ok(reservation) => {
                    let _settled = self.spending.settle(reservation, Some(USED));
                    let series = Series { caller: caller.clone(), route: ROUTE.to_owned(), backend: BACKEND.to_owned() };
                    let counts = Counts { input: USED.input, output: USED.output, requests: 1, ..Counts::default() };
                    let hour = Hour::of(now.wall);
                    self.usage.record(series, hour, hour, &counts);
                }
                Err(Short::Wait) => {
                    let ticket = ticket.unwrap_or_else(|| self.spending.wait(caller, ROUTE, MOST, now));
                    self.waiting.insert(number, ticket);
                }
                Err(short) => panic!("a call is refused: {short:?}"),
            }
        }
        self.waiting.len()
    }

    /// Its report, as it travels.
    pub fn report(&mut self, now: Duration) -> String {
        let Self { process, spending, usage, .. } = self;
        let (accounts, account_changes) = spending.report(process.accounts_known(), process.next_seq());
        let (usage, usage_changes) = (usage.since(process.usage_known()), usage.changes());
        let facts = Facts { usage, usage_changes, accounts, account_changes, ..Facts::default() };
        serde_json::to_string(&process.report(facts, now)).unwrap()
    }

    /// The operator takes a report, as it does where one arrives.
    pub fn hear(&mut self, report: &str, accounts: &Accounts) {
        let message: GatewayMessage = serde_json::from_str(report).unwrap();
        assert!(self.leader.receive(&message).unwrap(), "a report is no news");
        let standing = self.leader.standing().unwrap();
        accounts.receive(NAMESPACE, &self.pod, &message, standing);
    }

    /// What the operator says, as it travels, as it does before each message.
    pub fn tell(&mut self, accounts: &Accounts, now: Duration) -> String {
        let epoch = self.leader.standing().unwrap().epoch;
        let (seq, known) = (self.leader.next_seq(), self.leader.accounts_known());
        if let Some((rows, callers)) = accounts.rows(NAMESPACE, epoch, seq, known) {
            self.leader.desire_accounts(rows, callers);
        }
        self.leader.keep(accounts.is_to_stay(NAMESPACE, epoch));
        let (tasks, changes) = accounts.task_rows(NAMESPACE, epoch, self.leader.tasks_known());
        self.leader.desire_tasks(tasks, changes);
        let message = self.leader.message(now).expect("each second a message is due");
        serde_json::to_string(&message).unwrap()
    }

    /// It takes what the operator says.
    pub fn take(&mut self, message: &str, now: Now) {
        let message: OperatorMessage = serde_json::from_str(message).unwrap();
        let taken = self.process.receive(CONNECTION, message, now.elapsed).unwrap();
        self.process.applied(&taken.hashes, &Ok(()));
        if let Some((told, acknowledged, valid_for)) = taken.accounts {
            self.spending.take(&told, acknowledged, valid_for, now);
        }
    }
}
