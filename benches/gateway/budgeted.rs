//! The operator of a gateway whose calls count for a budget: its own accounts and its own end of the exchange, with a ledger
//! that nobody keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use quartermaster::controllers::gateway_certificates::{AUTHORITY, CERTIFICATE, KEY};
use quartermaster::exchange::accounts::{Accounts, Beginning, Claimed, Task};
use quartermaster::exchange::certificates::{Authority, Identity};
use quartermaster::exchange::client::{self, Fleet, GatewayPod};
use quartermaster::exchange::tls::client_configuration;
use quartermaster_core::decide::account::granting::{BudgetTerms, PeriodTerms};
use quartermaster_core::decide::account::message::{CallerRow, RouteRow};
use quartermaster_core::decide::account::{AccountId, Limits, PeriodId, Unit};
use quartermaster_core::decide::gateway::exchange::documents::{Desired, Secrets};
use quartermaster_core::decide::gateway::plan::{Endpoints, Plan};
use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// The uid of the budget.
const BUDGET: &str = "6f1c7d20-0000-4000-8000-000000000001";
/// Its limit in tokens, of which a run uses no percent.
const LIMIT: u64 = 1 << 53;

/// An operator. It ends with its owner.
pub struct Operator {
    namespace: String,
    accounts: Arc<Accounts>,
    /// What there is to be connected to: while it is here.
    _fleet: watch::Sender<Arc<Fleet>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// Makes an authority, and writes the certificate of a namespace's gateway by it into a directory, as a mounted Secret has it.
pub fn certify(namespace: &str, directory: &Path) -> Authority {
    let authority = Authority::make(Timestamp::now()).unwrap();
    let identity = Identity::Gateway { namespace: namespace.to_owned() };
    let gateway = authority.issue(&identity, Timestamp::now()).unwrap();
    std::fs::create_dir_all(directory).unwrap();
    let trusted = authority.certified().certificate.as_str();
    for (name, text) in [(CERTIFICATE, gateway.certificate.as_str()), (KEY, gateway.key.expose_secret()), (AUTHORITY, trusted)] {
        std::fs::write(directory.join(name), text).unwrap();
    }
    authority
}

impl Operator {
    /// Connects to a gateway that goes by this plan and these secrets, and covers all calls of a caller by a budget.
    pub fn start(authority: &Authority, exchange: SocketAddr, plan: &Plan, secrets: &Secrets, caller: &str) -> Self {
        let namespace = plan.namespace.clone();
        let accounts = Arc::<Accounts>::default();
        accounts.begin(Beginning { term: 1, with_budgets: BTreeSet::from([namespace.clone()]), ..Beginning::default() });
        accounts.load(BTreeMap::new());
        accounts.configure(&namespace, budgets(caller));
        accounts.verdict(&namespace, callers(caller, plan));

        let own = authority.issue(&Identity::Operator, Timestamp::now()).unwrap();
        let pod = GatewayPod { namespace: namespace.clone(), name: "gateway".to_owned(), address: exchange };
        let desired = Arc::new(Desired::new(plan, secrets, &Endpoints::new()).unwrap());
        let (fleet, receiver) = watch::channel(Arc::new(Fleet {
            tls: client_configuration(&own, &authority.certified().certificate).unwrap(),
            desired: BTreeMap::from([(namespace.clone(), desired)]),
            pods: BTreeMap::from([("pod".to_owned(), pod)]),
        }));
        let operator = client::Operator {
            term: 1,
            leads: Arc::new(|| true),
            fleet: receiver,
            replicas: Arc::default(),
            accounts: Arc::clone(&accounts),
            wake: Arc::new(|_: &str| {}),
            traffic: Arc::default(),
        };
        let exchanging = tokio::spawn(client::run(operator, CancellationToken::new()));
        let keeping = tokio::spawn(keep(Arc::clone(&accounts)));
        Self { namespace, accounts, _fleet: fleet, _tasks: [exchanging, keeping].map(AbortOnDropHandle::new) }
    }

    /// The tokens that count as used: none before the gateway goes by the budget.
    pub fn used(&self) -> u64 {
        let snapshot = self.accounts.snapshot(&self.namespace, BUDGET);
        snapshot.and_then(|snapshot| Some(snapshot.units.get(&Unit::Tokens)?.used)).unwrap_or(0)
    }
}

/// Keeps a ledger in which every write stands at once.
async fn keep(accounts: Arc<Accounts>) {
    loop {
        for (namespace, task) in accounts.turn().unwrap() {
            match task {
                Task::Claim => accounts.claimed(&namespace, Claimed::Ledger(None)),
                Task::Hot(ledger) => accounts.hot_written(&namespace, &ledger, true),
                Task::History { changes, .. } => accounts.history_written(&namespace, changes, true),
            }
        }
        accounts.due().await;
    }
}

/// One that blocks at its limit, in a period that does not end.
fn budgets(caller: &str) -> BTreeMap<String, BudgetTerms> {
    let start = Timestamp::now().as_second();
    let limits = Limits { tokens: Some(LIMIT), cost: None };
    let terms = BudgetTerms {
        name: "sprint".to_owned(),
        period: PeriodTerms { id: PeriodId(start), start, end: None, limits },
        covers: BTreeMap::from([(caller.to_owned(), None)]),
        cached_input_percent: 100,
        ..BudgetTerms::default()
    };
    BTreeMap::from([(BUDGET.to_owned(), terms)])
}

/// What it means for the caller on each route of the plan.
fn callers(caller: &str, plan: &Plan) -> BTreeMap<String, CallerRow> {
    let account = AccountId { budget: BUDGET.to_owned(), unit: Unit::Tokens, caller: None };
    let row = RouteRow { accounts: vec![account], ..RouteRow::default() };
    let routes = plan.routes.keys().map(|route| (route.clone(), row.clone())).collect();
    BTreeMap::from([(caller.to_owned(), CallerRow { routes })])
}
