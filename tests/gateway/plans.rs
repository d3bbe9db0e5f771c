//! Plans are swapped as a whole, under load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quartermaster::gateway::in_force::Secrets;
use quartermaster::gateway::request_body::{Room, TOGETHER};
use quartermaster_core::api::configuration::EgressProxy;
use quartermaster_core::decide::gateway::plan::{BackendEndpoints, Endpoints, Plan};
use quartermaster_dev::model_server::{Break, Face, Fault, Match, ModelServer, Place, Refusal, Settings};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::harness::{KEY, MODEL, World, backend, chat, check_shape, fall_back, hash, plan, read_until, server, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn plans_change_under_load_without_a_failed_call_and_streams_end_under_their_own() {
    let (old, new) = (server(Face::Vllm).await, server(Face::OpenAI).await);
    let plans = [plan(&[("old", backend(Face::Vllm, old.address()))]), plan(&[("new", backend(Face::OpenAI, new.address()))])];
    let world = Arc::new(World::new(plans[0].clone()).await);
    let hang = old.add(Match { stream: Some(true), ..Match::default() }, Fault::Break { at: Place::Events(3), how: Break::Hang });
    let mut stream = world.stream(6).await;
    read_until(&mut stream, "\"content\":").await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut calling = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (world, stop, answered) = (world.clone(), stop.clone(), answered.clone());
        calling.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let response = world.chat(1).await;
                assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for swap in 1..=40 {
        let before = answered.load(Ordering::Relaxed);
        world.apply(plans[swap % 2].clone());
        until("calls under this plan", || answered.load(Ordering::Relaxed) >= before + 8).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = within(calling.join_next()).await {
        ended.unwrap();
    }
    assert!(old.totals().calls > 20 && new.totals().calls > 20);
    old.remove(hang);
    read_until(&mut stream, "[DONE]").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_is_gone_and_a_new_one_are_right_from_the_next_call_on() {
    let vllm = server(Face::Vllm).await;
    let first = plan(&[("llama", backend(Face::Vllm, vllm.address()))]);
    let world = World::new(first.clone()).await;
    assert_eq!(world.chat(1).await.status(), 200);
    let mut second = first;
    second["routes"]["smart"]["modelName"] = "smarter".into();
    second["routes"]["smart"]["aliases"] = json!([]);
    world.apply(second);
    assert_eq!(world.chat(1).await.status(), 404);
    let mut body = chat(1);
    body["model"] = "smarter".into();
    assert_eq!(world.post("/v1/chat/completions", &body).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_away_opens_nothing_from_the_next_call_on() {
    let vllm = server(Face::Vllm).await;
    let mut plan = plan(&[("llama", backend(Face::Vllm, vllm.address()))]);
    let world = World::new(plan.clone()).await;
    plan["callers"]["coder"]["keyHashes"] = json!([hash("qm-new")]);
    world.apply(plan);
    assert_eq!(world.chat(1).await.status(), 401);
    let response = world.client.post(world.url("/v1/chat/completions")).bearer_auth("qm-new").json(&chat(1)).send();
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_is_refused_leaves_the_last_in_force() {
    let vllm = server(Face::Vllm).await;
    let good = plan(&[("llama", backend(Face::Vllm, vllm.address()))]);
    let world = World::new(good.clone()).await;
    let mut bad = good;
    bad["routes"]["smart"]["backends"][0]["backend"] = "none".into();
    let bad: Plan = serde_json::from_value(bad).unwrap();
    let error = world.gateway.apply(bad, &Secrets::new(), Endpoints::new()).unwrap_err();
    assert!(error.to_string().contains("backend none"), "{error}");
    assert_eq!(world.chat(1).await.status(), 200);
    let metrics = world.metrics();
    assert!(metrics.contains(r#"quartermaster_gateway_plans_total{outcome="refused"} 1"#), "{metrics}");
    assert_eq!(metrics.matches("quartermaster_gateway_plan_info{").count(), 1, "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_to_the_pods_that_are_ready_and_a_backend_without_any_is_starting() {
    let (one, other) = (server(Face::Vllm).await, server(Face::Vllm).await);
    let plan: Value = plan(&[("llama", backend(Face::Vllm, ([127, 0, 0, 1], 1).into()))]);
    let world = World::new(plan.clone()).await;
    let apply = |ready: &[std::net::SocketAddr], expected_in_seconds| {
        let endpoints = BackendEndpoints { ready: ready.iter().copied().collect(), expected_in_seconds };
        let plan: Plan = serde_json::from_value(plan.clone()).unwrap();
        world.gateway.apply(plan, &Secrets::new(), Endpoints::from([("llama".to_owned(), endpoints)])).unwrap();
    };
    apply(&[one.address(), other.address()], None);
    for _ in 0..40 {
        assert_eq!(world.chat(1).await.status(), 200);
    }
    assert!(one.totals().calls > 0 && other.totals().calls > 0);
    assert_eq!(one.totals().calls + other.totals().calls, 40);
    apply(&[other.address()], None);
    let before = one.totals().calls;
    assert_eq!(world.chat(1).await.status(), 200);
    assert_eq!(one.totals().calls, before);
    apply(&[], Some(40));
    let response = world.chat(1).await;
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"40".parse().unwrap()));
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["code"], "backend_starting");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_called_directly_though_what_is_outside_is_behind_a_proxy() {
    let (pod, outside) = (server(Face::Vllm).await, server(Face::Vllm).await);
    // Nobody listens there.
    let proxy = EgressProxy { url: "http://127.0.0.1:1".to_owned(), no_proxy: Vec::new() };
    let world = World::behind(Some(proxy), Room::new(TOGETHER)).await;
    let plan: Value = plan(&[("llama", backend(Face::Vllm, outside.address()))]);
    let endpoints = BackendEndpoints { ready: [pod.address()].into(), expected_in_seconds: None };
    let of_pods: Plan = serde_json::from_value(plan.clone()).unwrap();
    world.gateway.apply(of_pods, &Secrets::new(), Endpoints::from([("llama".to_owned(), endpoints)])).unwrap();
    assert_eq!(world.chat(1).await.status(), 200);
    world.apply(plan);
    assert_ne!(world.chat(1).await.status(), 200);
    assert_eq!((pod.totals().calls, outside.totals().calls), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_pods_have_refused_is_tried_with_those_that_come_in_their_place() {
    let started_with =
        |key: &str| ModelServer::start(Settings { api_keys: vec![key.to_owned()], ..Settings::new(Face::Vllm, &[MODEL]) });
    let (old, new) = (started_with("sk-of-before").await.unwrap(), started_with("sk-1").await.unwrap());
    let mut backend = backend(Face::Vllm, ([127, 0, 0, 1], 1).into());
    backend["keys"] = json!(["first"]);
    let plan: Value = plan(&[("llama", backend)]);
    let world = World::without_plan(Room::new(TOGETHER)).await;
    let secrets = Secrets::from([("llama.first".to_owned(), SecretString::from("sk-1"))]);
    let apply = |ready: std::net::SocketAddr| {
        let endpoints = BackendEndpoints { ready: [ready].into(), expected_in_seconds: None };
        let plan: Plan = serde_json::from_value(plan.clone()).unwrap();
        world.gateway.apply(plan, &secrets, Endpoints::from([("llama".to_owned(), endpoints)])).unwrap();
    };
    for _ in 0..2 {
        // The same pods again are no news.
        apply(old.address());
        let response = world.chat(1).await;
        assert_eq!(response.status(), 502);
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "backend_key_rejected");
    }
    apply(new.address());
    assert_eq!(world.chat(1).await.status(), 200);
}

/// Puts a plan in force under which no backend but these has pods to wait for.
fn apply_at_zero(world: &World, plan: &Value, names: &[&str]) {
    let starting = BackendEndpoints { ready: [].into(), expected_in_seconds: Some(40) };
    let endpoints: Endpoints = names.iter().map(|name| ((*name).to_owned(), starting.clone())).collect();
    let plan: Plan = serde_json::from_value(plan.clone()).unwrap();
    world.gateway.apply(plan, &Secrets::new(), endpoints).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_at_zero_is_wanted_also_while_another_stands_in_for_it_and_as_a_fallback() {
    let ready = server(Face::Vllm).await;
    let nowhere = || backend(Face::Vllm, ([127, 0, 0, 1], 1).into());
    let mut plan = plan(&[("zero", nowhere()), ("ready", backend(Face::Vllm, ready.address())), ("behind", nowhere())]);
    let world = World::new(plan.clone()).await;
    apply_at_zero(&world, &plan, &["zero", "behind"]);
    let response = world.chat(1).await;
    assert_eq!(response.headers()["x-quartermaster-backend"], "ready");
    let wanted = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1)).collect::<BTreeMap<String, u64>>();
    assert_eq!(world.gateway.demand(), wanted(&["zero", "ready"]), "the one behind has nothing to do");

    fall_back(&mut plan, &["zero", "behind"], &["NotFound"]);
    let world = World::new(plan.clone()).await;
    apply_at_zero(&world, &plan, &["zero", "behind"]);
    ready.add(Match::default(), Fault::Refuse(Refusal::ModelGone));
    let response = world.chat(1).await;
    assert_eq!(response.status(), 404);
    assert_eq!(world.gateway.demand(), wanted(&["ready", "zero", "behind"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_may_answer_is_told_which_of_the_reasons_it_is_in_both_shapes() {
    let vllm = server(Face::Vllm).await;
    let only = |formats: &[&str]| {
        let mut backend = backend(Face::Vllm, vllm.address());
        backend["formats"] = json!(formats);
        backend["selfHosted"] = false.into();
        plan(&[("llama", backend)])
    };
    let mut rules = only(&["ChatCompletions", "Messages"]);
    let backends = rules["routes"]["smart"]["backends"].take();
    rules["routes"]["smart"]["backends"] = json!([]);
    rules["routes"]["smart"]["rules"] =
        json!([{ "name": "qa", "when": { "taskTypes": ["qa"] }, "strategy": "Priority", "backends": backends }]);
    let mut private = only(&["ChatCompletions", "Messages"]);
    private["routes"]["smart"]["dataPolicy"] = "SelfHostedOnly".into();
    for (plan, path, status, code) in [
        (only(&["Messages"]), "/v1/chat/completions", 400, "format_not_supported"),
        (only(&["ChatCompletions"]), "/v1/messages", 400, "format_not_supported"),
        (rules.clone(), "/v1/chat/completions", 400, "no_rule_matches"),
        (rules, "/v1/messages", 400, "no_rule_matches"),
        (private.clone(), "/v1/chat/completions", 429, "no_backend_in_tier"),
        (private, "/v1/messages", 429, "no_backend_in_tier"),
    ] {
        let world = World::new(plan).await;
        let response = world.post(path, &chat(1)).await;
        assert_eq!(response.status(), status, "{code}");
        let body: Value = response.json().await.unwrap();
        check_shape(path, &body);
        let found = if path == "/v1/messages" { &body["error"]["details"]["error_code"] } else { &body["error"]["code"] };
        assert_eq!(found, code, "{body}");
        assert_eq!(world.lines(1).await[0]["outcome"], code);
        assert!(world.used().is_empty());
    }
    assert_eq!(vllm.totals().calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_decide_by_labels_that_the_route_trusts_and_replies_name_the_rule() {
    let (cheap, dear) = (server(Face::Vllm).await, server(Face::OpenAI).await);
    let mut plan = plan(&[("cheap", backend(Face::Vllm, cheap.address())), ("dear", backend(Face::OpenAI, dear.address()))]);
    let route = &mut plan["routes"]["smart"];
    let dear_candidate = json!([{ "backend": "dear", "tier": "Standard", "weight": 1 }]);
    route["rules"] = json!([
        { "name": "qa", "when": { "taskTypes": ["qa"] }, "strategy": "RoundRobin", "backends": dear_candidate },
        { "name": "untrusted", "when": { "labels": { "secret": ["yes"] } }, "strategy": "RoundRobin", "backends": dear_candidate },
    ]);
    route["trustedLabels"] = json!(["taskType"]);
    let world = World::new(plan).await;
    let call = |name: &'static str, value: &'static str| {
        let request = world.client.post(world.url("/v1/chat/completions")).bearer_auth(KEY).json(&chat(1));
        request.header(name, value).send()
    };
    let response = call("x-quartermaster-task-type", "qa").await.unwrap();
    assert_eq!(
        (&response.headers()["x-quartermaster-backend"], &response.headers()["x-quartermaster-rule"]),
        (&"dear".parse().unwrap(), &"qa".parse().unwrap())
    );
    let response = call("x-quartermaster-label-secret", "yes").await.unwrap();
    assert_eq!(response.headers()["x-quartermaster-backend"], "cheap");
    assert!(!response.headers().contains_key("x-quartermaster-rule"));
    assert_eq!((cheap.totals().calls, dear.totals().calls), (1, 1));
}
