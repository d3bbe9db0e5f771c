//! The Service of a self-hosted model.

use k8s_openapi::api::core::v1::Service;

use super::{BuildError, PORT, PORT_NAME, Subject, child, child_name, metadata, selector};
use crate::decide::decision::{ApplyMode, Child};
use crate::decide::service;

/// The Service `<backend>-backend`: port 8000 of every ready pod.
///
/// # Errors
///
/// None that depends on the plan.
pub fn build(plan: &impl Subject) -> Result<Child, BuildError> {
    let object =
        Service { metadata: metadata(plan), spec: Some(service::http(selector(plan.name()), PORT_NAME, PORT)), status: None };
    child(plan, "Service", &object, ApplyMode::Apply)
}

/// Where the model is reached within the cluster, without a path.
pub fn endpoint(backend: &str, namespace: &str) -> String {
    format!("http://{}.{namespace}.svc:{PORT}", child_name(backend))
}
