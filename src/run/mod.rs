//! Running the operator: everything is made here, started in order, and ended in the reverse order.

mod accounts;
mod authority;
mod backends;
mod budgets;
pub(crate) mod destinations;
mod exchange;
mod gateways;
mod pools;
mod shared;
pub mod watches;

use std::sync::Arc;
use std::time::Duration;

use kube::api::Api;
use quartermaster_core::api::TokenBudget;
use quartermaster_core::api::configuration::Configuration;
use quartermaster_core::decide::configuration::InvalidValue;
use quartermaster_core::decide::lease::{Candidate, Loss, Timing};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::controllers::agent_pool::Pools;
use crate::controllers::inference_backend::Backends;
use crate::controllers::model_route::Routes;
use crate::controllers::token_budget::Budgets;
use crate::exchange::accounts::Accounts;
use crate::operate::admin::{self, AdminError, Shown};
use crate::operate::cache::Cache;
use crate::operate::children::ChildFacts;
use crate::operate::clients::{ClientError, Clients};
use crate::operate::control::Control as _;
use crate::operate::driver::Observations;
use crate::operate::health::{Health, Readiness};
use crate::operate::leadership::{self, Leadership};
use crate::operate::metrics::{Metrics, MetricsError};
use crate::operate::object::Stored;
use crate::operate::shutdown;
use crate::sources::connect::{ConfiguredLookup, Connector, SystemLookup};
use destinations::{ApiServerAddresses, OwnAddressError};
use shared::Shared;
use watches::Watches;

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
    let observations = |kind: &'static str| configuration.admin.observations.then(|| (kind, Observations::default()));
    let (of_backends, of_pools) = (observations(Backends::KIND.kind), observations(Pools::KIND.kind));
    let (of_routes, of_budgets) = (observations(Routes::KIND.kind), observations(Budgets::KIND.kind));
    let shown = Shown {
        health: health.clone(),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        observations: of_backends.iter().chain(&of_pools).chain(&of_routes).chain(&of_budgets).cloned().collect(),
    };
    info!(version = env!("CARGO_PKG_VERSION"), identity, admin = admin::bound(&listener).map(tracing::field::display), "starting");
    if configuration.destinations.allow_loopback {
        warn!("DEVELOPMENT ONLY: destinations.allowLoopback lets backends and pools reach this machine's own addresses");
    }
    if !configuration.destinations.resolve.is_empty() {
        warn!("DEVELOPMENT ONLY: destinations.resolve has addresses of names that are not looked up");
    }
    // Whoever asks before the other gates are made must not find that nothing is waited for.
    let starting = readiness.gate("start");
    // The admin server outlives everything else, so that probes see the end as well.
    let (working, standing, showing) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let admin_server = tokio::spawn(admin::serve(listener, shown, showing.clone()));

    let elected = configuration.leader_election.enabled;
    let leadership = Arc::new(if elected { Leadership::default() } else { Leadership::alone() });
    metrics.set_leader(!elected);
    let lookup = Arc::new(ConfiguredLookup(configuration.destinations.resolve.clone()));
    let connector = Arc::new(Connector::with_lookup(rules.clone(), configuration.egress_proxy.clone(), lookup));
    let service_host = variable("KUBERNETES_SERVICE_HOST");
    let api_server = Arc::new(ApiServerAddresses::new(connector.clone(), rules, &clients.server_host, service_host.as_deref()));
    let lease = (configuration.leader_election.lease_name.clone(), clients.lease.clone(), clients.namespace.clone());
    let shared = Shared {
        configuration,
        clients,
        identity,
        metrics,
        leadership,
        readiness,
        health,
        connector,
        api_server,
        working: working.clone(),
    };
    let mut watches = Watches::new(&shared);
    // What several kinds are observed by.
    let secrets: Arc<Cache<ChildFacts>> = Arc::default();
    let told = backends::OfGateways::default();
    let (budgets, accounts) = (Arc::<Cache<Stored<TokenBudget>>>::default(), Arc::<Accounts>::default());
    let of_backends = of_backends.map(|(_, observations)| observations);
    let backends = backends::driver(&shared, &secrets, &budgets, told.clone(), of_backends, &mut watches.tasks);
    let of_pools = of_pools.map(|(_, observations)| observations);
    let pools = pools::driver(&shared, &secrets, &budgets, of_pools, &mut watches.tasks);
    let others = gateways::Others {
        secrets: secrets.clone(),
        backends: backends.objects.clone(),
        backend_queue: backends.queue.clone(),
        backend_pods: backends.control.pods.clone(),
        pools: pools.objects.clone(),
        agents: pools.control.agents.clone(),
        budgets: budgets.clone(),
        accounts: accounts.clone(),
        told,
    };
    let gateways = gateways::driver(&shared, others, of_routes.map(|(_, observations)| observations), &mut watches.tasks);
    let others = budgets::Others {
        budgets,
        pools: pools.objects.clone(),
        routes: gateways.routes.objects.clone(),
        backends: backends.objects.clone(),
        accounts,
    };
    let budgets = budgets::driver(&shared, others, of_budgets.map(|(_, observations)| observations), &mut watches.tasks);
    watches.secrets(&secrets, {
        let (wake_backends, wake_pools) = (backends::wake_by_secret(&backends), pools::wake_by_secret(&pools));
        let wake_gateways = gateways::wake_by_secret(&gateways);
        move |key, change| {
            wake_backends(key, change);
            wake_pools(key, change);
            wake_gateways(key, change);
        }
    });
    watches.api_server(&shared.api_server);
    let (routes, of_backends) = (gateways.routes.queue.clone(), backends.queue.clone());
    let obedient = budgets::Obedient { pools: pools.clone(), routes, backends: of_backends };
    budgets::watch(&mut watches, &budgets, obedient, gateways::wake_by_namespace(&gateways));
    // Nobody takes itself to be free of budgets because they are not known yet.
    let of_all = watches.first_lists();
    backends::watch(&mut watches, &backends, gateways::wake_by_backend(&gateways), budgets::wake_by_backend(&budgets));
    gateways::watch_pods(&mut watches, &gateways);
    let lists_of_backends = watches.first_lists().and(&of_all);
    pools::watch(&mut watches, &pools, gateways::wake_by_namespace(&gateways), budgets::wake_by_pool(&budgets));
    let lists_of_pools = watches.first_lists().and(&of_all);
    gateways::watch(&mut watches, &gateways, budgets::wake_by_route(&budgets));
    // A plan is made of all of them.
    let lists_of_gateways = watches.first_lists().and(&lists_of_backends).and(&lists_of_pools);
    watches.tasks.spawn({
        let (api_server, cancelled) = (shared.api_server.clone(), working.clone());
        async move { api_server.look_up(&SystemLookup, cancelled).await }
    });
    let mut driving = JoinSet::new();
    let mut tasks = watches.tasks;
    let mut election = tokio::spawn({
        let (name, client, own_namespace) = lease;
        let namespace = start.namespace.unwrap_or(own_namespace);
        let api = Api::namespaced(client, &namespace);
        let candidate = Candidate::new(&namespace, &name, &shared.identity, timing);
        let (leadership, metrics, standing) = (shared.leadership.clone(), shared.metrics.clone(), standing.clone());
        let gate = elected.then(|| shared.readiness.gate("lease"));
        async move {
            if let Some(gate) = gate {
                return leadership::stand(leadership, api, &name, candidate, gate, metrics, standing).await;
            }
            standing.cancelled().await;
            Ok(())
        }
    });
    starting.open();
    driving.spawn(shared.drive(backends, lists_of_backends));
    driving.spawn(shared.drive(pools, lists_of_pools));
    driving.spawn(shared.drive(gateways.routes.clone(), lists_of_gateways.clone()));
    driving.spawn(shared.drive(budgets.budgets.clone(), lists_of_gateways.clone()));
    driving.spawn(budgets::drive(&shared, budgets, lists_of_gateways.clone()));
    driving.spawn(gateways::drive(&shared, gateways, lists_of_gateways));

    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        lost = &mut election => lost.map_err(RunError::from).and_then(|lost| lost.map_err(RunError::from)),
        driven = all(&mut driving) => driven.map_err(RunError::from),
        error = panicked(&mut tasks) => Err(error.into()),
    };
    if let Err(error) = ended {
        // Whoever leads now may already act: nothing is finished.
        error!(%error, "ending");
        return Err(error);
    }
    working.cancel();
    if !matches!(tokio::time::timeout(DRAIN, all(&mut driving)).await, Ok(Ok(()))) {
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

/// Waits until every driver has ended, or one in a panic.
async fn all(driving: &mut JoinSet<Result<(), JoinError>>) -> Result<(), JoinError> {
    while let Some(driven) = driving.join_next().await {
        driven.flatten()?;
    }
    Ok(())
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

/// Who this process is: the pod's name, and a part that no other process has, so that a restarted one is another candidate.
fn identity() -> String {
    let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| "quartermaster".to_owned());
    format!("{host}_{:08x}", fastrand::u32(..))
}
