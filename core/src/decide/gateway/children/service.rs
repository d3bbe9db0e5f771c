//! The Service of a gateway.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::deployment::PORT_NAME;
use super::{BuildError, Gateway, NAME, PORT, child, metadata, selector};
use crate::decide::decision::Child;

/// The Service `quartermaster-gateway`: port 4000 of every ready pod. The exchange goes to the pods themselves.
///
/// # Errors
///
/// None that depends on the gateway.
pub fn build(gateway: &Gateway<'_>) -> Result<Child, BuildError> {
    let service = Service {
        metadata: metadata(gateway, NAME),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector()),
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
    child("Service", NAME, &service)
}

/// Where the gateway of a namespace answers, without a path.
pub fn endpoint(namespace: &str) -> String {
    format!("http://{NAME}.{namespace}.svc:{PORT}")
}
