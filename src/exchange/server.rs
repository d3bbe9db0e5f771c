//! The gateway's end: a listener that lets nobody in but the operator, and the one task that listens to it.
//!
//! [`accept`]: connections and their handshakes.

mod accept;

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use axum::routing::get;
use quartermaster_core::decide::account::message::Told;
use quartermaster_core::decide::gateway::exchange::SILENCE;
use quartermaster_core::decide::gateway::exchange::documents::{PerDocument, Update};
use quartermaster_core::decide::gateway::exchange::gateway_session::{Facts, GatewaySession, Taken};
use quartermaster_core::decide::gateway::exchange::message::OperatorMessage;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{BUFFER, CLOSE_LEAVING, CLOSE_REFUSED, CLOSE_UNREADABLE, MESSAGE_LIMIT, PATH};

/// The gateway, as the exchange sees it.
pub trait Gateway: Send + Sync + 'static {
    /// Puts an update in force, in one step.
    ///
    /// # Errors
    ///
    /// What is wrong with the plan, in words for people. Then the plan of before stays, and the rest of the update is in force.
    fn apply(&self, update: Update) -> Result<(), String>;

    /// Takes what the operator says of accounts, which holds for so long from now on. Nothing: it says only that it is there.
    /// `acknowledged` is the highest report that it has taken on this connection, 0 before it has said all that there is to say of
    /// accounts. Called for each message, before what else came with it is put in force.
    fn told(&self, told: &Told, acknowledged: u64, valid_for: Duration);

    /// How often what the gateway reports has changed.
    fn changes(&self) -> Changes;

    /// Whether everything that has begun is settled, so that what is reported from now on has all of it.
    fn is_settled(&self) -> bool;

    /// What the gateway has to say of itself now, with the rows that changed since the operator knew of so many changes. Called
    /// for each report, at most ten times a second. `seq` is the number of the report.
    fn facts(&self, known: Changes, seq: u64) -> Facts;
}

/// How often something that is reported has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What callers used.
    pub usage: u64,
    /// What was spent of accounts.
    pub accounts: u64,
    /// What tasks used.
    pub tasks: u64,
}

/// How long a gateway of which everything is known waits for an operator that takes its last report.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a gateway's end is made of.
pub struct Settings {
    /// A number by chance that no other process has.
    pub epoch: u64,
    /// The hashes of what was mounted and is in force from the start; none of what was not.
    pub mounted: PerDocument<Option<String>>,
    /// Whom to let in. A renewed certificate is used from the next connection on.
    pub tls: watch::Receiver<Arc<ServerConfig>>,
    /// The gateway.
    pub gateway: Arc<dyn Gateway>,
    /// To be notified when [`Gateway::facts`] says something new: a report follows within a tenth of a second.
    pub news: Arc<Notify>,
    /// The end: no call begins any more. The first report that follows when everything is settled is the last.
    pub finish: CancellationToken,
    /// How long to wait for that, and for an operator that takes it, where something is not settled or none has heard of it.
    /// Where all is known it is waited for 5 s at most.
    pub patience: Duration,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The operator has taken the last report.
    Acknowledged,
    /// Nobody has taken it: what was used since the last one that was taken is missing from the operator's sums.
    NotAcknowledged,
}

/// Serves the exchange until it is finished.
pub async fn serve(listener: TcpListener, settings: Settings) -> End {
    let (events, received) = mpsc::channel(64);
    let entrance = Entrance { events, connections: Arc::default() };
    let router = Router::new().route(PATH, get(upgrade)).with_state(entrance);
    let connections = accept::Handshaken::listen(listener, settings.tls.clone());
    let service = router.into_make_service_with_connect_info::<accept::Peer>();
    // Its connections are ended by the exchange: they end with it.
    let serving = async move { axum::serve(connections, service).await };
    let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
    Exchange::new(settings).run(received).await
}

/// Where connections come in.
#[derive(Clone)]
struct Entrance {
    events: mpsc::Sender<Event>,
    /// The number of the last one.
    connections: Arc<AtomicU64>,
}

/// What a connection tells the exchange.
enum Event {
    Opened { connection: u64, peer: SocketAddr, outgoing: mpsc::Sender<Outgoing> },
    Received { connection: u64, message: Box<OperatorMessage> },
    Closed { connection: u64 },
}

/// What the exchange tells a connection.
enum Outgoing {
    Report(String),
    Close { code: u16, reason: String },
}

async fn upgrade(
    upgrade: WebSocketUpgrade,
    ConnectInfo(accept::Peer(peer)): ConnectInfo<accept::Peer>,
    State(entrance): State<Entrance>,
) -> Response {
    let upgrade = upgrade.read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    let upgrade = upgrade.max_message_size(MESSAGE_LIMIT).max_frame_size(MESSAGE_LIMIT);
    upgrade.on_upgrade(move |socket| async move {
        let connection = entrance.connections.fetch_add(1, Ordering::Relaxed) + 1;
        // Small: reports are snapshots, and one that finds no place is not missed.
        let (outgoing, to_send) = mpsc::channel(4);
        if entrance.events.send(Event::Opened { connection, peer, outgoing }).await.is_ok() {
            talk(socket, connection, &entrance.events, to_send).await;
            // The exchange has ended: nobody is left to hear it.
            let _nobody = entrance.events.send(Event::Closed { connection }).await;
        }
    })
}

/// Carries messages between one connection and the exchange, until either ends.
async fn talk(mut socket: WebSocket, connection: u64, events: &mpsc::Sender<Event>, mut to_send: mpsc::Receiver<Outgoing>) {
    let mut silent_at = Instant::now() + SILENCE;
    let (code, reason) = loop {
        tokio::select! {
            received = socket.recv() => match received {
                Some(Ok(Message::Text(text))) => match serde_json::from_str(text.as_str()) {
                    Ok(message) => {
                        silent_at = Instant::now() + SILENCE;
                        if events.send(Event::Received { connection, message }).await.is_err() {
                            break (CLOSE_LEAVING, "this gateway leaves".to_owned());
                        }
                    }
                    // The parser's words could repeat a secret.
                    Err(error) => break (CLOSE_UNREADABLE, format!("no message of the exchange: column {}", error.column())),
                },
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Binary(_))) => break (CLOSE_UNREADABLE, "messages of the exchange are text".to_owned()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            outgoing = to_send.recv() => match outgoing {
                Some(Outgoing::Report(report)) => {
                    if !matches!(timeout(SILENCE, socket.send(Message::text(report))).await, Ok(Ok(()))) {
                        return;
                    }
                }
                Some(Outgoing::Close { code, reason }) => break (code, reason),
                None => break (CLOSE_LEAVING, "this gateway leaves".to_owned()),
            },
            () = sleep_until(silent_at) => break (CLOSE_REFUSED, format!("no message for {} s", SILENCE.as_secs())),
        }
    };
    let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
    // Whether or not the other end reads it, this one is done.
    let _told = timeout(Duration::from_secs(1), socket.send(close)).await;
}

/// The one task that listens to the operator.
struct Exchange {
    settings: Settings,
    session: GatewaySession,
    origin: Instant,
    connections: BTreeMap<u64, Connection>,
    /// The facts have changed since the last report.
    news: bool,
    /// The number of the first report that has everything; none before the end.
    last: Option<u64>,
}

struct Connection {
    peer: SocketAddr,
    outgoing: mpsc::Sender<Outgoing>,
}

impl Exchange {
    fn new(settings: Settings) -> Self {
        let session = GatewaySession::new(settings.epoch, settings.mounted.clone());
        Self { settings, session, origin: Instant::now(), connections: BTreeMap::new(), news: false, last: None }
    }

    async fn run(mut self, mut received: mpsc::Receiver<Event>) -> End {
        let (finish, notified) = (self.settings.finish.clone(), Arc::clone(&self.settings.news));
        let mut ends = None;
        loop {
            let due = self.session.report_due(self.news).map(|due| self.origin + due);
            tokio::select! {
                event = received.recv() => match event {
                    Some(event) => self.hear(event),
                    None => return End::NotAcknowledged,
                },
                () = notified.notified(), if !self.news => self.news = true,
                () = at(due) => self.report(ends.is_some()),
                () = finish.cancelled(), if ends.is_none() => {
                    ends = Some(Instant::now() + self.patience());
                    self.session.report_at_once();
                }
                () = at(ends) => return End::NotAcknowledged,
            }
            if self.last.is_some_and(|last| self.session.acknowledged() >= last) {
                return End::Acknowledged;
            }
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Opened { connection, peer, outgoing } => {
                self.connections.insert(connection, Connection { peer, outgoing });
            }
            Event::Closed { connection } => {
                self.session.disconnected(connection);
                if let Some(Connection { peer, .. }) = self.connections.remove(&connection) {
                    info!(%peer, "the connection to the operator is gone");
                }
            }
            Event::Received { connection, message } => self.take(connection, *message),
        }
    }

    fn take(&mut self, connection: u64, message: OperatorMessage) {
        let (before, term) = (self.session.connection(), message.term);
        match self.session.receive(connection, message, self.origin.elapsed()) {
            Ok(Taken { update, hashes, accounts }) => {
                if before != self.session.connection() {
                    let peer = self.connections.get(&connection).map(|connection| connection.peer);
                    info!(?peer, term, "listening to the operator");
                    if let Some(before) = before {
                        self.close(before, "a later connection has taken over");
                    }
                }
                if let Some((told, acknowledged, valid_for)) = accounts {
                    self.settings.gateway.told(&told, acknowledged, valid_for);
                    // What is taken, and above all what is given back, is of use when the operator knows it.
                    self.news |= told != Told::default();
                }
                if !update.is_empty() {
                    let outcome = self.settings.gateway.apply(update);
                    match &outcome {
                        Ok(()) => info!(plan = hashes.plan, "what the operator sent is in force"),
                        Err(error) => warn!(plan = hashes.plan, "the plan that the operator sent is refused: {error}"),
                    }
                    self.session.applied(&hashes, &outcome);
                }
            }
            Err(refused) => {
                warn!(connection, "an operator is refused: {refused}");
                self.close(connection, &refused.to_string());
            }
        }
    }

    /// How long the end waits for an operator.
    fn patience(&self) -> Duration {
        let is_settled = self.settings.gateway.is_settled();
        let changes = self.settings.gateway.changes();
        let all_taken = changes.usage <= self.session.usage_taken() && changes.accounts <= self.session.accounts_taken();
        if is_settled && all_taken { self.settings.patience.min(FAREWELL) } else { self.settings.patience }
    }

    /// Sends a report to the operator that is listened to.
    fn report(&mut self, finishing: bool) {
        let Some(connection) = self.session.connection() else { return };
        self.news = false;
        // Asked before: what is settled meanwhile may be missing from the facts.
        let is_last = finishing && self.settings.gateway.is_settled();
        let session = &self.session;
        let known = Changes { usage: session.usage_known(), accounts: session.accounts_known(), tasks: session.tasks_known() };
        let facts = self.settings.gateway.facts(known, self.session.next_seq());
        let message = self.session.report(facts, self.origin.elapsed());
        if is_last {
            self.last.get_or_insert(message.seq);
        }
        let text = match serde_json::to_string(&message) {
            Ok(text) => text,
            Err(error) => {
                warn!("a report cannot be written: {error}");
                return;
            }
        };
        if let Some(Connection { outgoing, .. }) = self.connections.get(&connection) {
            // No place: the operator reads slowly. The next report says it all again.
            let _missed = outgoing.try_send(Outgoing::Report(text));
        }
    }

    /// The connection ends at once, or, where it is stuck, by its own time-outs.
    fn close(&mut self, connection: u64, reason: &str) {
        if let Some(Connection { outgoing, .. }) = self.connections.remove(&connection) {
            let _stuck = outgoing.try_send(Outgoing::Close { code: CLOSE_REFUSED, reason: reason.to_owned() });
        }
    }
}

/// Waits for a moment, or for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
