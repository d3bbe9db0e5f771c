//! An operator that speaks the exchange with a gateway of a test: it says of accounts what the test lets it say, and remembers
//! what it hears.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use quartermaster::exchange::certificates::{Authority, Identity};
use quartermaster::exchange::server::{self, End};
use quartermaster::exchange::tls::{client_configuration, server_configuration};
use quartermaster::gateway::exchange::Told;
use quartermaster_core::decide::account::granting::AccountRows;
use quartermaster_core::decide::account::message::{AccountRow, Ask, CallerRow, RouteRow, SpentRow};
use quartermaster_core::decide::account::tasks::union::TaskUnion;
use quartermaster_core::decide::account::tasks::{TaskId, TaskRow, Tasks};
use quartermaster_core::decide::account::{AccountId, PeriodId};
use quartermaster_core::decide::gateway::exchange::VALID_FOR;
use quartermaster_core::decide::gateway::exchange::documents::{Desired, PerDocument, Secrets};
use quartermaster_core::decide::gateway::exchange::message::GatewayMessage;
use quartermaster_core::decide::gateway::exchange::operator_session::OperatorSession;
use quartermaster_core::decide::gateway::plan::{Endpoints, Plan};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{DEADLINE, World, until};

/// The account of tokens of the budget `sprint`.
pub const TOKENS: &str = "uid/tokens";
/// The same of money.
pub const COST: &str = "uid/cost";
/// The period that is open.
const PERIOD: PeriodId = PeriodId(1000);
/// The epochs of two other replicas.
const ANOTHER: u64 = 1;
const A_THIRD: u64 = 2;
/// Seconds until it ends.
pub const ENDS_IN: i64 = 3600;

pub fn id(account: &str) -> AccountId {
    account.parse().unwrap()
}

/// An account of the budget `sprint`, of whose limit the gateway may spend an allowance without asking.
pub fn row(limit: u64, allowance: u64) -> AccountRow {
    AccountRow {
        budget: "sprint".to_owned(),
        period: PERIOD,
        period_end: Some(Timestamp::now().as_second() + ENDS_IN),
        allowance,
        limit,
        free: limit - allowance,
        message: Some("Ask #platform.".to_owned()),
        cached_input_percent: 100,
        ..AccountRow::default()
    }
}

/// What an operator says.
pub struct Said {
    pub accounts: BTreeMap<AccountId, AccountRow>,
    /// What budgets mean for the calls of `coder` on `smart`; the accounts are those above.
    pub route: RouteRow,
    /// Whether it grants what is asked for, as far as the limits go.
    pub grants: bool,
    /// Seconds for which its word holds.
    pub valid_for: u64,
    /// What other replicas say of tasks.
    pub tasks: Tasks,
}

impl Said {
    /// This is all that there is.
    pub fn only(&mut self, account: &str, row: AccountRow) {
        self.accounts = [(id(account), row)].into();
    }

    fn callers(&self) -> BTreeMap<String, CallerRow> {
        let route = RouteRow { accounts: self.accounts.keys().cloned().collect(), ..self.route.clone() };
        [("coder".to_owned(), CallerRow { routes: [("smart".to_owned(), route)].into() })].into()
    }
}

struct State {
    said: Said,
    /// How often the test has changed that, and how much of it the gateway has taken.
    version: u64,
    taken: u64,
    spent: BTreeMap<AccountId, BTreeMap<PeriodId, SpentRow>>,
    asks: BTreeMap<AccountId, Ask>,
    /// What the gateway says of tasks, and the others.
    tasks: TaskUnion,
}

impl State {
    fn hear(&mut self, message: &GatewayMessage) {
        self.asks = message.accounts.asks.clone();
        self.tasks.receive(message.epoch, &message.accounts.tasks, Duration::ZERO);
        for (account, periods) in &message.accounts.accounts {
            self.spent.entry(account.clone()).or_default().extend(periods);
        }
        for (account, row) in &mut self.said.accounts {
            row.used = self.spent.get(account).and_then(|periods| periods.get(&row.period)).map_or(0, |spent| spent.used);
            if let Some(ask) = self.asks.get(account).filter(|_| self.said.grants) {
                row.allowance = row.limit.min(row.allowance + ask.waiting + ask.ahead);
                row.free = row.limit - row.allowance;
            }
        }
    }
}

/// An operator, and the gateway's end of the exchange with it.
pub struct Operator {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    /// Where the gateway's end is, and what it is to be called with.
    address: SocketAddr,
    name: String,
    tls: Arc<ClientConfig>,
    desired: Arc<Desired>,
    connection: Option<AbortOnDropHandle<()>>,
    /// Ends the exchange as a gateway that leaves does.
    pub finish: CancellationToken,
    pub serving: JoinHandle<End>,
}

impl Operator {
    /// Connects an operator to a gateway, and gives it a plan. No budget covers anybody yet.
    pub async fn of(world: &World, plan: &Value) -> Self {
        let authority = Authority::make(Timestamp::now()).unwrap();
        let trusted = &authority.certified().certificate;
        let issue = |identity: &Identity| authority.issue(identity, Timestamp::now()).unwrap();
        let gateway = Identity::Gateway { namespace: "team".to_owned() };
        let (tls, receiver) = watch::channel(server_configuration(&issue(&gateway), trusted).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let finish = CancellationToken::new();
        let settings = server::Settings {
            epoch: fastrand::u64(..),
            mounted: PerDocument::default(),
            tls: receiver,
            gateway: Arc::new(Told::new(world.gateway.clone())),
            news: world.gateway.news.clone(),
            finish: finish.clone(),
            patience: DEADLINE,
        };
        let serving = tokio::spawn(async move {
            let end = server::serve(listener, settings).await;
            drop(tls);
            end
        });

        let said = Said {
            accounts: BTreeMap::new(),
            route: RouteRow::default(),
            grants: false,
            valid_for: VALID_FOR.as_secs(),
            tasks: Tasks::new(),
        };
        let state =
            State { said, version: 0, taken: 0, spent: BTreeMap::new(), asks: BTreeMap::new(), tasks: TaskUnion::default() };
        let plan: Plan = serde_json::from_value(plan.clone()).unwrap();
        let mut operator = Self {
            state: Arc::new(Mutex::new(state)),
            changed: Arc::default(),
            address,
            name: gateway.name(),
            tls: client_configuration(&issue(&Identity::Operator), trusted).unwrap(),
            desired: Arc::new(Desired::new(&plan, &Secrets::default(), &Endpoints::new()).unwrap()),
            connection: None,
            finish,
            serving,
        };
        operator.come_back();
        operator.tell(|_| {}).await;
        operator
    }

    /// Says something else, and waits until the gateway has taken it.
    pub async fn tell(&self, change: impl FnOnce(&mut Said)) {
        let version = {
            let mut state = lock(&self.state);
            change(&mut state.said);
            let State { said, tasks, .. } = &mut *state;
            tasks.receive(ANOTHER, &said.tasks, Duration::ZERO);
            state.version += 1;
            state.version
        };
        self.changed.notify_one();
        until("the gateway has taken what the operator says", || lock(&self.state).taken >= version).await;
    }

    /// What the gateway says to have spent.
    pub fn spent(&self, account: &str) -> SpentRow {
        let state = lock(&self.state);
        state.spent.get(&id(account)).and_then(|periods| periods.get(&PERIOD)).copied().unwrap_or_default()
    }

    /// Waits until the gateway says to have spent this.
    pub async fn until_spent(&self, account: &str, holds: impl Fn(SpentRow) -> bool) -> SpentRow {
        let waiting = async {
            while !holds(self.spent(account)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(in_time.is_ok(), "never: it stays at {:?}", self.spent(account));
        self.spent(account)
    }

    /// Waits until the gateway says this of a task of `coder`.
    pub async fn until_heard(&self, task: &str, holds: impl Fn(&TaskRow) -> bool) {
        let id = TaskId::of(task.as_bytes()).unwrap();
        // What a third one would hear of the two others; the test knows what the other one said.
        let heard = || lock(&self.state).tasks.rows(A_THIRD, 0).0.get("coder").and_then(|tasks| tasks.get(&id)).cloned();
        until(&format!("the gateway tells of {task}"), || heard().is_some_and(|row| holds(&row))).await;
    }

    /// It is gone, without a word.
    pub fn leave(&mut self) {
        self.connection = None;
    }

    /// It connects, as one that knows nothing of earlier connections.
    pub fn come_back(&mut self) {
        let connecting = connect(self.address, self.name.clone(), Arc::clone(&self.tls));
        let talking = talk(connecting, Arc::clone(&self.desired), Arc::clone(&self.state), Arc::clone(&self.changed));
        self.connection = Some(AbortOnDropHandle::new(tokio::spawn(talking)));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>>;

async fn connect(address: SocketAddr, name: String, tls: Arc<ClientConfig>) -> Socket {
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = TlsConnector::from(tls).connect(ServerName::try_from(name.clone()).unwrap(), stream).await.unwrap();
    client_async(format!("wss://{name}/exchange"), stream).await.unwrap().0
}

/// Exchanges until the gateway closes the connection.
async fn talk(connecting: impl Future<Output = Socket>, desired: Arc<Desired>, state: Arc<Mutex<State>>, changed: Arc<Notify>) {
    let mut socket = connecting.await;
    let (mut session, origin) = (OperatorSession::new(1, desired), Instant::now());
    session.connected();
    // The versions that messages said which were not taken yet.
    let mut under_way: VecDeque<(u64, u64)> = VecDeque::new();
    loop {
        let (version, valid_for) = {
            let state = lock(&state);
            session.desire_accounts(AccountRows::all(state.said.accounts.clone()), Arc::new(state.said.callers()));
            if let Some(standing) = session.standing() {
                let (tasks, changes) = state.tasks.rows(standing.epoch, session.tasks_known());
                session.desire_tasks(tasks, changes);
            }
            // Before its first report nobody can say what a process may spend.
            (session.standing().map(|_| state.version), state.said.valid_for)
        };
        tokio::select! {
            received = socket.next() => match received {
                Some(Ok(Message::Text(text))) => {
                    let message: GatewayMessage = serde_json::from_str(text.as_str()).unwrap();
                    session.receive(&message).unwrap();
                    let mut state = lock(&state);
                    state.hear(&message);
                    while let Some((seq, version)) = under_way.front().copied()
                        && seq <= message.acknowledged
                    {
                        under_way.pop_front();
                        state.taken = version;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            () = sleep_until(origin + session.message_due().unwrap()) => {
                let Some(mut message) = session.message(origin.elapsed()) else { continue };
                message.valid_for = valid_for;
                under_way.extend(version.map(|version| (message.seq, version)));
                if socket.send(Message::text(serde_json::to_string(&message).unwrap())).await.is_err() {
                    return;
                }
            }
            () = changed.notified() => {}
        }
    }
}
