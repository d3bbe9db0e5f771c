//! How routes and their gateways use the rights of deploy/rbac.yaml.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use quartermaster::exchange::certificates::Authority;
use quartermaster_dev::Connection;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::harness::{answered_by, calls, message, server, to};
use crate::harness::{DEADLINE, Team, condition, resource};
use crate::rights::{change_rules, is_about};

/// The line of the configuration by which gateways are made. On the local node the image is the program under test.
pub const GATEWAY_IMAGE: &str = "gateway: {image: \"quartermaster:0.1.0\"}";
/// The Secret with the authority of the exchange, in the operator's namespace.
const AUTHORITY: &str = "quartermaster-gateway-authority";
/// So old an authority is to be renewed: it lives for ten years.
const OLD: SignedDuration = SignedDuration::from_hours(24 * 365 * 9);

/// Has a running operator that makes gateways use every right that it has for routes. The backend `hosted` exists.
pub async fn use_every_right_on_routes(team: &Team) {
    team.apply_pool("people", calls(&["router"])).await;
    team.apply_route("router", to(&["hosted"])).await;
    team.until_route_says("router", "Accepted", "True", "Accepted").await;
    for (group, version, kind, plural) in [
        ("", "v1", "ConfigMap", "configmaps"),
        ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
        ("", "v1", "Service", "services"),
        ("apps", "v1", "Deployment", "deployments"),
    ] {
        let name = if kind == "ConfigMap" { "quartermaster-gateway-plan" } else { "quartermaster-gateway" };
        team.until_in(&team.api(&resource(group, version, kind, plural)), name, "exist", Value::is_object).await;
    }
    // What exists is patched, not made.
    team.apply_route("other", to(&["hosted"])).await;
    team.until_plan("has the other route", |plan| plan["routes"]["other"].is_object()).await;
}

/// Has an operator make its authority in this namespace, which is its own: a route comes there, and goes when that is done.
pub async fn have_authority_made(connection: &Connection, namespace: &str) {
    let client = connection.client().await.unwrap();
    let routes = resource("quartermaster.dev", "v1alpha1", "ModelRoute", "modelroutes");
    let routes: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &routes);
    let route = json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "ModelRoute",
        "metadata": { "name": "passing" }, "spec": to(&["nobody"]),
    });
    routes.patch("passing", &PatchParams::apply("test").force(), &Patch::Apply(&route)).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client, namespace);
    let started = Instant::now();
    while secrets.get_opt(AUTHORITY).await.unwrap().is_none() {
        assert!(started.elapsed() < DEADLINE, "no authority is ever made in {namespace}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    routes.delete("passing", &DeleteParams::default()).await.unwrap();
}

/// Puts an authority that is to be renewed in the place of the one in this namespace, if there is one. The next operator that leads
/// renews it when there is a route.
pub async fn make_authority_due(connection: &Connection, namespace: &str) {
    let secrets: Api<Secret> = Api::namespaced(connection.client().await.unwrap(), namespace);
    let authority = Authority::make(Timestamp::now() - OLD).unwrap();
    let certified = authority.certified();
    let (certificate, key) = (STANDARD.encode(&certified.certificate), STANDARD.encode(certified.key.expose_secret()));
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": AUTHORITY }, "type": "kubernetes.io/tls",
        "data": { "tls.crt": certificate, "tls.key": key },
    });
    secrets.patch(AUTHORITY, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
}

/// Leaves only these verbs of a resource, and all of those that its rule names beside it. Returns the rule as it was: rules add up.
pub fn leave(rules: &mut Vec<Value>, resource: &str, verbs: &[&str]) -> Value {
    let place = rules.iter().position(|rule| is_about(rule, resource)).unwrap();
    let before = rules[place].clone();
    rules[place]["resources"].as_array_mut().unwrap().retain(|named| named != resource);
    if rules[place]["resources"].as_array().unwrap().is_empty() {
        rules.remove(place);
    }
    let mut left = before.clone();
    (left["resources"], left["verbs"]) = (json!([resource]), json!(verbs));
    rules.push(left);
    before
}

/// Takes the rights to write a kind of the gateway's objects away, and gives them back once the route has named what is lacking.
async fn lacking(kind: &str, plural: &str, object: &str, api: impl Fn(&Team) -> Api<DynamicObject>) {
    let (team, server) = (Team::new(&format!("no-{plural}")).await, server().await);
    let mut taken = Value::Null;
    // Its watch goes on.
    change_rules(&team, |rules| taken = leave(rules, plural, &["get", "list", "watch"])).await;
    let _operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &[])).await;
    team.apply_route("router", to(&["one"])).await;
    let refused = team.until_route_says("router", "Ready", "False", "Forbidden").await;
    let words = message(&refused, "Ready");
    for part in [format!("{kind} {object}").as_str(), &format!("cannot patch resource \"{plural}\""), "deploy/rbac.yaml"] {
        assert!(words.contains(part), "{words}");
    }
    assert_eq!(condition(&refused, "Reconciling").unwrap()["status"], "True", "it goes on by itself");
    assert_eq!(condition(&refused, "Accepted").unwrap()["status"], "True", "the spec is good all the same");
    team.until_route_told_once("router", "Forbidden").await;
    team.until_in(
        &team.deployments(),
        "quartermaster-gateway",
        "exist: one refused object keeps no other from being made",
        |made| made.is_object(),
    )
    .await;

    change_rules(&team, |rules| rules.push(taken)).await;
    team.until_in(&api(&team), object, "exist", Value::is_object).await;
    let healed = |route: &Value| condition(route, "Ready").is_some_and(|ready| ready["reason"] != "Forbidden");
    team.until_route("router", "no word of the right", healed).await;
}

/// Replicas answer without it, but not as they should: it is told all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_may_not_be_made_is_named_on_the_route_and_the_right_heals_it() {
    let policies = |team: &Team| team.api(&resource("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"));
    lacking("NetworkPolicy", "networkpolicies", "quartermaster-gateway", policies).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_may_not_be_written_is_named_on_the_route_and_the_right_heals_it() {
    lacking("ConfigMap", "configmaps", "quartermaster-gateway-plan", Team::config_maps).await;
}

/// The Role that operators have where they are themselves: here that is where the objects are.
const LEADER: &str = "quartermaster-leader";

/// The rules of [`LEADER`].
pub fn leaders_rules(team: &Team) -> Value {
    let role: Value = serde_json::from_str(&team.kubectl(&["get", "role", LEADER, "-o", "json"])).unwrap();
    role["rules"].clone()
}

pub fn change_leaders_rules(team: &Team, rules: &Value) {
    let patch = json!({ "rules": rules }).to_string();
    let said = team.kubectl(&["patch", "role", LEADER, "--type=merge", "-p", &patch]);
    assert!(said.contains("patched"), "{said}");
}

/// Rules without those that are about a resource.
pub fn rules_without(rules: &Value, resource: &str) -> Value {
    rules.as_array().unwrap().iter().filter(|rule| !is_about(rule, resource)).cloned().collect()
}

/// What was accepted before this operator began stands there: without it nothing may be written in its place.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_read_the_plan_the_routes_say_so_until_it_returns() {
    let (team, server) = (Team::new("no-reading").await, server().await);
    let before = leaders_rules(&team);
    // The ledger is kept in ConfigMaps as well, but not in every namespace of an installation.
    change_leaders_rules(&team, &rules_without(&before, "configmaps"));
    let mut taken = Value::Null;
    change_rules(&team, |rules| taken = leave(rules, "configmaps", &["list", "watch", "create", "patch"])).await;
    let _operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &[])).await;
    team.apply_route("router", to(&["one"])).await;
    let refused = team.until_route_says("router", "Ready", "False", "Forbidden").await;
    let words = message(&refused, "Ready");
    for part in ["ConfigMap quartermaster-gateway-plan", "cannot get resource \"configmaps\"", "deploy/rbac.yaml"] {
        assert!(words.contains(part), "{words}");
    }
    assert!(team.plan().await.is_null(), "nothing is written in its place");

    change_leaders_rules(&team, &before);
    change_rules(&team, |rules| rules.push(taken)).await;
    team.until_plan("has the route", |plan| plan["routes"]["router"].is_object()).await;
    let healed = |route: &Value| condition(route, "Ready").is_some_and(|ready| ready["reason"] != "Forbidden");
    team.until_route("router", "no word of the right", healed).await;
}

/// Without an authority no gateway can be told anything, and none is made. The routes say why.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_keep_the_authority_the_routes_say_so_until_it_returns() {
    let (team, server) = (Team::new("no-authority").await, server().await);
    let before = leaders_rules(&team);
    change_leaders_rules(&team, &rules_without(&before, "secrets"));
    // Secrets may be read and made by the ClusterRole as well, but not in every namespace of an installation.
    let mut taken = Value::Null;
    change_rules(&team, |rules| taken = leave(rules, "secrets", &["list", "watch", "create", "patch"])).await;
    let _operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &[])).await;
    team.apply_route("router", to(&["one"])).await;
    let refused = team.until_route_says("router", "Ready", "False", "Forbidden").await;
    let words = message(&refused, "Ready");
    for part in [format!("Secret {AUTHORITY}").as_str(), "cannot get resource \"secrets\"", "deploy/rbac.yaml"] {
        assert!(words.contains(part), "{words}");
    }
    assert!(team.deployments().get_opt("quartermaster-gateway").await.unwrap().is_none(), "no gateway without an authority");

    change_leaders_rules(&team, &before);
    change_rules(&team, |rules| rules.push(taken)).await;
    team.until_in(&team.deployments(), "quartermaster-gateway", "exist", Value::is_object).await;
    let healed = |route: &Value| condition(route, "Ready").is_some_and(|ready| ready["reason"] != "Forbidden");
    team.until_route("router", "no word of the right", healed).await;
}

/// What nobody needs is not written into the operator's namespace.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_route_there_is_no_authority_and_the_first_route_brings_it() {
    let team = Team::new("lazy-authority").await;
    let mut operator = team.operator_of_routes().await;
    team.apply("one", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" } })).await;
    team.until_ready("one", "True", "Available").await;
    let writes = team.writes();
    assert!(!writes.is_empty() && !writes.iter().any(|write| write.contains(AUTHORITY)), "{writes:?}");
    assert!(team.secrets().get_opt(AUTHORITY).await.unwrap().is_none());

    team.apply_route("router", to(&["one"])).await;
    team.until_in(&team.deployments(), "quartermaster-gateway", "exist", Value::is_object).await;
    let made = team.secrets().get(AUTHORITY).await.unwrap();
    // The next process finds it, and makes no other.
    assert_eq!(operator.terminate().code(), Some(0), "{}", operator.log());
    let _next = team.operator_of_routes().await;
    team.apply_route("later", to(&["one"])).await;
    team.until_plan("has the later route", |plan| plan["routes"]["later"].is_object()).await;
    let still = team.secrets().get(AUTHORITY).await.unwrap();
    assert_eq!(still.metadata.uid, made.metadata.uid);
    assert_eq!(still.data["data"], made.data["data"]);
}

/// The authority is renewed under the same key, so that gateways go on believing the operator.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_due_is_renewed_by_the_next_operator_that_leads() {
    let team = Team::new("authority").await;
    make_authority_due(&team.connection, &team.namespace).await;
    let due = team.secrets().get(AUTHORITY).await.unwrap();
    let due = serde_json::to_value(due).unwrap();
    let _operator = team.operator_of_routes().await;
    // Nobody needs it without a route.
    team.apply_route("router", to(&["nobody"])).await;
    let renewed = team
        .until_in(&team.secrets(), AUTHORITY, "another certificate", |secret| secret["data"]["tls.crt"] != due["data"]["tls.crt"])
        .await;
    assert_eq!(renewed["data"]["tls.key"], due["data"]["tls.key"], "the key is the same");
    assert_eq!(renewed["metadata"]["uid"], due["metadata"]["uid"]);
}
