//! The operator's own metrics. Labels are kinds, verbs and outcomes, never names of objects.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Metrics that cannot be set up or shown.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A metric's definition is refused: a bug of this file.
    #[error("register the metric {name}")]
    Register {
        /// Name of the metric.
        name: &'static str,
        /// Why.
        source: prometheus::Error,
    },
    /// The text format could not be written.
    #[error("write the metrics as text")]
    Encode(#[source] prometheus::Error),
}

/// What kind of call to the API server was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVerb {
    /// Read one object.
    Get,
    /// Read a list.
    List,
    /// Open a watch.
    Watch,
    /// Create an object.
    Create,
    /// Replace an object.
    Replace,
    /// Server-side apply.
    Apply,
    /// Any other patch.
    Patch,
    /// Delete an object.
    Delete,
}

impl ApiVerb {
    fn label(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Apply => "apply",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
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
    api_calls: IntCounterVec,
    applies_skipped: IntCounterVec,
    status_writes_skipped: IntCounterVec,
    watch_restarts: IntCounterVec,
    invalid_objects: IntGaugeVec,
    schema_outdated: IntGauge,
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
            api_calls: new.counters("quartermaster_api_calls_total", "Calls to the API server.", &["verb", "kind", "outcome"])?,
            applies_skipped: new.counters(
                "quartermaster_applies_skipped_total",
                "Children not applied because neither the intent nor the object had changed.",
                &["kind"],
            )?,
            status_writes_skipped: new.counters(
                "quartermaster_status_writes_skipped_total",
                "Statuses not written because they would have said the same.",
                &["kind"],
            )?,
            watch_restarts: new.counters(
                "quartermaster_watch_restarts_total",
                "Watches that failed and began again.",
                &["kind"],
            )?,
            invalid_objects: new.gauges("quartermaster_invalid_objects", "Objects that this operator cannot decode.", &["kind"])?,
            schema_outdated: new.gauge(
                "quartermaster_schema_outdated",
                "1 while the served CustomResourceDefinitions lack fields that this operator knows.",
            )?,
            leader: new.gauge("quartermaster_leader", "1 while this process leads.")?,
            lease_failures: new.counter(
                "quartermaster_lease_failures_total",
                "Requests for the Lease that failed or were not answered in time.",
            )?,
            registry: registry.clone(),
        };
        let build = new.gauges("quartermaster_build_info", "1, with the version as label.", &["version"])?;
        build.with_label_values(&[version]).set(1);
        #[cfg(target_os = "linux")]
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).map_err(|source| MetricsError::Register { name: "process", source })?;
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

    /// So many objects wait.
    pub fn set_queue_depth(&self, kind: &str, depth: usize) {
        self.queue_depth.with_label_values(&[kind]).set(saturating(depth));
    }

    /// A call to the API server was answered, or failed. `outcome` is static: `success`, `conflict`, `timeout`, ...
    pub fn called_api(&self, verb: ApiVerb, kind: &str, outcome: &'static str) {
        self.api_calls.with_label_values(&[verb.label(), kind, outcome]).inc();
    }

    /// An apply of a child of this kind was not needed.
    pub fn skipped_apply(&self, kind: &str) {
        self.applies_skipped.with_label_values(&[kind]).inc();
    }

    /// A write of a status of this kind was not needed.
    pub fn skipped_status_write(&self, kind: &str) {
        self.status_writes_skipped.with_label_values(&[kind]).inc();
    }

    /// A watch failed and began again.
    pub fn restarted_watch(&self, kind: &str) {
        self.watch_restarts.with_label_values(&[kind]).inc();
    }

    /// So many objects of this kind cannot be decoded.
    pub fn set_invalid_objects(&self, kind: &str, count: usize) {
        self.invalid_objects.with_label_values(&[kind]).set(saturating(count));
    }

    /// Whether the served schemas lack what this operator knows.
    pub fn set_schema_outdated(&self, outdated: bool) {
        self.schema_outdated.set(outdated.into());
    }

    /// Whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// A request for the Lease failed or was not answered in time.
    pub fn failed_lease_request(&self) {
        self.lease_failures.inc();
    }

    /// All metrics in Prometheus' text format, [`prometheus::TEXT_FORMAT`].
    ///
    /// # Errors
    ///
    /// When a collector yields what the format does not allow.
    pub fn text(&self) -> Result<Vec<u8>, MetricsError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).map_err(MetricsError::Encode)?;
        Ok(text)
    }
}

fn saturating(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

struct Definitions<'registry> {
    registry: &'registry Registry,
}

impl Definitions<'_> {
    fn register<C: Collector + Clone + 'static>(&self, name: &'static str, collector: &C) -> Result<(), MetricsError> {
        self.registry.register(Box::new(collector.clone())).map_err(|source| MetricsError::Register { name, source })
    }

    fn add<C: Collector + Clone + 'static>(&self, name: &'static str, made: prometheus::Result<C>) -> Result<C, MetricsError> {
        let collector = made.map_err(|source| MetricsError::Register { name, source })?;
        self.register(name, &collector)?;
        Ok(collector)
    }

    fn counter(&self, name: &'static str, help: &str) -> Result<IntCounter, MetricsError> {
        self.add(name, IntCounter::new(name, help))
    }

    fn counters(&self, name: &'static str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricsError> {
        self.add(name, IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &'static str, help: &str) -> Result<IntGauge, MetricsError> {
        self.add(name, IntGauge::new(name, help))
    }

    fn gauges(&self, name: &'static str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        self.add(name, IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(&self, name: &'static str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec, MetricsError> {
        self.add(name, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_what_prometheus_reads() {
        let metrics = Metrics::new("1.2.3").unwrap();
        metrics.reconciled("InferenceBackend", "success", Duration::from_millis(3));
        metrics.clone().reconciled("InferenceBackend", "ApplyRefused", Duration::from_secs(2));
        metrics.panicked("InferenceBackend");
        metrics.timed_out("InferenceBackend");
        metrics.set_queue_depth("InferenceBackend", 7);
        metrics.called_api(ApiVerb::Apply, "Deployment", "conflict");
        metrics.skipped_apply("Deployment");
        metrics.skipped_status_write("InferenceBackend");
        metrics.restarted_watch("Node");
        metrics.set_invalid_objects("InferenceBackend", 2);
        metrics.set_schema_outdated(true);
        metrics.set_leader(true);
        metrics.set_leader(false);
        metrics.failed_lease_request();
        let text = String::from_utf8(metrics.text().unwrap()).unwrap();
        for line in [
            r#"quartermaster_reconciles_total{kind="InferenceBackend",outcome="success"} 1"#,
            r#"quartermaster_reconciles_total{kind="InferenceBackend",outcome="ApplyRefused"} 1"#,
            r#"quartermaster_reconcile_duration_seconds_count{kind="InferenceBackend"} 2"#,
            r#"quartermaster_reconcile_duration_seconds_bucket{kind="InferenceBackend",le="0.005"} 1"#,
            r#"quartermaster_reconcile_panics_total{kind="InferenceBackend"} 1"#,
            r#"quartermaster_reconcile_timeouts_total{kind="InferenceBackend"} 1"#,
            r#"quartermaster_queue_depth{kind="InferenceBackend"} 7"#,
            r#"quartermaster_api_calls_total{kind="Deployment",outcome="conflict",verb="apply"} 1"#,
            r#"quartermaster_applies_skipped_total{kind="Deployment"} 1"#,
            r#"quartermaster_status_writes_skipped_total{kind="InferenceBackend"} 1"#,
            r#"quartermaster_watch_restarts_total{kind="Node"} 1"#,
            r#"quartermaster_invalid_objects{kind="InferenceBackend"} 2"#,
            "quartermaster_schema_outdated 1",
            "quartermaster_leader 0",
            "quartermaster_lease_failures_total 1",
            r#"quartermaster_build_info{version="1.2.3"} 1"#,
        ] {
            assert!(text.lines().any(|present| present == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_metric_registered_twice_is_an_error_that_names_it() {
        let registry = Registry::new();
        let new = Definitions { registry: &registry };
        new.gauge("quartermaster_leader", "One.").unwrap();
        let error = new.gauge("quartermaster_leader", "Another.").unwrap_err();
        assert_eq!(error.to_string(), "register the metric quartermaster_leader");
    }
}
