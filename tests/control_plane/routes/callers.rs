//! Pools of agents as callers of their namespace's gateway: their key, what their pods are told, and what rules know of them.

use std::time::{Duration, Instant};

use quartermaster_dev::local_node::{logs, node};
use serde_json::{Value, json};

use super::gateway::{answered, call, chat, client, entries};
use super::harness::{answered_by, calls, server, to, with};
use crate::harness::{DEADLINE, Team};

/// What an agent is told of its gateway.
const VARIABLES: [&str; 4] = ["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"];

/// A call by what the environment says, as an SDK makes it, with the standard library alone. It is made again until it is answered:
/// the agent may be there before its gateway.
const AGENT: &str = r#"
import json, os, time, urllib.request
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
body = {"model": "router", "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}]}
head = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"}
while True:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), head)) as answer:
            print("answered", answer.status, answer.headers["x-quartermaster-backend"], flush=True)
            break
    except OSError as error:
        print("again", error, flush=True)
        time.sleep(0.2)
time.sleep(3600)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_pod_calls_the_gateway_by_what_its_environment_says() {
    let (team, server) = (Team::new("agents-call").await, server().await);
    team.run_gateways(1);
    let _operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &[])).await;
    team.apply_route("router", to(&["one"])).await;
    let container =
        |name: &str, env: Value| json!({ "name": name, "image": "python:3", "command": ["python3", "-c", AGENT], "env": env });
    let template = json!({ "spec": {
        "nodeSelector": { "kubernetes.io/hostname": node::NAME },
        "tolerations": [{ "key": node::TAINT, "operator": "Exists" }],
        "terminationGracePeriodSeconds": 0,
        "containers": [container("agent", json!([])), container("own", json!([{ "name": "OPENAI_API_KEY", "value": "of the user's" }]))],
    } });
    team.apply_pool("coder", with(calls(&["router"]), json!({ "template": template, "replicas": 1 }))).await;

    let deployment = team.until_in(&team.deployments(), "coder-pool", "exist", Value::is_object).await;
    let variables =
        |container: usize| deployment["spec"]["template"]["spec"]["containers"][container]["env"].as_array().unwrap().clone();
    for name in VARIABLES {
        let of_secret = json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": "coder-caller", "key": name } } });
        assert!(variables(0).contains(&of_secret), "{name}: {deployment:#}");
    }
    // What the user sets stays.
    let own: Vec<Value> = variables(1).into_iter().filter(|variable| variable["name"] == "OPENAI_API_KEY").collect();
    assert_eq!(own, [json!({ "name": "OPENAI_API_KEY", "value": "of the user's" })]);

    let pod = team.until_agents("coder", 1).await.remove(0);
    let (started, mut printed) = (Instant::now(), String::new());
    while !printed.contains("answered 200 one") {
        assert!(started.elapsed() < DEADLINE, "the agent's calls are not answered:\n{printed}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let files = logs::of_pod(&team.connection, &team.namespace, &pod).unwrap_or_default();
        printed = files.iter().map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect();
    }
}

/// Variables are read at a pod's start: another key is other pods, and those before have theirs until they end.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_gives_agents_new_pods_that_have_the_new_key() {
    let team = Team::new("rotated-agents").await;
    let _operator = team.operator_of_routes().await;
    let template = json!({ "spec": { "containers": [{ "name": "agent", "image": "registry.example/agent:1.4" }] } });
    team.apply_pool("coder", with(calls(&["router"]), json!({ "template": template, "replicas": 2 }))).await;
    let hash_of = |object: &Value, path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let of_secret = |secret: &Value| hash_of(secret, "/metadata/annotations/quartermaster.dev~1key-hash");
    let of_pods = |deployment: &Value| hash_of(deployment, "/spec/template/metadata/annotations/quartermaster.dev~1key-hash");
    let before =
        of_secret(&team.until_in(&team.secrets(), "coder-caller", "have a key", |secret| of_secret(secret).is_some()).await);
    team.until_in(&team.deployments(), "coder-pool", "have the key", |deployment| of_pods(deployment) == before).await;
    let agents = team.until_agents("coder", 2).await;
    let key = team.key_of("coder").await;

    team.kubectl(&["annotate", "agentpool", "coder", "quartermaster.dev/rotate-key=2026-11"]);
    let rotated = team.until_in(&team.secrets(), "coder-caller", "have another key", |secret| of_secret(secret) != before).await;
    let previous = hash_of(&rotated, "/metadata/annotations/quartermaster.dev~1previous-key-hash");
    assert_eq!(previous, before, "the key before is remembered by its hash");
    assert_ne!(team.key_of("coder").await, key);
    let after = of_secret(&rotated);
    team.until_in(&team.deployments(), "coder-pool", "have the new key", |deployment| of_pods(deployment) == after).await;
    let started = Instant::now();
    while team.until_agents("coder", 2).await.iter().any(|agent| agents.contains(agent)) {
        assert!(started.elapsed() < DEADLINE, "agents with the key before stay");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_and_ci_call_by_the_secret_of_a_pool_without_a_workload_and_a_pool_without_routes_has_no_key() {
    let (team, server) = (Team::new("people").await, server().await);
    team.run_gateways(1);
    let _operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &["ChatCompletions", "Messages"])).await;
    for route in ["first", "second"] {
        team.apply_route(route, to(&["one"])).await;
    }
    team.apply_pool("people", calls(&["first"])).await;
    team.apply_pool("idle", json!({})).await;
    team.until_says("people", "Ready", "True", "NoWorkload").await;
    team.until_says("idle", "Ready", "True", "NoWorkload").await;
    let key = team.key_of("people").await;
    assert!(key.starts_with("qm-") && key.len() == 67, "a key of 256 random bits");
    let secret = team.secrets().get("people-caller").await.unwrap();
    let endpoint = format!("http://quartermaster-gateway.{}.svc:4000", team.namespace);
    let expected = [key.clone(), endpoint.clone(), key.clone(), format!("{endpoint}/v1")];
    let expected: Vec<(String, String)> = VARIABLES.iter().map(|name| (*name).to_owned()).zip(expected).collect();
    assert_eq!(entries(&secret), expected);
    assert!(team.secrets().get_opt("idle-caller").await.unwrap().is_none(), "a pool without routes has no key");

    team.until_programmed("second").await;
    let replica = team.until_gateways(1).await.remove(0);
    assert_eq!(team.kubectl(&["get", "deployments", "-o", "name"]).trim(), "deployment.apps/quartermaster-gateway");
    team.until_known(&key, true).await;
    assert_eq!(answered(&replica, &key, "first").await, "one");
    // Anthropic's clients have the same key, in a header of their own.
    let message = json!({ "model": "first", "max_tokens": 3, "messages": [{ "role": "user", "content": "hello" }] });
    let answer = client().post(replica.url("/v1/messages")).header("x-api-key", &key).json(&message).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let listed: Value = client().get(replica.url("/v1/models")).bearer_auth(&key).send().await.unwrap().json().await.unwrap();
    let names: Vec<_> = listed["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!(names, ["first"], "those that it may call");
    // What it may not call looks as if it did not exist.
    assert_eq!(call(&replica, &key, &chat("second", "hello")).await.status(), 404);
    team.apply_pool("people", calls(&["first", "second"])).await;
    let started = Instant::now();
    while call(&replica, &key, &chat("second", "hello")).await.status() != 200 {
        assert!(started.elapsed() < DEADLINE, "it never comes to be allowed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Without routes the key opens nothing, and the Secret stays for those who may need it again.
    team.apply_pool("people", json!({ "criticality": "Standard" })).await;
    team.until_known(&key, false).await;
    assert_eq!(team.key_of("people").await, key);
    team.apply_pool("people", calls(&["first"])).await;
    team.until_known(&key, true).await;
    // With its pool a key goes for good.
    team.pools().delete("people", &Default::default()).await.unwrap();
    team.until_known(&key, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_know_a_pool_by_its_name_and_its_labels_which_no_client_changes() {
    let (team, server) = (Team::new("labels").await, server().await);
    team.run_gateways(1);
    let _operator = team.operator_of_routes().await;
    for backend in ["usual", "reviews", "urgent", "of-planner", "gold"] {
        team.apply(backend, answered_by(&server, &[])).await;
    }
    let rule = |name: &str, when: Value| with(json!({ "name": name, "when": when }), to(&[name]));
    let rules = json!([
        rule("reviews", json!({ "taskTypes": ["review"] })),
        rule("urgent", json!({ "priorities": ["P0", "P1"] })),
        rule("of-planner", json!({ "agentPools": ["planner"] })),
        rule("gold", json!({ "labels": { "plan": ["gold", "platinum"] } })),
    ]);
    team.apply_route("router", with(to(&["usual"]), json!({ "rules": rules, "trustedLabels": ["taskType", "priority"] }))).await;
    let labelled = |labels: Value| with(calls(&["router"]), json!({ "requestLabels": labels }));
    for (pool, labels) in [
        ("plain", json!({})),
        ("reviewer", json!({ "taskType": "review" })),
        ("pager", json!({ "priority": "P1" })),
        ("planner", json!({})),
        ("customer", json!({ "plan": "gold" })),
    ] {
        team.apply_pool(pool, labelled(labels)).await;
    }
    team.until_programmed("router").await;
    let replica = team.until_gateways(1).await.remove(0);
    for (pool, header, expected) in [
        ("plain", None, "usual"),
        ("reviewer", None, "reviews"),
        ("pager", None, "urgent"),
        ("planner", None, "of-planner"),
        ("customer", None, "gold"),
        // What the route trusts a client with it may say; what its key says, and what would raise its priority, it may not.
        ("plain", Some(("x-quartermaster-task-type", "review")), "reviews"),
        ("plain", Some(("x-quartermaster-label-plan", "gold")), "usual"),
        ("plain", Some(("x-quartermaster-priority", "P0")), "usual"),
        ("pager", Some(("x-quartermaster-priority", "P3")), "usual"),
        ("reviewer", Some(("x-quartermaster-task-type", "chat")), "reviews"),
    ] {
        let key = team.key_of(pool).await;
        team.until_known(&key, true).await;
        let mut request = client().post(replica.url("/v1/chat/completions")).bearer_auth(&key).json(&chat("router", "hello"));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let backend = answer.headers()["x-quartermaster-backend"].to_str().unwrap();
        assert_eq!(backend, expected, "{pool} with {header:?}");
    }
}
