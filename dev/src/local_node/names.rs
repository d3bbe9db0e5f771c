//! What the name of a Service leads to: a ready pod of this node. There is no DNS, and no kube-proxy.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::node;

/// A name below `svc`.
#[derive(Debug, PartialEq, Eq)]
struct ServiceName<'a> {
    /// A pod of it, as a StatefulSet's pods are named.
    pod: Option<&'a str>,
    service: &'a str,
    namespace: &'a str,
}

impl<'a> ServiceName<'a> {
    /// None where a host is no name of a Service.
    fn of(host: &'a str) -> Option<Self> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = host.strip_suffix(".cluster.local").unwrap_or(host).strip_suffix(".svc")?;
        match *host.split('.').collect::<Vec<_>>().as_slice() {
            [service, namespace] => Some(Self { pod: None, service, namespace }),
            [pod, service, namespace] => Some(Self { pod: Some(pod), service, namespace }),
            _ => None,
        }
    }
}

/// Finds the pods of Services, each in its turn.
pub(super) struct Names {
    client: Client,
    turn: AtomicUsize,
}

impl Names {
    /// Asks this API server.
    pub fn new(client: Client) -> Self {
        Self { client, turn: AtomicUsize::new(0) }
    }

    /// Where a name and port of a Service lead to now. None where it is no name of a Service.
    ///
    /// # Errors
    ///
    /// When there is no such Service, or no ready pod behind it; the message says which.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Option<SocketAddr>, String> {
        let Some(name) = ServiceName::of(host) else { return Ok(None) };
        let what = format!("the Service {}/{}", name.namespace, name.service);
        let failed = |error: kube::Error| format!("failed to ask for {what}: {error}");
        let service = Api::<Service>::namespaced(self.client.clone(), name.namespace)
            .get_opt(name.service)
            .await
            .map_err(failed)?
            .ok_or_else(|| format!("{what} does not exist"))?;
        let spec = service.spec.unwrap_or_default();
        let selector = spec.selector.filter(|selector| !selector.is_empty()).ok_or_else(|| format!("{what} has no selector"))?;
        let through = spec.ports.iter().flatten().find(|stated| stated.port == i32::from(port));
        if through.is_none() && spec.cluster_ip.as_deref() != Some("None") {
            return Err(format!("{what} has no port {port}"));
        }
        let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let parameters = ListParams::default().labels(&labels.join(",")).fields(&format!("spec.nodeName={}", node::NAME));
        let pods = Api::<Pod>::namespaced(self.client.clone(), name.namespace).list(&parameters).await.map_err(failed)?;
        let ready: Vec<SocketAddr> = pods
            .iter()
            .filter(|pod| name.pod.is_none_or(|name| pod.name_any() == name))
            .filter(|pod| is_ready(pod) || spec.publish_not_ready_addresses == Some(true))
            .filter_map(|pod| address(pod, through, port))
            .collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let chosen = turn.checked_rem(ready.len()).and_then(|index| ready.get(index));
        chosen.copied().map(Some).ok_or_else(|| format!("{what} has no ready pod on the local node"))
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The address of a pod behind a port of a Service; a headless Service leads to the pod's port as it stands.
fn address(pod: &Pod, through: Option<&ServicePort>, port: u16) -> Option<SocketAddr> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let number = match through.and_then(|through| through.target_port.as_ref()) {
        None => i32::from(port),
        Some(IntOrString::Int(0)) => i32::from(port),
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let containers = &pod.spec.as_ref()?.containers;
            let ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
            ports.into_iter().find(|port| port.name.as_ref() == Some(name))?.container_port
        }
    };
    Some(SocketAddr::new(ip, u16::try_from(number).ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_names_below_svc_are_names_of_services() {
        let plain = Some(ServiceName { pod: None, service: "a", namespace: "team" });
        for host in ["a.team.svc", "a.team.svc.", "a.team.svc.cluster.local", "a.team.svc.cluster.local."] {
            assert_eq!(ServiceName::of(host), plain, "{host}");
        }
        assert_eq!(ServiceName::of("a-0.a.team.svc").unwrap().pod, Some("a-0"));
        for host in ["a.team", "a.svc", "example.com", "127.0.0.1", "a.b.c.d.svc", "a.team.svc.example.com"] {
            assert_eq!(ServiceName::of(host), None, "{host}");
        }
    }

    #[test]
    fn a_port_of_a_service_leads_to_the_port_of_the_pod_by_number_or_name() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 8000}]}]},
            "status": {"podIP": "127.64.1.2"},
        }))
        .unwrap();
        for (port, wanted) in [
            (json!({"port": 80, "targetPort": "http"}), Some("127.64.1.2:8000")),
            (json!({"port": 80, "targetPort": 9000}), Some("127.64.1.2:9000")),
            (json!({"port": 80}), Some("127.64.1.2:80")),
            (json!({"port": 80, "targetPort": "metrics"}), None),
        ] {
            let port: ServicePort = serde_json::from_value(port).unwrap();
            assert_eq!(address(&pod, Some(&port), 80), wanted.map(|wanted| wanted.parse().unwrap()), "{port:?}");
        }
        assert_eq!(address(&pod, None, 7000), Some("127.64.1.2:7000".parse().unwrap()));
    }
}
