//! What one process of the gateway is made of, and the one way to give it a plan.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use quartermaster_core::decide::gateway::exchange::usage::{Counts, Hour, Series, Usage, UsageCounters};
use quartermaster_core::decide::gateway::plan::{Endpoints, Plan};
use quartermaster_core::decide::request::candidates::World;
use quartermaster_core::decide::request::learned::Learned;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::demand::Demand;
use super::in_force::{InForce, PlanError, Secrets};
use super::metrics::Metrics;
use super::request_body::Room;
use super::routing_log::RoutingLog;
use crate::sources::connect::Connector;

/// A gateway. All calls share it.
pub struct Gateway {
    /// The way to backends.
    pub connector: Arc<Connector>,
    /// The metrics.
    pub metrics: Metrics,
    /// The room for the bytes that calls hold.
    pub room: Room,
    /// The routing log.
    pub log: RoutingLog,
    /// Notified when there is something new to report: a call was settled, or the gateway drains.
    pub news: Arc<Notify>,
    in_force: ArcSwapOption<InForce>,
    /// What this replica learns. It outlives plans.
    learned: Mutex<Learned>,
    /// Where the times in it are counted from.
    origin: Instant,
    /// What callers used since the process began.
    usage: Mutex<UsageCounters>,
    /// What calls of the last minute wanted.
    demand: Mutex<Demand>,
    hash: watch::Sender<Option<String>>,
    draining: AtomicBool,
}

impl Gateway {
    /// A gateway without a plan: it answers every call that it cannot judge yet.
    pub fn new(connector: Arc<Connector>, metrics: Metrics, room: Room, log: RoutingLog) -> Self {
        Self {
            connector,
            metrics,
            room,
            log,
            news: Arc::default(),
            in_force: ArcSwapOption::empty(),
            learned: Mutex::default(),
            origin: Instant::now(),
            usage: Mutex::default(),
            demand: Mutex::default(),
            hash: watch::Sender::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// Puts a plan in force, with its secrets and with where the pods of backends are: all of it for every call that begins from
    /// now on, or nothing. Calls in flight end under what they began with. Returns the hash of the plan.
    ///
    /// # Errors
    ///
    /// Why it cannot be put in force; then the last one stays.
    pub fn apply(&self, plan: Plan, secrets: &Secrets, endpoints: Endpoints) -> Result<String, PlanError> {
        let in_force = InForce::new(plan, secrets, endpoints).inspect_err(|_| self.metrics.planned(None))?;
        let hash = in_force.hash.clone();
        let before = self.in_force.load();
        let mut learned = self.learned();
        learned.retain(&in_force.plan);
        if let Some(before) = &*before {
            learned.pods_changed(&before.endpoints, &in_force.endpoints);
        }
        drop(learned);
        self.in_force.store(Some(Arc::new(in_force)));
        self.metrics.planned(Some(&hash));
        self.hash.send_replace(Some(hash.clone()));
        Ok(hash)
    }

    /// Lets something be decided, by what a call began with and what is learnt by now; others decide before or after it.
    pub fn decide<'p, T>(&self, in_force: &'p InForce, decide: impl FnOnce(&World<'p, '_>, &mut Learned, Duration) -> T) -> T {
        let key_value = |backend: &str, key: &str| in_force.key_value(backend, key);
        let world = World { plan: &in_force.plan, endpoints: &in_force.endpoints, key_value: &key_value };
        let mut learned = self.learned();
        decide(&world, &mut learned, self.origin.elapsed())
    }

    /// Lets something be learnt. The time is now.
    pub fn learn<T>(&self, learn: impl FnOnce(&mut Learned, Duration) -> T) -> T {
        let mut learned = self.learned();
        learn(&mut learned, self.origin.elapsed())
    }

    /// A time that was decided, on the clock that is waited by.
    pub fn instant(&self, time: Duration) -> Instant {
        self.origin + time
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        lock(&self.learned)
    }

    /// An attempt of a call is settled that was admitted in this hour.
    pub fn used(&self, series: Series, admitted: Hour, used: &Counts) {
        lock(&self.usage).record(series, admitted, Hour::of(jiff::Timestamp::now()), used);
        self.news.notify_one();
    }

    /// The rows of what callers used that have changed since there were so many changes, and how many there are now.
    pub fn usage_since(&self, changes: u64) -> (Usage, u64) {
        let usage = lock(&self.usage);
        (usage.since(changes), usage.changes())
    }

    /// A call wants a backend.
    pub fn wanted(&self, backend: &str) {
        lock(&self.demand).count(backend, self.origin.elapsed());
    }

    /// The calls of the last minute by the backend that they wanted.
    pub fn demand(&self) -> BTreeMap<String, u64> {
        lock(&self.demand).of_last_minute(self.origin.elapsed())
    }

    /// What is in force now.
    pub fn in_force(&self) -> Option<Arc<InForce>> {
        self.in_force.load_full()
    }

    /// Tells the hash of the plan in force.
    pub fn hash(&self) -> watch::Receiver<Option<String>> {
        self.hash.subscribe()
    }

    /// Clients are asked to go elsewhere from now on: each connection ends with its call.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.news.notify_one();
    }

    /// Whether clients are asked to go elsewhere.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// Every operation leaves what is locked here whole, so that a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
