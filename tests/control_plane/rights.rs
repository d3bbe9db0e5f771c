//! Every right of deploy/rbac.yaml is needed, none is missing, and one that is taken away is named.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use quartermaster_dev::account;
use quartermaster_dev::fault_proxy::{Action, Match};
use serde_json::{Value, json};

use crate::budgets::use_every_right_on_budgets;
use crate::faulty::{ALONE, Faulty};
use crate::harness::{DEADLINE, Team, condition, resource, small_model};
use crate::pools::use_every_right_on_pools;
use crate::routes::{GATEWAY_IMAGE, make_authority_due, use_every_right_on_routes};

fn small() -> Value {
    json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 0 })
}

/// Has a running operator, which may reach loopback and makes gateways, use every right that it has on objects of this namespace. Ends
/// with the backend `model` ready.
pub async fn use_every_right(team: &Team) {
    team.kubectl(&["create", "secret", "generic", "key", "--from-literal=key=x"]);
    team.apply("model", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 2 })).await;
    let external = json!({ "provider": "OpenAI", "model": "gpt-5.4", "apiKeys": [{ "name": "a", "secretKeyRef": { "name": "key", "key": "key" } }] });
    team.apply("hosted", json!({ "external": external })).await;
    let budgets = team.api(&resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"));
    team.until_in(&budgets, "model-backend", "exist", |budget| budget.is_object()).await;
    team.apply("model", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 1 })).await;
    team.until_in(&budgets, "model-backend", "go", |budget| budget.is_null()).await;
    // A policy that is a backend's and no longer wanted, as all are once the configuration has none made.
    let model = team.until("model", "exist", Value::is_object).await;
    let owner = json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "name": "model",
        "uid": model["metadata"]["uid"], "controller": true,
    });
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "left", "labels": { "quartermaster.dev/inference-backend": "model" }, "ownerReferences": [owner] },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}] },
    });
    let (code, said) = team.kubectl_with_input(&["create", "-f", "-"], &policy.to_string());
    assert_eq!(code, 0, "{said}");
    let policies = team.api(&resource("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"));
    team.until_in(&policies, "left", "go", Value::is_null).await;
    // A repeated event is counted up by a patch: the same transition, twice within minutes.
    for replicas in [0, 1, 0, 1] {
        team.apply("model", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": replicas })).await;
        team.until_ready("model", "True", if replicas == 0 { "ScaledToZero" } else { "Available" }).await;
    }
    use_every_right_on_pools(team).await;
    use_every_right_on_routes(team).await;
    use_every_right_on_budgets(team).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_right_is_used_and_no_call_is_refused() {
    let team = Team::new("rights").await;
    // It is renewed: updated, and not only made.
    make_authority_due(&team.connection, &team.namespace).await;
    let _operator = team.operator_with(&format!("destinations: {{allowLoopback: true}}\n{GATEWAY_IMAGE}"), &[]).await;
    use_every_right(&team).await;
    let started = Instant::now();
    loop {
        let used: BTreeSet<_> = team.audited().iter().flat_map(rights_used).map(|(_, right)| right).collect();
        let unused: Vec<_> = granted().difference(&used).cloned().collect();
        if unused.is_empty() {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "never used: {unused:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let refused: Vec<_> = team.requests().into_iter().filter(|entry| entry["responseStatus"]["code"] == 403).collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// A right, in the words of RBAC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub group: String,
    pub resource: String,
    pub verb: String,
}

/// The rights that a request needed, with its namespace. A patch that made an object needed the right to create as well.
pub fn rights_used(entry: &Value) -> Vec<(String, Right)> {
    let part = |name: &str| entry["objectRef"][name].as_str().unwrap_or_default().to_owned();
    let resource =
        if part("subresource").is_empty() { part("resource") } else { format!("{}/{}", part("resource"), part("subresource")) };
    let verb = entry["verb"].as_str().unwrap_or_default();
    let made = verb == "patch" && entry["responseStatus"]["code"] == 201;
    let verbs = [Some(verb), made.then_some("create")];
    let right = |verb: &str| Right { group: part("apiGroup"), resource: resource.clone(), verb: verb.to_owned() };
    verbs.into_iter().flatten().map(|verb| (part("namespace"), right(verb))).collect()
}

/// What deploy/rbac.yaml grants.
fn granted() -> BTreeSet<Right> {
    roles().iter().flat_map(rights_of).collect()
}

/// What deploy/rbac.yaml grants by the Role or ClusterRole of this name.
pub fn rights_of_role(name: &str) -> Vec<Right> {
    rights_of(roles().iter().find(|role| role["metadata"]["name"] == name).unwrap())
}

fn roles() -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(include_str!("../../deploy/rbac.yaml")).unwrap();
    documents.into_iter().filter(|document| document["rules"].is_array()).collect()
}

/// What a role grants, without the rights that admission asks about itself, on finalizers and to delete by name: no request carries
/// them.
fn rights_of(role: &Value) -> Vec<Right> {
    let texts = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().unwrap().iter().filter(|rule| rule.get("resourceNames").is_none()) {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]).into_iter().filter(|resource| !resource.ends_with("/finalizers")) {
                for verb in texts(&rule["verbs"]) {
                    rights.push(Right { group: group.clone(), resource: resource.clone(), verb });
                }
            }
        }
    }
    rights
}

/// Changes the rules of the ClusterRole that this namespace's operators have, and waits until the API server goes by them: its
/// authorizer learns of a change by a watch of its own.
pub async fn change_rules(team: &Team, change: impl FnOnce(&mut Vec<Value>)) {
    let name = format!("quartermaster-{}", team.namespace);
    let mut role: Value = serde_json::from_str(&team.kubectl(&["get", "clusterrole", &name, "-o", "json"])).unwrap();
    let mark = format!("changes-after-{}", role["metadata"]["resourceVersion"].as_str().unwrap());
    role["metadata"] = json!({ "name": name });
    let rules = role["rules"].as_array_mut().unwrap();
    change(rules);
    rules.push(json!({ "apiGroups": ["quartermaster.dev"], "resources": [&mark], "verbs": ["get"] }));
    account::apply(&team.connection, &role.to_string()).await.unwrap();
    let asked = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(team.user()),
            resource_attributes: Some(ResourceAttributes {
                group: Some("quartermaster.dev".to_owned()),
                resource: Some(mark),
                verb: Some("get".to_owned()),
                namespace: Some(team.namespace.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews = Api::<SubjectAccessReview>::all(team.client.clone());
    let started = Instant::now();
    while !reviews.create(&PostParams::default(), &asked).await.unwrap().status.is_some_and(|status| status.allowed) {
        assert!(started.elapsed() < DEADLINE, "the authorizer never has the changed rules");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub fn is_about(rule: &Value, resource: &str) -> bool {
    rule["resources"].as_array().unwrap().iter().any(|named| named == resource)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_is_named_and_its_return_heals_without_a_restart() {
    let team = Team::new("forbidden").await;
    let operator = team.operator().await;
    team.apply("steady", small()).await;
    team.until_ready("steady", "True", "ScaledToZero").await;
    let mut taken = Value::Null;
    change_rules(&team, |rules| {
        // Its watch goes on, so that the operator learns of the right's absence when it needs it.
        let rule = rules.iter_mut().find(|rule| is_about(rule, "deployments")).unwrap();
        taken = rule["verbs"].take();
        rule["verbs"] = json!(["list", "watch", "get"]);
    })
    .await;
    team.apply("model", small()).await;
    let refused = team.until_ready("model", "False", "Forbidden").await;
    let message = condition(&refused, "Ready").unwrap()["message"].as_str().unwrap();
    for part in ["cannot patch resource \"deployments\"", "API group \"apps\"", "deploy/rbac.yaml"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(condition(&refused, "Reconciling").unwrap()["status"], "True", "it goes on by itself");
    let services = team.api(&resource("", "v1", "Service", "services"));
    team.until_in(&services, "model-backend", "exist: one refused child keeps no other from being made", Value::is_object).await;
    assert_eq!(condition(&team.until("steady", "exist", Value::is_object).await, "Ready").unwrap()["status"], "True");

    change_rules(&team, |rules| rules.iter_mut().find(|rule| is_about(rule, "deployments")).unwrap()["verbs"] = taken).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    assert!(operator.leads().await);
}

/// No request carries the right to update finalizers: admission asks for it when a child names its owner.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_on_finalizers_no_child_can_name_its_owner() {
    let team = Team::new("finalizers").await;
    let mut taken = Value::Null;
    change_rules(&team, |rules| {
        let place = rules.iter().position(|rule| is_about(rule, "inferencebackends/finalizers")).unwrap();
        taken = rules.remove(place);
    })
    .await;
    let _operator = team.operator().await;
    team.apply("model", small()).await;
    let refused = team.until_ready("model", "False", "Forbidden").await;
    let message = condition(&refused, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("cannot set blockOwnerDeletion") && message.contains("deploy/rbac.yaml"), "{message}");
    assert!(team.deployments().get_opt("model-backend").await.unwrap().is_none());

    change_rules(&team, |rules| rules.push(taken)).await;
    team.until_ready("model", "True", "ScaledToZero").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_may_not_be_watched_from_the_start_on_holds_up_only_who_needs_a_child_of_it() {
    let team = Team::new("unwatched").await;
    let mut taken = Value::Null;
    change_rules(&team, |rules| {
        let rule = rules.iter_mut().find(|rule| is_about(rule, "poddisruptionbudgets")).unwrap();
        taken = rule["verbs"].take();
        rule["verbs"] = json!(["get", "create", "patch", "delete"]);
    })
    .await;
    let operator = team.start("", &[]);
    let lacks = "cannot list resource \"poddisruptionbudgets\" in API group \"policy\"";
    let says = |readiness: &Value| {
        let waiting = readiness["waitingFor"].as_array().into_iter().flatten();
        let mut gates = waiting.map(|waiting| (waiting["gate"].as_str().unwrap(), waiting["reason"].as_str().unwrap()));
        gates.any(|(gate, reason)| gate.starts_with("watch poddisruptionbudgets") && reason.contains(lacks))
    };
    operator.until_readiness("it names the kind and the right", says).await;
    team.apply("single", small()).await;
    team.apply("double", json!({ "vllm": small_model(json!({})), "replicas": 2 })).await;
    team.until_ready("single", "True", "ScaledToZero").await;
    let refused = team.until_ready("double", "False", "Forbidden").await;
    let message = condition(&refused, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(message.contains(lacks) && message.contains("deploy/rbac.yaml"), "{message}");
    assert!(team.deployments().get_opt("double-backend").await.unwrap().is_some(), "the other children are made");

    change_rules(&team, |rules| rules.iter_mut().find(|rule| is_about(rule, "poddisruptionbudgets")).unwrap()["verbs"] = taken)
        .await;
    team.until_ready("double", "True", "Available").await;
    operator.synced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_to_watch_that_is_taken_away_makes_the_operator_not_ready_until_it_returns() {
    let faulty = Faulty::new("blind").await;
    let operator = faulty.start_with(ALONE);
    operator.ready().await;
    let mut taken = Value::Null;
    change_rules(&faulty, |rules| {
        let rule = rules.iter_mut().find(|rule| is_about(rule, "pods")).unwrap();
        taken = rule["verbs"].take();
        rule["verbs"] = json!(["get"]);
    })
    .await;
    // A watch that goes on keeps its right.
    faulty.proxy.add(Match::all().resource("pods"), Action::EndWatches);
    let says = |readiness: &Value| {
        let waiting = readiness["waitingFor"].as_array().into_iter().flatten();
        let mut gates = waiting.map(|waiting| (waiting["gate"].as_str().unwrap(), waiting["reason"].as_str().unwrap()));
        gates.any(|(gate, reason)| gate.starts_with("watch pods") && reason.contains("resource \"pods\""))
    };
    operator.until_readiness("it names the kind and the right", says).await;

    change_rules(&faulty, |rules| rules.iter_mut().find(|rule| is_about(rule, "pods")).unwrap()["verbs"] = taken).await;
    operator.synced().await;
}
