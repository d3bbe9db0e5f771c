//! The ConfigMap with the plan, as a gateway mounts it, and with what the operator has to remember of routes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde::Serialize;

use super::{BuildError, Gateway, PLAN_NAME, child, metadata};
use crate::api::configuration::{Configuration, Destinations, EgressProxy};
use crate::decide::decision::Child;
use crate::decide::gateway::assemble::AcceptedForm;
use crate::decide::short_hash;

/// The key of the plan.
pub const PLAN_KEY: &str = "plan.json";
/// The key of the forms of routes that were accepted last.
pub const ACCEPTED_KEY: &str = "accepted.json";
/// The key of what the gateway has of the operator's configuration.
pub const CONFIGURATION_KEY: &str = "configuration.yaml";

/// Forms of routes that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the ConfigMap {PLAN_NAME} does not tell which forms of routes were accepted last: data[{ACCEPTED_KEY}]: {0}")]
pub struct ReadAcceptedError(#[from] serde_json::Error);

/// The ConfigMap `quartermaster-gateway-plan`.
///
/// # Errors
///
/// A value that cannot be written as JSON, which nothing of these types leads to.
pub fn build(gateway: &Gateway<'_>) -> Result<Child, BuildError> {
    let data = BTreeMap::from([
        (PLAN_KEY.to_owned(), text(gateway.plan)?),
        (ACCEPTED_KEY.to_owned(), text(gateway.accepted)?),
        (CONFIGURATION_KEY.to_owned(), configuration(gateway)?),
    ]);
    let config_map = ConfigMap { metadata: metadata(gateway, PLAN_NAME), data: Some(data), ..ConfigMap::default() };
    child("ConfigMap", PLAN_NAME, &config_map)
}

/// The forms of routes that were accepted last, in the data of the ConfigMap. None, where it has none yet.
///
/// # Errors
///
/// They are in another form.
pub fn accepted(data: &BTreeMap<String, String>) -> Result<BTreeMap<String, AcceptedForm>, ReadAcceptedError> {
    let Some(text) = data.get(ACCEPTED_KEY) else { return Ok(BTreeMap::new()) };
    Ok(serde_json::from_str(text)?)
}

/// What the gateway has of the operator's configuration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Configured<'a> {
    /// Which addresses it may reach.
    destinations: &'a Destinations,
    /// By which proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_proxy: Option<&'a EgressProxy>,
}

fn configuration(gateway: &Gateway<'_>) -> Result<String, BuildError> {
    let Configuration { destinations, egress_proxy, .. } = gateway.configuration;
    text(&Configured { destinations, egress_proxy: egress_proxy.as_ref() })
}

/// Another configuration has another hash. It is read once, at start: another one makes new pods.
pub(super) fn configuration_hash(gateway: &Gateway<'_>) -> Result<String, BuildError> {
    configuration(gateway).map(short_hash::of)
}

fn text(value: &impl Serialize) -> Result<String, BuildError> {
    serde_json::to_string(value).map_err(|source| BuildError { kind: "ConfigMap", name: PLAN_NAME, source })
}
