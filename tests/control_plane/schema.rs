//! What the API server itself refuses: every message names the field and what to do.

use std::collections::BTreeMap;

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::harness::Team;

/// What the API server says to a new backend, which is never stored.
async fn refusal(team: &Team, name: &str, spec: &Value) -> String {
    let object = json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend",
        "metadata": { "name": name }, "spec": spec,
    });
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    match team.backends().create(&parameters, &serde_json::from_value(object).unwrap()).await {
        Err(kube::Error::Api(status)) if status.code == 422 => status.message.clone(),
        other => panic!("{spec} was not refused: {other:?}"),
    }
}

/// Checks that each spec is refused with all of its words.
async fn all_refused(team: &Team, cases: &[(Value, &[&str])]) {
    for (spec, words) in cases {
        let message = refusal(team, "bad", spec).await;
        for word in *words {
            assert!(message.contains(word), "{spec}\nis refused without `{word}`:\n{message}");
        }
    }
}

/// A self-hosted backend with more fields of `vllm`.
fn vllm(more: Value) -> Value {
    let mut vllm = json!({ "model": "Qwen/Qwen3-0.6B" });
    vllm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "vllm": vllm })
}

/// A backend with Ollama, with more fields of `ollama`.
fn ollama(more: Value) -> Value {
    let mut ollama = json!({ "model": "qwen3:8b" });
    ollama.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "ollama": ollama })
}

/// An external backend with more fields of `external`; a null removes one.
fn external(more: Value) -> Value {
    let mut external = json!({
        "provider": "OpenAI", "model": "gpt-4o",
        "apiKeys": [{ "name": "first", "secretKeyRef": { "name": "openai", "key": "api-key" } }],
    });
    for (name, value) in more.as_object().unwrap() {
        match value {
            Value::Null => external.as_object_mut().unwrap().remove(name),
            value => external.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    json!({ "external": external })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contradiction_within_a_spec_is_refused_with_the_field_and_what_to_do() {
    let team = Team::new("rules").await;
    let both = json!({ "vllm": vllm(json!({}))["vllm"], "external": external(json!({}))["external"] });
    let with = |mut spec: Value, name: &str, value: Value| {
        spec[name] = value;
        spec
    };
    let header = |header: Value| external(json!({ "headers": [header] }));
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({}), &["exactly one of spec.vllm, spec.ollama, spec.external must be set"]),
        (json!({ "suspend": true }), &["exactly one of spec.vllm, spec.ollama, spec.external must be set"]),
        (both, &["exactly one of spec.vllm, spec.ollama, spec.external must be set"]),
        (
            with(external(json!({})), "replicas", json!(2)),
            &["spec.replicas: Invalid value", "spec.replicas applies to vllm and ollama only", "a hosted provider has no replicas"],
        ),
        (
            with(external(json!({ "provider": "VertexAI" })), "healthCheck", json!({ "type": "Inference" })),
            &["spec.healthCheck.type: Invalid value", "VertexAI does not take", "set it to Endpoint"],
        ),
        (
            with(
                external(json!({ "provider": "Bedrock", "baseURL": "https://a" })),
                "healthCheck",
                json!({ "type": "ModelLoaded" }),
            ),
            &[
                "spec.healthCheck.type: Invalid value",
                "a list of models",
                "set it to Endpoint or, except for VertexAI, to Inference",
            ],
        ),
        (
            vllm(json!({ "accelerator": { "products": ["NVIDIA-L4", "NVIDIA-L40S"], "memory": "80Gi" } })),
            &["spec.vllm.accelerator.memory: Invalid value", "name at most one in accelerator.products, or remove memory"],
        ),
        (
            ollama(json!({ "model": "gpt-oss:120b-cloud" })),
            &["spec.ollama.model: Invalid value", "ollama.com answers and not this cluster", "use external"],
        ),
        (
            vllm(json!({ "cache": {} })),
            &["spec.vllm.cache: Invalid value", "cache needs exactly one of persistentVolumeClaim, ephemeral, nodeLocal"],
        ),
        (
            vllm(json!({ "cache": { "ephemeral": {}, "nodeLocal": {} } })),
            &["cache needs exactly one of persistentVolumeClaim, ephemeral, nodeLocal"],
        ),
        (
            external(json!({ "provider": "OpenAICompatible" })),
            &["spec.external.baseURL: Invalid value", "external.baseURL is required", "external.serviceRef"],
        ),
        (external(json!({ "provider": "AzureOpenAI" })), &["external.baseURL is required", "AzureOpenAI"]),
        (external(json!({ "provider": "LMStudio", "apiKeys": null })), &["external.baseURL is required", "LMStudio"]),
        (
            external(
                json!({ "provider": "OpenAICompatible", "baseURL": "http://a/v1", "serviceRef": { "name": "a", "port": 80 } }),
            ),
            &["spec.external.serviceRef: Invalid value", "external.baseURL and external.serviceRef exclude each other: keep one"],
        ),
        (
            external(json!({
                "provider": "OpenAICompatible", "serviceRef": { "name": "a", "port": 80 },
                "tls": { "caSecretKeyRef": { "name": "ca", "key": "ca.crt" } },
            })),
            &[
                "spec.external.tls: Invalid value",
                "external.serviceRef is called over http, where external.tls.caSecretKeyRef has no effect",
                "remove it, or name the server by external.baseURL with https",
            ],
        ),
        (
            vllm(json!({ "model": "pvc://models/llama", "revision": "v2" })),
            &[
                "spec.vllm.revision: Invalid value",
                "vllm.revision names a revision of a Hugging Face repository, which vllm.model is not",
                "remove revision, and name the version in model",
            ],
        ),
        (vllm(json!({ "model": "s3://bucket/llama", "revision": "v2" })), &["spec.vllm.revision: Invalid value"]),
        (vllm(json!({ "model": "oci://registry/llama:1", "revision": "v2" })), &["spec.vllm.revision: Invalid value"]),
        (
            external(json!({ "provider": "Anthropic", "apiKeys": null })),
            &["spec.external.apiKeys: Invalid value", "external.apiKeys is required", "apiKeys[].secretKeyRef"],
        ),
        (external(json!({ "apiKeys": [] })), &["external.apiKeys is required"]),
        (
            external(json!({ "baseURL": "https://user:password@example.com/v1" })),
            &["spec.external.baseURL: Invalid value", "must not carry credentials", "external.apiKeys"],
        ),
        (external(json!({ "baseURL": "https://token@example.com" })), &["must not carry credentials"]),
        (
            external(json!({ "baseURL": "https://example.com/v1?api-version=1" })),
            &["spec.external.baseURL: Invalid value", "neither a query nor a fragment", "remove all from the first ? or # on"],
        ),
        (external(json!({ "baseURL": "https://example.com?a" })), &["neither a query nor a fragment"]),
        (external(json!({ "baseURL": "https://example.com/v1#a" })), &["neither a query nor a fragment"]),
        (
            external(json!({
                "provider": "OpenAICompatible", "baseURL": "http://a/v1", "tls": { "caSecretKeyRef": { "name": "ca", "key": "ca.crt" } },
            })),
            &[
                "spec.external.tls: Invalid value",
                "external.baseURL is called over http, where external.tls.caSecretKeyRef has no effect",
                "begin baseURL with https, or remove caSecretKeyRef",
            ],
        ),
        (
            vllm(json!({ "huggingFace": { "endpoint": "https://user:password@hub.example" } })),
            &[
                "spec.vllm.huggingFace.endpoint: Invalid value",
                "huggingFace.endpoint must not carry credentials",
                "put the token into a Secret and name it in huggingFace.tokenSecretKeyRef",
            ],
        ),
        (
            header(json!({ "name": "X-Team" })),
            &["spec.external.headers[0]: Invalid value", "a header needs exactly one of value, secretKeyRef"],
        ),
        (
            header(json!({ "name": "X-Team", "value": "a", "secretKeyRef": { "name": "a", "key": "b" } })),
            &["a header needs exactly one of value, secretKeyRef"],
        ),
    ];
    all_refused(&team, &cases).await;
    for name in [
        "Authorization",
        "authorization",
        "x-api-key",
        "Api-Key",
        "x-goog-api-key",
        "Host",
        "Connection",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "Content-Length",
        "Content-Type",
    ] {
        let message = refusal(&team, "bad", &header(json!({ "name": name, "value": "a" }))).await;
        assert!(message.contains("spec.external.headers[0].name: Invalid value"), "{name}: {message}");
        assert!(message.contains("remove it; keys go into external.apiKeys"), "{name}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_no_field_can_have_is_refused_with_the_field_and_its_bounds() {
    let team = Team::new("values").await;
    let labels: BTreeMap<String, &str> = (0..33).map(|number| (format!("label-{number}"), "a")).collect();
    let cases: Vec<(Value, &[&str])> = vec![
        (vllm(json!({ "dtype": "bfloat16" })), &["spec.vllm.dtype: Unsupported value: \"bfloat16\"", "\"BFloat16\""]),
        (vllm(json!({ "kvCacheDtype": "fp8" })), &["spec.vllm.kvCacheDtype: Unsupported value", "\"FP8\""]),
        (vllm(json!({ "task": "Chat" })), &["spec.vllm.task: Unsupported value", "\"Generate\", \"Embed\""]),
        (vllm(json!({ "rollout": { "type": "auto" } })), &["spec.vllm.rollout.type: Unsupported value"]),
        (vllm(json!({ "upgrade": { "type": "always" } })), &["spec.vllm.upgrade.type: Unsupported value"]),
        (vllm(json!({ "parallelism": { "policy": "Maximum" } })), &["spec.vllm.parallelism.policy: Unsupported value"]),
        (external(json!({ "provider": "openai" })), &["spec.external.provider: Unsupported value: \"openai\"", "\"OpenAI\""]),
        (external(json!({ "provider": null })), &["spec.external.provider: Required value"]),
        (json!({ "vllm": {} }), &["spec.vllm.model: Required value"]),
        (vllm(json!({ "model": "" })), &["spec.vllm.model", "at least 1 chars long"]),
        (vllm(json!({ "model": "a; rm -rf /" })), &["spec.vllm.model", "should match"]),
        (vllm(json!({ "model": "a/b\nc" })), &["spec.vllm.model", "should match"]),
        (vllm(json!({ "model": "m".repeat(513) })), &["spec.vllm.model", "may not be more than 512"]),
        (vllm(json!({ "contextLength": "32768" })), &["spec.vllm.contextLength", "must be of type integer: \"string\""]),
        (vllm(json!({ "contextLength": 0 })), &["spec.vllm.contextLength", "greater than or equal to 1"]),
        (vllm(json!({ "contextLength": 1.5 })), &["spec.vllm.contextLength", "must be of type integer"]),
        (vllm(json!({ "gpuMemoryUtilizationPercent": 100 })), &["gpuMemoryUtilizationPercent", "less than or equal to 99"]),
        (vllm(json!({ "parallelism": { "tensor": 0 } })), &["spec.vllm.parallelism.tensor", "greater than or equal to 1"]),
        // vLLM's parser takes it, and its configuration does not.
        (
            vllm(json!({ "model": "meta-llama/Llama-3.1-8B-Instruct", "parallelism": { "tensor": -1 } })),
            &["spec.vllm.parallelism.tensor", "greater than or equal to 1"],
        ),
        (vllm(json!({ "trustRemoteCode": "yes" })), &["spec.vllm.trustRemoteCode", "must be of type boolean: \"string\""]),
        (vllm(json!({ "startupTimeout": "soon" })), &["spec.vllm.startupTimeout", "should match"]),
        (vllm(json!({ "drainTimeout": "1d" })), &["spec.vllm.drainTimeout", "should match"]),
        (vllm(json!({ "image": "vllm/vllm-openai :v1" })), &["spec.vllm.image", "should match"]),
        (vllm(json!({ "accelerator": { "resourceName": "gpu" } })), &["accelerator.resourceName", "should match"]),
        (vllm(json!({ "accelerator": { "resourceName": "nvidia.com/" } })), &["accelerator.resourceName", "should match"]),
        (vllm(json!({ "env": [{ "value": "a" }] })), &["spec.vllm.env[0].name: Required value"]),
        (vllm(json!({ "env": [{ "name": "A" }, { "name": "A" }] })), &["spec.vllm.env[1]: Duplicate value"]),
        (vllm(json!({ "env": [{ "name": "A", "value": "a".repeat(4097) }] })), &["spec.vllm.env[0].value", "more than 4096"]),
        (
            vllm(json!({ "accelerator": { "nodeSelector": { "pool": "p".repeat(64) } } })),
            &["spec.vllm.accelerator.nodeSelector.pool", "may not be more than 63"],
        ),
        (
            vllm(json!({ "accelerator": { "nodeSelector": labels } })),
            &["spec.vllm.accelerator.nodeSelector", "must have at most 32 items"],
        ),
        (
            vllm(json!({ "resources": { "requests": { "memory": "1".repeat(65) } } })),
            &["spec.vllm.resources.requests.memory", "may not be more than 64"],
        ),
        (
            vllm(json!({ "resources": { "claims": [{ "name": "a" }, { "name": "a" }] } })),
            &["spec.vllm.resources.claims[1]: Duplicate value"],
        ),
        (vllm(json!({ "extraArgs": vec!["--seed=1"; 65] })), &["spec.vllm.extraArgs", "at most 64 items"]),
        (vllm(json!({ "extraArgs": ["a".repeat(4097)] })), &["spec.vllm.extraArgs[0]", "may not be more than 4096"]),
        (vllm(json!({ "loraAdapters": [{ "name": "sql", "source": "org/sql" }] })), &["loraAdapters[0].source", "should match"]),
        (
            vllm(json!({ "huggingFace": { "endpoint": "https://hub.example?a=b" } })),
            &["spec.vllm.huggingFace.endpoint", "should match"],
        ),
        (
            vllm(json!({ "huggingFace": { "tokenSecretKeyRef": { "name": "../x", "key": "token" } } })),
            &["tokenSecretKeyRef.name", "should match"],
        ),
        (
            vllm(json!({ "huggingFace": { "tokenSecretKeyRef": { "name": "x".repeat(254), "key": "token" } } })),
            &["tokenSecretKeyRef.name", "may not be more than 253"],
        ),
        (vllm(json!({ "architecture": { "layers": 0 } })), &["spec.vllm.architecture.layers", "greater than or equal to 1"]),
        (json!({ "ollama": {} }), &["spec.ollama.model: Required value"]),
        (ollama(json!({ "model": "" })), &["spec.ollama.model", "at least 1 chars long"]),
        (ollama(json!({ "model": "--insecure" })), &["spec.ollama.model", "should match"]),
        (ollama(json!({ "model": "qwen3:8b; rm -rf /" })), &["spec.ollama.model", "should match"]),
        (ollama(json!({ "model": "qwen3:" })), &["spec.ollama.model", "should match"]),
        (ollama(json!({ "model": "a/b/c/d" })), &["spec.ollama.model", "should match"]),
        (ollama(json!({ "model": "https://ollama.com/library/qwen3" })), &["spec.ollama.model", "should match"]),
        (ollama(json!({ "contextLength": 0 })), &["spec.ollama.contextLength", "greater than or equal to 1"]),
        (ollama(json!({ "keepAlive": "-1" })), &["spec.ollama.keepAlive", "should match"]),
        (ollama(json!({ "image": "ollama/ollama :1" })), &["spec.ollama.image", "should match"]),
        (external(json!({ "baseURL": "file:///etc/passwd" })), &["spec.external.baseURL", "should match"]),
        (external(json!({ "baseURL": "ftp://example.com" })), &["spec.external.baseURL", "should match"]),
        (external(json!({ "baseURL": "api.example.com/v1" })), &["spec.external.baseURL", "should match"]),
        (external(json!({ "baseURL": "http:///v1" })), &["spec.external.baseURL", "should match"]),
        (external(json!({ "headers": [{ "name": "a b", "value": "x" }] })), &["headers[0].name", "should match"]),
        (external(json!({ "headers": [{ "name": "a", "value": "x\r\nHost: b" }] })), &["headers[0].value", "should match"]),
    ];
    all_refused(&team, &cases).await;
    for (replicas, words) in [
        (json!(-1), "should be greater than or equal to 0"),
        (json!(1001), "should be less than or equal to 1000"),
        (json!(2_147_483_648_u32), "less than or equal to 1000"),
        (json!(1.5), "must be of type integer"),
        (json!("3"), "must be of type integer"),
    ] {
        let mut spec = vllm(json!({}));
        spec["replicas"] = replicas;
        all_refused(&team, &[(spec, &["spec.replicas", words])]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_have_at_most_52_characters_and_52_are_allowed() {
    let team = Team::new("names").await;
    let message = refusal(&team, &"n".repeat(53), &vllm(json!({}))).await;
    assert!(message.contains("metadata.name must have at most 52 characters"), "{message}");
    team.apply(&"n".repeat(52), vllm(json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_an_error_in_kubectl_wherever_it_stands() {
    let team = Team::new("unknown-keys").await;
    for (spec, path) in [
        (json!({ "vlm": {} }), "spec.vlm"),
        (vllm(json!({ "contextLenght": 1 })), "spec.vllm.contextLenght"),
        (vllm(json!({ "accelerator": { "product": "NVIDIA-L4" } })), "spec.vllm.accelerator.product"),
        (
            external(json!({ "apiKeys": [{ "name": "a", "secretKeyRef": { "name": "a", "key": "b", "namespace": "other" } }] })),
            "spec.external.apiKeys[0].secretKeyRef.namespace",
        ),
    ] {
        let object = json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "metadata": { "name": "bad" }, "spec": spec,
        });
        let (code, said) = team.kubectl_with_input(&["apply", "-f", "-"], &object.to_string());
        assert!(code != 0 && said.contains(&format!("unknown field \"{path}\"")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_immutable_cannot_be_changed_added_removed_or_slipped_past() {
    let team = Team::new("immutable").await;
    team.apply("named", vllm(json!({ "servedModelName": "qwen" }))).await;
    team.apply("unnamed", vllm(json!({}))).await;
    team.apply("hosted", external(json!({}))).await;
    let merge = async |name: &str, patch: Value| {
        let answer = team.backends().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        match answer {
            Err(kube::Error::Api(status)) => status.message.clone(),
            other => panic!("{patch} was not refused: {other:?}"),
        }
    };
    for (name, patch) in [
        ("named", json!({ "spec": { "vllm": { "servedModelName": "other" } } })),
        ("named", json!({ "spec": { "vllm": { "servedModelName": null } } })),
        ("unnamed", json!({ "spec": { "vllm": { "servedModelName": "qwen" } } })),
    ] {
        let message = merge(name, patch).await;
        for word in ["spec.vllm.servedModelName", "vllm.servedModelName is immutable", "create another InferenceBackend instead"] {
            assert!(message.contains(word), "{message}");
        }
    }
    team.apply("ollama", ollama(json!({}))).await;
    let other = external(json!({}))["external"].clone();
    for (name, patch, words) in [
        (
            "named",
            json!({ "spec": { "vllm": null, "external": other } }),
            "a backend cannot change between vllm, ollama and external: create another InferenceBackend instead",
        ),
        (
            "hosted",
            json!({ "spec": { "external": null, "vllm": { "model": "a/b" } } }),
            "cannot change between vllm, ollama and external",
        ),
        (
            "ollama",
            json!({ "spec": { "ollama": null, "vllm": { "model": "a/b" } } }),
            "cannot change between vllm, ollama and external",
        ),
        // Removing the member first, to add another one later, is no way around the rule.
        ("named", json!({ "spec": { "vllm": null } }), "exactly one of spec.vllm, spec.ollama, spec.external must be set"),
        ("named", json!({ "spec": null }), "spec: Required value"),
    ] {
        let message = merge(name, patch).await;
        assert!(message.contains(words), "{message}");
    }
    // Everything else may change.
    team.apply("named", vllm(json!({ "servedModelName": "qwen", "model": "Qwen/Qwen3-8B", "contextLength": 4096 }))).await;
}
