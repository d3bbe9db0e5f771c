//! Changes under steady load with streams: each is live without a restart, and no call fails.

use std::time::{Duration, Instant};

use quartermaster_dev::model_server::{ModelServer, hash};
use serde_json::{Value, json};

use super::gateway::{answered, entry};
use super::harness::{answered_by, calls, server_with, to, with, with_key};
use super::load::{Load, Tally};
use crate::harness::{DEADLINE, Team, condition};

/// Changes in `make test`: each kind of them twice.
const FEW: usize = 12;
/// Changes in `make soak`.
const MANY: usize = 100;

/// Changes a route this often under load.
async fn routes_change_under_load(name: &str, changes: usize) -> Tally {
    let (team, server) = (Team::new(name).await, paced(&[]).await);
    team.run_gateways(2);
    let _operator = team.operator_of_routes().await;
    for backend in ["one", "two", "three"] {
        team.apply(backend, answered_by(&server, &[])).await;
    }
    team.apply_pool("people", calls(&["router"])).await;
    team.apply_route("router", to(&["one"])).await;
    team.until_programmed("router").await;
    let (replicas, key) = (team.until_gateways(2).await, team.key_of("people").await);
    team.until_known(&key, true).await;
    let load = Load::begin(&team, &key, "router").await;
    for change in 0..changes {
        // What an edit can change of a call's way, in turn.
        let rule = json!([with(json!({ "name": "all", "when": { "promptTokens": { "atLeast": 1 } } }), to(&["three"]))]);
        let (spec, expected) = match change % 6 {
            0 => (to(&["two"]), "two"),
            1 => (with(to(&["one"]), json!({ "strategy": "Priority", "fallback": [{ "name": "two" }] })), "one"),
            2 => (with(to(&["one"]), json!({ "rules": rule })), "three"),
            3 => (with(to(&["two"]), json!({ "aliases": [format!("alias-{change}")] })), "two"),
            4 => (json!({ "strategy": "Weighted", "backends": [{ "name": "one", "weight": 0 }, { "name": "three" }] }), "three"),
            _ => (with(to(&["one"]), json!({ "timeouts": { "request": format!("{}s", 60 + change) } })), "one"),
        };
        team.apply_route("router", spec).await;
        team.until_programmed("router").await;
        for replica in &replicas {
            assert_eq!(answered(replica, &key, "router").await, expected, "change {change}");
        }
        load.until_more(1).await;
    }
    assert_eq!(team.until_gateways(2).await, replicas, "no replica was replaced");
    load.end().await
}

/// A server whose streams take a while, and that accepts these keys.
async fn paced(keys: &[&str]) -> ModelServer {
    let server = server_with(keys).await;
    server.change(|behaviour| (behaviour.first_token_milliseconds, behaviour.token_milliseconds) = (10, 10));
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_route_are_live_without_a_restart_and_without_a_failed_call() {
    let tally = routes_change_under_load("edits", FEW).await;
    for backend in ["one", "two", "three"] {
        assert!(tally.answered.contains_key(backend), "{tally:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: run by `make soak`"]
async fn a_hundred_changes_of_a_route_are_live_without_a_failed_call() {
    routes_change_under_load("edits-many", MANY).await;
}

/// Rotates the key of a pool under the load of whoever has the old one, and of whoever has the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_rotated_is_valid_beside_the_next_one_for_a_while() {
    let (team, server) = (Team::new("rotated").await, paced(&[]).await);
    team.run_gateways(2);
    let mut operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &[])).await;
    team.apply_pool("people", calls(&["router"])).await;
    team.apply_route("router", to(&["one"])).await;
    team.until_programmed("router").await;
    let replicas = team.until_gateways(2).await;
    let old = team.key_of("people").await;
    team.until_known(&old, true).await;
    let of_old = Load::begin(&team, &old, "router").await;

    let rotate = |value: &str| {
        let annotation = format!("quartermaster.dev/rotate-key={value}");
        team.kubectl(&["annotate", "agentpool", "people", "--overwrite", &annotation]);
    };
    rotate("first");
    let is_new = |secret: &Value| secret.is_object() && entry(secret, "OPENAI_API_KEY") != old;
    let secret = team.until_in(&team.secrets(), "people-caller", "have another key", is_new).await;
    let new = entry(&secret, "OPENAI_API_KEY");
    assert_eq!(entry(&secret, "ANTHROPIC_API_KEY"), new);
    team.until_known(&new, true).await;
    let of_new = Load::begin(&team, &new, "router").await;
    of_old.until_more(10).await;
    // Another operator knows of both as well.
    assert_eq!(operator.terminate().code(), Some(0), "{}", operator.log());
    let _operator = team.operator_of_routes().await;
    team.apply_route("router", with(to(&["one"]), json!({ "aliases": ["after"] }))).await;
    team.until_programmed("router").await;
    of_old.until_more(10).await;
    of_new.until_more(10).await;
    // A third key would lock out those that have the first: the next rotation waits for the end of this one.
    rotate("second");
    team.until_quiet(Duration::from_secs(1)).await;
    assert_eq!(team.key_of("people").await, new);
    team.until_known(&old, true).await;
    of_old.end().await;
    of_new.end().await;
    assert_eq!(team.until_gateways(2).await, replicas, "no replica was replaced");
}

/// The key of a provider is another one while calls go on, some of which have begun with the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_providers_key_that_is_changed_in_its_secret_is_used_without_a_failed_call() {
    let (team, server) = (Team::new("provider-key").await, paced(&["provider-first", "provider-second"]).await);
    team.run_gateways(2);
    let _operator = team.operator_of_routes().await;
    team.kubectl(&["create", "secret", "generic", "provider", "--from-literal=key=provider-first"]);
    team.apply("one", with_key(answered_by(&server, &[]), "main", "provider")).await;
    team.apply_pool("people", calls(&["router"])).await;
    team.apply_route("router", to(&["one"])).await;
    team.until_programmed("router").await;
    let key = team.key_of("people").await;
    team.until_known(&key, true).await;
    let replicas = team.until_gateways(2).await;
    let load = Load::begin(&team, &key, "router").await;
    for value in ["provider-second", "provider-first"] {
        let patch = json!({ "stringData": { "key": value } }).to_string();
        assert!(team.kubectl(&["patch", "secret", "provider", "-p", &patch]).contains("patched"));
        let hash = hash(value.as_bytes());
        let (started, before) = (Instant::now(), server.calls().last().map_or(0, |call| call.number));
        let uses = || {
            let calls = server.calls();
            let later = calls.iter().filter(|call| call.number > before && call.path.ends_with("/chat/completions"));
            later.filter(|call| call.key.as_deref() == Some(hash.as_str())).count()
        };
        while uses() < 20 {
            assert!(started.elapsed() < DEADLINE, "the changed key is never used");
            load.until_more(1).await;
        }
    }
    load.end().await;
    assert_eq!(team.until_gateways(2).await, replicas, "no replica was replaced");
    let ready = team.until_route_says("router", "Ready", "True", "Available").await;
    assert_eq!(condition(&ready, "Programmed").unwrap()["status"], "True");
}
