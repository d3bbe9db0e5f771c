//! The server for probes, metrics and, when enabled, observations.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::driver::Observations;
use super::health::{Health, Readiness};
use super::key::ObjectKey;
use super::metrics::Exposition;

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken, or not of this machine.
    #[error("failed to listen on {address}: {source}; set admin.listen in the configuration file, or --admin-listen")]
    Listen {
        /// The address.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The server ended.
    #[error("failed to serve probes and metrics: {0}")]
    Serve(std::io::Error),
}

/// What the server shows.
#[derive(Clone)]
pub struct Shown {
    /// Whether the process makes progress.
    pub health: Health,
    /// What the process waits for.
    pub readiness: Readiness,
    /// The metrics.
    pub metrics: Arc<dyn Exposition>,
    /// The last observations by kind, where the configuration enables them.
    pub observations: Vec<(&'static str, Observations)>,
}

/// Listens.
pub async fn listen(address: &str) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| AdminError::Listen { address: address.to_owned(), source })
}

/// The address that was bound, for the log.
pub fn bound(listener: &TcpListener) -> Option<SocketAddr> {
    listener.local_addr().ok()
}

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, shown: Shown, cancelled: CancellationToken) -> Result<(), AdminError> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/debug/observations/{kind}/{namespace}/{name}", get(observation))
        .with_state(shown);
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { cancelled.cancelled().await })
        .await
        .map_err(AdminError::Serve)
}

async fn healthz(State(shown): State<Shown>) -> Response {
    let stuck = shown.health.stuck();
    if stuck.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("no progress: {}\n", stuck.join(", "))).into_response()
}

async fn readyz(State(shown): State<Shown>) -> Response {
    let waiting = shown.readiness.waiting();
    let status = if waiting.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(json!({ "ready": waiting.is_empty(), "waitingFor": waiting }))).into_response()
}

async fn metrics(State(shown): State<Shown>) -> Response {
    match shown.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn observation(State(shown): State<Shown>, Path((kind, namespace, name)): Path<(String, String, String)>) -> Response {
    let not_found = |reason: &str| (StatusCode::NOT_FOUND, format!("{reason}\n")).into_response();
    if shown.observations.is_empty() {
        return not_found("observations are not kept: set admin.observations in the configuration file");
    }
    let Some((_, observations)) = shown.observations.iter().find(|(known, _)| known.eq_ignore_ascii_case(&kind)) else {
        return not_found("no such kind");
    };
    let observations = observations.lock().unwrap_or_else(PoisonError::into_inner);
    match observations.get(&ObjectKey::new(namespace, name)) {
        Some(observation) => axum::Json(observation.clone()).into_response(),
        None => not_found("no observation of that object: it does not exist, or this process does not lead"),
    }
}
