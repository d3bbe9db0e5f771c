//! A namespace in this process, second by second: its budgets, the leader's accounts of them, and the replicas of its gateway,
//! each with the operator's end of the connection to it. Time is virtual: the clock of the runtime has to be paused. What the
//! operator does is measured, and what the replicas do is not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use quartermaster::exchange::accounts::{Accounts, Beginning, Claimed, Task};
use quartermaster::operate::ledger::parts;
use quartermaster_core::api::TokenBudget;
use quartermaster_core::decide::account::Now;
use quartermaster_core::decide::account::granting::BudgetTerms;
use quartermaster_core::decide::budget::observation::PoolFacts;
use quartermaster_core::decide::budget::terms;
use quartermaster_core::decide::budget::verdict::{self, BudgetVerdict};
use quartermaster_core::decide::gateway::exchange::documents::{Desired, Secrets};
use quartermaster_core::decide::gateway::plan::{self, Endpoints, Plan};
use serde_json::{Value, json};

use crate::replica::Replica;

/// The namespace.
pub const NAMESPACE: &str = "bench";
/// The one ModelRoute.
pub const ROUTE: &str = "smart";
/// The one InferenceBackend.
pub const BACKEND: &str = "qwen";
/// The term of the leader.
pub const TERM: u64 = 1;

/// How often each side of a connection says something, where nothing hurries it.
const SECOND: Duration = Duration::from_secs(1);
/// The limit of each budget, in tokens: so high that no threshold is reached, and all that is used is far below a percent.
const LIMIT: u64 = 1_000_000_000_000;

/// How large a namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Callers, and as many budgets.
    pub callers: usize,
    /// Replicas of the gateway.
    pub gateways: usize,
    /// Budgets that cover each caller, and callers that each budget covers.
    pub of_caller: usize,
}

/// A namespace.
pub struct Fleet {
    /// How large it is.
    pub size: Size,
    /// Its budgets.
    pub budgets: Vec<TokenBudget>,
    /// Its pools, which are the callers.
    pub pools: Vec<PoolFacts>,
    /// What the leader knows.
    pub accounts: Accounts,
    replicas: Vec<Replica>,
    names: Vec<String>,
    elapsed: Duration,
    woken: Arc<AtomicU64>,
}

/// What a second cost the operator.
#[derive(Clone, Copy, Debug)]
pub struct Second {
    /// To take a report of each replica.
    pub hear: Duration,
    /// To let time pass, and to find out what is to be done.
    pub tick: Duration,
    /// To make a message for each replica.
    pub tell: Duration,
    /// Whether anything had to be written: `tick` made the text then.
    pub writes: bool,
    /// To compress the ledger, and to go by it, where it was written.
    pub ledger: Option<Duration>,
    /// Bytes of all reports, and of all messages.
    pub bytes: (usize, usize),
    /// Calls that wait for room.
    pub waiting: usize,
}

impl Fleet {
    /// One of which the operator has just begun to lead.
    pub fn new(size: Size) -> Self {
        let pools: Vec<PoolFacts> = (0..size.callers).map(pool).collect();
        let budgets: Vec<TokenBudget> = (0..size.callers).map(|number| budget(number, size)).collect();
        let (accounts, woken) = (Accounts::default(), Arc::<AtomicU64>::default());
        let counted = Arc::clone(&woken);
        accounts.on_change(move |_: &str, _: &str| _ = counted.fetch_add(1, Ordering::Relaxed));
        let with_budgets = BTreeSet::from([NAMESPACE.to_owned()]);
        accounts.begin(Beginning { term: TERM, with_budgets, ..Beginning::default() });
        accounts.load(BTreeMap::new());
        let now = Timestamp::now();
        let given = budgets.iter().filter_map(|budget| Some((uid(budget), terms::of(budget, &pools, None, now)?)));
        let given: BTreeMap<String, BudgetTerms> = given.collect();
        assert_eq!(given.len(), size.callers, "a budget is not in force");
        let verdicts: Vec<BudgetVerdict> = budgets.iter().map(|budget| verdict::of(budget, &pools, None, now)).collect();
        accounts.configure(NAMESPACE, given);
        accounts.verdict(NAMESPACE, verdict::combine(&verdicts));
        let plan = Plan { schema: plan::SCHEMA, namespace: NAMESPACE.to_owned(), ..Plan::default() };
        let desired = Arc::new(Desired::new(&plan, &Secrets::default(), &Endpoints::new()).unwrap());
        let replicas = (1..).take(size.gateways).map(|epoch| Replica::new(epoch, Arc::clone(&desired))).collect();
        let names = pools.iter().map(|pool| pool.name.clone()).collect();
        Self { size, budgets, pools, accounts, replicas, names, elapsed: Duration::ZERO, woken }
    }

    /// How often a budget had to be looked at.
    pub fn woken(&self) -> u64 {
        self.woken.load(Ordering::Relaxed)
    }

    /// A second in which so many callers, the first ones, make a call at each replica: one report of each replica, a look at
    /// the accounts, and one message to each replica.
    pub async fn second(&mut self, callers: usize) -> Second {
        tokio::time::advance(SECOND).await;
        self.elapsed += SECOND;
        let now = Now { wall: Timestamp::now(), elapsed: self.elapsed };
        let (accounts, replicas, calling) = (&self.accounts, &mut self.replicas, &self.names[..callers]);
        let waiting: usize = replicas.iter_mut().map(|replica| replica.work(calling, now)).sum();
        let reports: Vec<String> = replicas.iter_mut().map(|replica| replica.report(now.elapsed)).collect();

        let begun = Instant::now();
        replicas.iter_mut().zip(&reports).for_each(|(replica, report)| replica.hear(report, accounts));
        let hear = begun.elapsed();

        let begun = Instant::now();
        let tasks = accounts.turn().unwrap();
        let tick = begun.elapsed();
        let writes = !tasks.is_empty();
        let ledger = carry_out(accounts, tasks);

        let begun = Instant::now();
        let messages: Vec<String> = replicas.iter_mut().map(|replica| replica.tell(accounts, now.elapsed)).collect();
        let tell = begun.elapsed();

        replicas.iter_mut().zip(&messages).for_each(|(replica, message)| replica.take(message, now));
        let bytes = |texts: &[String]| texts.iter().map(String::len).sum::<usize>();
        Second { hear, tick, tell, writes, ledger, bytes: (bytes(&reports), bytes(&messages)), waiting }
    }
}

/// Every write stands at once. What one of the ledger costs, without the API server.
fn carry_out(accounts: &Accounts, tasks: Vec<(String, Task)>) -> Option<Duration> {
    let mut cost = None;
    for (namespace, task) in tasks {
        match task {
            Task::Claim => accounts.claimed(&namespace, Claimed::Ledger(None)),
            Task::Hot(ledger) => {
                let begun = Instant::now();
                let parts = parts::of_hot(&ledger).unwrap();
                assert!(!parts.is_empty());
                accounts.hot_written(&namespace, &ledger, true);
                cost = Some(begun.elapsed());
            }
            Task::History { changes, .. } => accounts.history_written(&namespace, changes, true),
        }
    }
    cost
}

fn uid(budget: &TokenBudget) -> String {
    budget.metadata.uid.clone().unwrap_or_default()
}

fn pool(number: usize) -> PoolFacts {
    PoolFacts {
        name: format!("caller-{number:03}"),
        labels: BTreeMap::from([("caller".to_owned(), number.to_string())]),
        routes: BTreeSet::from([ROUTE.to_owned()]),
        ..PoolFacts::default()
    }
}

/// A budget whose period does not end while anybody measures.
fn budget(number: usize, size: Size) -> TokenBudget {
    let metadata = json!({
        "namespace": NAMESPACE, "name": format!("budget-{number:03}"), "generation": 1, "resourceVersion": "1",
        "uid": format!("6f1c7d20-0000-4000-8000-{number:012}"),
    });
    let spec = json!({
        "tokens": LIMIT, "appliesTo": applies_to(number, size),
        "period": { "type": "Sprint", "start": "2020-01-06T00:00", "lengthDays": 366 },
    });
    let budget = json!({ "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget", "metadata": metadata, "spec": spec });
    serde_json::from_value(budget).unwrap()
}

/// The caller of the same number, and those before it.
fn applies_to(number: usize, size: Size) -> Value {
    if size.of_caller >= size.callers {
        return json!({});
    }
    let covered: Vec<String> =
        (0..size.of_caller).map(|before| ((number + size.callers - before) % size.callers).to_string()).collect();
    let expression = json!({ "key": "caller", "operator": "In", "values": covered });
    json!({ "agentPoolSelector": { "matchExpressions": [expression] } })
}
