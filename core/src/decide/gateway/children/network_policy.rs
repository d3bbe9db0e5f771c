//! The NetworkPolicy of a gateway: who may connect to its pods. Whom it connects to is left open: its backends may be anywhere.

use super::{ADMIN_PORT, BuildError, EXCHANGE_PORT, Gateway, NAME, PORT, child, metadata, selector};
use crate::decide::decision::Child;
use crate::decide::ingress::{every_namespace, namespace, own_pods, policy, rule};

/// The NetworkPolicy `quartermaster-gateway`: calls come from the pods of the namespace, the exchange from the operator's
/// namespace. Numbers may be read from anywhere in the cluster, because where they are collected is not known; no secret is in them.
/// None where the operator's configuration has none made.
///
/// # Errors
///
/// None that depends on the gateway.
pub fn build(gateway: &Gateway<'_>) -> Result<Option<Child>, BuildError> {
    if !gateway.configuration.network_policies.enabled {
        return Ok(None);
    }
    let ingress = vec![
        rule(PORT, vec![own_pods()]),
        rule(EXCHANGE_PORT, vec![namespace(gateway.operator_namespace)]),
        rule(ADMIN_PORT, vec![every_namespace()]),
    ];
    child("NetworkPolicy", NAME, &policy(metadata(gateway, NAME), selector(), ingress)).map(Some)
}
