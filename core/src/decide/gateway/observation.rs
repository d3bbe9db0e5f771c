//! What a decision about the gateway of a namespace may look at.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::assemble::Resources;
use crate::api::configuration::Configuration;

/// Everything that a decision about the gateway of a namespace may look at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observation {
    /// When this was observed; only in a recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Timestamp>,
    /// The routes, backends and callers of the namespace, and the forms of routes that were accepted last.
    pub resources: Resources,
    /// The data of the ConfigMap `quartermaster-gateway` of the namespace's users; empty where there is none.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// The operator's configuration.
    #[serde(default)]
    pub configuration: Arc<Configuration>,
    /// There is a gateway's Deployment, which the routes of the namespace own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_gateway: bool,
    /// The image of gateways: the operator's own.
    pub image: String,
    /// The namespace of the operator.
    pub operator_namespace: String,
}
