//! The objects that a pool with a template consists of, each made from one [`Plan`] by a pure function.

pub mod caller_secret;
pub mod deployment;
pub mod pod_disruption_budget;
pub mod service_account;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

use crate::api::agent_pool::AgentPoolSpec;
use crate::api::duration::ParseDurationError;
use crate::decide::decision::{ApplyMode, Child, ChildIdentity};
use crate::decide::owned::{self, Owner};

/// The label by which a pool's Deployment and PodDisruptionBudget find its pods.
pub const POOL_LABEL: &str = "quartermaster.dev/agent-pool";

/// What the children of a pool are made from.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Name of the pool.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// Its spec.
    pub spec: &'a AgentPoolSpec,
    /// The template of the agents' pods.
    pub template: &'a Value,
    /// Replicas that there should be.
    pub replicas: u32,
    /// SHA-256 of the key by which the agents call the gateway; absent for a pool without one.
    pub key_hash: Option<&'a str>,
}

/// A child that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A duration of the spec cannot be read.
    #[error("spec.taskLimits.timeout: {0}")]
    ReadTimeout(ParseDurationError),
    /// The template is no pod template.
    #[error("spec.template.{path} {problem}")]
    ReadTemplate {
        /// Where.
        path: String,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// Too few random bytes were given for a key.
    #[error("failed to make a key: {given} hexadecimal digits of entropy were given, at least {needed} are needed")]
    DrawKey {
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

/// Every child of a pool with a template but its Secret, in the order in which they are applied.
///
/// # Errors
///
/// The first child that cannot be made.
pub fn all(plan: &Plan<'_>) -> Result<Vec<Child>, BuildError> {
    let mut children = vec![service_account::build(plan)?, deployment::build(plan)?];
    children.extend(pod_disruption_budget::build(plan)?);
    Ok(children)
}

/// Name of the children of a pool.
pub fn child_name(pool: &str) -> String {
    format!("{pool}-pool")
}

/// The labels by which the pods of a pool are found. A Deployment cannot change them.
pub fn selector(pool: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(POOL_LABEL.to_owned(), pool.to_owned())])
}

/// The same as text, for the scale subresource.
pub fn selector_text(pool: &str) -> String {
    format!("{POOL_LABEL}={pool}")
}

/// The labels of every child. Labels of the pool itself are never copied: a tool that tracks its objects by label would take
/// the children for its own and prune them.
fn labels(pool: &str) -> BTreeMap<String, String> {
    let mut labels = selector(pool);
    for (key, value) in [
        ("app.kubernetes.io/name", "agent"),
        ("app.kubernetes.io/instance", pool),
        ("app.kubernetes.io/managed-by", "quartermaster"),
        ("app.kubernetes.io/component", "agent-pool"),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// A pool as the owner of its children.
pub fn owner<'a>(name: &'a str, namespace: &'a str, uid: &'a str) -> Owner<'a> {
    Owner { kind: "AgentPool", name, namespace, uid }
}

/// Metadata of a child: name, namespace, labels and owner.
fn metadata(plan: &Plan<'_>) -> ObjectMeta {
    owned::metadata(owner(plan.name, plan.namespace, plan.uid), child_name(plan.name), labels(plan.name))
}

/// The child as the rest of the operator handles it.
fn child<T: Serialize>(plan: &Plan<'_>, kind: &'static str, object: &T) -> Result<Child, BuildError> {
    let name = child_name(plan.name);
    let object = serde_json::to_value(object).map_err(|source| BuildError::Serialize { kind, name: name.clone(), source })?;
    Ok(Child { identity: ChildIdentity { kind: kind.to_owned(), name }, object, mode: ApplyMode::Apply })
}

#[cfg(test)]
mod tests;
