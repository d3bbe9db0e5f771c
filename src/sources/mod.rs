//! The systems that we ask. Each answers with a value; a failed read is never a value.

pub mod address;
pub mod connect;
mod connect_error;
pub mod dial;
pub mod direct;
mod driven;
pub mod engine_health;
pub mod hub;
mod hub_fetch;
pub mod limits;
pub mod pieces;
pub mod prometheus;
pub mod provider_health;
pub mod queue;
pub mod queue_error;
pub mod redis;
mod redis_connection;
mod redis_list;
mod redis_stream;
#[cfg(test)]
pub(crate) mod redis_testing;
pub mod redis_url;
mod resolve;
pub mod secrets;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;

use kube::runtime::reflector::ObjectRef;
use quartermaster_core::api::InferenceBackend;
use tokio::sync::mpsc::UnboundedSender;

/// A backend, by namespace and name.
pub type BackendRef = ObjectRef<InferenceBackend>;

/// Where a source says which backend is worth a look, because what it knows about it has changed. Nothing is lost here, so
/// the channel has no bound; the reader joins repeated wishes.
pub type Wake = UnboundedSender<BackendRef>;
