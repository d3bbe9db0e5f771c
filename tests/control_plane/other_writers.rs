//! Others write to the same objects: conditions of theirs stay, and a child that cannot become what it should is named.

use std::time::Duration;

use kube::api::{Patch, PatchParams, PostParams};
use quartermaster_dev::fault_proxy::{Action, Match, Verb};
use serde_json::{Value, json};

use crate::faulty::{Faulty, small_model};
use crate::harness::condition;

/// Writes a condition as another field manager, by server-side apply.
async fn audit(faulty: &Faulty, status: &str) {
    let audited = json!({
        "type": "example.com/Audited", "status": status, "reason": "Audited", "message": "by somebody else",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let body = json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend",
        "metadata": { "name": "one" }, "status": { "conditions": [audited] },
    });
    faulty.backends().patch_status("one", &PatchParams::apply("auditor").force(), &Patch::Apply(&body)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_of_another_writer_survives_fifty_status_writes_and_a_restart() {
    let faulty = Faulty::new("audited").await;
    faulty.excuse_statuses();
    faulty.start_operator();
    let upgrade = async |number: usize| {
        let mut vllm = small_model();
        vllm["upgrade"] = json!({ "type": if number.is_multiple_of(2) { "Automatic" } else { "Manual" } });
        faulty.apply("one", json!({ "replicas": 0, "vllm": vllm })).await;
    };
    upgrade(0).await;
    faulty.until_settled(&["one"]).await;
    audit(&faulty, "True").await;
    let mut expected = "True";
    for number in 1..=50 {
        if number == 25 {
            faulty.restart();
        }
        let race = number % 20 == 0;
        let delayed = race.then(|| {
            let which = Match::all().resource("inferencebackends").subresource("status").verb(Verb::Patch).times(1);
            faulty.proxy.add(which, Action::Delay(Duration::from_secs(2)))
        });
        upgrade(number).await;
        if let Some(delayed) = delayed {
            // The operator's write is under way, decided on what the auditor is about to change.
            let started = std::time::Instant::now();
            while faulty.proxy.befell(delayed) == 0 {
                assert!(started.elapsed() < crate::harness::DEADLINE, "{}", faulty.told());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            expected = if expected == "True" { "False" } else { "True" };
            audit(&faulty, expected).await;
        }
        let seen = faulty
            .until("one", "observed", |one| one.pointer("/status/observedGeneration") == one.pointer("/metadata/generation"))
            .await;
        let audited = condition(&seen, "example.com/Audited").unwrap_or_else(|| panic!("gone after {number}: {seen}"));
        assert_eq!((&audited["status"], &audited["message"]), (&json!(expected), &json!("by somebody else")), "{number}");
        assert_eq!(audited["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }
    let writes = faulty.proxy.writes();
    let statuses = writes.iter().filter(|write| write.request.subresource == "status");
    assert!(statuses.clone().filter(|write| write.succeeded()).count() >= 50, "{}", faulty.told());
    // Those that were decided on an older version were refused, and decided anew.
    assert!(statuses.filter(|write| write.code == Some(409)).count() >= 2, "{}", faulty.told());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_cannot_change_is_named_tried_once_and_made_anew_when_it_is_deleted() {
    let faulty = Faulty::new("immutable").await;
    let one = faulty.apply("one", json!({ "replicas": 1, "vllm": small_model() })).await;
    let older = json!({ "app": "older" });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "one-backend", "labels": { "quartermaster.dev/inference-backend": "one" },
            "ownerReferences": [{
                "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "name": "one",
                "uid": one.metadata.uid, "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "replicas": 0, "selector": { "matchLabels": older },
            "template": {
                "metadata": { "labels": older },
                "spec": { "containers": [{ "name": "vllm", "image": "example.com/older:1" }] },
            },
        },
    });
    faulty.deployments().create(&PostParams::default(), &serde_json::from_value(deployment).unwrap()).await.unwrap();
    let attempts = || {
        let writes = faulty.proxy.writes();
        writes.iter().filter(|write| write.request.resource == "deployments" && write.request.verb == Verb::Apply).count()
    };
    faulty.start_operator();
    let stalled = faulty.until_ready("one", "False", "ImmutableFieldConflict").await;
    let message = condition(&stalled, "Stalled").unwrap()["message"].as_str().unwrap();
    for part in ["Deployment one-backend", "spec.selector", "field is immutable", "delete the Deployment one-backend"] {
        assert!(message.contains(part), "{message}");
    }
    // The others exist, and each return of one shows that another pass has ended.
    let services = faulty.api(&crate::harness::resource("", "v1", "Service", "services"));
    for _ in 0..3 {
        let service = faulty.until_in(&services, "one-backend", "exist", Value::is_object).await;
        faulty.kubectl(&["delete", "service/one-backend"]);
        let uid = service["metadata"]["uid"].clone();
        faulty.until_in(&services, "one-backend", "come back", |now| now.is_object() && now["metadata"]["uid"] != uid).await;
    }
    assert_eq!(attempts(), 1, "{}", faulty.told());
    faulty.kubectl(&["delete", "deployment/one-backend"]);
    faulty.until_settled(&["one"]).await;
    assert_eq!(attempts(), 2, "{}", faulty.told());
}
