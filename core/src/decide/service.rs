//! The Services of what is called within the cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Leads this port to the port of the same name of every ready pod that has these labels. It speaks HTTP.
pub fn http(selector: BTreeMap<String, String>, name: &str, port: u16) -> ServiceSpec {
    ServiceSpec {
        type_: Some("ClusterIP".to_owned()),
        selector: Some(selector),
        ports: Some(vec![ServicePort {
            name: Some(name.to_owned()),
            port: i32::from(port),
            target_port: Some(IntOrString::String(name.to_owned())),
            protocol: Some("TCP".to_owned()),
            app_protocol: Some("http".to_owned()),
            ..ServicePort::default()
        }]),
        ..ServiceSpec::default()
    }
}
