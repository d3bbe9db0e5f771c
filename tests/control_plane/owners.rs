//! Backends that go: one that is made anew at once, and some that go with their namespace.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::faulty::ALONE;
use crate::harness::{DEADLINE, Team, resource, small_model};

/// The conditions of all statuses that this user's operators wrote.
fn conditions_written(team: &Team) -> Vec<Value> {
    let writes = team.requests().into_iter().filter(|entry| entry["objectRef"]["subresource"] == "status");
    let conditions = |entry: Value| entry["responseObject"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
    writes.flat_map(conditions).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_replaced_again_and_again_ends_with_children_of_its_own_and_is_never_told_to_rename() {
    let team = Team::new("replaced").await;
    let _operator = team.operator().await;
    let backend = json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "metadata": { "name": "one" },
        "spec": { "vllm": small_model(json!({})), "replicas": 2 },
    });
    team.apply("one", backend["spec"].clone()).await;
    for _ in 0..20 {
        let (code, said) = team.kubectl_with_input(&["replace", "--force", "-f", "-"], &backend.to_string());
        assert_eq!(code, 0, "{said}");
    }
    let uid = team.until_ready("one", "True", "Available").await["metadata"]["uid"].clone();
    for (group, version, kind, plural) in [
        ("", "v1", "ServiceAccount", "serviceaccounts"),
        ("", "v1", "Secret", "secrets"),
        ("", "v1", "Service", "services"),
        ("apps", "v1", "Deployment", "deployments"),
        ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
        ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ] {
        let api = team.api(&resource(group, version, kind, plural));
        let is_its_own = |child: &Value| child["metadata"]["ownerReferences"][0]["uid"] == uid;
        team.until_in(&api, "one-backend", "belong to the last one", is_its_own).await;
        let listed = team.kubectl(&["get", plural, "-l", "quartermaster.dev/inference-backend", "-o", "name"]);
        assert_eq!(listed.lines().count(), 1, "{listed}");
    }
    let conditions = conditions_written(&team);
    assert!(!conditions.is_empty());
    let stalled: Vec<_> = conditions.iter().filter(|condition| condition["type"] == "Stalled").collect();
    assert!(stalled.is_empty(), "{stalled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_deleted_takes_its_backends_along_and_nothing_is_made_or_blamed_meanwhile() {
    // The operator's account lives elsewhere, and outlives the namespace.
    let (account, team) = (Team::new("stays").await, Team::new("goes").await);
    let operator = team.start_as(account.operator_kubeconfig(), ALONE, &[]);
    operator.ready().await;
    let names = ["one", "two", "three"];
    for name in names {
        team.apply(name, json!({ "vllm": small_model(json!({})), "replicas": 1 })).await;
    }
    for name in names {
        team.until_ready(name, "True", "Available").await;
    }
    account.until_quiet(Duration::from_secs(1)).await;
    let before = account.requests().len();
    let said = team.kubectl(&["delete", "namespace", &team.namespace, "--wait=false"]);
    let started = Instant::now();
    while !team.kubectl(&["get", "namespace", &team.namespace]).contains("NotFound") {
        assert!(started.elapsed() < DEADLINE, "it stays\n{said}\n{}", operator.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    account.until_quiet(Duration::from_secs(2)).await;
    let after = account.requests().split_off(before);
    let made: Vec<_> = after.iter().filter(|entry| entry["responseStatus"]["code"] == 201).collect();
    assert!(made.is_empty(), "{made:?}");
    let refused = after.iter().filter(|entry| entry["responseStatus"]["code"] == 403).count();
    assert!(refused <= 10 * names.len(), "{refused} refusals are a loop\n{}", operator.log());
    let blamed = |condition: &Value| condition["type"] == "Stalled" || condition["reason"] == "PodCreationFailed";
    let blamed: Vec<_> = conditions_written(&account).into_iter().filter(blamed).collect();
    assert!(blamed.is_empty(), "{blamed:?}");
}
