//! The Service of a gateway.

use k8s_openapi::api::core::v1::Service;

use super::deployment::PORT_NAME;
use super::{BuildError, Gateway, NAME, PORT, child, metadata, selector};
use crate::decide::decision::Child;
use crate::decide::service;

/// The Service `quartermaster-gateway`: port 4000 of every ready pod. The exchange goes to the pods themselves.
///
/// # Errors
///
/// None that depends on the gateway.
pub fn build(gateway: &Gateway<'_>) -> Result<Child, BuildError> {
    let object =
        Service { metadata: metadata(gateway, NAME), spec: Some(service::http(selector(), PORT_NAME, PORT)), status: None };
    child("Service", NAME, &object)
}

/// Where the gateway of a namespace answers, without a path.
pub fn endpoint(namespace: &str) -> String {
    format!("http://{NAME}.{namespace}.svc:{PORT}")
}
