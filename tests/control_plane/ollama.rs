//! A model that Ollama serves: pods that really run on the local node pull it before they are ready.

use std::time::Duration;

use quartermaster_dev::local_node::node;
use reqwest::Method;
use serde_json::{Value, json};

use crate::columns::row;
use crate::engines::{LOOPBACK, address_of, client, health_is, is};
use crate::harness::{Team, condition};

/// `spec.ollama` of a model on the local node, which a pod gets to by its accelerators.
fn on_local_node(model: &str, more: Value) -> Value {
    let mut ollama = json!({
        "model": model,
        "accelerator": {
            "products": ["NVIDIA-Local"],
            "tolerations": [{ "key": node::TAINT, "operator": "Exists" }],
        },
        "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } },
    });
    ollama.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "ollama": ollama })
}

/// The only pod of a backend.
fn pod(team: &Team, backend: &str) -> Value {
    let selector = format!("quartermaster.dev/inference-backend={backend}");
    let pods: Value = serde_json::from_str(&team.kubectl(&["get", "pods", "--selector", &selector, "-o", "json"])).unwrap();
    let [pod] = pods["items"].as_array().unwrap().as_slice() else { panic!("{pods}") };
    pod.clone()
}

fn status_of(backend: &Value, type_: &str) -> String {
    condition(backend, type_).map(|condition| condition["status"].as_str().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_with_ollama_becomes_ready_through_its_own_probes_once_its_model_was_pulled() {
    let team = Team::new("ollama").await;
    let _operator = team.operator().await;
    team.apply("qwen", on_local_node("qwen3:0.6b", json!({ "contextLength": 4096, "keepAlive": "1h" }))).await;
    let ready = team.until_ready("qwen", "True", "Available").await;
    for type_ in ["Sized", "Available", "ModelLoaded"] {
        assert_eq!(status_of(&ready, type_), "True", "{type_}");
    }
    let endpoint = format!("http://qwen-backend.{}.svc:8000", team.namespace);
    assert_eq!(ready.pointer("/status/endpoint"), Some(&json!(endpoint)));

    // The model was on its way first, then pulled, and only then was the backend ready.
    let versions = team.versions_of("qwen");
    let steps: Vec<_> = versions.iter().map(|version| ["ModelLoaded", "Ready"].map(|type_| status_of(version, type_))).collect();
    assert!(steps.iter().any(|[loaded, ready]| loaded != "True" && ready != "True"), "{steps:?}");
    assert!(steps.is_sorted_by_key(|step| step.each_ref().map(|status| status == "True")), "{steps:?}");
    assert!(steps.iter().all(|[loaded, ready]| loaded == "True" || ready != "True"), "{steps:?}");
    let pod = pod(&team, "qwen");
    let pulled = &pod["status"]["initContainerStatuses"][0];
    assert_eq!((&pulled["name"], &pulled["state"]["terminated"]["exitCode"]), (&json!("pull"), &json!(0)));
    let name = pod["metadata"]["name"].as_str().unwrap();
    let said = team.kubectl(&["logs", name, "-c", "pull"]);
    assert!(said.contains("pulling manifest") && said.contains("success"), "{said}");
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"], json!({ "nvidia.com/gpu": "1" }));

    let cells = row(&team.kubectl(&["get", "ib", "qwen", "-o", "wide"]));
    let cell = |name: &str| cells.iter().find(|(column, _)| column == name).map(|(_, cell)| cell.as_str());
    assert_eq!((cell("MODEL"), cell("ENGINE"), cell("REPLICAS")), (Some("qwen3:0.6b"), Some("Ollama"), Some("1/1")));
    assert_eq!((cell("GPUS"), cell("CONTEXT")), (Some("1xLocal"), Some("4096")));

    team.kubectl(&["scale", "ib/qwen", "--replicas=0"]);
    team.until_ready("qwen", "True", "ScaledToZero").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_of_a_pod_says_how_it_is_and_a_model_that_is_gone_from_it_shows() {
    let team = Team::new("ollama-health").await;
    let _operator = team.operator_with(LOOPBACK, &[]).await;
    let mut spec = on_local_node("qwen3:0.6b", json!({}));
    spec["healthCheck"] = json!({ "interval": "1s", "failureThreshold": 2 });
    team.apply("qwen", spec.clone()).await;
    let well =
        |backend: &Value| health_is(backend, "Healthy") && is(backend, "Ready", "True") && is(backend, "ModelLoaded", "True");
    let healthy = team.until("qwen", "its server is asked and well", well).await;
    assert_eq!(healthy.pointer("/status/observedKVCacheTokens"), None, "Ollama does not say how large its cache is");
    let before = team.versions_of("qwen");
    let reason = |version: &Value| condition(version, "Ready").map(|condition| condition["reason"].clone());
    let pulling: Vec<&Value> = before.iter().filter(|version| reason(version) == Some(json!("ModelLoading"))).collect();
    assert!(!pulling.is_empty() && pulling.iter().all(|version| !health_is(version, "Healthy")), "{pulling:#?}");
    let policy = team.kubectl(&["get", "networkpolicy", "qwen-backend", "-o", "jsonpath={.spec.ingress[*].from[*]}"]);
    assert!(policy.contains("quartermaster-gateway") && policy.contains("kubernetes.io/metadata.name"), "{policy}");
    // Checks go on every second, and nothing is written for them.
    team.until_quiet(Duration::from_secs(4)).await;

    let server = address_of(&team, "quartermaster.dev/inference-backend=qwen").await.unwrap();
    let call = async |method: Method, path: &str, body: Value| {
        let request = client().request(method, format!("http://{server}:8000{path}")).json(&body);
        request.send().await.unwrap().error_for_status().unwrap()
    };
    call(Method::DELETE, "/api/delete", json!({ "model": "qwen3:0.6b" })).await;
    let gone = team.until_ready("qwen", "False", "ModelNotListed").await;
    assert!(health_is(&gone, "Unhealthy") && is(&gone, "Stalled", "True"), "{gone:#}");
    assert!(is(&gone, "Available", "False") && is(&gone, "ModelLoaded", "False"), "{gone:#}");
    let message = condition(&gone, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("does not list the model qwen3:0.6b") && message.contains("delete the pod"), "{message}");
    call(Method::POST, "/api/pull", json!({ "model": "qwen3:0.6b", "stream": false })).await;
    team.until("qwen", "it is well again", well).await;

    spec["healthCheck"]["type"] = json!("Inference");
    team.apply("qwen", spec).await;
    let asked_anew =
        |backend: &Value| well(backend) && backend.pointer("/status/observedGeneration") == backend.pointer("/metadata/generation");
    team.until("qwen", "it answers a call of one token", asked_anew).await;
    let calls: Value = call(Method::GET, "/control/calls", json!({})).await.json().await.unwrap();
    let of_one_token = |call: &Value| call["path"] == "/v1/completions" && call["model"] == "qwen3:0.6b";
    assert!(calls.as_array().unwrap().iter().any(of_one_token), "{calls:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_no_registry_has_is_told_and_another_one_mends_it() {
    let team = Team::new("ollama-absent").await;
    let _operator = team.operator().await;
    team.apply("absent", on_local_node("no-such-model:1b", json!({}))).await;
    let failed = team.until_ready("absent", "False", "ModelNotFound").await;
    let message = condition(&failed, "Stalled").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("correct spec.ollama.model"), "{message}");
    assert_eq!(status_of(&failed, "ModelLoaded"), "False");
    team.apply("absent", on_local_node("qwen3:0.6b", json!({}))).await;
    team.until_ready("absent", "True", "Available").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_accelerator_it_runs_on_a_node_without_any_and_a_choice_that_cannot_be_is_refused() {
    let team = Team::new("ollama-cpu").await;
    let _operator = team.operator().await;
    team.apply("cpu", json!({ "ollama": { "model": "qwen3:0.6b" }, "replicas": 2 })).await;
    let ready = team.until_ready("cpu", "True", "Available").await;
    assert_eq!(ready.pointer("/status/summary/gpus"), Some(&json!("CPU")));
    let made =
        team.kubectl(&["get", "secrets,poddisruptionbudgets", "-o", "name", "-l", "quartermaster.dev/inference-backend=cpu"]);
    assert_eq!(made.trim(), "poddisruptionbudget.policy/cpu-backend", "no key is made, since Ollama asks for none");
    for (name, fields, reason, words) in [
        ("image", json!({ "image": "registry.example:5000/ollama" }), "InvalidImage", "append :<tag>"),
        (
            "amount",
            json!({ "resources": { "limits": { "nvidia.com/gpu": 1 } } }),
            "InvalidAccelerator",
            "spec.ollama.accelerator is not set",
        ),
        ("node-local", json!({ "cache": { "nodeLocal": {} } }), "InvalidSpec", "spec.ollama.cache.nodeLocal"),
        (
            "resource",
            json!({ "accelerator": { "resourceName": "amd.com/gpu" } }),
            "NoAcceleratorMatches",
            "spec.ollama.accelerator.resourceName",
        ),
    ] {
        let mut ollama = json!({ "model": "qwen3:0.6b" });
        ollama.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        team.apply(name, json!({ "ollama": ollama })).await;
        let refused = team.until_ready(name, "False", reason).await;
        let message = condition(&refused, "Stalled").unwrap()["message"].as_str().unwrap();
        assert!(message.contains(words), "{name}: {message}");
        let label = format!("quartermaster.dev/inference-backend={name}");
        let made = team.kubectl(&["get", "deployments,pods", "-o", "name", "-l", &label]);
        assert!(!made.contains('/'), "{name} made {made}");
    }
}
