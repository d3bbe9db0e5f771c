//! What the operator learns of backends beside what the kubelet says: from the engines in their pods, which really run here, simulated,
//! and from the calls that go through a gateway.

use std::time::{Duration, Instant};

use kube::api::{Api, DynamicObject, ListParams};
use quartermaster_dev::local_node::node;
use quartermaster_dev::model_server::{Face, Fault, Match, ModelServer, Refusal, Settings, hash};
use reqwest::Client;
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Team, condition, resource};

/// With this the operator asks pods of the local node, whose addresses are loopback's.
pub const LOOPBACK: &str = "destinations: {allowLoopback: true}";

/// A client of pods.
pub fn client() -> Client {
    quartermaster::sources::connect::install_cryptography();
    Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
}

/// The address of the one pod with a label.
pub async fn address_of(team: &Team, selector: &str) -> Option<String> {
    let pods: Api<DynamicObject> = team.api(&resource("", "v1", "Pod", "pods"));
    let pods = pods.list(&ListParams::default().labels(selector)).await.unwrap().items;
    let of_pod = |pod: &DynamicObject| pod.data.pointer("/status/podIP").and_then(Value::as_str).map(str::to_owned);
    pods.iter().find_map(of_pod)
}

/// What `status.health.state` says.
pub fn health_is(backend: &Value, state: &str) -> bool {
    backend.pointer("/status/health/state").and_then(Value::as_str) == Some(state)
}

/// Whether a condition has this status.
pub fn is(object: &Value, type_: &str, status: &str) -> bool {
    condition(object, type_).is_some_and(|condition| condition["status"] == status)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_of_a_pod_says_how_it_is_and_how_large_its_cache_is() {
    let team = Team::new("engines").await;
    let _operator = team.operator_with(LOOPBACK, &[]).await;
    let spec = json!({
        "vllm": {
            "model": "Qwen/Qwen3-0.6B",
            "accelerator": { "products": ["NVIDIA-Local"], "tolerations": [{ "key": node::TAINT, "operator": "Exists" }] },
            "resources": { "requests": { "cpu": "100m", "memory": "1Gi" } },
            "env": [{ "name": "MODEL_SERVER_SETTINGS", "value": json!({ "loadMilliseconds": 2000 }).to_string() }],
        },
        "healthCheck": { "interval": "1s", "failureThreshold": 2 },
    });
    team.apply("small", spec).await;
    team.until_ready("small", "True", "Available").await;
    let healthy = team
        .until("small", "it is healthy, and says how large its cache is", |backend| {
            health_is(backend, "Healthy") && backend.pointer("/status/observedKVCacheTokens").is_some()
        })
        .await;
    // The simulated server has 65,536 blocks of 16 tokens.
    let status = &healthy["status"];
    assert_eq!(status["observedKVCacheTokens"], 1_048_576);
    assert!(status["kvCachePredictionErrorPercent"].is_i64(), "{status:#}");
    assert_eq!(status["summary"]["kvCacheTokens"], status["observedKVCacheTokens"]);
    assert_ne!(status["sizing"]["kvCacheTokens"], status["observedKVCacheTokens"], "what was predicted stays beside it");
    let early = team.versions_of("small").into_iter().filter(|version| !is(version, "ModelLoaded", "True"));
    for version in early {
        assert!(!health_is(&version, "Healthy"), "while it loads the model nothing is known: {version:#}");
    }
    let policy = team.kubectl(&["get", "networkpolicy", "small-backend", "-o", "jsonpath={.spec.ingress[*].from[*]}"]);
    assert!(policy.contains("quartermaster-gateway") && policy.contains("kubernetes.io/metadata.name"), "{policy}");
    // Checks go on every second, and nothing is written for them.
    team.until_quiet(Duration::from_secs(4)).await;

    let engine = address_of(&team, "quartermaster.dev/inference-backend=small").await.unwrap();
    let settings = format!("http://{engine}:8000/control/settings");
    let change = async |healthy: bool| {
        client().post(&settings).json(&json!({ "healthy": healthy })).send().await.unwrap().error_for_status().unwrap();
    };
    change(false).await;
    let dead = team.until("small", "it is unhealthy", |backend| health_is(backend, "Unhealthy")).await;
    assert!(is(&dead, "Ready", "False") && is(&dead, "Available", "False"), "{dead:#}");
    change(true).await;
    let healed = |backend: &Value| health_is(backend, "Healthy") && is(backend, "Ready", "True");
    team.until("small", "it is well again", healed).await;
}

/// A gateway of one replica on the local node, and a pool that may call the route `router` to the backend `hosted`.
async fn serve(team: &Team) {
    let gateway = json!({
        "replicas": "1",
        "nodeSelector": format!("kubernetes.io/hostname: {}", node::NAME),
        "tolerations": format!("[{{key: {}, operator: Exists}}]", node::TAINT),
    });
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "quartermaster-gateway" }, "data": gateway },
        {
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "ModelRoute", "metadata": { "name": "router" },
            "spec": { "backends": [{ "name": "hosted" }] },
        },
        {
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool", "metadata": { "name": "people" },
            "spec": { "modelRoutes": [{ "name": "router" }] },
        },
    ] });
    let (code, said) = team.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &objects.to_string());
    assert_eq!(code, 0, "{said}");
}

/// The key of a provider, in a Secret.
fn put_key(team: &Team, secret: &str, value: &str) {
    let object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": secret }, "stringData": { "key": value } });
    let (code, said) = team.kubectl_with_input(&["apply", "-f", "-"], &object.to_string());
    assert_eq!(code, 0, "{said}");
}

/// Calls the gateway until it answers, with a success or with none.
async fn call(team: &Team, success: bool) {
    let secrets = team.api(&resource("", "v1", "Secret", "secrets"));
    let secret = team.until_in(&secrets, "people-caller", "exist", Value::is_object).await;
    let encoded: k8s_openapi::ByteString = serde_json::from_value(secret["data"]["OPENAI_API_KEY"].clone()).unwrap();
    let key = String::from_utf8(encoded.0).unwrap();
    let body = json!({ "model": "router", "max_tokens": 2, "messages": [{ "role": "user", "content": "hello" }] });
    let started = Instant::now();
    loop {
        let mut said = "no pod has an address".to_owned();
        if let Some(address) = address_of(team, "quartermaster.dev/gateway=quartermaster-gateway").await {
            let request = client().post(format!("http://{address}:4000/v1/chat/completions")).bearer_auth(&key).json(&body);
            match request.send().await {
                Ok(answer) if answer.status().is_success() == success => return,
                Ok(answer) => said = format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
                Err(error) => said = error.to_string(),
            }
        }
        assert!(started.elapsed() < DEADLINE, "the gateway never answers with success={success}: {said}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_calls_find_refused_or_used_up_is_shown_until_it_is_another_one() {
    let team = Team::new("traffic").await;
    let api_keys = ["one", "two", "three"].map(str::to_owned).to_vec();
    let server = ModelServer::start(Settings { api_keys, ..Settings::new(Face::OpenAI, &["gpt-4o"]) }).await.unwrap();
    let calls = |key: Option<&str>| Match {
        path: Some("/v1/chat/completions".to_owned()),
        key: key.map(|key| hash(key.as_bytes())),
        ..Match::default()
    };
    // The checks read the list of models, which the provider goes on to hand out.
    server.add(calls(Some("one")), Fault::Refuse(Refusal::KeyRejected));
    let configuration = format!("{LOOPBACK}\ngateway: {{image: \"quartermaster:0.1.0\"}}");
    let _operator = team.operator_with(&configuration, &[]).await;
    put_key(&team, "one", "one");
    put_key(&team, "two", "two");
    let key = |name: &str, secret: &str| json!({ "name": name, "secretKeyRef": { "name": secret, "key": "key" } });
    let external = json!({
        "provider": "OpenAICompatible", "model": "gpt-4o", "baseURL": server.url("/v1"), "apiKeys": [key("first", "one"), key("second", "two")],
    });
    team.apply("hosted", json!({ "external": external, "healthCheck": { "interval": "1h" } })).await;
    team.until_ready("hosted", "True", "Healthy").await;
    serve(&team).await;

    // Whichever key a call begins with, it is answered; after a few both were tried.
    for _ in 0..4 {
        call(&team, true).await;
    }
    let refused = team
        .until("hosted", "the refused key is shown", |backend| {
            backend.pointer("/status/health/keys/0/reason").is_some_and(|reason| reason == "KeyRejected")
        })
        .await;
    assert_eq!(
        refused["status"]["health"],
        json!({ "state": "Healthy", "keys": [
            { "name": "first", "healthy": false, "reason": "KeyRejected" }, { "name": "second", "healthy": true },
        ] })
    );
    let ready = condition(&refused, "Ready").unwrap();
    assert_eq!(ready["status"], "True", "{ready}");
    assert!(ready["message"].as_str().unwrap().contains("first (KeyRejected)"), "{ready}");

    put_key(&team, "one", "three");
    let both = |backend: &Value| {
        let keys = backend.pointer("/status/health/keys").and_then(Value::as_array);
        keys.is_some_and(|keys| keys.len() == 2 && keys.iter().all(|key| key["healthy"] == true))
    };
    team.until("hosted", "another key is as good as any", both).await;

    server.add(calls(None), Fault::Refuse(Refusal::QuotaExhausted));
    for _ in 0..4 {
        call(&team, false).await;
    }
    let spent = team.until_ready("hosted", "False", "QuotaExhausted").await;
    assert!(health_is(&spent, "Unhealthy") && is(&spent, "Reconciling", "True"), "{spent:#}");
    team.kubectl(&["delete", "modelroutes", "--all", "--wait=false"]);
    // Without a gateway nobody says so any more.
    team.until_ready("hosted", "True", "Healthy").await;
}
