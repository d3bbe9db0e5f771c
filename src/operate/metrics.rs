//! The operator's own metrics. Labels are kinds, verbs and outcomes, and names of objects only where these are pools, their
//! queues, budgets, and the routes and backends that pools call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use quartermaster_core::decide::gateway::exchange::usage::Counts;
use quartermaster_core::decide::gateway::exchange::usage_totals::CallerSeries;
use tokio::time::Instant;

use super::budget_figures::BudgetFigures;
pub(crate) use super::metric_definitions::{Definitions, encode};
pub use super::metric_definitions::{Exposition, MetricsError};
use super::pool_figures::PoolFigures;
use super::queue::Queue;

/// How far one watch is. A clone is of the same.
#[derive(Clone, Debug, Default)]
pub struct WatchProgress(Arc<Mutex<Progress>>);

#[derive(Debug, Default)]
struct Progress {
    synced: bool,
    last_event: Option<Instant>,
}

impl WatchProgress {
    /// It delivered something.
    pub fn delivered(&self) {
        lock(&self.0).last_event = Some(Instant::now());
    }

    /// Its first list is complete.
    pub fn synced(&self) {
        lock(&self.0).synced = true;
    }
}

/// What is looked at when somebody asks, since it changes with the time alone.
#[derive(Debug, Default)]
struct Looked {
    queues: Vec<(&'static str, Arc<Queue>)>,
    watches: Vec<(&'static str, WatchProgress)>,
    pools: Vec<PoolsShown>,
    callers: Vec<CallersShown>,
    budgets: Vec<BudgetsShown>,
}

/// What tells how many tokens callers used.
struct CallersShown(Box<dyn Fn() -> BTreeMap<CallerSeries, Counts> + Send>);

impl std::fmt::Debug for CallersShown {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CallersShown")
    }
}

/// What tells the figures of all pools.
struct PoolsShown(Box<dyn Fn(&PoolFigures) + Send>);

impl std::fmt::Debug for PoolsShown {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("PoolsShown")
    }
}

/// What tells the figures of all budgets, given how many tokens callers used.
struct BudgetsShown(Box<ShowBudgets>);

type ShowBudgets = dyn Fn(&BudgetFigures, &BTreeMap<CallerSeries, Counts>) + Send;

impl std::fmt::Debug for BudgetsShown {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("BudgetsShown")
    }
}

/// Buckets of the duration of a reconcile, in seconds: one without calls takes well under a millisecond, the deadline is
/// a minute.
const RECONCILE_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// All metrics of the operator, in a registry of their own. A clone counts into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    reconcile_duration: HistogramVec,
    panics: IntCounterVec,
    timeouts: IntCounterVec,
    queue_depth: IntGaugeVec,
    oldest_item_age: GaugeVec,
    api_calls: IntCounterVec,
    applies_skipped: IntCounterVec,
    status_writes: IntCounterVec,
    watch_restarts: IntCounterVec,
    store_synced: IntGaugeVec,
    watch_last_event_age: GaugeVec,
    looked: Arc<Mutex<Looked>>,
    invalid_objects: IntGaugeVec,
    queue_polls: IntCounterVec,
    queue_poll_failures: IntCounterVec,
    queue_poll_duration: HistogramVec,
    pools: PoolFigures,
    caller_tokens: IntCounterVec,
    caller_estimated_tokens: IntCounterVec,
    budgets: BudgetFigures,
    schema_outdated: IntGaugeVec,
    leader: IntGauge,
    lease_failures: IntCounter,
}

impl Metrics {
    /// Registers every metric, and those of the process where the system tells them.
    ///
    /// # Errors
    ///
    /// When a definition is refused.
    pub fn new(version: &str) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let new = Definitions { registry: &registry };
        let metrics = Self {
            reconciles: new.counters(
                "quartermaster_reconciles_total",
                "Reconciles by kind and outcome: success, or the reason why not.",
                &["kind", "outcome"],
            )?,
            reconcile_duration: new.histograms(
                "quartermaster_reconcile_duration_seconds",
                "Duration of a reconcile.",
                &["kind"],
                RECONCILE_SECONDS,
            )?,
            panics: new.counters("quartermaster_reconcile_panics_total", "Reconciles that ended in a panic.", &["kind"])?,
            timeouts: new.counters("quartermaster_reconcile_timeouts_total", "Reconciles stopped at their deadline.", &["kind"])?,
            queue_depth: new.gauges("quartermaster_queue_depth", "Objects that wait to be reconciled.", &["kind"])?,
            oldest_item_age: new.ages(
                "quartermaster_oldest_item_age_seconds",
                "How long the object waits to be reconciled that has waited longest; 0 while none waits.",
            )?,
            api_calls: new.counters(
                "quartermaster_api_calls_total",
                "Requests to the API server, lists, watches, the lease and events among them. The code is none where no answer came.",
                &["verb", "resource", "code"],
            )?,
            applies_skipped: new.counters(
                "quartermaster_applies_skipped_total",
                "Children not applied because neither the intent nor the object had changed.",
                &["kind"],
            )?,
            status_writes: new.counters(
                "quartermaster_status_writes_total",
                "Statuses decided on: written where that changes something, else not.",
                &["kind", "changed"],
            )?,
            watch_restarts: new.counters(
                "quartermaster_watch_restarts_total",
                "Watches that failed and began again.",
                &["kind"],
            )?,
            store_synced: new.gauges(
                "quartermaster_store_synced",
                "1 once every watch of the kind has had its first complete list.",
                &["kind"],
            )?,
            watch_last_event_age: new.ages(
                "quartermaster_watch_last_event_age_seconds",
                "Time since a watch of the kind last delivered something; of several watches the longest. Missing until the first.",
            )?,
            looked: Arc::default(),
            invalid_objects: new.gauges("quartermaster_invalid_objects", "Objects that this operator cannot decode.", &["kind"])?,
            queue_polls: new.counters("quartermaster_queue_polls_total", "Round trips that read queues.", &["system"])?,
            queue_poll_failures: new.counters(
                "quartermaster_queue_poll_failures_total",
                "Readings of a queue that failed.",
                &["system"],
            )?,
            queue_poll_duration: new.histograms(
                "quartermaster_queue_poll_duration_seconds",
                "Duration of the round trips that read queues.",
                &["system"],
                RECONCILE_SECONDS,
            )?,
            pools: PoolFigures {
                replicas: new.gauges(
                    "quartermaster_agent_pool_replicas",
                    "Replicas of a pool.",
                    &["namespace", "pool", "state"],
                )?,
                tasks: new.gauges(
                    "quartermaster_agent_pool_tasks",
                    "Tasks in a queue of a pool.",
                    &["namespace", "pool", "queue", "state"],
                )?,
                oldest: new.real_gauges(
                    "quartermaster_agent_pool_oldest_task_age_seconds",
                    "Age of the oldest task in a queue of a pool that is not done.",
                    &["namespace", "pool", "queue"],
                )?,
            },
            caller_tokens: new.counters(
                "quartermaster_caller_tokens_total",
                "Tokens that an agent pool used, by route and backend. Input has those that a prefix cache served.",
                &["namespace", "pool", "route", "backend", "direction"],
            )?,
            caller_estimated_tokens: new.counters(
                "quartermaster_caller_estimated_tokens_total",
                "Those of the tokens of an agent pool that are an upper bound: the call was cut, or its usage not told.",
                &["namespace", "pool", "route", "backend"],
            )?,
            budgets: BudgetFigures::new(&new)?,
            schema_outdated: new.gauges(
                "quartermaster_schema_outdated",
                "1 while the served CustomResourceDefinition lacks fields that this operator knows.",
                &["kind"],
            )?,
            leader: new.gauge("quartermaster_leader", "1 while this process leads.")?,
            lease_failures: new.counter(
                "quartermaster_lease_failures_total",
                "Requests for the Lease that failed or were not answered in time.",
            )?,
            registry: registry.clone(),
        };
        new.process(version)?;
        Ok(metrics)
    }

    /// A reconcile ended. `outcome` is `success` or the static reason of the error, never its message.
    pub fn reconciled(&self, kind: &str, outcome: &'static str, took: Duration) {
        self.reconciles.with_label_values(&[kind, outcome]).inc();
        self.reconcile_duration.with_label_values(&[kind]).observe(took.as_secs_f64());
    }

    /// A reconcile panicked.
    pub fn panicked(&self, kind: &str) {
        self.panics.with_label_values(&[kind]).inc();
    }

    /// A reconcile was stopped at its deadline.
    pub fn timed_out(&self, kind: &str) {
        self.timeouts.with_label_values(&[kind]).inc();
    }

    /// Shows a queue from now on.
    pub fn show_queue(&self, kind: &'static str, queue: Arc<Queue>) {
        lock(&self.looked).queues.push((kind, queue));
    }

    /// Shows a watch from now on. A kind may have several, in several namespaces.
    pub fn watch(&self, kind: &'static str) -> WatchProgress {
        let progress = WatchProgress::default();
        lock(&self.looked).watches.push((kind, progress.clone()));
        progress
    }

    /// A request to the API server was answered with this code, or not at all.
    pub fn called_api(&self, verb: &'static str, resource: &str, code: Option<u16>) {
        let code = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        self.api_calls.with_label_values(&[verb, resource, code.as_str()]).inc();
    }

    /// An apply of a child of this kind was not needed.
    pub fn skipped_apply(&self, kind: &str) {
        self.applies_skipped.with_label_values(&[kind]).inc();
    }

    /// A status of this kind was written, or was not since it says the same.
    pub fn decided_status(&self, kind: &str, changed: bool) {
        self.status_writes.with_label_values(&[kind, if changed { "true" } else { "false" }]).inc();
    }

    /// A watch failed and began again.
    pub fn restarted_watch(&self, kind: &str) {
        self.watch_restarts.with_label_values(&[kind]).inc();
    }

    /// So many objects of this kind cannot be decoded.
    pub fn set_invalid_objects(&self, kind: &str, count: usize) {
        self.invalid_objects.with_label_values(&[kind]).set(saturating(count));
    }

    /// Whether the served schema of a kind lacks what this operator knows.
    pub fn set_schema_outdated(&self, kind: &str, outdated: bool) {
        self.schema_outdated.with_label_values(&[kind]).set(outdated.into());
    }

    /// Queues of one server were read, some perhaps in vain.
    pub fn polled(&self, system: &str, failed: usize, took: Duration) {
        self.queue_polls.with_label_values(&[system]).inc();
        self.queue_poll_failures.with_label_values(&[system]).inc_by(u64::try_from(failed).unwrap_or(u64::MAX));
        self.queue_poll_duration.with_label_values(&[system]).observe(took.as_secs_f64());
    }

    /// Shows the pools that this tells of from now on.
    pub fn show_pools(&self, tell: impl Fn(&PoolFigures) + Send + 'static) {
        lock(&self.looked).pools.push(PoolsShown(Box::new(tell)));
    }

    /// Shows the tokens of the callers that this tells of from now on. What it tells never becomes less.
    pub fn show_callers(&self, tell: impl Fn() -> BTreeMap<CallerSeries, Counts> + Send + 'static) {
        lock(&self.looked).callers.push(CallersShown(Box::new(tell)));
    }

    /// Shows the budgets that this tells of from now on. It is given the tokens of callers that are shown.
    pub fn show_budgets(&self, tell: impl Fn(&BudgetFigures, &BTreeMap<CallerSeries, Counts>) + Send + 'static) {
        lock(&self.looked).budgets.push(BudgetsShown(Box::new(tell)));
    }

    /// Whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// A request for the Lease failed or was not answered in time.
    pub fn failed_lease_request(&self) {
        self.lease_failures.inc();
    }

    fn look(&self, looked: &Looked) {
        for (kind, queue) in &looked.queues {
            self.queue_depth.with_label_values(&[*kind]).set(saturating(queue.ready()));
            self.oldest_item_age.with_label_values(&[*kind]).set(queue.longest_wait().as_secs_f64());
        }
        self.pools.reset();
        looked.pools.iter().for_each(|pools| (pools.0)(&self.pools));
        // What is told are sums, and nobody else counts here.
        self.caller_tokens.reset();
        self.caller_estimated_tokens.reset();
        let callers: BTreeMap<CallerSeries, Counts> = looked.callers.iter().flat_map(|callers| (callers.0)()).collect();
        for (CallerSeries { namespace, series }, counts) in &callers {
            let labels = [namespace, &series.caller, &series.route, &series.backend].map(String::as_str);
            let [namespace, pool, route, backend] = labels;
            for (direction, tokens) in [("input", counts.input), ("output", counts.output)] {
                self.caller_tokens.with_label_values(&[namespace, pool, route, backend, direction]).inc_by(tokens);
            }
            self.caller_estimated_tokens.with_label_values(&labels).inc_by(counts.estimated);
        }
        self.budgets.reset();
        looked.budgets.iter().for_each(|budgets| (budgets.0)(&self.budgets, &callers));
        let mut kinds: BTreeMap<&str, (bool, Option<Duration>)> = BTreeMap::new();
        for (kind, progress) in &looked.watches {
            let progress = lock(&progress.0);
            let (synced, age) = kinds.entry(*kind).or_insert((true, None));
            *synced &= progress.synced;
            *age = (*age).max(progress.last_event.map(|at| at.elapsed()));
        }
        for (kind, (synced, age)) in kinds {
            self.store_synced.with_label_values(&[kind]).set(synced.into());
            if let Some(age) = age {
                self.watch_last_event_age.with_label_values(&[kind]).set(age.as_secs_f64());
            }
        }
    }
}

impl Exposition for Metrics {
    fn text(&self) -> Result<Vec<u8>, MetricsError> {
        // Held until all is written: whoever asks at the same time must not see sums that are just being made.
        let looked = lock(&self.looked);
        self.look(&looked);
        encode(&self.registry)
    }
}

/// A list of plain values is whole after every statement, so that a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn saturating(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
