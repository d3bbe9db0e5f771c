//! The downward API: what a pod may be told of itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceFieldSelector};
use kube::ResourceExt as _;

use super::host::Facts;
use super::node;
use super::quantity;

/// The value of a field of the pod, such as `metadata.name` or `metadata.labels['app']`.
///
/// # Errors
///
/// When the field is none that the downward API offers; the message says so.
pub(super) fn of_pod(facts: &Facts, path: &str) -> Result<String, String> {
    let pod = &facts.pod;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let values = match map {
            "metadata.labels" => pod.labels(),
            "metadata.annotations" => pod.annotations(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(values.get(key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => facts.name.clone(),
        "metadata.namespace" => facts.namespace.clone(),
        "metadata.uid" => facts.uid.clone(),
        "metadata.labels" => lines(pod.labels()),
        "metadata.annotations" => lines(pod.annotations()),
        "spec.nodeName" => node::NAME.to_owned(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" | "status.podIPs" => facts.ip.to_string(),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.to_string(),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

/// The value of a resource of a container; without a limit, what the node has.
///
/// # Errors
///
/// When the resource is none, or its quantity cannot be read; the message says so.
pub(super) fn of_resources(container: &Container, selector: &ResourceFieldSelector) -> Result<String, String> {
    let Some((kind, name)) = selector.resource.split_once('.') else {
        return Err(format!("unsupported container resource: {}", selector.resource));
    };
    let resources = container.resources.as_ref();
    let stated = match kind {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(format!("unsupported container resource: {}", selector.resource)),
    };
    let quantity = stated.and_then(|quantities| quantities.get(name)).map(|quantity| quantity.0.clone());
    let quantity = match (quantity, kind) {
        (Some(quantity), _) => quantity,
        (None, "requests") => "0".to_owned(),
        (None, _) => node::capacity().remove(name).map_or_else(|| "0".to_owned(), |quantity| quantity.0),
    };
    let divisor = selector.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
    quantity::in_units_of(&quantity, divisor)
        .map(|units| units.to_string())
        .ok_or_else(|| format!("{}: {quantity} is no quantity", selector.resource))
}

/// As the kubelet writes labels and annotations into a file: sorted lines of `key="value"` with escapes.
fn lines(values: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = values.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn facts() -> Facts {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "team", "uid": "1-2", "labels": {"app": "b", "tier": "c\"d"}},
            "spec": {"containers": [], "serviceAccountName": "robot"},
        }))
        .unwrap();
        Facts {
            pod: Arc::new(pod),
            namespace: "team".to_owned(),
            name: "a".to_owned(),
            uid: "1-2".to_owned(),
            ip: [127, 64, 1, 2].into(),
            host_ip: [127, 64, 0, 1].into(),
            directory: "/pods/1-2".into(),
            logs: "/logs".into(),
        }
    }

    #[test]
    fn every_field_of_the_downward_api_has_its_value() {
        for (path, value) in [
            ("metadata.name", "a"),
            ("metadata.namespace", "team"),
            ("metadata.uid", "1-2"),
            ("metadata.labels['app']", "b"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "app=\"b\"\ntier=\"c\\\"d\""),
            ("spec.nodeName", "local"),
            ("spec.serviceAccountName", "robot"),
            ("status.podIP", "127.64.1.2"),
            ("status.hostIP", "127.64.0.1"),
        ] {
            assert_eq!(of_pod(&facts(), path).as_deref(), Ok(value), "{path}");
        }
        assert!(of_pod(&facts(), "status.phase").unwrap_err().contains("status.phase"));
    }

    #[test]
    fn a_resource_without_a_limit_is_what_the_node_has() {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "1Gi"}}}))
                .unwrap();
        let value = |resource: &str, divisor: &str| {
            let selector = serde_json::from_value(json!({"resource": resource, "divisor": divisor})).unwrap();
            of_resources(&container, &selector)
        };
        assert_eq!(value("limits.cpu", "1").as_deref(), Ok("2"));
        assert_eq!(value("limits.cpu", "1m").as_deref(), Ok("1500"));
        assert_eq!(value("requests.memory", "1Mi").as_deref(), Ok("1024"));
        assert_eq!(value("requests.cpu", "1").as_deref(), Ok("0"));
        assert_eq!(value("limits.cpu.more", "1").as_deref(), Ok("0"));
        assert!(value("speed", "1").is_err());
    }
}
