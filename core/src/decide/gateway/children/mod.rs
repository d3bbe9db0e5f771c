//! The objects of a namespace's gateway, each made from one [`Gateway`] by a pure function. All routes of the namespace own them
//! together, so that they go with the last. [`secrets`] are made by whoever can read keys, in the same way.

pub mod config_map;
pub mod deployment;
pub mod network_policy;
pub mod pod_disruption_budget;
pub mod secrets;
pub mod service;
pub mod service_account;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::assemble::AcceptedForm;
use super::plan::Plan;
use super::settings::Settings;
use crate::api::configuration::Configuration;
use crate::decide::decision::{ApplyMode, Child, ChildIdentity};
use crate::decide::owned::{self, Owner};

/// Name of the objects of a gateway, of its Secret, and of the ConfigMap with its users' settings.
pub const NAME: &str = "quartermaster-gateway";
/// Name of the ConfigMap with the plan.
pub const PLAN_NAME: &str = "quartermaster-gateway-plan";
/// Name of the Secret with the certificate for the exchange.
pub const CERTIFICATE_NAME: &str = "quartermaster-gateway-certificate";
/// The label by which a gateway's Deployment, Service, NetworkPolicy and PodDisruptionBudget find its pods.
pub const GATEWAY_LABEL: &str = "quartermaster.dev/gateway";
/// The port on which calls are answered.
pub const PORT: u16 = 4000;
/// The port of the exchange with the operator.
pub const EXCHANGE_PORT: u16 = 4001;
/// The port of the server for probes and metrics.
pub const ADMIN_PORT: u16 = 8080;

/// What the objects of a gateway are made from.
#[derive(Clone, Copy, Debug)]
pub struct Gateway<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The routes of the namespace, by name, with their uids: those that own the objects.
    pub routes: &'a BTreeMap<String, String>,
    /// The image, whose entry point is `quartermaster`.
    pub image: &'a str,
    /// What the namespace's users set.
    pub settings: &'a Settings,
    /// The operator's configuration, of which the gateway gets what it needs.
    pub configuration: &'a Configuration,
    /// The namespace of the operator, from which the exchange comes.
    pub operator_namespace: &'a str,
    /// The plan.
    pub plan: &'a Plan,
    /// The forms of its routes that were accepted last.
    pub accepted: &'a BTreeMap<String, AcceptedForm>,
}

/// A child that could not be made: it cannot be written as JSON.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {kind} {name} as JSON: {source}")]
pub struct BuildError {
    /// Kind of the object.
    pub kind: &'static str,
    /// Name of the object.
    pub name: &'static str,
    /// What serde says.
    pub source: serde_json::Error,
}

/// Every child of a gateway, in the order in which they are applied: what its pods refer to comes before them.
///
/// # Errors
///
/// The first child that cannot be made.
pub fn all(gateway: &Gateway<'_>) -> Result<Vec<Child>, BuildError> {
    let mut children = vec![service_account::build(gateway)?, config_map::build(gateway)?];
    children.extend(network_policy::build(gateway)?);
    children.extend([service::build(gateway)?, deployment::build(gateway)?]);
    children.extend(pod_disruption_budget::build(gateway)?);
    Ok(children)
}

/// The labels by which the pods of a gateway are found. A Deployment cannot change them.
pub fn selector() -> BTreeMap<String, String> {
    BTreeMap::from([(GATEWAY_LABEL.to_owned(), NAME.to_owned())])
}

/// The labels of every child. Labels of routes are never copied: a tool that tracks its objects by label would take the children
/// for its own and prune them.
pub fn labels() -> BTreeMap<String, String> {
    let mut labels = selector();
    for (key, value) in [
        ("app.kubernetes.io/name", NAME),
        ("app.kubernetes.io/instance", NAME),
        ("app.kubernetes.io/managed-by", "quartermaster"),
        ("app.kubernetes.io/component", "gateway"),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// Metadata of a child, or of the gateway's Secrets: name, namespace, labels and owners.
pub fn metadata(gateway: &Gateway<'_>, name: &str) -> ObjectMeta {
    let owner = |(name, uid)| Owner { kind: "ModelRoute", name, namespace: gateway.namespace, uid };
    let owners: Vec<Owner<'_>> = gateway.routes.iter().map(|(name, uid)| (name.as_str(), uid.as_str())).map(owner).collect();
    owned::shared_metadata(gateway.namespace, &owners, name.to_owned(), labels())
}

/// The child as the rest of the operator handles it.
fn child<T: Serialize>(kind: &'static str, name: &'static str, object: &T) -> Result<Child, BuildError> {
    let object = serde_json::to_value(object).map_err(|source| BuildError { kind, name, source })?;
    let identity = ChildIdentity { kind: kind.to_owned(), name: name.to_owned() };
    Ok(Child { identity, object, mode: ApplyMode::Apply })
}

#[cfg(test)]
mod tests;
