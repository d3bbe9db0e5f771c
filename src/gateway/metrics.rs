//! The gateway's own metrics. Labels are names of objects (routes, backends, pools) and what there is few of; tokens are counted
//! by the operator alone.

use std::time::Duration;

use hyper::StatusCode;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::request_body::Room;
use crate::operate::metrics::{Definitions, Exposition, MetricsError, encode};

/// Buckets of a whole call, in seconds: an error of ours takes less than a millisecond, an answer up to ten minutes.
const CALL_SECONDS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Buckets of the time to a first content, in seconds.
const FIRST_CONTENT_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Buckets of the time that a call waits for room in a budget, in seconds: a grant takes two messages, which are a tenth of a
/// second apart at least, and nobody waits for more than 3 s.
const BUDGET_WAIT_SECONDS: &[f64] = &[0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0];

/// All metrics of a gateway, in a registry of their own. A clone counts into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Calls that ended, by operation, route and code.
    requests: IntCounterVec,
    duration: HistogramVec,
    first_content: HistogramVec,
    attempts: IntCounterVec,
    budget_refusals: IntCounterVec,
    task_refusals: IntCounterVec,
    budget_wait: HistogramVec,
    reservation_exceeded: IntCounterVec,
    /// Calls in flight.
    pub in_flight: IntGauge,
    held_bytes: IntGauge,
    room: Room,
    /// Calls whose client left.
    pub client_left: IntCounter,
    /// Calls that ended in a panic.
    pub panics: IntCounter,
    /// Lines of the routing log that were lost.
    pub lost_lines: IntCounter,
    plans: IntCounterVec,
    plan: IntGaugeVec,
}

impl Metrics {
    /// Registers every metric, and those of the process where the system tells them. `room` is what the bytes of calls stand in.
    ///
    /// # Errors
    ///
    /// When a definition is refused.
    pub fn new(version: &str, room: Room) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let new = Definitions { registry: &registry };
        let metrics = Self {
            requests: new.counters(
                "quartermaster_gateway_requests_total",
                "Calls that ended, by the status that the client got; left where it had left before.",
                &["operation", "route", "code"],
            )?,
            duration: new.histograms(
                "quartermaster_gateway_request_duration_seconds",
                "Duration of calls, to the last byte of the answer.",
                &["operation"],
                CALL_SECONDS,
            )?,
            first_content: new.histograms(
                "quartermaster_gateway_first_content_seconds",
                "Time to the first content of a stream, or to a plain answer, of attempts that were good.",
                &["backend"],
                FIRST_CONTENT_SECONDS,
            )?,
            attempts: new.counters(
                "quartermaster_gateway_attempts_total",
                "Attempts at backends, by how they ended.",
                &["backend", "outcome"],
            )?,
            budget_refusals: new.counters(
                "quartermaster_gateway_budget_refusals_total",
                "Calls that were refused because of a budget of their caller, by why.",
                &["route", "reason"],
            )?,
            task_refusals: new.counters(
                "quartermaster_gateway_task_refusals_total",
                "Calls that were refused because of the limits of their task, by which.",
                &["route", "reason"],
            )?,
            budget_wait: new.histograms(
                "quartermaster_gateway_budget_wait_seconds",
                "How long attempts waited for room in a budget, of those that had to, by what came of it.",
                &["outcome"],
                BUDGET_WAIT_SECONDS,
            )?,
            reservation_exceeded: new.counters(
                "quartermaster_gateway_reservation_exceeded_total",
                "Attempts that used more than was reserved for them in a budget. They are charged in full.",
                &["backend"],
            )?,
            in_flight: new.gauge("quartermaster_gateway_requests_in_flight", "Calls that have not ended.")?,
            held_bytes: new.gauge("quartermaster_gateway_held_bytes", "Bytes of bodies that calls hold.")?,
            client_left: new.counter("quartermaster_gateway_client_left_total", "Calls whose client left before their end.")?,
            panics: new.counter("quartermaster_gateway_panics_total", "Calls that ended in a panic.")?,
            lost_lines: new.counter(
                "quartermaster_gateway_routing_log_lost_total",
                "Lines of the routing log that were lost because standard output was read too slowly.",
            )?,
            plans: new.counters(
                "quartermaster_gateway_plans_total",
                "Plans that came, by whether they were put in force.",
                &["outcome"],
            )?,
            plan: new.gauges("quartermaster_gateway_plan_info", "1, with the hash of the plan in force.", &["hash"])?,
            room,
            registry: registry.clone(),
        };
        new.process(version)?;
        Ok(metrics)
    }

    /// A call ended. `code` is none where the client had left.
    pub fn ended(&self, operation: &str, route: &str, code: Option<StatusCode>, took: Duration) {
        let code = code.as_ref().map_or("left", StatusCode::as_str);
        self.requests.with_label_values(&[operation, route, code]).inc();
        self.duration.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// An attempt ended.
    pub fn attempted(&self, backend: &str, outcome: &str) {
        self.attempts.with_label_values(&[backend, outcome]).inc();
    }

    /// A budget refused a call of a route.
    pub fn refused_by_budget(&self, route: &str, reason: &str) {
        self.budget_refusals.with_label_values(&[route, reason]).inc();
    }

    /// A call of a route was refused because of the limits of its task.
    pub fn refused_of_task(&self, route: &str, reason: &str) {
        self.task_refusals.with_label_values(&[route, reason]).inc();
    }

    /// An attempt has waited for room in a budget.
    pub fn waited_for_budget(&self, outcome: &str, waited: Duration) {
        self.budget_wait.with_label_values(&[outcome]).observe(waited.as_secs_f64());
    }

    /// An attempt used more than was reserved for it.
    pub fn reservation_exceeded(&self, backend: &str) {
        self.reservation_exceeded.with_label_values(&[backend]).inc();
    }

    /// The first content of an attempt came.
    pub fn first_content(&self, backend: &str, after: Duration) {
        self.first_content.with_label_values(&[backend]).observe(after.as_secs_f64());
    }

    /// A plan came. `hash` is that of the plan in force, where it was put in force.
    pub fn planned(&self, hash: Option<&str>) {
        self.plans.with_label_values(&[if hash.is_some() { "applied" } else { "refused" }]).inc();
        if let Some(hash) = hash {
            self.plan.reset();
            self.plan.with_label_values(&[hash]).set(1);
        }
    }
}

impl Exposition for Metrics {
    fn text(&self) -> Result<Vec<u8>, MetricsError> {
        self.held_bytes.set(i64::try_from(self.room.held()).unwrap_or(i64::MAX));
        encode(&self.registry)
    }
}
