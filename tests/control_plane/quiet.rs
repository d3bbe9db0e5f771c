//! What the operator asks of the API server: nothing when nothing changes, little when something does, and no more than its
//! rules allow. The oracle is the audit log of its account.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Team, condition};

fn small() -> Value {
    json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 0 })
}

/// Requests besides the lease's, which is renewed for ever, and watches, which end and begin again every 200 s.
fn asked(team: &Team) -> Vec<String> {
    let about = |entry: &Value| format!("{} {} {}", entry["verb"], entry["objectRef"]["resource"], entry["objectRef"]["name"]);
    let requests = team.requests();
    requests.iter().filter(|entry| entry["objectRef"]["resource"] != "leases" && entry["verb"] != "watch").map(about).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_backends_without_change_cost_no_call_for_a_minute() {
    let team = Team::new("quiet").await;
    let _operator = team.operator().await;
    for number in 0..100 {
        team.apply(&format!("model-{number}"), small()).await;
    }
    for number in 0..100 {
        team.until_ready(&format!("model-{number}"), "True", "ScaledToZero").await;
    }
    let settled = team.until_quiet(Duration::from_secs(3)).await;
    // This test proves that nothing happens, so that time has to pass.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = asked(&team);
    assert_eq!(after.len(), settled, "{:?}", &after[settled..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_costs_one_apply_per_changed_child_and_one_status_write_a_state() {
    let team = Team::new("cost").await;
    let _operator = team.operator().await;
    team.apply("model", small()).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    team.until_quiet(Duration::from_secs(4)).await;
    let before = team.writes().len();
    let mut changed = small();
    changed["vllm"]["upgrade"] = json!({ "type": "Manual" });
    let generation = team.apply("model", changed).await.metadata.generation.unwrap();
    team.until("model", "the new generation", |backend| backend["status"]["observedGeneration"] == generation).await;
    team.until_quiet(Duration::from_secs(2)).await;
    assert_eq!(team.writes().split_off(before), ["patch inferencebackends/status model"], "no child changes");

    let before = team.writes().len();
    let mut changed = small();
    changed["vllm"]["extraArgs"] = json!(["--enable-prefix-caching"]);
    team.apply("model", changed).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    team.until_quiet(Duration::from_secs(2)).await;
    let (applies, statuses): (Vec<_>, Vec<_>) =
        team.writes().split_off(before).into_iter().partition(|write| !write.contains("/status"));
    assert_eq!(applies, ["patch deployments model-backend"], "one apply for the only child that changes");
    assert_eq!(statuses.len(), 2, "once that it is under way, once that it is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_child_comes_back_drift_is_reverted_and_foreign_fields_stay() {
    let team = Team::new("drift").await;
    let _operator = team.operator().await;
    team.apply("model", small()).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    let deployments = team.deployments();
    let uid = |deployment: &Value| deployment["metadata"]["uid"].clone();
    let before = team.until_in(&deployments, "model-backend", "exist", |deployment| deployment.is_object()).await;
    team.kubectl(&["annotate", "deployment/model-backend", "example.com/note=mine"]);
    team.kubectl(&["scale", "deployment/model-backend", "--replicas=3"]);
    let reverted = team
        .until_in(&deployments, "model-backend", "zero replicas again", |deployment| {
            deployment["spec"]["replicas"] == 0 && deployment["metadata"]["generation"].as_i64() > Some(2)
        })
        .await;
    assert_eq!(reverted["metadata"]["annotations"]["example.com/note"], "mine");
    team.kubectl(&["delete", "deployment/model-backend", "service/model-backend"]);
    team.until_in(&deployments, "model-backend", "come back", |deployment| {
        deployment.is_object() && uid(deployment) != uid(&before)
    })
    .await;
    let service = team.kubectl(&["get", "service", "model-backend", "-o", "name"]);
    assert!(service.contains("service/model-backend"), "{service}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_right_is_used_and_no_call_is_refused() {
    let team = Team::new("rights").await;
    let _operator = team.operator().await;
    team.kubectl(&["create", "secret", "generic", "key", "--from-literal=key=x"]);
    team.apply("model", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 2 })).await;
    let external = json!({ "provider": "OpenAI", "model": "gpt-5.4", "apiKeys": [{ "name": "a", "secretKeyRef": { "name": "key", "key": "key" } }] });
    team.apply("hosted", json!({ "external": external })).await;
    let budgets = team.api(&crate::harness::resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"));
    team.until_in(&budgets, "model-backend", "exist", |budget| budget.is_object()).await;
    team.apply("model", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 1 })).await;
    team.until_in(&budgets, "model-backend", "go", |budget| budget.is_null()).await;
    // A repeated event is counted up by a patch: the same transition, twice within minutes.
    for replicas in [0, 1, 0, 1] {
        team.apply("model", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": replicas })).await;
        team.until_ready("model", "True", if replicas == 0 { "ScaledToZero" } else { "Available" }).await;
    }
    let started = std::time::Instant::now();
    loop {
        let used: BTreeSet<_> = team.audited().iter().flat_map(rights).collect();
        let unused: Vec<_> = granted().difference(&used).cloned().collect();
        if unused.is_empty() {
            break;
        }
        assert!(started.elapsed() < crate::harness::DEADLINE, "never used: {unused:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let refused: Vec<_> = team.requests().into_iter().filter(|entry| entry["responseStatus"]["code"] == 403).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// Group, resource and verb of a request. A patch that made an object needed the right to create as well.
fn rights(entry: &Value) -> Vec<(String, String, String)> {
    let part = |name: &str| entry["objectRef"][name].as_str().unwrap_or_default().to_owned();
    let resource =
        if part("subresource").is_empty() { part("resource") } else { format!("{}/{}", part("resource"), part("subresource")) };
    let verb = entry["verb"].as_str().unwrap_or_default();
    let made = verb == "patch" && entry["responseStatus"]["code"] == 201;
    let verbs = [Some(verb), made.then_some("create")];
    verbs.into_iter().flatten().map(|verb| (part("apiGroup"), resource.clone(), verb.to_owned())).collect()
}

/// What deploy/rbac.yaml grants, without the right that admission asks about itself: no request carries it.
fn granted() -> BTreeSet<(String, String, String)> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(include_str!("../../deploy/rbac.yaml")).unwrap();
    let texts = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let mut granted = BTreeSet::new();
    for rule in documents.iter().filter_map(|document| document["rules"].as_array()).flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]).into_iter().filter(|resource| !resource.ends_with("/finalizers")) {
                for verb in texts(&rule["verbs"]) {
                    granted.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    granted
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_applied_for_want_of_a_right_says_which_and_heals() {
    let team = Team::new("forbidden").await;
    let _operator = team.operator().await;
    let binding = format!("quartermaster-{}", team.namespace);
    // The reading rights stay, so that the watches live on.
    let view = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": format!("reader-{}", team.namespace) },
        "rules": [
            { "apiGroups": ["quartermaster.dev"], "resources": ["inferencebackends"], "verbs": ["list", "watch"] },
            { "apiGroups": ["quartermaster.dev"], "resources": ["inferencebackends/status"], "verbs": ["patch"] },
            { "apiGroups": ["", "apps", "policy"], "resources": ["*"], "verbs": ["get", "list", "watch"] },
        ],
    });
    let reader = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": format!("reader-{}", team.namespace) },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("reader-{}", team.namespace) },
        "subjects": [{ "kind": "ServiceAccount", "name": "quartermaster", "namespace": team.namespace }],
    });
    for manifest in [&view, &reader] {
        quartermaster_dev::account::apply(&team.connection, &manifest.to_string()).await.unwrap();
    }
    team.kubectl(&["delete", "clusterrolebinding", &binding]);
    team.apply("model", small()).await;
    let refused = team.until_ready("model", "False", "Forbidden").await;
    let message = condition(&refused, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("deploy/rbac.yaml") && message.contains("patch"), "{message}");
    team.grant().await;
    team.until_ready("model", "True", "ScaledToZero").await;
}
