//! Whole objects as golden files, and the promises that hold for all of them.

use crate::decide::backend::accelerator::{LabelOperator, LabelRequirement};
use crate::decide::backend::choice::Choice;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::json;

use super::*;
use crate::api::InferenceBackend;
use crate::api::accelerator::AcceleratorSpec;
use crate::api::references::SecretKeyReference;
use crate::api::status::SizingStatus;
use crate::api::vllm::{
    CacheSpec, EphemeralCache, HuggingFaceSpec, LoraAdapter, NodeLocalCache, PersistentVolumeClaimCache, Task, VllmSpec,
};
use crate::decide::backend::facts::Settings;

const ENTROPY: &str = "0123456789abcdef0123456789abcdef";

/// One backend and what was chosen for it.
struct Case {
    name: &'static str,
    backend: InferenceBackend,
    choice: Choice,
    replicas: u32,
    max_unavailable: u32,
    image: &'static str,
    settings: Settings,
}

impl Case {
    fn new(name: &'static str, vllm: VllmSpec, tensor: u32, weight_bytes: u64) -> Self {
        let mut backend = InferenceBackend::new(name, crate::api::InferenceBackendSpec { vllm: Some(vllm), ..Default::default() });
        // What the children must never inherit.
        backend.metadata.labels = Some(BTreeMap::from([("argocd.argoproj.io/instance".to_owned(), "app".to_owned())]));
        backend.metadata.annotations = Some(BTreeMap::from([("owner-of-the-backend".to_owned(), "team".to_owned())]));
        Self {
            name,
            backend,
            choice: Choice {
                sizing: SizingStatus {
                    accelerator_product: Some("NVIDIA-H100-80GB-HBM3".into()),
                    resource_name: Some("nvidia.com/gpu".into()),
                    gpus_per_replica: tensor,
                    tensor_parallel_size: tensor,
                    pipeline_parallel_size: 1,
                    data_parallel_size: 1,
                    context_length: Some(32768),
                    weight_bytes: Some(weight_bytes),
                    weight_bytes_per_gpu: Some(weight_bytes / u64::from(tensor)),
                    ..SizingStatus::default()
                },
                placement: Placement {
                    resource_name: "nvidia.com/gpu".into(),
                    affinity: vec![LabelRequirement {
                        key: "nvidia.com/gpu.product".into(),
                        operator: LabelOperator::In,
                        values: vec!["NVIDIA-H100-80GB-HBM3".into()],
                    }],
                    ..Placement::default()
                },
                spec_hash: "5ec".into(),
            },
            replicas: 1,
            max_unavailable: 0,
            image: "vllm/vllm-openai:v0.33.0",
            settings: Settings { operator_namespace: "quartermaster-system".into(), ..Settings::default() },
        }
    }

    fn plan(&self) -> Plan<'_> {
        Plan {
            name: self.name,
            namespace: "models",
            uid: "0b0f6e0c-7a44-4f5e-9c4b-0d6b6b1f2a11",
            vllm: self.backend.spec.vllm.as_ref().unwrap(),
            choice: &self.choice,
            replicas: self.replicas,
            max_unavailable: self.max_unavailable,
            image: self.image,
            settings: &self.settings,
        }
    }

    fn vllm(&mut self) -> &mut VllmSpec {
        self.backend.spec.vllm.as_mut().unwrap()
    }

    fn deployment(&self) -> Value {
        deployment::build(&self.plan()).unwrap().object
    }

    fn at(&self, pointer: &str) -> Value {
        self.deployment().pointer(pointer).cloned().unwrap_or_default()
    }
}

fn spec(model: &str) -> VllmSpec {
    VllmSpec { model: model.into(), ..VllmSpec::default() }
}

fn llama() -> Case {
    let mut case = Case::new("llama-70b", spec("meta-llama/Llama-3.3-70B-Instruct"), 4, 141_107_412_992);
    case.vllm().hugging_face = Some(HuggingFaceSpec {
        token_secret_key_ref: Some(SecretKeyReference { name: "hf".into(), key: "token".into() }),
        endpoint: None,
    });
    case.replicas = 2;
    case
}

fn small() -> Case {
    Case::new("small", spec("Qwen/Qwen3-8B"), 1, 16_381_516_800)
}

/// The container with vLLM.
const CONTAINER_POINTER: &str = "/spec/template/spec/containers/0";

#[test]
fn a_large_model_and_all_its_children() {
    insta::assert_yaml_snapshot!("llama_70b", all(&llama().plan(), Some(ENTROPY)).unwrap());
}

#[test]
fn an_embedding_model_on_a_slice() {
    let mut case = Case::new("embed", spec("BAAI/bge-m3"), 1, 1_135_554_304);
    case.vllm().task = Some(Task::Embed);
    case.choice.placement = Placement {
        resource_name: "nvidia.com/mig-1g.10gb".into(),
        affinity: vec![],
        tolerate_keys: vec!["nvidia.com/gpu".into()],
    };
    case.choice.sizing.context_length = Some(8192);
    insta::assert_yaml_snapshot!("embed", case.deployment());
}

#[test]
fn a_model_of_a_claim_with_a_cache_in_another() {
    let mut case = Case::new("own", spec("pvc://weights/llama/8b"), 1, 16_060_522_496);
    case.vllm().cache = Some(CacheSpec {
        persistent_volume_claim: Some(PersistentVolumeClaimCache { claim_name: "cache".into() }),
        ..CacheSpec::default()
    });
    case.max_unavailable = 1;
    insta::assert_yaml_snapshot!("claim", case.deployment());
}

#[test]
fn a_model_with_adapters() {
    let mut case = small();
    case.vllm().lora_adapters = vec![
        LoraAdapter { name: "sql".into(), source: "hf://org/sql-adapter".into() },
        LoraAdapter { name: "style".into(), source: "/cache/adapters/style".into() },
    ];
    case.vllm().extra_args = vec!["--max-lora-rank=64".into()];
    insta::assert_yaml_snapshot!("adapters", case.deployment());
}

#[test]
fn an_image_of_another_registry_with_a_patch() {
    let mut case = Case::new("mirror", spec("oci://registry.example:5000/models/qwen3-8b:1"), 2, 16_381_516_800);
    case.image = "registry.example:5000/mirror/vllm-openai@sha256:2c1cd1fb6bd0a4dd5bb4c6d6e9b3d4c2b9a1f0e8d7c6b5a493827160504f3e2d";
    case.vllm().accelerator = Some(AcceleratorSpec {
        node_selector: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        tolerations: serde_json::from_value(json!([{"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}]))
            .unwrap(),
        runtime_class_name: Some("nvidia".into()),
        ..AcceleratorSpec::default()
    });
    case.vllm().pod_template_patch = Some(json!({
        "metadata": {"annotations": {"sidecar.istio.io/inject": "false"}},
        "spec": {
            "imagePullSecrets": [{"name": "registry"}],
            "containers": [
                {"name": "vllm", "securityContext": {"readOnlyRootFilesystem": false}},
                {"name": "exporter", "image": "registry.example:5000/exporter:1"}
            ]
        }
    }));
    insta::assert_yaml_snapshot!("mirror", case.deployment());
}

#[test]
fn every_child_has_one_owner_the_labels_and_nothing_of_the_backends_own() {
    let case = llama();
    let children = all(&case.plan(), Some(ENTROPY)).unwrap();
    let kinds: Vec<&str> = children.iter().map(|child| child.identity.kind.as_str()).collect();
    assert_eq!(kinds, ["ServiceAccount", "Secret", "NetworkPolicy", "Service", "Deployment", "PodDisruptionBudget"]);
    for child in &children {
        assert_eq!(child.identity.name, "llama-70b-backend");
        assert_eq!(child.object.pointer("/metadata/name"), Some(&json!("llama-70b-backend")));
        assert_eq!(child.object.pointer("/kind"), Some(&json!(child.identity.kind)));
        assert!(child.object.pointer("/apiVersion").is_some());
        assert_eq!(child.object.pointer("/metadata/labels"), Some(&json!(labels("vllm", "llama-70b"))));
        assert_eq!(
            child.object.pointer("/metadata/ownerReferences"),
            Some(&json!([{
                "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "name": "llama-70b",
                "uid": "0b0f6e0c-7a44-4f5e-9c4b-0d6b6b1f2a11", "controller": true, "blockOwnerDeletion": true
            }]))
        );
        let text = child.object.to_string();
        assert!(!text.contains("argocd") && !text.contains("owner-of-the-backend"), "{text}");
        assert!(child.object.pointer("/status").is_none(), "an applied status would be owned");
        let once = child.mode == ApplyMode::CreateOnce;
        assert_eq!(once, child.identity.kind == "Secret");
    }
}

#[test]
fn the_pods_carry_the_selector_and_the_selector_only_the_backend() {
    let case = llama();
    let selector = case.at("/spec/selector/matchLabels");
    assert_eq!(selector, json!({"quartermaster.dev/inference-backend": "llama-70b"}));
    assert_eq!(case.at("/spec/template/metadata/labels/quartermaster.dev~1inference-backend"), json!("llama-70b"));
    assert_eq!(selector_text("llama-70b"), "quartermaster.dev/inference-backend=llama-70b");
}

#[test]
fn a_better_worded_sizing_changes_no_pod_and_survives_on_the_deployment() {
    let mut case = llama();
    let before = case.at("/spec");
    case.choice.sizing.derivation = Some("worded anew".into());
    assert_eq!(case.at("/spec"), before);
    let annotations: BTreeMap<String, String> = serde_json::from_value(case.at("/metadata/annotations")).unwrap();
    assert_eq!(deployment::choice_in_force(&annotations), Some(case.choice.clone()));
    assert_eq!(deployment::choice_in_force(&BTreeMap::new()), None);
    let broken = BTreeMap::from([(deployment::CHOICE_ANNOTATION.to_owned(), "{".to_owned())]);
    assert_eq!(deployment::choice_in_force(&broken), None);
}

#[test]
fn the_three_clocks_of_a_start_go_together() {
    let mut case = llama();
    case.vllm().startup_timeout = Some(crate::api::duration::Duration("40m".into()));
    assert_eq!(case.at(&format!("{CONTAINER_POINTER}/startupProbe/failureThreshold")), json!(240));
    assert_eq!(case.at("/spec/progressDeadlineSeconds"), json!(3000));
    let env = case.at(&format!("{CONTAINER_POINTER}/env"));
    let ready = env.as_array().unwrap().iter().find(|variable| variable["name"] == "VLLM_ENGINE_READY_TIMEOUT_S");
    assert_eq!(ready.unwrap()["value"], json!("2400"));
}

#[test]
fn the_grace_period_holds_the_removal_of_the_endpoint_and_the_drain() {
    let case = llama();
    let sleep = case.at(&format!("{CONTAINER_POINTER}/lifecycle/preStop/sleep/seconds")).as_u64().unwrap();
    let grace = case.at("/spec/template/spec/terminationGracePeriodSeconds").as_u64().unwrap();
    assert!(sleep > 0 && grace >= sleep + 60 + 30, "{sleep} {grace}");
}

#[test]
fn the_accelerators_are_requests_and_limits_whatever_the_user_says_about_the_rest() {
    let mut case = llama();
    case.vllm().resources = Some(serde_json::from_value(json!({"limits": {"memory": "10Gi"}, "requests": {"cpu": "1"}})).unwrap());
    let resources = case.at(&format!("{CONTAINER_POINTER}/resources"));
    assert_eq!(
        resources,
        json!({
            "requests": {"cpu": "1", "ephemeral-storage": "158Gi", "nvidia.com/gpu": "4"},
            "limits": {"memory": "10Gi", "nvidia.com/gpu": "4"},
        })
    );
    let stated = serde_json::from_value(json!({"limits": {"nvidia.com/gpu": "8"}})).unwrap();
    assert!(resources::check(Some(&stated), "nvidia.com/gpu").unwrap_err().to_string().contains("spec.vllm.parallelism"));
    assert_eq!(resources::check(None, "nvidia.com/gpu"), Ok(()));
}

#[test]
fn a_small_model_asks_for_little_enough_for_a_node_of_16_gib() {
    let requests = small().at(&format!("{CONTAINER_POINTER}/resources/requests"));
    assert_eq!(requests, json!({"cpu": "2", "ephemeral-storage": "19Gi", "memory": "8Gi", "nvidia.com/gpu": "1"}));
}

#[test]
fn a_cache_on_the_nodes_disk_is_requested_unless_the_user_says_what_the_pod_takes() {
    let disk = |case: &Case| case.at(&format!("{CONTAINER_POINTER}/resources/requests/ephemeral-storage"));
    let mut case = small();
    case.vllm().cache =
        Some(CacheSpec { ephemeral: Some(EphemeralCache { size_limit: Some(Quantity("1Ti".into())) }), ..CacheSpec::default() });
    assert_eq!(disk(&case), json!("1Ti"));
    case.vllm().resources = Some(serde_json::from_value(json!({"requests": {"ephemeral-storage": "10Gi"}})).unwrap());
    assert_eq!(disk(&case), json!("10Gi"));
    case.vllm().resources = Some(serde_json::from_value(json!({"limits": {"ephemeral-storage": "10Gi"}})).unwrap());
    assert_eq!(disk(&case), json!(null), "a limit is a request too");
    let mut case = small();
    case.vllm().cache = Some(CacheSpec {
        persistent_volume_claim: Some(PersistentVolumeClaimCache { claim_name: "cache".into() }),
        ..CacheSpec::default()
    });
    assert_eq!(disk(&case), json!(null));
}

#[test]
fn shared_memory_grows_with_the_accelerators() {
    let size = |tensor| {
        let case = Case::new("a", spec("org/model"), tensor, 1 << 30);
        let volumes = case.at("/spec/template/spec/volumes");
        volumes.as_array().unwrap().iter().find(|volume| volume["name"] == "shm").unwrap()["emptyDir"].clone()
    };
    assert_eq!(size(1), json!({"medium": "Memory", "sizeLimit": "2Gi"}));
    assert_eq!(size(8), json!({"medium": "Memory", "sizeLimit": "9Gi"}));
}

#[test]
fn the_cache_is_what_the_spec_says_else_as_large_as_the_weights_need() {
    let cache = |case: &Case| case.at("/spec/template/spec/volumes/0");
    let mut case = llama();
    // 1.2 x 141,107,412,992 bytes are 157.7 GiB.
    assert_eq!(cache(&case), json!({"name": "cache", "emptyDir": {"sizeLimit": "158Gi"}}));
    case.choice.sizing.weight_bytes = None;
    assert_eq!(cache(&case), json!({"name": "cache", "emptyDir": {}}));
    case.vllm().cache =
        Some(CacheSpec { ephemeral: Some(EphemeralCache { size_limit: Some(Quantity("1Ti".into())) }), ..CacheSpec::default() });
    assert_eq!(cache(&case), json!({"name": "cache", "emptyDir": {"sizeLimit": "1Ti"}}));
    case.vllm().cache = Some(CacheSpec { node_local: Some(NodeLocalCache {}), ..CacheSpec::default() });
    assert!(matches!(deployment::build(&case.plan()), Err(BuildError::FindNodeLocalCache { .. })));
    case.settings.vllm.node_local_cache_path = Some("/var/cache/models".into());
    assert_eq!(cache(&case), json!({"name": "cache", "hostPath": {"path": "/var/cache/models", "type": "DirectoryOrCreate"}}));
    let streamed = Case::new("s3", spec("s3://bucket/model"), 1, 141_107_412_992);
    assert_eq!(cache(&streamed), json!({"name": "cache", "emptyDir": {"sizeLimit": "4Gi"}}));
}

#[test]
fn one_claim_for_model_and_cache_is_not_attached_read_only() {
    let mut case = Case::new("own", spec("pvc://shared/llama"), 1, 1 << 30);
    let source = |case: &Case| case.at("/spec/template/spec/volumes/3/persistentVolumeClaim");
    assert_eq!(source(&case), json!({"claimName": "shared", "readOnly": true}));
    case.vllm().cache = Some(CacheSpec {
        persistent_volume_claim: Some(PersistentVolumeClaimCache { claim_name: "shared".into() }),
        ..CacheSpec::default()
    });
    assert_eq!(source(&case), json!({"claimName": "shared"}));
    assert_eq!(
        case.at(&format!("{CONTAINER_POINTER}/volumeMounts/3")),
        json!({"name": "model", "mountPath": "/models", "readOnly": true})
    );
}

#[test]
fn the_pod_passes_the_restricted_level_and_gets_no_rights() {
    let case = small();
    let pod = case.at("/spec/template/spec");
    let container = &pod["containers"][0]["securityContext"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
    assert!(pod["securityContext"]["runAsUser"].as_i64().unwrap() > 0 && pod["securityContext"]["fsGroup"].is_i64());
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault"));
    assert_eq!(container["allowPrivilegeEscalation"], json!(false));
    assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(pod["automountServiceAccountToken"], json!(false));
    assert_eq!(pod["enableServiceLinks"], json!(false));
    // What the restricted level allows as a volume.
    for volume in pod["volumes"].as_array().unwrap() {
        assert!(volume.get("emptyDir").is_some() || volume.get("persistentVolumeClaim").is_some(), "{volume}");
    }
}

#[test]
fn every_variable_that_is_set_is_managed_and_none_stands_twice() {
    let mut case = llama();
    case.vllm().hugging_face.as_mut().unwrap().endpoint = Some("https://hub.example".into());
    case.vllm().env =
        serde_json::from_value(json!([{"name": "HOME", "value": "/root"}, {"name": "NCCL_DEBUG", "value": "INFO"}])).unwrap();
    let env = case.at(&format!("{CONTAINER_POINTER}/env"));
    let names: Vec<&str> = env.as_array().unwrap().iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    for (index, name) in names.iter().enumerate() {
        assert!(environment::is_managed(name) || *name == "NCCL_DEBUG", "{name}");
        assert!(!names[index + 1..].contains(name), "{name}");
    }
    assert!(names.contains(&"HF_ENDPOINT") && names.contains(&"HF_TOKEN"));
    assert_eq!(env[0], json!({"name": "HOME", "value": "/cache"}));
}

#[test]
fn secrets_are_references_and_the_key_stands_in_its_secret_only() {
    let case = llama();
    let children = all(&case.plan(), Some(ENTROPY)).unwrap();
    for child in &children {
        let encoded = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        assert_eq!(child.object.to_string().contains(encoded), child.identity.kind == "Secret");
        assert!(!child.object.to_string().contains(ENTROPY));
    }
    assert!(matches!(secret::build(&case.plan(), Some("")), Err(BuildError::DrawApiKey { given: 0, needed: 32 })));
    assert!(secret::build(&case.plan(), Some(&"g".repeat(64))).is_err());
}

#[test]
fn a_single_replica_has_no_budget_for_disruptions() {
    let mut case = llama();
    for (replicas, budget) in [(0, false), (1, false), (2, true), (9, true)] {
        case.replicas = replicas;
        assert_eq!(pod_disruption_budget::build(&case.plan()).unwrap().is_some(), budget, "{replicas}");
        assert_eq!(case.at("/spec/replicas"), json!(replicas));
    }
}

#[test]
fn surge_and_unavailable_are_never_both_zero() {
    let mut case = llama();
    for (max_unavailable, surge) in [(0, 1), (1, 0), (3, 0)] {
        case.max_unavailable = max_unavailable;
        assert_eq!(
            case.at("/spec/strategy"),
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": max_unavailable}})
        );
    }
}

#[test]
fn the_taint_of_the_resource_is_tolerated_whatever_its_value() {
    assert_eq!(small().at("/spec/template/spec/tolerations"), json!([{"key": "nvidia.com/gpu", "operator": "Exists"}]));
}

#[test]
fn the_service_reaches_the_port_by_its_name() {
    let case = small();
    let service = service::build(&case.plan()).unwrap().object;
    assert_eq!(
        service["spec"]["ports"],
        json!([{"name": "http", "port": 8000, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}])
    );
    assert_eq!(service::endpoint("small", "models"), "http://small-backend.models.svc:8000");
}

#[test]
fn gateway_operator_and_named_namespaces_connect_to_the_pods_and_nobody_else() {
    let mut case = small();
    case.settings.network_policies.metrics_namespaces = vec!["monitoring".into()];
    let policy = network_policy::build(&case.plan()).unwrap().unwrap().object;
    let of_namespace = |name: &str| json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}});
    assert_eq!(
        policy["spec"],
        json!({
            "podSelector": {"matchLabels": selector("small")},
            "policyTypes": ["Ingress"],
            "ingress": [{
                "ports": [{"port": 8000, "protocol": "TCP"}],
                "from": [
                    {"podSelector": {"matchLabels": {"quartermaster.dev/gateway": "quartermaster-gateway"}}},
                    of_namespace("quartermaster-system"),
                    of_namespace("monitoring"),
                ],
            }],
        })
    );
    assert_eq!(case.at("/spec/template/spec/containers/0/ports/0/containerPort"), json!(8000));
}

#[test]
fn without_network_policies_none_is_wanted() {
    let mut case = small();
    case.settings.network_policies.enabled = false;
    let children = all(&case.plan(), Some(ENTROPY)).unwrap();
    assert!(!children.iter().any(|child| child.identity.kind == "NetworkPolicy"));
}

#[test]
fn a_patch_that_asks_for_too_much_makes_no_deployment() {
    let mut case = small();
    case.vllm().pod_template_patch = Some(json!({"spec": {"containers": null}}));
    assert!(matches!(deployment::build(&case.plan()), Err(BuildError::ApplyPatch(_))));
}

#[test]
fn equal_plans_make_equal_children() {
    assert_eq!(all(&llama().plan(), Some(ENTROPY)).unwrap(), all(&llama().plan(), Some(ENTROPY)).unwrap());
}
