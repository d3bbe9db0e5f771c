//! Gateways and an operator on loopback, for the tests of the exchange.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use quartermaster_core::decide::account::message::Told;
use quartermaster_core::decide::gateway::exchange::documents::{Desired, PerDocument, Secrets, Update};
use quartermaster_core::decide::gateway::exchange::gateway_session::Facts;
use quartermaster_core::decide::gateway::exchange::usage::{Counts, Hour, Series, UsageCounters};
use quartermaster_core::decide::gateway::plan::{self, Endpoints, Plan};
use rustls::{ClientConfig, ServerConfig};
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::accounts::Accounts;
use super::certificates::{Authority, Identity};
use super::client::{self, Fleet, GatewayPod, Operator, Traffic};
use super::replicas::{Replica, Replicas};
use super::server::{self, Changes, End, Gateway, Settings};
use super::tls::{client_configuration, server_configuration};
use crate::sources::testing::DEADLINE;

pub fn authority() -> Authority {
    Authority::make(Timestamp::now()).unwrap()
}

/// What the gateway of a namespace listens with.
pub fn server_tls(authority: &Authority, namespace: &str) -> Arc<ServerConfig> {
    let own = authority.issue(&Identity::Gateway { namespace: namespace.to_owned() }, Timestamp::now()).unwrap();
    server_configuration(&own, &authority.certified().certificate).unwrap()
}

/// What the operator connects with.
pub fn client_tls(authority: &Authority) -> Arc<ClientConfig> {
    let own = authority.issue(&Identity::Operator, Timestamp::now()).unwrap();
    client_configuration(&own, &authority.certified().certificate).unwrap()
}

/// A plan that is known by the name of its only caller, and secrets that are known by their only value.
pub fn desired(namespace: &str, caller: &str, secret: &str) -> Arc<Desired> {
    let callers = [(caller.to_owned(), plan::Caller::default())].into();
    let plan = Plan { schema: plan::SCHEMA, namespace: namespace.to_owned(), callers, ..Plan::default() };
    let secrets = Secrets([("openai.main".to_owned(), secret.into())].into());
    Arc::new(Desired::new(&plan, &secrets, &Endpoints::new()).unwrap())
}

/// A gateway that remembers what was put in force.
#[derive(Default)]
pub struct FakeGateway {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    plan: Option<Arc<Plan>>,
    secrets: Secrets,
    updates: usize,
    reports: usize,
    usage: UsageCounters,
    draining: bool,
    told: Vec<Told>,
    spent: u64,
    calls: usize,
}

impl FakeGateway {
    /// The only caller of the plan in force.
    pub fn caller(&self) -> Option<String> {
        self.state.lock().unwrap().plan.as_ref().map(|plan| plan.callers.keys().next().unwrap().clone())
    }

    pub fn secret(&self) -> Option<String> {
        let state = self.state.lock().unwrap();
        state.secrets.0.get("openai.main").map(|secret| secret.expose_secret().to_owned())
    }

    pub fn updates(&self) -> usize {
        self.state.lock().unwrap().updates
    }

    pub fn reports(&self) -> usize {
        self.state.lock().unwrap().reports
    }

    pub fn used(&self, tokens: u64) {
        let series = Series { caller: "coder".to_owned(), route: "smart-router".to_owned(), backend: "qwen".to_owned() };
        let (hour, counts) = (Hour::of(Timestamp::now()), Counts { input: tokens, requests: 1, ..Counts::default() });
        self.state.lock().unwrap().usage.record(series, hour, hour, &counts);
    }

    pub fn drain(&self) {
        self.state.lock().unwrap().draining = true;
    }

    /// What it was told of accounts, each time that it was something.
    pub fn told(&self) -> Vec<Told> {
        self.state.lock().unwrap().told.clone()
    }

    /// Something was spent of accounts.
    pub fn spent(&self) {
        self.state.lock().unwrap().spent += 1;
    }

    /// So many calls have begun and are not settled.
    pub fn calls(&self, calls: usize) {
        self.state.lock().unwrap().calls = calls;
    }
}

impl Gateway for FakeGateway {
    fn apply(&self, update: Update) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        state.updates += 1;
        if let Some(secrets) = update.secrets {
            state.secrets = secrets;
        }
        match update.plan {
            Some(plan) if plan.callers.contains_key("refused") => return Err("nobody may be called refused".to_owned()),
            Some(plan) => state.plan = Some(plan),
            None => {}
        }
        Ok(())
    }

    fn told(&self, told: &Told, _: u64, _: Duration) {
        if *told != Told::default() {
            self.state.lock().unwrap().told.push(told.clone());
        }
    }

    fn changes(&self) -> Changes {
        let state = self.state.lock().unwrap();
        Changes { usage: state.usage.changes(), accounts: state.spent, tasks: 0 }
    }

    fn is_settled(&self) -> bool {
        self.state.lock().unwrap().calls == 0
    }

    fn facts(&self, known: Changes, _: u64) -> Facts {
        let mut state = self.state.lock().unwrap();
        state.reports += 1;
        let (usage, usage_changes) = (state.usage.since(known.usage), state.usage.changes());
        Facts { draining: state.draining, usage, usage_changes, account_changes: state.spent, ..Facts::default() }
    }
}

/// A gateway's end on a port of its own.
pub struct Server {
    pub gateway: Arc<FakeGateway>,
    pub address: SocketAddr,
    pub news: Arc<Notify>,
    pub tls: watch::Sender<Arc<ServerConfig>>,
    pub finish: CancellationToken,
    pub task: JoinHandle<End>,
}

impl Server {
    pub async fn start(tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (gateway, news, finish) = (Arc::new(FakeGateway::default()), Arc::new(Notify::new()), CancellationToken::new());
        let (tls, receiver) = watch::channel(tls);
        let settings = Settings {
            epoch: fastrand::u64(..),
            mounted: PerDocument::default(),
            tls: receiver,
            gateway: Arc::clone(&gateway) as Arc<dyn Gateway>,
            news: Arc::clone(&news),
            finish: finish.clone(),
            patience: DEADLINE,
        };
        let task = tokio::spawn(server::serve(listener, settings));
        Self { gateway, address, news, tls, finish, task }
    }

    pub fn pod(&self, namespace: &str) -> GatewayPod {
        GatewayPod { namespace: namespace.to_owned(), name: "quartermaster-gateway-0".to_owned(), address: self.address }
    }
}

/// Whether an operator leads, and how often it has asked.
pub struct Leads {
    pub leads: bool,
    pub asked: usize,
}

/// An operator's end.
pub struct Client {
    pub fleet: watch::Sender<Arc<Fleet>>,
    pub replicas: Arc<Replicas>,
    /// Nobody has begun to keep them: gateways are told nothing.
    pub accounts: Arc<Accounts>,
    pub traffic: Arc<Traffic>,
    pub woken: Arc<Mutex<Vec<String>>>,
    pub leads: Arc<Mutex<Leads>>,
    pub cancelled: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Client {
    pub fn start(term: u64, fleet: Fleet) -> Self {
        let (fleet, receiver) = watch::channel(Arc::new(fleet));
        let (replicas, accounts) = (Arc::<Replicas>::default(), Arc::<Accounts>::default());
        let (traffic, cancelled) = (Arc::<Traffic>::default(), CancellationToken::new());
        let (woken, leads) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(Mutex::new(Leads { leads: true, asked: 0 })));
        let (told, asked) = (Arc::clone(&woken), Arc::clone(&leads));
        let operator = Operator {
            term,
            leads: Arc::new(move || {
                let mut leads = asked.lock().unwrap();
                leads.asked += 1;
                leads.leads
            }),
            fleet: receiver,
            replicas: Arc::clone(&replicas),
            accounts: Arc::clone(&accounts),
            wake: Arc::new(move |namespace: &str| told.lock().unwrap().push(namespace.to_owned())),
            traffic: Arc::clone(&traffic),
        };
        let task = tokio::spawn(client::run(operator, cancelled.clone()));
        Self { fleet, replicas, accounts, traffic, woken, leads, cancelled, task }
    }

    /// What is known of the pod with this uid, in the namespace `team`.
    pub fn replica(&self, uid: &str) -> Option<Replica> {
        self.replicas.of_namespace("team").remove(uid)
    }

    pub fn is_connected(&self, uid: &str) -> bool {
        self.replica(uid).is_some_and(|replica| replica.connected)
    }

    /// The hash of the plan that the pod with this uid reports.
    pub fn plan_hash(&self, uid: &str) -> Option<String> {
        self.replica(uid)?.report?.hashes.plan
    }

    /// All tokens of input.
    pub fn tokens(&self) -> u64 {
        self.accounts.totals().values().map(|counts| counts.input).sum()
    }
}

/// One pod with the uid `pod` in the namespace `team`, and what it is to have in force.
pub fn fleet_of(pod: GatewayPod, desired: Arc<Desired>, tls: Arc<ClientConfig>) -> Fleet {
    Fleet { tls, desired: BTreeMap::from([("team".to_owned(), desired)]), pods: BTreeMap::from([("pod".to_owned(), pod)]) }
}
