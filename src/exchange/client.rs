//! The operator's end: one connection to each pod of each gateway, from when the pod has an address until it is gone.
//!
//! [`connection`]: making one connection. [`addresses`]: which pod it leads to, where several say that they have the same address.

mod addresses;
mod connection;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use quartermaster_core::decide::back_off;
use quartermaster_core::decide::gateway::exchange::documents::Desired;
use quartermaster_core::decide::gateway::exchange::message::GatewayMessage;
use quartermaster_core::decide::gateway::exchange::operator_session::{OperatorSession, Superseded};
use quartermaster_core::decide::gateway::exchange::{REPORT_INTERVAL, SILENCE};
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use self::addresses::Addresses;
use self::connection::{ConnectError, Socket, connect};
use super::accounts::Accounts;
use super::replicas::{Replicas, Taken};

/// A pod of a gateway that has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPod {
    /// Its namespace: the certificate that it shows has to be of this one's gateway.
    pub namespace: String,
    /// Its name, for the log.
    pub name: String,
    /// Where its exchange listens: the pod's address, and [`super::PORT`].
    pub address: SocketAddr,
}

/// All gateways.
#[derive(Clone)]
pub struct Fleet {
    /// What the operator shows, and whom it trusts. A renewed one is used from the next connection on.
    pub tls: Arc<ClientConfig>,
    /// What the replicas of each namespace are to have in force. Where it is missing, those that are connected keep the last, and no
    /// other one is connected to.
    pub desired: BTreeMap<String, Arc<Desired>>,
    /// The pods, by uid: also those that are terminating, until they are gone.
    pub pods: BTreeMap<String, GatewayPod>,
}

/// What the operator's end is made of.
pub struct Operator {
    /// How often the leadership had changed hands before this leader.
    pub term: u64,
    /// Whether this process leads at this very moment. Asked before each message.
    pub leads: Arc<dyn Fn() -> bool + Send + Sync>,
    /// What there is to be connected to.
    pub fleet: watch::Receiver<Arc<Fleet>>,
    /// Where reports are kept.
    pub replicas: Arc<Replicas>,
    /// What was used and spent, and what may be.
    pub accounts: Arc<Accounts>,
    /// Called with a namespace when a replica of it said something that a decision may depend on, or is gone. Must be quick.
    pub wake: Arc<dyn Fn(&str) + Send + Sync>,
    /// What is counted.
    pub traffic: Arc<Traffic>,
}

/// Messages, since the beginning.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    /// Those that were sent to replicas.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Those that replicas have sent.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A pod that is followed.
struct Followed {
    pod: GatewayPod,
    task: AbortOnDropHandle<()>,
}

/// Follows the fleet until cancelled. Then every connection is closed in order: nothing is sent after this returns.
///
/// At an address one pod is followed, the one that has got it last. Over two connections the same process would be told different things
/// at once, and be taken for gone with the pod that has it no more.
pub async fn run(operator: Operator, cancelled: CancellationToken) {
    let operator = Arc::new(operator);
    let mut fleet = operator.fleet.clone();
    let mut followed: BTreeMap<String, Followed> = BTreeMap::new();
    let mut addresses = Addresses::default();
    let begun = Instant::now();
    loop {
        let now = Arc::clone(&fleet.borrow_and_update());
        addresses.take(&now.pods);
        let has_left = |uid: &String, pod: &GatewayPod| now.pods.get(uid) != Some(pod) || !addresses.is_of(uid, pod);
        let left: Vec<String> = followed.iter().filter(|(uid, known)| has_left(uid, &known.pod)).map(uid_of).collect();
        for uid in left {
            if let Some(Followed { pod, task }) = followed.remove(&uid) {
                task.abort();
                // It may be in the middle of a report, which must not come after what follows.
                let _aborted = task.await;
                let heir = addresses.holder(&pod).filter(|heir| *heir != uid);
                if let Some(epoch) = operator.replicas.remove(&uid, heir) {
                    operator.accounts.ended(&pod.namespace, epoch);
                }
                (operator.wake)(&pod.namespace);
            }
        }
        for (uid, pod) in now.pods.iter().filter(|(uid, pod)| addresses.is_of(uid, pod)) {
            followed.entry(uid.clone()).or_insert_with(|| {
                let following = follow(Arc::clone(&operator), uid.clone(), pod.clone(), begun, cancelled.clone());
                Followed { pod: pod.clone(), task: AbortOnDropHandle::new(tokio::spawn(following)) }
            });
        }
        tokio::select! {
            () = cancelled.cancelled() => break,
            changed = fleet.changed() => if changed.is_err() { cancelled.cancelled().await; break },
        }
    }
    for (_, Followed { pod, task }) in followed {
        if let Err(error) = task.await {
            warn!(namespace = pod.namespace, pod = pod.name, "the exchange with a gateway ended badly: {error}");
        }
    }
}

fn uid_of((uid, _): (&String, &Followed)) -> String {
    uid.clone()
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the connection broke: {0}")]
    Broken(#[source] Box<tungstenite::Error>),
    #[error("the gateway closed the connection: {0}")]
    Closed(String),
    #[error("the gateway said nothing for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the gateway took nothing for {} s", SILENCE.as_secs())]
    Stuck,
    #[error("the gateway sent no message of the exchange: {0}")]
    Unreadable(serde_json::Error),
    #[error("a message cannot be written: {0}")]
    Write(serde_json::Error),
    #[error(transparent)]
    Superseded(#[from] Superseded),
    #[error("this process leads no more")]
    NotLeading,
}

impl From<tungstenite::Error> for Lost {
    fn from(error: tungstenite::Error) -> Self {
        Self::Broken(Box::new(error))
    }
}

/// Exchanges with one pod until cancelled.
async fn follow(operator: Arc<Operator>, uid: String, pod: GatewayPod, begun: Instant, cancelled: CancellationToken) {
    let (fleet, accounts, now) = (operator.fleet.clone(), operator.accounts.changes(&pod.namespace), Instant::now());
    let mut follower = Follower {
        operator,
        fleet,
        accounts,
        uid,
        pod,
        session: None,
        begun,
        origin: now,
        looked: now,
        look: None,
        heard: false,
        failures: 0,
    };
    loop {
        let lost = follower.exchange(&cancelled).await;
        let (namespace, pod) = (follower.pod.namespace.as_str(), follower.pod.name.as_str());
        if let Some(session) = &mut follower.session {
            session.disconnected();
        }
        if follower.operator.replicas.disconnected(&follower.uid) {
            (follower.operator.wake)(namespace);
        }
        let Some(lost) = lost else { return };
        let wait = back_off::after(follower.failures, fastrand::f64());
        if follower.failures == 0 {
            warn!(namespace, pod, "no exchange with a gateway: {lost}");
        } else {
            debug!(namespace, pod, failures = follower.failures, "no exchange with a gateway: {lost}");
        }
        follower.failures = follower.failures.saturating_add(1);
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = sleep(wait) => {}
        }
    }
}

struct Follower {
    operator: Arc<Operator>,
    fleet: watch::Receiver<Arc<Fleet>>,
    /// Changes when its accounts are to be looked at before the next message is due.
    accounts: watch::Receiver<u64>,
    uid: String,
    pod: GatewayPod,
    /// None until something is wanted of this namespace.
    session: Option<OperatorSession>,
    /// When this leader began to follow anybody.
    begun: Instant,
    origin: Instant,
    /// When its accounts were last looked at, and when they will be, beside before each message.
    looked: Instant,
    look: Option<Instant>,
    /// Whether something was received on this connection.
    heard: bool,
    /// Failures since a report was last received.
    failures: u32,
}

impl Follower {
    /// Connects and exchanges. None when that was cancelled, or nothing will be wanted any more.
    async fn exchange(&mut self, cancelled: &CancellationToken) -> Option<Lost> {
        let connected = tokio::select! {
            () = cancelled.cancelled() => return None,
            connected = self.connect() => connected,
        };
        let mut socket = match connected {
            Ok(socket) => socket,
            Err(lost) => return Some(lost),
        };
        (self.heard, self.look) = (false, None);
        if let Some(session) = &mut self.session {
            session.connected();
        }
        tokio::select! {
            lost = self.talk(&mut socket) => lost.err(),
            () = cancelled.cancelled() => {
                // The gateway hears at once that nobody is there. It may be gone itself.
                let _told = timeout(Duration::from_secs(1), socket.close(None)).await;
                None
            }
        }
    }

    async fn connect(&mut self) -> Result<Socket, Lost> {
        let tls = self.wanted().await;
        if !(self.operator.leads)() {
            return Err(Lost::NotLeading);
        }
        Ok(connect(&self.pod, tls).await?)
    }

    /// Waits until something is wanted of the pod, and takes it over.
    async fn wanted(&mut self) -> Arc<ClientConfig> {
        loop {
            let fleet = Arc::clone(&self.fleet.borrow_and_update());
            self.desire(&fleet);
            if self.session.is_some() {
                return Arc::clone(&fleet.tls);
            }
            if self.fleet.changed().await.is_err() {
                // Nothing will ever be wanted; this ends with the task.
                std::future::pending::<()>().await;
            }
        }
    }

    fn desire(&mut self, fleet: &Fleet) {
        let Some(desired) = fleet.desired.get(&self.pod.namespace) else { return };
        match &mut self.session {
            Some(session) => session.desire(Arc::clone(desired)),
            None => {
                // Whoever followed the process before, at the same address, has sent fewer messages than milliseconds have passed.
                let passed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX / 2);
                self.session = Some(OperatorSession::new(self.operator.term, Arc::clone(desired)).after(passed));
            }
        }
    }

    /// Exchanges over a connection until it is lost.
    async fn talk(&mut self, socket: &mut Socket) -> Result<(), Lost> {
        let mut silent_at = Instant::now() + SILENCE;
        loop {
            let Some(due) = self.session.as_ref().and_then(OperatorSession::message_due) else { return Ok(()) };
            tokio::select! {
                received = socket.next() => {
                    if let Some(message) = read(received)? {
                        self.take(&message)?;
                        silent_at = Instant::now() + SILENCE;
                    }
                }
                () = sleep_until(self.origin + due) => self.send(socket).await?,
                () = at(self.look) => self.look_at_accounts(),
                changed = self.accounts.changed(), if self.look.is_none() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.look_soon();
                }
                changed = self.fleet.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let fleet = Arc::clone(&self.fleet.borrow_and_update());
                    self.desire(&fleet);
                }
                () = sleep_until(silent_at) => return Err(Lost::Silent),
            }
        }
    }

    async fn send(&mut self, socket: &mut Socket) -> Result<(), Lost> {
        if !(self.operator.leads)() {
            return Err(Lost::NotLeading);
        }
        self.look_at_accounts();
        let now = self.origin.elapsed();
        let Some(message) = self.session.as_mut().and_then(|session| session.message(now)) else { return Ok(()) };
        let text = serde_json::to_string(&message).map_err(Lost::Write)?;
        timeout(SILENCE, socket.send(Message::text(text))).await.map_err(|_| Lost::Stuck)??;
        self.operator.traffic.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the session know what the process is to know of accounts. Whoever grants takes it for said with the next message.
    fn look_at_accounts(&mut self) {
        (self.looked, self.look) = (Instant::now(), None);
        let Some(session) = &mut self.session else { return };
        let Some(standing) = session.standing() else { return };
        let (accounts, namespace, epoch) = (&self.operator.accounts, &self.pod.namespace, standing.epoch);
        if let Some((rows, callers)) = accounts.rows(namespace, epoch, session.next_seq(), session.accounts_known()) {
            session.desire_accounts(rows, callers);
        }
        session.keep(accounts.is_to_stay(namespace, epoch));
        let (tasks, changes) = accounts.task_rows(namespace, epoch, session.tasks_known());
        session.desire_tasks(tasks, changes);
    }

    /// The accounts are looked at as soon as a message may follow.
    fn look_soon(&mut self) {
        self.look.get_or_insert(self.looked + REPORT_INTERVAL);
    }

    fn take(&mut self, message: &GatewayMessage) -> Result<(), Lost> {
        self.operator.traffic.received.fetch_add(1, Ordering::Relaxed);
        let Some(session) = &mut self.session else { return Ok(()) };
        if session.receive(message)?
            && let Some((report, standing)) = session.replica().zip(session.standing())
        {
            let namespace = self.pod.namespace.as_str();
            let Taken { is_news, ended } = self.operator.replicas.take(namespace, &self.uid, report);
            if let Some(epoch) = ended {
                self.operator.accounts.ended(namespace, epoch);
            }
            // Whoever is woken finds what was used.
            self.operator.accounts.receive(namespace, &self.uid, message, standing);
            if is_news {
                (self.operator.wake)(namespace);
            }
            self.failures = 0;
            let is_first = !std::mem::replace(&mut self.heard, true);
            if is_first {
                info!(namespace, pod = self.pod.name, "exchanging with a gateway");
            }
            // On a connection nothing can be said of accounts before it is known to whom.
            if is_first || !message.accounts.asks.is_empty() {
                self.look_soon();
            }
        }
        Ok(())
    }
}

/// Waits for a moment, or for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A message of the exchange; none for what only keeps a WebSocket alive.
fn read(received: Option<Result<Message, tungstenite::Error>>) -> Result<Option<GatewayMessage>, Lost> {
    match received {
        Some(Ok(Message::Text(text))) => serde_json::from_str(text.as_str()).map(Some).map_err(Lost::Unreadable),
        Some(Ok(Message::Close(frame))) => {
            Err(Lost::Closed(frame.map_or_else(|| "without a reason".to_owned(), |frame| frame.reason.as_str().to_owned())))
        }
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(error.into()),
        None => Err(Lost::Closed("without a word".to_owned())),
    }
}
