//! Running the operator: everything is made here, started in order, and ended in the reverse order.

mod destinations;
pub mod watches;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::api::Api;
use kube::runtime::events::{Recorder, Reporter};
use quartermaster_core::api::configuration::Configuration;
use quartermaster_core::decide::backend::facts::Settings;
use quartermaster_core::decide::configuration::InvalidValue;
use quartermaster_core::decide::lease::{Candidate, Loss, Timing};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::controllers::inference_backend::{Backends, Referrers};
use crate::operate::act::Actor;
use crate::operate::admin::{self, AdminError, Shown};
use crate::operate::cache::Cache;
use crate::operate::calls::Calls;
use crate::operate::clients::{ClientError, Clients};
use crate::operate::control::Control as _;
use crate::operate::driver::{Driver, Observations};
use crate::operate::health::{Health, Readiness};
use crate::operate::leadership::{self, Leadership};
use crate::operate::metrics::{Metrics, MetricsError};
use crate::operate::queue::Queue;
use crate::operate::{served_schema, shutdown};
use crate::sources::connect::{Connector, SystemLookup};
use crate::sources::secrets::Secrets;
use crate::sources::{BackendRef, hub, provider_health};
use destinations::{ApiServerAddresses, OwnAddressError};

/// Time that running reconciles get to end when the process is asked to.
const DRAIN: Duration = Duration::from_secs(10);

/// The operator could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No metrics.
    #[error("failed to set up metrics: {0}")]
    Metrics(#[from] MetricsError),
    /// The admin server.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The times of leader election are out of order.
    #[error("failed to set up leader election: {0}")]
    LeaderElection(#[from] InvalidValue),
    /// The operator's own address cannot be read.
    #[error("failed to read the environment: {0}")]
    OwnAddress(#[from] OwnAddressError),
    /// Leadership was lost.
    #[error("stopped at once: {0}")]
    Lost(#[from] Loss),
    /// Signals cannot be listened for.
    #[error("failed to listen for signals: {0}")]
    Signals(std::io::Error),
    /// A task of this program ended in a panic. Its message is not repeated: it may hold what it was about.
    #[error("stopped at once: a task of the operator ended in a panic; its log says where")]
    Task(#[from] JoinError),
}

/// What the command line adds to the configuration.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The context of the kubeconfig.
    pub context: Option<String>,
    /// Namespace of the lease; the process's own by default.
    pub namespace: Option<String>,
}

/// Runs the operator until a signal ends it, leadership is lost, or one of the tasks that work for all objects ends in a panic.
/// Then nothing tells that it is missing, and another process does better.
pub async fn run(configuration: Configuration, start: Start) -> Result<(), RunError> {
    let stop = shutdown::listen().map_err(RunError::Signals)?;
    let timing = Timing::from_configuration(&configuration.leader_election)?;
    let variable = |name: &str| std::env::var(name).ok();
    let rules = destinations::rules(&configuration.destinations, variable("POD_IP").as_deref())?;
    let listener = admin::listen(&configuration.admin.listen).await?;
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))?);
    let clients = Clients::from_environment(start.context, &metrics).await?;
    let identity = identity();
    let (health, readiness) = (Health::default(), Readiness::default());
    let observations = configuration.admin.observations.then(Observations::default);
    let shown = Shown {
        health: health.clone(),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        observations: observations.iter().map(|observations| (Backends::KIND.kind, observations.clone())).collect(),
    };
    info!(version = env!("CARGO_PKG_VERSION"), identity, admin = ?admin::bound(&listener), "starting");
    if configuration.destinations.allow_loopback {
        warn!("DEVELOPMENT ONLY: destinations.allowLoopback lets backends reach this machine's own addresses");
    }
    // Whoever asks before the other gates are made must not find that nothing is waited for.
    let starting = readiness.gate("start");
    // The admin server outlives everything else, so that probes see the end as well.
    let (working, standing, showing) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let admin_server = tokio::spawn(admin::serve(listener, shown, showing.clone()));

    let elected = configuration.leader_election.enabled;
    let leadership = Arc::new(if elected { Leadership::default() } else { Leadership::alone() });
    metrics.set_leader(!elected);
    let lacks = watch::Sender::default();
    let (wake, woken) = mpsc::unbounded_channel();
    let connector = Arc::new(Connector::new(rules.clone(), configuration.egress_proxy.clone()));
    let service_host = variable("KUBERNETES_SERVICE_HOST");
    let api_server = Arc::new(ApiServerAddresses::new(connector.clone(), rules, &clients.server_host, service_host.as_deref()));
    let driver = Arc::new(build(&clients, &configuration, &identity, &metrics, &leadership, observations, &lacks, connector, wake));
    metrics.show_queue(Backends::KIND.kind, driver.queue.clone());
    let (first_lists, mut tasks) = watches::start(&clients, &configuration, &driver, &api_server, &readiness, &metrics, &working);
    tasks.spawn(pass_on(woken, driver.queue.clone()));
    tasks.spawn(wake_all(lacks.subscribe(), driver.clone()));
    tasks.spawn(wake_all(api_server.subscribe(), driver.clone()));
    tasks.spawn({
        let cancelled = working.clone();
        async move { api_server.look_up(&SystemLookup, cancelled).await }
    });
    let schema_gate = readiness.gate("served schema");
    let compare =
        served_schema::compare(clients.calls.clone(), Backends::KIND.kind, lacks, schema_gate, metrics.clone(), working.clone());
    tasks.spawn(compare);
    let mut election = tokio::spawn({
        let namespace = start.namespace.unwrap_or_else(|| clients.namespace.clone());
        let (api, name) = (Api::namespaced(clients.lease.clone(), &namespace), configuration.leader_election.lease_name.clone());
        let candidate = Candidate::new(&namespace, &name, &identity, timing);
        let (leadership, metrics, standing) = (leadership.clone(), metrics.clone(), standing.clone());
        let gate = elected.then(|| readiness.gate("lease"));
        async move {
            if let Some(gate) = gate {
                return leadership::stand(leadership, api, &name, candidate, gate, metrics, standing).await;
            }
            standing.cancelled().await;
            Ok(())
        }
    });
    starting.open();
    let mut driving = tokio::spawn({
        let (driver, leads, watchdog, working) =
            (driver.clone(), leadership.subscribe(), health.watch(Backends::KIND.kind), working.clone());
        async move {
            let late = tokio::select! {
                () = working.cancelled() => return Ok(()),
                late = first_lists.complete() => late,
            };
            let wake_when_complete = async {
                late.await;
                driver.wake_all();
                std::future::pending().await
            };
            tokio::select! {
                ended = driver.clone().run(leads, watchdog, working) => ended,
                never = wake_when_complete => never,
            }
        }
    });

    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        lost = &mut election => lost.map_err(RunError::from).and_then(|lost| lost.map_err(RunError::from)),
        driven = &mut driving => driven.flatten().map_err(RunError::from),
        error = panicked(&mut tasks) => Err(error.into()),
    };
    if let Err(error) = ended {
        // Whoever leads now may already act: nothing is finished.
        error!(%error, "ending");
        return Err(error);
    }
    working.cancel();
    if !matches!(tokio::time::timeout(DRAIN, driving).await, Ok(Ok(Ok(())))) {
        // What they have sent may still arrive: whoever leads next has to wait until the lease expires.
        warn!("reconciles that were running did not end in time: the lease is not given back");
        return Ok(());
    }
    standing.cancel();
    let _ = election.await;
    showing.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), admin_server).await;
    info!("stopped");
    Ok(())
}

#[allow(clippy::too_many_arguments)] // Each is made once, by the function above, and nowhere else.
fn build(
    clients: &Clients,
    configuration: &Configuration,
    identity: &str,
    metrics: &Arc<Metrics>,
    leadership: &Arc<Leadership>,
    observations: Option<Observations>,
    lacks: &watch::Sender<Arc<Vec<String>>>,
    connector: Arc<Connector>,
    wake: mpsc::UnboundedSender<BackendRef>,
) -> Driver<Backends> {
    let caches = Backends::CHILDREN.iter().map(|kind| (kind.kind, (*kind, Arc::new(Cache::default())))).collect();
    let calls = Calls::new(clients.calls.clone(), leadership.clone());
    let actor = Actor { calls: calls.clone(), caches, manager: Backends::MANAGER, metrics: metrics.clone() };
    let cache_of = |kind: &str| actor.caches.get(kind).map(|(_, cache)| cache.clone()).unwrap_or_default();
    let settings = Settings { accelerator_profiles: configuration.accelerator_profiles.clone(), vllm: configuration.vllm.clone() };
    let backends = Backends {
        nodes: Arc::default(),
        node_snapshot: Mutex::default(),
        deployments: cache_of("Deployment"),
        pods: Arc::default(),
        secret_metadata: cache_of("Secret"),
        secrets: Secrets::new(clients.calls.clone()),
        referrers: Referrers::default(),
        hub: hub::Hub::new(connector.clone(), wake.clone()),
        health: provider_health::Health::new(connector, wake),
        settings: Arc::new(settings),
        outdated_schema: lacks.subscribe(),
    };
    let reporter = Reporter { controller: "quartermaster".to_owned(), instance: Some(identity.to_owned()) };
    Driver {
        control: Arc::new(backends),
        objects: Arc::default(),
        queue: Arc::new(Queue::default()),
        actor,
        calls,
        recorder: Recorder::new(clients.calls.clone(), reporter),
        telling: TaskTracker::new(),
        metrics: metrics.clone(),
        outdated_schema: lacks.subscribe(),
        memories: Mutex::default(),
        invalid: Mutex::default(),
        observations,
    }
}

/// Waits for the first of these tasks that ends in a panic. One that has done its work may end.
async fn panicked(tasks: &mut JoinSet<()>) -> JoinError {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) => return error,
            Some(Ok(())) => {}
            None => std::future::pending().await,
        }
    }
}

/// Passes on the wishes of the sources.
async fn pass_on(mut woken: mpsc::UnboundedReceiver<BackendRef>, queue: Arc<Queue>) {
    while let Some(backend) = woken.recv().await {
        queue.add(crate::operate::key::ObjectKey::new(backend.namespace.unwrap_or_default(), backend.name));
    }
}

/// Wakes every backend when something changes that all of them depend on: the fields that the served schema lacks, of which the
/// status of each tells, or where the API server is.
async fn wake_all<T>(mut shared: watch::Receiver<T>, driver: Arc<Driver<Backends>>) {
    while shared.changed().await.is_ok() {
        driver.wake_all();
    }
}

/// Who this process is: the pod's name, and a part that no other process has, so that a restarted one is another candidate.
fn identity() -> String {
    let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| "quartermaster".to_owned());
    format!("{host}_{:08x}", fastrand::u32(..))
}
