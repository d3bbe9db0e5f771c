//! The Service of a self-hosted model.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{BuildError, PORT, PORT_NAME, Subject, child, child_name, metadata, selector};
use crate::decide::decision::{ApplyMode, Child};

/// The Service `<backend>-backend`: port 8000 of every ready pod.
///
/// # Errors
///
/// None that depends on the plan.
pub fn build(plan: &impl Subject) -> Result<Child, BuildError> {
    let service = Service {
        metadata: metadata(plan),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector(plan.name())),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: i32::from(PORT),
                target_port: Some(IntOrString::String(PORT_NAME.to_owned())),
                protocol: Some("TCP".to_owned()),
                app_protocol: Some("http".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    child(plan, "Service", &service, ApplyMode::Apply)
}

/// Where the model is reached within the cluster, without a path.
pub fn endpoint(backend: &str, namespace: &str) -> String {
    format!("http://{}.{namespace}.svc:{PORT}", child_name(backend))
}
