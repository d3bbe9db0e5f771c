//! Clients of the API server: one for calls, one for watches, one for the lease, each with the time-outs that fit.

use std::time::Duration;

use kube::config::KubeConfigOptions;
use kube::{Client, Config};

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
    /// For calls with an answer: 15 s without a byte end them, and nothing is repeated behind our back.
    pub calls: Client,
    /// For watches, whose answers take as long as they take.
    pub watches: Client,
    /// For the lease.
    pub lease: Client,
    /// Namespace of the process itself.
    pub namespace: String,
    /// Address of the API server, which user-given URLs must not reach.
    pub server_host: String,
}

impl Clients {
    /// From the environment: KUBECONFIG, else the pod's service account.
    pub async fn from_environment(context: Option<String>) -> Result<Self, ClientError> {
        let config = match context {
            Some(context) => Config::from_kubeconfig(&KubeConfigOptions { context: Some(context), ..KubeConfigOptions::default() })
                .await
                .map_err(|source| ClientError::Find { source: Box::new(source) })?,
            None => Config::infer().await.map_err(|source| ClientError::Find { source: Box::new(source) })?,
        };
        let client = |read_timeout: Option<Duration>| {
            let mut config = config.clone();
            config.read_timeout = read_timeout;
            config.connect_timeout = Some(Duration::from_secs(5));
            config.default_retry = false;
            Client::try_from(config).map_err(|source| ClientError::Build { source: Box::new(source) })
        };
        let deadline = Some(Duration::from_secs(15));
        Ok(Self {
            calls: client(deadline)?,
            watches: client(None)?,
            lease: client(deadline)?,
            namespace: config.default_namespace.clone(),
            server_host: config.cluster_url.host().unwrap_or_default().to_owned(),
        })
    }
}
