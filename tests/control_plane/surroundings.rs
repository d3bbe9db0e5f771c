//! What a backend needs and does not find, or finds taken by somebody else: it is said, nothing foreign is touched, and it
//! goes on by itself when that changes.

use kube::api::PostParams;
use serde_json::{Value, json};

use crate::events::{each_is_told_once, until_told};
use crate::harness::{Team, condition, resource, small_model};

fn vllm(more: Value) -> Value {
    json!({ "vllm": small_model(more) })
}

fn message<'a>(backend: &'a Value, type_: &str) -> &'a str {
    condition(backend, type_).unwrap_or_else(|| panic!("no {type_}: {backend}"))["message"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_told_step_by_step_until_it_can_be_used() {
    let team = Team::new("secrets").await;
    let operator = team.operator().await;
    let token = json!({ "huggingFace": { "tokenSecretKeyRef": { "name": "hub", "key": "token" } } });
    team.apply("self-hosted", vllm(token)).await;
    let hosted = json!({
        "external": {
            "provider": "OpenAICompatible", "model": "m", "baseURL": "http://169.254.169.254",
            "apiKeys": [{ "name": "first", "secretKeyRef": { "name": "hub", "key": "token" } }],
        },
    });
    team.apply("hosted", hosted).await;
    let fields =
        [("self-hosted", "spec.vllm.huggingFace.tokenSecretKeyRef"), ("hosted", "spec.external.apiKeys[first].secretKeyRef")];
    let steps = [
        (None, "SecretNotFound", "Reconciling", "names the Secret hub, which does not exist: create it with the key token"),
        (
            Some(json!({ "other": "x" })),
            "SecretKeyMissing",
            "Stalled",
            "the Secret hub has no key token: add it, or name another key",
        ),
        (Some(json!({ "token": "" })), "SecretEmpty", "Stalled", "the key token of the Secret hub is empty: give it a value"),
        (Some(json!({ "token": "\n" })), "SecretEmpty", "Stalled", "the key token of the Secret hub is empty: give it a value"),
    ];
    let write = |data: Value| {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "hub" }, "stringData": data });
        let (code, said) = team.kubectl_with_input(&["replace", "--force", "-f", "-"], &secret.to_string());
        assert_eq!(code, 0, "{said}");
    };
    team.kubectl(&["create", "secret", "generic", "unrelated", "--from-literal=a=b"]);
    for (data, reason, progress, words) in steps {
        let first = data.is_none();
        if let Some(data) = data {
            write(data);
        }
        for (name, field) in fields {
            let backend = team.until_ready(name, "False", reason).await;
            let message = message(&backend, progress);
            assert!(message.contains(field) && message.contains(words), "{message}");
            until_told(&team, name).await;
        }
        if first {
            each_is_told_once(&team, &operator, &fields.map(|(name, _)| name)).await;
        }
        assert!(!first || team.kubectl(&["get", "pods", "-o", "name"]).is_empty());
    }
    write(json!({ "token": "hf_x" }));
    team.until_ready("self-hosted", "True", "Available").await;
    team.until_ready("hosted", "False", "EndpointNotAllowed").await;
    // A backend that serves goes on serving when its Secret goes.
    team.kubectl(&["delete", "secret", "hub"]);
    let backend = team.until_ready("self-hosted", "False", "SecretNotFound").await;
    assert_eq!(condition(&backend, "Available").unwrap()["status"], "True");
    assert!(team.kubectl(&["get", "pods", "-o", "name"]).contains("self-hosted-backend"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_for_too_long_is_stalled_and_still_taken_up_when_it_comes() {
    let team = Team::new("overdue").await;
    let _operator = team.operator().await;
    team.apply("late", vllm(json!({ "huggingFace": { "tokenSecretKeyRef": { "name": "hub", "key": "token" } } }))).await;
    let waiting = team.until_ready("late", "False", "SecretNotFound").await;
    assert!(condition(&waiting, "Reconciling").is_some(), "{waiting}");
    assert!(waiting["status"]["waitingSince"].is_string(), "{waiting}");
    // As if it had begun long ago.
    let past = r#"{"status":{"waitingSince":"2026-01-01T00:00:00Z"}}"#;
    team.kubectl(&["patch", "ib", "late", "--subresource=status", "--type=merge", "-p", past]);
    let stalled = team.until("late", "stalled", |backend| condition(backend, "Stalled").is_some()).await;
    assert_eq!(condition(&stalled, "Reconciling"), None);
    assert_eq!(message(&stalled, "Stalled"), message(&waiting, "Ready"));
    team.kubectl(&["create", "secret", "generic", "hub", "--from-literal=token=hf_x"]);
    let ready = team.until_ready("late", "True", "Available").await;
    assert_eq!(ready["status"].get("waitingSince"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_somebody_else_uses_is_told_and_never_touched() {
    let team = Team::new("name-in-use").await;
    let operator = team.operator().await;
    let labels = json!({ "app": "theirs" });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "busy-backend" },
        "spec": {
            "replicas": 0, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "a", "image": "a:1" }] } },
        },
    });
    // A label of ours does not make it ours.
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "served-backend", "labels": { "quartermaster.dev/inference-backend": "served" } },
        "spec": { "selector": labels, "ports": [{ "port": 80 }] },
    });
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "trusted-backend" } });
    let services = team.api(&resource("", "v1", "Service", "services"));
    let accounts = team.api(&resource("", "v1", "ServiceAccount", "serviceaccounts"));
    accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
    team.deployments().create(&PostParams::default(), &serde_json::from_value(deployment).unwrap()).await.unwrap();
    services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    let deployment = team
        .until_in(&team.deployments(), "busy-backend", "seen by its controller", |deployment| {
            deployment.pointer("/status/conditions").is_some()
        })
        .await;
    let service = serde_json::to_value(services.get("served-backend").await.unwrap()).unwrap();

    team.apply("innocent", vllm(json!({}))).await;
    for (name, kind) in [("busy", "Deployment"), ("served", "Service"), ("trusted", "ServiceAccount")] {
        team.apply(name, vllm(json!({}))).await;
        let stalled = team.until_ready(name, "False", "NameInUse").await;
        let message = message(&stalled, "Stalled");
        assert!(message.contains(&format!("{kind} {name}-backend exists and does not belong to this object")), "{message}");
        assert!(message.contains("rename one of the two, or delete it"), "{message}");
    }
    each_is_told_once(&team, &operator, &["busy", "served"]).await;
    team.until_ready("innocent", "True", "Available").await;
    // No pod runs with somebody else's account, or behind somebody else's Service.
    for name in ["served-backend", "trusted-backend"] {
        assert!(team.deployments().get_opt(name).await.unwrap().is_none(), "{name}");
    }
    // The Deployment's own controller may still write its status.
    let theirs =
        |object: &Value| [&object["spec"], &object["metadata"]["labels"], &object["metadata"]["ownerReferences"]].map(Value::clone);
    let ours = |object: &Value| object["metadata"]["managedFields"].to_string().contains("quartermaster-inferencebackend");
    let now = serde_json::to_value(team.deployments().get("busy-backend").await.unwrap()).unwrap();
    assert_eq!((theirs(&now), ours(&now)), (theirs(&deployment), false));
    let now = serde_json::to_value(services.get("served-backend").await.unwrap()).unwrap();
    assert_eq!((theirs(&now), ours(&now)), (theirs(&service), false));
    // Deleting a backend takes nothing of theirs along.
    team.backends().delete("served", &Default::default()).await.unwrap();
    team.until("served", "gone", Value::is_null).await;
    // The name gets free, and the backend takes it by itself.
    team.deployments().delete("busy-backend", &Default::default()).await.unwrap();
    team.until_ready("busy", "True", "Available").await;
    let now = serde_json::to_value(services.get("served-backend").await.unwrap()).unwrap();
    assert_eq!((theirs(&now), ours(&now)), (theirs(&service), false));
    let now = serde_json::to_value(accounts.get("trusted-backend").await.unwrap()).unwrap();
    assert!(!ours(&now), "{now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_template_that_the_api_server_refuses_leaves_the_last_good_one_in_force() {
    let team = Team::new("bad-template").await;
    let operator = team.operator().await;
    team.apply("small", vllm(json!({}))).await;
    team.until_ready("small", "True", "Available").await;
    let good = team.deployments().get("small-backend").await.unwrap();
    let pods = team.kubectl(&["get", "pods", "-o", "name"]);
    for (patch, words) in [
        (
            json!({ "spec": { "containers": [{ "name": "vllm", "ports": [{ "name": "more", "containerPort": 99_999 }] }] } }),
            "containerPort",
        ),
        (json!({ "spec": { "restartPolicy": "Sometimes" } }), "restartPolicy"),
        (json!({ "spec": { "nodeSelector": { "a key": "b" } } }), "nodeSelector"),
    ] {
        team.apply("small", vllm(json!({ "podTemplatePatch": patch }))).await;
        let refused = team.until_ready("small", "False", "InvalidTemplate").await;
        let message = message(&refused, "Stalled");
        for word in
            ["the API server refuses the Deployment small-backend", "the last good one stays", "spec.vllm.podTemplatePatch", words]
        {
            assert!(message.contains(word), "{word}: {message}");
        }
        assert_eq!(condition(&refused, "Available").unwrap()["status"], "True");
        if words == "containerPort" {
            each_is_told_once(&team, &operator, &["small"]).await;
        }
        let now = team.deployments().get("small-backend").await.unwrap();
        assert_eq!(now.metadata.generation, good.metadata.generation);
        assert_eq!(now.data["spec"], good.data["spec"]);
        assert_eq!(team.kubectl(&["get", "pods", "-o", "name"]), pods);
    }
    team.apply("small", vllm(json!({}))).await;
    team.until_ready("small", "True", "Available").await;
    assert_eq!(team.deployments().get("small-backend").await.unwrap().metadata.generation, good.metadata.generation);
    assert_eq!(team.kubectl(&["get", "pods", "-o", "name"]), pods);
}
