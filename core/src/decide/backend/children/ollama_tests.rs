use serde_json::{Value, json};

use super::*;
use crate::api::status::SizingStatus;
use crate::api::vllm::{CacheSpec, NodeLocalCache, PersistentVolumeClaimCache};
use crate::decide::backend::accelerator::{LabelOperator, LabelRequirement};
use crate::decide::backend::children::{BACKEND_LABEL, Placement};

/// One backend and what was chosen for it.
struct Case {
    ollama: OllamaSpec,
    choice: Choice,
    replicas: u32,
    max_unavailable: u32,
    settings: Settings,
}

/// A model on the CPUs.
fn on_cpus(fields: Value) -> Case {
    let mut spec = json!({ "model": "qwen3:0.6b" });
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Case {
        ollama: serde_json::from_value(spec).unwrap(),
        choice: Choice { sizing: SizingStatus::default(), placement: Placement::default(), spec_hash: "5ec".into() },
        replicas: 1,
        max_unavailable: 0,
        settings: Settings { operator_namespace: "quartermaster-system".into(), ..Settings::default() },
    }
}

/// A model on one L4.
fn on_an_l4(fields: Value) -> Case {
    let mut case = on_cpus(fields);
    case.choice.sizing.gpus_per_replica = 1;
    case.choice.placement = Placement {
        resource_name: "nvidia.com/gpu".into(),
        affinity: vec![LabelRequirement {
            key: "nvidia.com/gpu.product".into(),
            operator: LabelOperator::In,
            values: vec!["NVIDIA-L4".into()],
        }],
        tolerate_keys: vec!["spot".into()],
    };
    case
}

impl Case {
    fn plan(&self) -> OllamaPlan<'_> {
        OllamaPlan {
            name: "small",
            namespace: "models",
            uid: "0b0f6e0c-7a44-4f5e-9c4b-0d6b6b1f2a11",
            ollama: &self.ollama,
            choice: &self.choice,
            replicas: self.replicas,
            max_unavailable: self.max_unavailable,
            image: "ollama/ollama:0.32.15",
            settings: &self.settings,
        }
    }

    fn at(&self, pointer: &str) -> Value {
        build_deployment(&self.plan()).unwrap().object.pointer(pointer).cloned().unwrap_or_default()
    }
}

const POD: &str = "/spec/template/spec";
const PULL_POINTER: &str = "/spec/template/spec/initContainers/0";
const SERVER_POINTER: &str = "/spec/template/spec/containers/0";

#[test]
fn the_children_are_those_of_any_self_hosted_model_without_a_key() {
    let mut case = on_cpus(json!({}));
    let kinds = |case: &Case| -> Vec<String> { all(&case.plan()).unwrap().into_iter().map(|child| child.identity.kind).collect() };
    assert_eq!(kinds(&case), ["ServiceAccount", "NetworkPolicy", "Service", "Deployment"]);
    case.replicas = 2;
    assert_eq!(kinds(&case), ["ServiceAccount", "NetworkPolicy", "Service", "Deployment", "PodDisruptionBudget"]);
    for child in all(&case.plan()).unwrap() {
        assert_eq!(child.identity.name, "small-backend");
        let labels = child.object.pointer("/metadata/labels").unwrap();
        assert_eq!((&labels["app.kubernetes.io/name"], &labels[BACKEND_LABEL]), (&json!("ollama"), &json!("small")));
        assert_eq!(child.object.pointer("/metadata/ownerReferences/0/name"), Some(&json!("small")));
    }
    assert_eq!(case.at("/spec/replicas"), json!(2));
    assert_eq!(case.at("/spec/strategy/rollingUpdate"), json!({ "maxSurge": 1, "maxUnavailable": 0 }));
    case.max_unavailable = 1;
    assert_eq!(case.at("/spec/strategy/rollingUpdate"), json!({ "maxSurge": 0, "maxUnavailable": 1 }));
}

#[test]
fn gateway_and_operator_connect_to_the_pods_and_nobody_for_metrics_that_ollama_does_not_have() {
    let mut case = on_cpus(json!({}));
    case.settings.network_policies.metrics_namespaces = vec!["monitoring".into()];
    let policy = |case: &Case| {
        let children = all(&case.plan()).unwrap().into_iter();
        children.map(|child| child.object).find(|object| object["kind"] == "NetworkPolicy")
    };
    assert_eq!(
        policy(&case).unwrap()["spec"],
        json!({
            "podSelector": { "matchLabels": { "quartermaster.dev/inference-backend": "small" } },
            "policyTypes": ["Ingress"],
            "ingress": [{
                "ports": [{ "port": 8000, "protocol": "TCP" }],
                "from": [
                    { "podSelector": { "matchLabels": { "quartermaster.dev/gateway": "quartermaster-gateway" } } },
                    { "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "quartermaster-system" } } },
                ],
            }],
        })
    );
    case.settings.network_policies.enabled = false;
    assert_eq!(policy(&case), None);
}

#[test]
fn the_pod_of_a_model_on_the_cpus() {
    let case = on_cpus(json!({ "contextLength": 8192, "keepAlive": "1h" }));
    let security = json!({
        "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true,
    });
    let environment: Vec<Value> = [
        ("HOME", "/tmp"),
        ("OLLAMA_HOST", "0.0.0.0:8000"),
        ("OLLAMA_MODELS", "/cache/ollama"),
        ("OLLAMA_NOPRUNE", "1"),
        ("OLLAMA_NO_CLOUD", "1"),
        ("OLLAMA_KEEP_ALIVE", "1h"),
        ("OLLAMA_CONTEXT_LENGTH", "8192"),
        ("NVIDIA_VISIBLE_DEVICES", "void"),
    ]
    .into_iter()
    .map(|(name, value)| json!({ "name": name, "value": value }))
    .collect();
    let mounts = json!([{ "name": "cache", "mountPath": "/cache" }, { "name": "tmp", "mountPath": "/tmp" }]);
    let version = |period: u32, timeout: u32, failures: u32| {
        json!({
            "httpGet": { "path": "/api/version", "port": "http" },
            "periodSeconds": period, "timeoutSeconds": timeout, "failureThreshold": failures,
        })
    };
    assert_eq!(
        case.at(PULL_POINTER),
        json!({
            "name": "pull", "image": "ollama/ollama:0.32.15",
            "command": ["/bin/sh", "-c", PULL], "args": ["qwen3:0.6b"], "env": environment, "volumeMounts": mounts,
            "resources": { "requests": { "cpu": "1", "memory": "2Gi" } },
            "securityContext": security, "terminationMessagePolicy": "FallbackToLogsOnError",
        })
    );
    assert_eq!(
        case.at(SERVER_POINTER),
        json!({
            "name": "ollama", "image": "ollama/ollama:0.32.15", "command": ["ollama", "serve"],
            "env": environment, "volumeMounts": mounts,
            "ports": [{ "name": "http", "containerPort": 8000, "protocol": "TCP" }],
            "resources": { "requests": { "cpu": "1", "memory": "2Gi" } },
            "startupProbe": {
                "exec": { "command": ["ollama", "show", "qwen3:0.6b"] },
                "periodSeconds": 5, "timeoutSeconds": 10, "failureThreshold": 120,
            },
            "livenessProbe": version(10, 10, 6),
            "readinessProbe": version(5, 5, 3),
            "lifecycle": { "preStop": { "sleep": { "seconds": 70 } } },
            "securityContext": security, "terminationMessagePolicy": "FallbackToLogsOnError",
        })
    );
    let mut pod = case.at(POD);
    pod.as_object_mut().unwrap().retain(|member, _| !matches!(member.as_str(), "containers" | "initContainers"));
    assert_eq!(
        pod,
        json!({
            "volumes": [{ "name": "cache", "emptyDir": {} }, { "name": "tmp", "emptyDir": {} }],
            "serviceAccountName": "small-backend", "automountServiceAccountToken": false, "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 100,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 2000, "fsGroup": 2000, "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": { "type": "RuntimeDefault" },
            },
        })
    );
}

#[test]
fn the_accelerator_is_the_servers_and_leads_the_pod_to_its_node() {
    let case = on_an_l4(json!({ "accelerator": {
        "nodeSelector": { "zone": "a" }, "tolerations": [{ "key": "team", "operator": "Exists" }], "runtimeClassName": "nvidia",
    } }));
    let resources = case.at(&format!("{SERVER_POINTER}/resources"));
    assert_eq!((&resources["limits"], &resources["requests"]["nvidia.com/gpu"]), (&json!({ "nvidia.com/gpu": "1" }), &json!("1")));
    assert_eq!(case.at(&format!("{PULL_POINTER}/resources")), json!({ "requests": { "cpu": "1", "memory": "2Gi" } }));
    let hidden = |pointer: &str| case.at(&format!("{pointer}/env")).to_string().contains("NVIDIA_VISIBLE_DEVICES");
    assert_eq!((hidden(PULL_POINTER), hidden(SERVER_POINTER)), (true, false));
    let tolerations = json!([
        { "key": "nvidia.com/gpu", "operator": "Exists" }, { "key": "spot", "operator": "Exists" },
        { "key": "team", "operator": "Exists" },
    ]);
    assert_eq!(case.at(&format!("{POD}/tolerations")), tolerations);
    assert_eq!(case.at(&format!("{POD}/nodeSelector")), json!({ "zone": "a" }));
    assert_eq!(case.at(&format!("{POD}/runtimeClassName")), json!("nvidia"));
    assert!(case.at(&format!("{POD}/affinity")).to_string().contains("NVIDIA-L4"));
}

#[test]
fn what_the_spec_says_of_resources_and_cache_holds() {
    let case = on_cpus(json!({
        "resources": { "limits": { "memory": "12Gi", "cpu": "8" } }, "cache": { "ephemeral": { "sizeLimit": "20Gi" } },
    }));
    let resources = json!({ "limits": { "memory": "12Gi", "cpu": "8" }, "requests": { "ephemeral-storage": "20Gi" } });
    assert_eq!(case.at(&format!("{SERVER_POINTER}/resources")), resources);
    assert_eq!(case.at(&format!("{PULL_POINTER}/resources")), resources);
    assert_eq!(case.at(&format!("{POD}/volumes/0")), json!({ "name": "cache", "emptyDir": { "sizeLimit": "20Gi" } }));

    let mut case = on_cpus(json!({}));
    let claim = PersistentVolumeClaimCache { claim_name: "models".into() };
    case.ollama.cache = Some(CacheSpec { persistent_volume_claim: Some(claim), ..CacheSpec::default() });
    assert_eq!(
        case.at(&format!("{POD}/volumes/0")),
        json!({ "name": "cache", "persistentVolumeClaim": { "claimName": "models" } })
    );
    case.ollama.cache = Some(CacheSpec { node_local: Some(NodeLocalCache {}), ..CacheSpec::default() });
    let refused = build_deployment(&case.plan()).unwrap_err().to_string();
    assert!(refused.contains("spec.ollama.cache.nodeLocal needs vllm.nodeLocalCachePath"), "{refused}");
    case.settings.vllm.node_local_cache_path = Some("/var/lib/models".into());
    assert_eq!(case.at(&format!("{POD}/volumes/0/hostPath/path")), json!("/var/lib/models"));
}

#[test]
fn what_is_silent_in_the_spec_is_left_to_ollama() {
    let environment = on_cpus(json!({})).at(&format!("{SERVER_POINTER}/env")).to_string();
    assert!(!environment.contains("OLLAMA_KEEP_ALIVE") && !environment.contains("OLLAMA_CONTEXT_LENGTH"), "{environment}");
}
