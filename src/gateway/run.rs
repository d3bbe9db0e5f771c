//! Running a gateway: from its files to the end of its last call.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quartermaster_core::api::configuration::Configuration;
use quartermaster_core::decide::backend::destination::ApiServer;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::certificate::Files;
use super::exchange::Told;
use super::listener::{self, Bounds};
use super::metrics::Metrics;
use super::mounted::Mounted;
use super::request_body::{Room, TOGETHER};
use super::routing_log::RoutingLog;
use super::state::Gateway;
use crate::exchange::server;
use crate::operate::admin::{self, AdminError, Shown};
use crate::operate::health::{Gate, Health, Readiness};
use crate::operate::metrics::MetricsError;
use crate::operate::shutdown;
use crate::run::destinations::{self, OwnAddressError};
use crate::sources::connect::{ConfiguredLookup, Connector};

/// How often the mounted files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often the files of the certificate are looked at. They are renewed weeks before they expire.
const LOOK_AT_CERTIFICATE: Duration = Duration::from_secs(60);
/// How long is waited, at the end, for an operator that takes the last report, however long calls took to end: the pod has 10 s
/// then.
const LAST_REPORT: Duration = Duration::from_secs(5);

/// Where the operator is listened to.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The address.
    pub listen: SocketAddr,
    /// The directory with the certificate.
    pub certificate: PathBuf,
}

/// How a gateway ends.
#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    /// How long calls are still accepted after the signal, while endpoints forget this pod.
    pub linger: Duration,
    /// How long calls in flight have after that.
    pub finish: Duration,
}

impl Default for Leaving {
    /// The pod has 630 s, of which 10 s are left for the end of the process.
    fn default() -> Self {
        Self { linger: Duration::from_secs(5), finish: Duration::from_secs(615) }
    }
}

/// The gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address is taken, or not of this machine.
    #[error("failed to listen on {address}: {source}; set {option}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The option that sets it.
        option: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The admin server.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// No metrics.
    #[error("failed to set up metrics: {0}")]
    Metrics(#[from] MetricsError),
    /// The pod's own address cannot be read.
    #[error("failed to read the environment: {0}")]
    OwnAddress(#[from] OwnAddressError),
    /// Signals cannot be listened for.
    #[error("failed to listen for signals: {0}")]
    Signals(io::Error),
    /// The task that accepts connections ended in a panic. Its message is not repeated: it may hold what it was about.
    #[error("stopped at once: the listener ended in a panic; the log says where")]
    Task(JoinError),
}

/// Runs a gateway until a signal ends it, which lets calls in flight end.
///
/// # Errors
///
/// When it could not start.
pub async fn run(
    configuration: Configuration,
    listen: SocketAddr,
    mounted: Mounted,
    exchange: Option<Exchange>,
    leaving: Leaving,
) -> Result<(), RunError> {
    let stop = shutdown::listen().map_err(RunError::Signals)?;
    let room = Room::new(TOGETHER);
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), room.clone())?;
    let (log, writing) = RoutingLog::new(io::stdout());
    let gateway = Arc::new(Gateway::new(Arc::new(connector(&configuration)?), metrics, room, log));
    let admin_listener = admin::listen(&configuration.admin.listen).await?;
    let listener = bind(listen, "--listen").await?;
    let exchange = match exchange {
        Some(exchange) => Some((bind(exchange.listen, "--exchange-listen").await?, exchange.certificate)),
        None => None,
    };
    info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = listener.local_addr().ok().map(tracing::field::display),
        admin = admin::bound(&admin_listener).map(tracing::field::display),
        "starting"
    );
    let (health, readiness) = (Health::default(), Readiness::default());
    let (planned, serving) = (readiness.gate("plan"), readiness.gate("serving"));
    let metrics = Arc::new(gateway.metrics.clone());
    let shown = Shown { health, readiness, metrics, observations: Vec::new() };
    let (following, closing, showing) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let admin_server = tokio::spawn(admin::serve(admin_listener, shown, showing.clone()));
    let told = Arc::new(Told::new(gateway.clone()));
    tokio::spawn(open_when_planned(gateway.hash(), planned.clone()));
    tokio::spawn(follow(mounted, told.clone(), gateway.clone(), planned, following.clone()));
    let finish = CancellationToken::new();
    let exchanging = exchange.map(|(listener, certificate)| {
        let listening = listen_to_the_operator(listener, certificate, told, gateway.clone(), finish.clone(), leaving.finish);
        tokio::spawn(listening)
    });
    let mut answering = tokio::spawn(listener::serve(listener, gateway.clone(), Bounds::default(), closing.clone()));
    serving.open();

    tokio::select! {
        () = stop.cancelled() => {}
        ended = &mut answering => {
            // Nothing tells that it is missing but for this.
            error!("the listener has ended");
            return ended.map_err(RunError::Task);
        }
    }
    serving.close("the process is asked to end");
    let ends = Instant::now() + leaving.linger + leaving.finish;
    gateway.drain();
    tokio::time::sleep(leaving.linger).await;
    closing.cancel();
    if tokio::time::timeout(leaving.finish, &mut answering).await.is_err() {
        warn!("calls that were in flight did not end in time, and are cut");
        answering.abort();
        let _cut = answering.await;
    }
    // When the last call is settled, what was used and spent is told to the operator once more. While there is none, as when
    // the leadership changes hands, what none has heard of keeps the process: with it, it would be lost, and budgets would be
    // charged for all that this replica was allowed.
    gateway.close();
    finish.cancel();
    if let Some(exchanging) = exchanging {
        let _ = tokio::time::timeout_at(ends.max(Instant::now() + LAST_REPORT), exchanging).await;
    }
    following.cancel();
    showing.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), admin_server).await;
    // The last lines are written when nobody holds the log any more; a reader that has stopped holds up the end for a second.
    drop(gateway);
    let written = tokio::task::spawn_blocking(move || writing.join());
    let _ = tokio::time::timeout(Duration::from_secs(1), written).await;
    info!("stopped");
    Ok(())
}

/// The way to backends, under the rules for user-given URLs. A gateway has no rights and cannot ask where the API server is: what it
/// knows is the address that every pod is told.
fn connector(configuration: &Configuration) -> Result<Connector, OwnAddressError> {
    let variable = |name: &str| std::env::var(name).ok();
    let mut rules = destinations::rules(&configuration.destinations, variable("POD_IP").as_deref())?;
    rules.api_server = ApiServer::At(variable("KUBERNETES_SERVICE_HOST").and_then(|host| host.parse().ok()).into_iter().collect());
    if configuration.destinations.allow_loopback {
        warn!("DEVELOPMENT ONLY: destinations.allowLoopback lets backends be at this machine's own addresses");
    }
    if !configuration.destinations.resolve.is_empty() {
        warn!("DEVELOPMENT ONLY: destinations.resolve has addresses of names that are not looked up");
    }
    let lookup = Arc::new(ConfiguredLookup(configuration.destinations.resolve.clone()));
    Ok(Connector::with_lookup(rules, configuration.egress_proxy.clone(), lookup))
}

async fn bind(address: SocketAddr, option: &'static str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, option, source })
}

/// The process is ready from its first plan on, wherever that came from.
async fn open_when_planned(mut hash: watch::Receiver<Option<String>>, planned: Gate) {
    if hash.wait_for(Option::is_some).await.is_ok() {
        planned.open();
    }
}

/// Serves the exchange, from when there is a certificate until it is finished.
async fn listen_to_the_operator(
    listener: TcpListener,
    certificate: PathBuf,
    told: Arc<Told>,
    gateway: Arc<Gateway>,
    finish: CancellationToken,
    patience: Duration,
) {
    let mut warned = false;
    let (files, tls) = loop {
        let read = match Files::read(&certificate).await {
            Ok(files) => files.configuration().map(|tls| (files, tls)),
            Err(error) => Err(error),
        };
        match read {
            Ok(read) => break read,
            Err(error) if !warned => {
                warn!(%error, "the operator is not listened to yet: there is no certificate for the exchange");
                warned = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = finish.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    };
    let (renewed, tls) = watch::channel(tls);
    let settings = server::Settings {
        epoch: fastrand::u64(..),
        mounted: told.in_force(),
        tls,
        gateway: told,
        news: gateway.news.clone(),
        finish,
        patience,
    };
    tokio::select! {
        end = server::serve(listener, settings) => info!(?end, "the exchange has ended"),
        () = renew(&certificate, files, renewed) => {}
    }
}

/// Puts each renewed certificate in use, for ever.
async fn renew(certificate: &Path, mut files: Files, renewed: watch::Sender<Arc<ServerConfig>>) {
    loop {
        tokio::time::sleep(LOOK_AT_CERTIFICATE).await;
        let Ok(read) = Files::read(certificate).await else { continue };
        if read == files {
            continue;
        }
        match read.configuration() {
            Ok(tls) => {
                renewed.send_replace(tls);
                files = read;
            }
            Err(error) => warn!(%error, "the renewed certificate for the exchange cannot be used"),
        }
    }
}

/// Puts the mounted plan in force whenever its files have changed, until an operator speaks. One that is refused leaves the last in
/// force.
async fn follow(mounted: Mounted, told: Arc<Told>, gateway: Arc<Gateway>, planned: Gate, cancelled: CancellationToken) {
    let mut seen = None;
    loop {
        let (looked, last) = (mounted.clone(), seen.clone());
        // Files of a network's volume may take their time.
        let looking = tokio::task::spawn_blocking(move || {
            let looks = looked.looks();
            (last.as_ref() != Some(&looks)).then(|| (looks, looked.read()))
        });
        if let Ok(Some((looks, read))) = looking.await {
            seen = Some(looks);
            let applied = match read {
                Ok((plan, secrets)) => told.mounted(plan, secrets),
                Err(error) => {
                    gateway.metrics.planned(None);
                    Err(error.to_string())
                }
            };
            match applied {
                Ok(Some(hash)) => info!(hash, "the mounted plan is in force"),
                Ok(None) => return,
                Err(problem) => {
                    error!(problem, "the mounted plan is refused: the last one stays in force");
                    if gateway.in_force().is_none() {
                        planned.close(problem);
                    }
                }
            }
        }
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
