//! The operator as a process of its own, measured through its own metrics and the system's.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, DEADLINE};
use crate::process::{self, Memory};

/// How long no reconcile may happen for the operator to be called quiet.
const QUIET: Duration = Duration::from_secs(3);
const PROCESSOR_SECONDS: &str = "processor_seconds";
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// A running operator. It ends with its owner.
pub struct Operator {
    /// When the process was started.
    pub started: Instant,
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Operator {
    /// Starts it as it is run in production: no observations are kept, and the log is at its default level.
    pub fn start(cluster: &Cluster) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let stem = cluster.connection.directory().join(format!("operator-{}-{port}", cluster.namespace));
        let (configuration, log) = (stem.with_extension("yaml"), stem.with_extension("log"));
        let text = format!(
            "watchNamespaces: [{}]\nadmin: {{listen: \"127.0.0.1:{port}\"}}\ndestinations: {{allowLoopback: true}}\n",
            cluster.namespace
        );
        std::fs::write(&configuration, text).unwrap();
        let output = File::create(&log).unwrap();
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_quartermaster"))
            .args(["run", "--namespace", &cluster.namespace, "--configuration"])
            .arg(&configuration)
            .env("KUBECONFIG", &cluster.kubeconfig)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { started, child, port, log }
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Metrics {
        let started = Instant::now();
        loop {
            if let Some(metrics) = self.try_metrics().await {
                return metrics;
            }
            assert!(started.elapsed() < DEADLINE, "no metrics:\n{}", self.log());
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    async fn try_metrics(&self) -> Option<Metrics> {
        let answer = reqwest::get(format!("http://127.0.0.1:{}/metrics", self.port)).await.ok()?;
        let mut metrics = Metrics::read(&answer.text().await.ok()?);
        // The same metric from the operator itself counts whole seconds.
        metrics.0.insert(PROCESSOR_SECONDS.to_owned(), process::processor_seconds(self.child.id()));
        Some(metrics)
    }

    /// Waits until so many reconciles have succeeded since the start, and tells how long after the start that was.
    pub async fn reconciled(&self, count: usize) -> Duration {
        self.until(|metrics| metrics.reconciles() >= count as f64).await;
        self.started.elapsed()
    }

    /// Waits until nothing happens any more.
    pub async fn quiet(&self) -> Metrics {
        let started = Instant::now();
        let mut last = self.metrics().await;
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            assert!(started.elapsed() < DEADLINE, "never quiet:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = self.metrics().await;
            if now.reconciles() > last.reconciles() {
                since = Instant::now();
            }
            last = now;
        }
        last
    }

    /// Wakes every backend by a change of a node, waits until each was reconciled, and tells how long that took from the
    /// first to the last of them, as far as the metrics can be read.
    pub async fn wake_all(&self, cluster: &Cluster, round: usize, backends: usize) -> Duration {
        let before = self.metrics().await.reconciles();
        let touched = Instant::now();
        cluster.touch_node(round).await;
        self.until(|metrics| metrics.reconciles() >= before + backends as f64).await;
        touched.elapsed()
    }

    async fn until(&self, holds: impl Fn(&Metrics) -> bool) {
        let started = Instant::now();
        while !holds(&self.metrics().await) {
            assert!(started.elapsed() < DEADLINE, "too slow:\n{}", self.log());
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Its memory now.
    pub fn memory(&self) -> Memory {
        process::memory(self.child.id())
    }

    /// Asks it to end, so that the next one gets the lease at once, and waits until it has.
    pub fn end(mut self) {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }

    /// The end of its log.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `/metrics` said, or how much it has grown.
#[derive(Clone, Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn read(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Self(samples.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect())
    }

    /// The growth since an earlier time.
    pub fn since(&self, before: &Self) -> Self {
        let growth = |(series, value): (&String, &f64)| (series.clone(), value - before.0.get(series).copied().unwrap_or(0.0));
        Self(self.0.iter().map(growth).collect())
    }

    fn sum(&self, name: &str, part: &str) -> f64 {
        self.sum_of(name, |series| series.contains(part))
    }

    fn sum_of(&self, name: &str, counts: impl Fn(&str) -> bool) -> f64 {
        let is_of = |series: &str| series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        self.0.iter().filter(|(series, _)| is_of(series) && counts(series)).map(|(_, value)| value).sum()
    }

    /// Reconciles that succeeded.
    pub fn reconciles(&self) -> f64 {
        self.sum("quartermaster_reconciles_total", "outcome=\"success\"")
    }

    /// Reconciles that did not succeed.
    pub fn failures(&self) -> f64 {
        self.sum("quartermaster_reconciles_total", "") - self.reconciles()
    }

    /// Requests to the API server but for lists, watches and the lease, which go on whatever happens.
    pub fn calls(&self) -> f64 {
        let goes_on = ["verb=\"list\"", "verb=\"watch\"", "resource=\"leases\""];
        self.sum_of("quartermaster_api_calls_total", |series| !goes_on.iter().any(|part| series.contains(part)))
    }

    /// Round trips that read queues.
    pub fn polls(&self) -> f64 {
        self.sum("quartermaster_queue_polls_total", "")
    }

    /// Time of the processor, in seconds.
    pub fn processor_seconds(&self) -> f64 {
        self.sum(PROCESSOR_SECONDS, "")
    }

    /// Time that reconciles took together, in seconds.
    pub fn reconcile_seconds(&self) -> f64 {
        self.sum("quartermaster_reconcile_duration_seconds_sum", "")
    }
}
