//! The systems that we ask. Each answers with a value; a failed read is never a value.

pub mod connect;
mod connect_error;
pub mod hub;
mod hub_fetch;
pub mod limits;
pub mod provider_health;
mod resolve;
pub mod secrets;
#[cfg(test)]
pub(crate) mod testing;

use kube::runtime::reflector::ObjectRef;
use quartermaster_core::api::InferenceBackend;
use tokio::sync::mpsc::UnboundedSender;

/// A backend, by namespace and name.
pub type BackendRef = ObjectRef<InferenceBackend>;

/// Where a source says which backend is worth a look, because what it knows about it has changed. Nothing is lost here, so
/// the channel has no bound; the reader joins repeated wishes.
pub type Wake = UnboundedSender<BackendRef>;
