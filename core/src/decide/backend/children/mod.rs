//! The objects that a self-hosted backend consists of, each made from one [`Plan`] by a pure function.

pub mod deployment;
pub mod environment;
pub mod image;
pub mod network_policy;
pub mod ollama;
pub mod placement;
pub mod plan;
mod pod;
pub mod pod_disruption_budget;
mod probes;
pub mod resources;
pub mod secret;
pub mod service;
pub mod service_account;
mod volumes;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

pub use plan::{Placement, Plan};

use super::engine::Engine;
use super::facts::Settings;
use super::patch::PatchError;
use crate::api::duration::ParseDurationError;
use crate::decide::decision::{ApplyMode, Child, ChildIdentity};
use crate::decide::owned::{self, Owner};

/// The label by which a backend's Deployment, Service, NetworkPolicy and PodDisruptionBudget find its pods.
pub const BACKEND_LABEL: &str = "quartermaster.dev/inference-backend";
/// Name of the container that runs vLLM.
pub const CONTAINER: &str = "vllm";
/// Name of the container's port, and of the Service's.
pub const PORT_NAME: &str = "http";
/// The port that every engine and its Service listen on.
pub const PORT: u16 = 8000;
/// Key of the generated Secret that holds the API key.
pub const API_KEY: &str = "api-key";

/// A child that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A duration of the spec cannot be read.
    #[error("failed to read a duration of the spec: {0}")]
    ReadDuration(#[from] ParseDurationError),
    /// The patch asks for what the operator cannot give up.
    #[error("failed to apply spec.vllm.podTemplatePatch: {0}")]
    ApplyPatch(#[from] PatchError),
    /// The resources ask for what the choice of accelerators decides.
    #[error("failed to combine spec.vllm.resources with the choice of accelerators: {0}")]
    CombineResources(#[from] resources::ResourceError),
    /// The operator's configuration names no directory for `cache.nodeLocal`.
    #[error(
        "failed to mount the cache: {field}.cache.nodeLocal needs vllm.nodeLocalCachePath in the operator's configuration; \
         use cache.persistentVolumeClaim or cache.ephemeral instead"
    )]
    FindNodeLocalCache {
        /// The member of the spec that asks for it.
        field: &'static str,
    },
    /// Too few random bytes were given for an API key.
    #[error("failed to make an API key: {given} hexadecimal digits of entropy were given, at least {needed} are needed")]
    DrawApiKey {
        /// Digits that were given.
        given: usize,
        /// Digits that are needed.
        needed: usize,
    },
    /// An object cannot be written as JSON.
    #[error("failed to write {kind} {name} as JSON: {source}")]
    Serialize {
        /// Kind of the object.
        kind: &'static str,
        /// Name of the object.
        name: String,
        /// What serde says.
        source: serde_json::Error,
    },
}

/// What the children of every self-hosted backend follow from, whatever serves its model.
pub trait Subject {
    /// Name of the backend.
    fn name(&self) -> &str;
    /// Namespace of the backend and of its children.
    fn namespace(&self) -> &str;
    /// Uid of the backend, for the owner references.
    fn uid(&self) -> &str;
    /// Replicas that are wanted.
    fn replicas(&self) -> u32;
    /// What serves the model.
    fn engine(&self) -> Engine;
    /// The operator's configuration.
    fn settings(&self) -> &Settings;
}

/// Every child of a backend with vLLM, in the order in which they are applied: who may connect to its pods is settled before there are any.
/// `entropy` as [`secret::build`] wants it; none where the
/// Secret exists: it stays as it is, and in the list, for a child that is not in the list would be deleted.
///
/// # Errors
///
/// The first child that cannot be made.
pub fn all(plan: &Plan<'_>, entropy: Option<&str>) -> Result<Vec<Child>, BuildError> {
    let mut children = vec![service_account::build(plan)?, secret::build(plan, entropy)?];
    children.extend(network_policy::build(plan)?);
    children.extend([service::build(plan)?, deployment::build(plan)?]);
    children.extend(pod_disruption_budget::build(plan)?);
    Ok(children)
}

/// Name of the children of a backend.
pub fn child_name(backend: &str) -> String {
    format!("{backend}-backend")
}

/// The labels by which the pods of a backend are found. A Deployment cannot change them.
pub fn selector(backend: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(BACKEND_LABEL.to_owned(), backend.to_owned())])
}

/// The same as text, for the scale subresource.
pub fn selector_text(backend: &str) -> String {
    format!("{BACKEND_LABEL}={backend}")
}

/// The labels of every child, whose pods run this application. Labels of the backend itself are never copied: a tool that tracks its objects by label would
/// take the children for its own and prune them.
pub fn labels(application: &str, backend: &str) -> BTreeMap<String, String> {
    let mut labels = selector(backend);
    for (key, value) in [
        ("app.kubernetes.io/name", application),
        ("app.kubernetes.io/instance", backend),
        ("app.kubernetes.io/managed-by", "quartermaster"),
        ("app.kubernetes.io/component", "inference-backend"),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// Metadata of a child: name, namespace, labels and owner.
fn metadata(plan: &impl Subject) -> ObjectMeta {
    let owner = Owner { kind: "InferenceBackend", name: plan.name(), namespace: plan.namespace(), uid: plan.uid() };
    owned::metadata(owner, child_name(plan.name()), labels(plan.engine().application(), plan.name()))
}

/// The child as the rest of the operator handles it.
fn child<T: Serialize>(plan: &impl Subject, kind: &'static str, object: &T, mode: ApplyMode) -> Result<Child, BuildError> {
    let name = child_name(plan.name());
    let object = to_value(kind, &name, object)?;
    Ok(Child { identity: ChildIdentity { kind: kind.to_owned(), name }, object, mode })
}

fn to_value<T: Serialize>(kind: &'static str, name: &str, object: &T) -> Result<Value, BuildError> {
    serde_json::to_value(object).map_err(|source| BuildError::Serialize { kind, name: name.to_owned(), source })
}

#[cfg(test)]
mod tests;
