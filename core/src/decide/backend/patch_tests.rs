use serde_json::json;

use super::*;

fn template() -> Value {
    json!({
        "metadata": {"labels": {"quartermaster.dev/inference-backend": "a"}},
        "spec": {
            "containers": [{
                "name": "vllm",
                "image": "vllm:1",
                "command": ["vllm", "serve"],
                "args": ["model"],
                "env": [{"name": "HOME", "value": "/cache"}, {"name": "NCCL_DEBUG", "value": "INFO"}],
                "ports": [{"name": "http", "containerPort": 8000}],
                "resources": {"requests": {"cpu": "2", "nvidia.com/gpu": "4"}, "limits": {"nvidia.com/gpu": "4"}},
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}, {"name": "tmp", "mountPath": "/tmp"}],
                "securityContext": {"readOnlyRootFilesystem": true}
            }],
            "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "4Gi"}}, {"name": "tmp", "emptyDir": {}}],
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "securityContext": {"runAsUser": 2000, "fsGroup": 2000}
        }
    })
}

fn merged(patch: Value) -> Value {
    merge(template(), &patch).unwrap()
}

fn refused(patch: Value) -> String {
    merge(template(), &patch).unwrap_err().to_string()
}

#[test]
fn named_things_are_merged_by_name_and_others_added() {
    let result = merged(json!({"spec": {
        "containers": [
            {"name": "proxy", "image": "proxy:1"},
            {"name": "vllm", "securityContext": {"runAsUser": 0}, "env": [{"name": "NCCL_DEBUG", "value": "WARN"}, {"name": "X", "value": "1"}]}
        ],
        "volumes": [{"name": "certs", "secret": {"secretName": "certs"}}]
    }}));
    assert_eq!(result.pointer("/spec/containers/1"), Some(&json!({"name": "proxy", "image": "proxy:1"})));
    assert_eq!(
        result.pointer("/spec/containers/0/securityContext"),
        Some(&json!({"readOnlyRootFilesystem": true, "runAsUser": 0}))
    );
    assert_eq!(
        result.pointer("/spec/containers/0/env"),
        Some(&json!([{"name": "HOME", "value": "/cache"}, {"name": "NCCL_DEBUG", "value": "WARN"}, {"name": "X", "value": "1"}]))
    );
    assert_eq!(result.pointer("/spec/volumes/2/name"), Some(&json!("certs")));
    assert_eq!(result.pointer("/spec/volumes").and_then(Value::as_array).map(Vec::len), Some(3));
}

#[test]
fn mounts_are_told_apart_by_their_path_and_not_by_their_volume() {
    let result = merged(json!({"spec": {"containers": [
        {"name": "vllm", "volumeMounts": [{"name": "cache", "mountPath": "/more"}, {"name": "tmp", "mountPath": "/tmp", "subPath": "x"}]}
    ]}}));
    assert_eq!(
        result.pointer("/spec/containers/0/volumeMounts"),
        Some(&json!([
            {"name": "cache", "mountPath": "/cache"},
            {"name": "tmp", "mountPath": "/tmp", "subPath": "x"},
            {"name": "cache", "mountPath": "/more"}
        ]))
    );
}

#[test]
fn null_deletes_and_lists_without_names_are_replaced() {
    let result = merged(json!({"spec": {
        "securityContext": {"fsGroup": null},
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"pool": "gpu", "gone": null}
    }}));
    assert_eq!(result.pointer("/spec/securityContext"), Some(&json!({"runAsUser": 2000})));
    assert_eq!(result.pointer("/spec/tolerations"), Some(&json!([{"operator": "Exists"}])));
    assert_eq!(result.pointer("/spec/nodeSelector"), Some(&json!({"pool": "gpu"})));
}

#[test]
fn a_named_thing_is_deleted_by_directive() {
    let result = merged(json!({"spec": {"containers": [{"name": "vllm", "env": [{"name": "NCCL_DEBUG", "$patch": "delete"}]}]}}));
    assert_eq!(result.pointer("/spec/containers/0/env"), Some(&json!([{"name": "HOME", "value": "/cache"}])));
    assert!(refused(json!({"spec": {"volumes": [{"name": "tmp", "$patch": "replace"}]}})).contains("spec.volumes[tmp]"));
}

#[test]
fn another_source_replaces_that_of_a_volume_or_variable() {
    let result = merged(json!({"spec": {
        "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "tmp", "emptyDir": {"medium": "Memory"}}],
        "containers": [{"name": "vllm", "env": [{"name": "NCCL_DEBUG", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]
    }}));
    assert_eq!(result.pointer("/spec/volumes/0"), Some(&json!({"name": "cache", "persistentVolumeClaim": {"claimName": "c"}})));
    assert_eq!(result.pointer("/spec/volumes/1"), Some(&json!({"name": "tmp", "emptyDir": {"medium": "Memory"}})));
    assert_eq!(result.pointer("/spec/containers/0/env/1/value"), None);
}

#[test]
fn what_the_operator_relies_on_cannot_be_changed() {
    for (patch, part) in [
        (json!({"metadata": {"labels": {"quartermaster.dev/inference-backend": "b"}}}), "label"),
        (json!({"metadata": {"labels": null}}), "label"),
        (json!({"spec": {"containers": null}}), "would be removed"),
        (json!({"spec": {"containers": [{"name": "vllm", "$patch": "delete"}]}}), "would be removed"),
        (json!({"spec": {"containers": [{"image": "other"}]}}), "would be removed"),
        (json!({"spec": {"containers": [{"name": "vllm", "args": ["other"]}]}}), "spec.vllm.extraArgs"),
        (json!({"spec": {"containers": [{"name": "vllm", "args": null}]}}), "spec.vllm.extraArgs"),
        (json!({"spec": {"containers": [{"name": "vllm", "image": "other:1"}]}}), "spec.vllm.image"),
        (json!({"spec": {"containers": [{"name": "vllm", "ports": [{"name": "http", "containerPort": 9}]}]}}), "the port http"),
        (json!({"spec": {"containers": [{"name": "vllm", "ports": null}]}}), "the port http"),
        (
            json!({"spec": {"containers": [{"name": "vllm", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}),
            "spec.vllm.parallelism",
        ),
        (json!({"spec": {"containers": [{"name": "vllm", "resources": null}]}}), "spec.vllm.parallelism"),
        (json!({"spec": {"containers": [{"name": "vllm", "env": [{"name": "HOME", "value": "/"}]}]}}), "HOME"),
        (json!({"spec": {"containers": [{"name": "vllm", "env": [{"name": "VLLM_PORT", "value": "1"}]}]}}), "VLLM_PORT"),
        (json!({"spec": {"containers": [{"name": "vllm", "env": null}]}}), "HOME"),
    ] {
        let text = refused(patch.clone());
        assert!(text.contains(part), "{patch}: {text}");
    }
}

#[test]
fn the_command_and_further_resources_and_labels_are_the_users() {
    let result = merged(json!({
        "metadata": {"labels": {"team": "a"}, "annotations": {"karpenter.sh/do-not-disrupt": "true"}},
        "spec": {"containers": [{"name": "vllm", "command": ["trace", "vllm", "serve"], "resources": {"limits": {"rdma/ib": "1"}}}]}
    }));
    assert_eq!(result.pointer("/spec/containers/0/resources/limits"), Some(&json!({"nvidia.com/gpu": "4", "rdma/ib": "1"})));
    assert_eq!(result.pointer("/metadata/labels/team"), Some(&json!("a")));
}

#[test]
fn what_is_no_pod_template_is_refused_with_the_place() {
    assert!(refused(json!({"containers": []})).contains("`containers`"));
    assert!(refused(json!([])).contains("podTemplatePatch"));
    assert!(refused(json!({"spec": null})).contains("spec"));
    assert!(refused(json!({"spec": {"volumes": [{"name": "a"}, {"name": "a"}]}})).contains("spec.volumes names `a` twice"));
}

#[test]
fn an_empty_patch_changes_nothing_and_a_second_merge_neither() {
    assert_eq!(merged(json!({})), template());
    let patch = json!({"spec": {"volumes": [{"name": "x", "emptyDir": {}}], "priorityClassName": "high"}});
    let once = merged(patch.clone());
    assert_eq!(merge(once.clone(), &patch), Ok(once));
}
