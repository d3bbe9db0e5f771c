//! What the controllers of all kinds share, and the driver that each of them gets.

use std::sync::{Arc, Mutex};

use kube::runtime::events::Reporter;
use quartermaster_core::api::configuration::Configuration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::destinations::ApiServerAddresses;
use super::watches::FirstLists;
use crate::operate::act::{Actor, ChildCaches};
use crate::operate::cache::Cache;
use crate::operate::calls::Calls;
use crate::operate::clients::Clients;
use crate::operate::control::Control;
use crate::operate::driver::{Driver, Observations};
use crate::operate::events::Events;
use crate::operate::health::{Health, Readiness, Watchdog};
use crate::operate::leadership::Leadership;
use crate::operate::metrics::Metrics;
use crate::operate::object::Stored;
use crate::operate::queue::Queue;
use crate::operate::served_schema;
use crate::sources::connect::Connector;

/// What the controllers of all kinds share.
pub struct Shared {
    /// The operator's configuration.
    pub configuration: Configuration,
    /// The clients of the API server.
    pub clients: Clients,
    /// Who this process is.
    pub identity: String,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Whether this process leads.
    pub leadership: Arc<Leadership>,
    /// What the process waits for before it is ready.
    pub readiness: Readiness,
    /// Whether the process makes progress.
    pub health: Health,
    /// The way to addresses that users give.
    pub connector: Arc<Connector>,
    /// Where the API server is.
    pub api_server: Arc<ApiServerAddresses>,
    /// Ends the work.
    pub working: CancellationToken,
}

/// Fields that the served schema of one kind lacks.
pub type Lacks = watch::Sender<Arc<Vec<String>>>;

impl Shared {
    /// Empty caches of the children that a kind makes.
    pub fn caches<C: Control>() -> ChildCaches {
        C::CHILDREN.iter().map(|kind| (kind.kind, (*kind, Arc::new(Cache::default())))).collect()
    }

    /// The driver of one kind. What wakes all its objects, the fields that the served schema lacks and where the API server is,
    /// and what finds that out, is among the tasks from then on.
    pub fn driver<C: Control>(
        &self,
        control: C,
        objects: Arc<Cache<Stored<C::Object>>>,
        caches: ChildCaches,
        lacks: Lacks,
        observations: Option<Observations>,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Driver<C>> {
        let calls = Calls::new(self.clients.calls.clone(), self.leadership.clone());
        let reporter = Reporter { controller: "quartermaster".to_owned(), instance: Some(self.identity.clone()) };
        let driver = Arc::new(Driver {
            control: Arc::new(control),
            objects,
            queue: Arc::new(Queue::default()),
            actor: Actor { calls: calls.clone(), caches, patched: C::PATCHED, manager: C::MANAGER, metrics: self.metrics.clone() },
            calls,
            events: Arc::new(Events::new(self.clients.calls.clone(), reporter)),
            telling: TaskTracker::new(),
            metrics: self.metrics.clone(),
            outdated_schema: lacks.subscribe(),
            memories: Mutex::default(),
            invalid: Mutex::default(),
            observations,
        });
        self.metrics.show_queue(C::KIND.kind, driver.queue.clone());
        tasks.spawn(wake_all(lacks.subscribe(), driver.clone()));
        tasks.spawn(wake_all(self.api_server.subscribe(), driver.clone()));
        let gate = self.readiness.gate(&format!("served schema of {}", C::KIND.kind));
        let (client, metrics, working) = (self.clients.calls.clone(), self.metrics.clone(), self.working.clone());
        tasks.spawn(served_schema::compare(client, C::KIND.kind, lacks, gate, metrics, working));
        driver
    }

    /// Lets a driver work from when its first lists are there, until the work ends.
    ///
    /// # Errors
    ///
    /// A worker ended in a panic.
    pub fn drive<C: Control>(
        &self,
        driver: Arc<Driver<C>>,
        first_lists: FirstLists,
    ) -> impl Future<Output = Result<(), JoinError>> + Send + 'static {
        let (leads, watchdog) = (self.leadership.subscribe(), self.health.watch(C::KIND.kind));
        drive(driver, first_lists, leads, watchdog, self.working.clone())
    }
}

async fn drive<C: Control>(
    driver: Arc<Driver<C>>,
    first_lists: FirstLists,
    leads: watch::Receiver<bool>,
    watchdog: Watchdog,
    working: CancellationToken,
) -> Result<(), JoinError> {
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

/// Wakes every object when something changes that all of them depend on.
async fn wake_all<C: Control, T>(mut shared: watch::Receiver<T>, driver: Arc<Driver<C>>) {
    while shared.changed().await.is_ok() {
        driver.wake_all();
    }
}
