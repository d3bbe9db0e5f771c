//! Clients of the API server: one for calls, one for watches, one for the lease, each with the time-outs that fit.

use std::sync::Arc;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;

use super::count::CountLayer;
use super::metrics::Metrics;

/// The calls of the driver have deadlines of their own, which are shorter and say more; this one is for what has none.
const CALL_SILENCE: Duration = Duration::from_secs(20);
/// A list or a watch whose answer has not begun by now goes to a connection that leads nowhere. Nothing else would end it.
pub const WATCH_BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// Longer than the 200 s after which the API server ends a watch, and the 5 s that kube-rs waits beyond them.
const WATCH_SILENCE: Duration = Duration::from_secs(210);

/// A client that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither a kubeconfig nor a pod's environment says where the API server is.
    #[error("failed to find the API server: {source}; set KUBECONFIG, or run in a pod with a service account")]
    Find {
        /// What was tried.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The client cannot be built from what was found.
    #[error("failed to build a client of the API server: {source}")]
    Build {
        /// What is wrong.
        source: Box<kube::Error>,
    },
}

/// The clients of one process.
#[derive(Clone)]
pub struct Clients {
    /// For calls with an answer: 20 s without a byte end them, where no shorter deadline does, and nothing is repeated behind
    /// our back.
    pub calls: Client,
    /// For lists and watches: each has 30 s to begin, and ends when it is silent for longer than a watch may last.
    pub watches: Client,
    /// For the lease.
    pub lease: Client,
    /// Namespace of the process itself.
    pub namespace: String,
    /// Address of the API server, which user-given URLs must not reach.
    pub server_host: String,
}

impl Clients {
    /// From the environment: KUBECONFIG, else the pod's service account. These metrics count every request.
    pub async fn from_environment(context: Option<String>, metrics: &Arc<Metrics>) -> Result<Self, ClientError> {
        let config = match context {
            Some(context) => Config::from_kubeconfig(&KubeConfigOptions { context: Some(context), ..KubeConfigOptions::default() })
                .await
                .map_err(|source| ClientError::Find { source: Box::new(source) })?,
            None => Config::infer().await.map_err(|source| ClientError::Find { source: Box::new(source) })?,
        };
        let builder = |silence: Duration| {
            let mut config = config.clone();
            config.read_timeout = Some(silence);
            // The silence is counted from the request, not from the end of the one before on the same connection.
            config.reset_reader_on_write = true;
            config.connect_timeout = Some(Duration::from_secs(5));
            config.default_retry = false;
            ClientBuilder::try_from(config).map_err(|source| ClientError::Build { source: Box::new(source) })
        };
        let count = CountLayer::new(metrics.clone());
        Ok(Self {
            calls: builder(CALL_SILENCE)?.with_layer(&count).build(),
            watches: builder(WATCH_SILENCE)?.with_layer(&TimeoutLayer::new(WATCH_BEGINS_WITHIN)).with_layer(&count).build(),
            lease: builder(CALL_SILENCE)?.with_layer(&count).build(),
            namespace: config.default_namespace.clone(),
            server_host: config.cluster_url.host().unwrap_or_default().to_owned(),
        })
    }
}
