//! How metrics are made, registered and written: of the operator and of the gateway alike.

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Metrics that cannot be set up or shown.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A metric's definition is refused: a bug of whoever defines it.
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

/// What has metrics to show.
pub trait Exposition: Send + Sync {
    /// All of them in Prometheus' text format, [`prometheus::TEXT_FORMAT`].
    ///
    /// # Errors
    ///
    /// When a collector yields what the format does not allow.
    fn text(&self) -> Result<Vec<u8>, MetricsError>;
}

/// Everything of a registry in Prometheus' text format.
pub(crate) fn encode(registry: &Registry) -> Result<Vec<u8>, MetricsError> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).map_err(MetricsError::Encode)?;
    Ok(text)
}

/// Makes metrics and registers them.
pub(crate) struct Definitions<'registry> {
    /// Where.
    pub(crate) registry: &'registry Registry,
}

impl Definitions<'_> {
    fn register<C: Collector + Clone + 'static>(&self, name: &'static str, collector: &C) -> Result<(), MetricsError> {
        self.registry.register(Box::new(collector.clone())).map_err(|source| MetricsError::Register { name, source })
    }

    /// What every process of ours shows of itself: its version, and what the system tells.
    pub(crate) fn process(&self, version: &str) -> Result<(), MetricsError> {
        let build = self.gauges("quartermaster_build_info", "1, with the version as label.", &["version"])?;
        build.with_label_values(&[version]).set(1);
        #[cfg(target_os = "linux")]
        let process = prometheus::process_collector::ProcessCollector::for_self();
        self.registry.register(Box::new(process)).map_err(|source| MetricsError::Register { name: "process", source })
    }

    fn add<C: Collector + Clone + 'static>(&self, name: &'static str, made: prometheus::Result<C>) -> Result<C, MetricsError> {
        let collector = made.map_err(|source| MetricsError::Register { name, source })?;
        self.register(name, &collector)?;
        Ok(collector)
    }

    pub(crate) fn counter(&self, name: &'static str, help: &str) -> Result<IntCounter, MetricsError> {
        self.add(name, IntCounter::new(name, help))
    }

    pub(crate) fn counters(&self, name: &'static str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricsError> {
        self.add(name, IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn gauge(&self, name: &'static str, help: &str) -> Result<IntGauge, MetricsError> {
        self.add(name, IntGauge::new(name, help))
    }

    pub(crate) fn gauges(&self, name: &'static str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        self.add(name, IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn real_gauges(&self, name: &'static str, help: &str, labels: &[&str]) -> Result<GaugeVec, MetricsError> {
        self.add(name, GaugeVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn ages(&self, name: &'static str, help: &str) -> Result<GaugeVec, MetricsError> {
        self.add(name, GaugeVec::new(Opts::new(name, help), &["kind"]))
    }

    pub(crate) fn histograms(
        &self,
        name: &'static str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, MetricsError> {
        self.add(name, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_registered_twice_is_an_error_that_names_it() {
        let registry = Registry::new();
        let new = Definitions { registry: &registry };
        new.gauge("quartermaster_leader", "One.").unwrap();
        let error = new.gauge("quartermaster_leader", "Another.").unwrap_err();
        assert_eq!(error.to_string(), "register the metric quartermaster_leader");
    }
}
