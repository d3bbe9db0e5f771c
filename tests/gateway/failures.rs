//! Retries and fallbacks, with exact numbers of calls.

use std::collections::BTreeMap;

use quartermaster_dev::model_server::{Break, Face, Fault, Match, ModelServer, Place, Refusal, Scripted};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{World, backend, events, fall_back, plan, server};

const ALL: &[&str] = &["RateLimited", "Timeout", "Unavailable", "NotFound", "ContextLengthExceeded"];

fn always() -> Match {
    Match::default()
}

fn times(times: u64) -> Match {
    Match { times: Some(times), ..Match::default() }
}

/// A gateway with a backend and one to fall back to.
async fn pair(change: impl FnOnce(&mut Value)) -> (World, ModelServer, ModelServer) {
    let (first, second) = (server(Face::Vllm).await, server(Face::OpenAI).await);
    let mut plan = plan(&[("first", backend(Face::Vllm, first.address())), ("second", backend(Face::OpenAI, second.address()))]);
    fall_back(&mut plan, &["second"], ALL);
    change(&mut plan);
    (World::new(plan).await, first, second)
}

/// Outcomes of the attempts of the one call.
async fn outcomes(world: &World) -> Vec<(String, String)> {
    let line = world.lines(1).await.remove(0);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    line["attempts"].as_array().unwrap().iter().map(|attempt| (text(&attempt["backend"]), text(&attempt["outcome"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_twice_is_asked_three_times_and_the_client_knows_nothing_of_it() {
    let (world, first, second) = pair(|_| {}).await;
    first.add(times(2), Fault::Refuse(Refusal::ServerError));
    let response = world.chat(2).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-quartermaster-reason"], "retry after unavailable");
    assert_eq!((first.totals().calls, second.totals().calls), (3, 0));
    let expected = ["unavailable", "unavailable", "answered"].map(|outcome| ("first".to_owned(), outcome.to_owned()));
    assert_eq!(outcomes(&world).await, expected);
}

#[rstest]
#[case::overloaded(Fault::Refuse(Refusal::Overloaded), 3, "unavailable")]
#[case::reset(Fault::Break { at: Place::Head, how: Break::Reset }, 3, "unavailable")]
#[case::closed(Fault::Break { at: Place::Head, how: Break::Close }, 3, "unavailable")]
#[case::garbage(Fault::Raw("garbage".to_owned()), 3, "unavailable")]
#[case::empty(Fault::Answer(Scripted { status: 200, headers: BTreeMap::new(), body: String::new(), tokens: Default::default() }), 3, "unavailable")]
#[case::redirect(Fault::Answer(Scripted { status: 307, headers: BTreeMap::from([("location".to_owned(), "/".to_owned())]), body: String::new(), tokens: Default::default() }), 3, "unavailable")]
#[case::gone(Fault::Refuse(Refusal::ModelGone), 1, "not_found")]
#[case::too_long(Fault::Refuse(Refusal::ContextLength), 1, "context_length_exceeded")]
#[tokio::test(flavor = "multi_thread")]
async fn when_the_retries_of_a_failure_are_spent_the_fallback_answers(
    #[case] fault: Fault,
    #[case] calls: u64,
    #[case] kind: &str,
    #[values(false, true)] streams: bool,
) {
    let (world, first, second) = pair(|_| {}).await;
    first.add(always(), fault);
    let response = if streams { world.stream(2).await } else { world.chat(2).await };
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-quartermaster-backend"], "second");
    assert_eq!(response.headers()["x-quartermaster-reason"], format!("fallback after {kind}"));
    let text = response.text().await.unwrap();
    assert!(!streams || events(&text).last().unwrap() == "data: [DONE]", "{text}");
    assert_eq!((first.totals().calls, second.totals().calls), (calls, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_first_event_is_an_error_is_that_error() {
    let (world, first, second) = pair(|plan| plan["routes"]["smart"]["retries"]["maxRetries"] = 0.into()).await;
    first.add(always(), Fault::ErrorEvent { after: 0, refusal: Refusal::Overloaded });
    let response = world.stream(2).await;
    assert_eq!(response.headers()["x-quartermaster-backend"], "second");
    assert_eq!((first.totals().calls, second.totals().calls), (1, 1));
}

#[rstest]
#[case::reset(Break::Reset)]
#[case::closed(Break::Close)]
#[case::ended(Break::End)]
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_before_its_first_content_falls_back_and_after_it_ends_with_an_error(#[case] how: Break) {
    let (world, first, second) = pair(|plan| plan["routes"]["smart"]["retries"]["maxRetries"] = 0.into()).await;
    let before = first.add(always(), Fault::Break { at: Place::Body, how });
    let text = world.stream(5).await.text().await.unwrap();
    assert_eq!(events(&text).last().unwrap(), "data: [DONE]");
    assert_eq!((first.totals().calls, second.totals().calls), (1, 1));
    first.remove(before);
    first.add(always(), Fault::Break { at: Place::Events(4), how });
    let text = world.stream(50).await.text().await.unwrap();
    let events = events(&text);
    let last: Value = serde_json::from_str(events.last().unwrap().strip_prefix("data: ").unwrap()).unwrap();
    assert!(last["error"]["message"].is_string(), "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
    assert_eq!((first.totals().calls, second.totals().calls), (2, 1), "nothing is tried again after content");
    let line = world.lines(2).await.remove(1);
    assert_eq!(line["outcome"], "cut");
    assert_ne!(line["tokens"]["exact"], true, "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_callers_own_fault_comes_back_as_it_is_after_one_call() {
    let (world, first, second) = pair(|_| {}).await;
    first.add(always(), Fault::Refuse(Refusal::InvalidRequest));
    let response = world.chat(1).await;
    assert_eq!(response.status(), 400);
    assert_eq!(response.headers()["x-quartermaster-backend"], "first");
    let body: Value = response.json().await.unwrap();
    assert!(body["error"]["message"].is_string(), "{body}");
    assert_eq!((first.totals().calls, second.totals().calls), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_that_reaches_the_client_says_how_long_to_wait() {
    let openai = server(Face::OpenAI).await;
    openai.add(always(), Fault::Refuse(Refusal::RateLimited(7)));
    let world = World::new(plan(&[("gpt", backend(Face::OpenAI, openai.address()))])).await;
    let response = world.chat(1).await;
    assert_eq!(response.status(), 429);
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((6..=7).contains(&wait), "{wait}");
    assert_eq!(openai.totals().calls, 1, "nobody is asked who has said to wait");
    assert_eq!(world.chat(1).await.status(), 429);
    assert_eq!(openai.totals().calls, 1);
}

#[rstest]
#[case::refused(Refusal::KeyRejected, "key_rejected")]
#[case::spent(Refusal::QuotaExhausted, "quota_exhausted")]
#[case::limited(Refusal::RateLimited(60), "rate_limited")]
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_fails_is_out_and_the_next_one_answers(#[case] refusal: Refusal, #[case] outcome: &str) {
    let openai = server(Face::OpenAI).await;
    let mut backend = backend(Face::OpenAI, openai.address());
    backend["keys"] = json!(["first", "second"]);
    let world = World::with_secrets(plan(&[("gpt", backend)]), &[("gpt.first", "sk-1"), ("gpt.second", "sk-2")]).await;
    let first_key = Some(quartermaster_dev::model_server::hash(b"sk-1"));
    openai.add(Match { key: first_key.clone(), ..Match::default() }, Fault::Refuse(refusal));
    for _ in 0..3 {
        assert_eq!(world.chat(1).await.status(), 200);
    }
    let with_first = openai.calls().iter().filter(|call| call.key == first_key).count();
    assert_eq!((with_first, openai.totals().calls), (1, 4), "the key that failed is asked once");
    let line = world.lines(3).await.remove(0);
    assert_eq!(line["attempts"][0]["outcome"], outcome);
    assert_eq!(line["attempts"][1]["key"], "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_of_a_provider_is_no_401_for_the_caller() {
    let openai = server(Face::OpenAI).await;
    openai.add(always(), Fault::Refuse(Refusal::KeyRejected));
    let mut backend = backend(Face::OpenAI, openai.address());
    backend["keys"] = json!(["only"]);
    let world = World::with_secrets(plan(&[("gpt", backend)]), &[("gpt.only", "sk-1")]).await;
    let response = world.chat(1).await;
    assert_eq!(response.status(), 502);
    assert!(!response.text().await.unwrap().contains("sk-1"));
    // A rotated key is another one.
    openai.remove_all();
    assert_eq!(world.chat(1).await.status(), 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_nowhere_and_one_that_may_not_be_reached_are_unavailable() {
    let metadata = backend(Face::Vllm, ([169, 254, 169, 254], 80).into());
    let world = World::new(plan(&[("closed", backend(Face::Vllm, ([127, 0, 0, 1], 1).into())), ("metadata", metadata)])).await;
    let response = world.chat(1).await;
    assert_eq!(response.status(), 503);
    assert!(world.metrics().contains(r#"quartermaster_gateway_attempts_total{backend="metadata",outcome="unavailable"} 1"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_brings_no_content_in_time_falls_back() {
    let change = |plan: &mut Value| {
        plan["routes"]["smart"]["timeouts"]["backendRequest"] = 300.into();
        plan["routes"]["smart"]["retries"]["maxRetries"] = 0.into();
    };
    let (world, first, second) = pair(change).await;
    first.add(always(), Fault::Break { at: Place::Body, how: Break::Hang });
    let response = world.stream(2).await;
    assert_eq!(response.headers()["x-quartermaster-reason"], "fallback after timeout");
    assert_eq!((first.totals().calls, second.totals().calls), (1, 1));
    crate::harness::until("the backend that hangs is let go", || first.totals().open == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_attempts_together_have_the_time_of_the_request() {
    let change = |plan: &mut Value| plan["routes"]["smart"]["timeouts"]["request"] = 300.into();
    let (world, first, second) = pair(change).await;
    first.add(always(), Fault::Break { at: Place::Head, how: Break::Hang });
    let response = world.chat(2).await;
    assert_eq!(response.status(), 504);
    assert_eq!((first.totals().calls, second.totals().calls), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_is_open_keeps_calls_from_its_backend() {
    let change = |plan: &mut Value| plan["routes"]["smart"]["circuitBreaker"]["failures"] = 2.into();
    let (world, first, second) = pair(change).await;
    first.add(always(), Fault::Refuse(Refusal::ServerError));
    for _ in 0..5 {
        assert_eq!(world.chat(1).await.status(), 200);
    }
    assert_eq!((first.totals().calls, second.totals().calls), (2, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn during_an_outage_attempts_stay_within_first_tries_and_the_retry_budget() {
    let change = |plan: &mut Value| {
        plan["routes"]["smart"]["retries"]["budgetPercent"] = 20.into();
        plan["routes"]["smart"]["fallback"] = json!([]);
    };
    let (world, first, _) = pair(change).await;
    first.add(always(), Fault::Refuse(Refusal::ServerError));
    for _ in 0..50 {
        assert_eq!(world.chat(1).await.status(), 503);
    }
    let calls = first.totals().calls;
    assert!((50..=50 + 10 + 10).contains(&calls), "{calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_that_nobody_asked_for_is_undone_and_its_usage_counted() {
    let vllm = server(Face::Vllm).await;
    vllm.add(always(), Fault::Gzip);
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    let response = world.chat(3).await;
    assert!(!response.headers().contains_key("content-encoding"));
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    let text = world.stream(4).await.text().await.unwrap();
    assert_eq!(events(&text).last().unwrap(), "data: [DONE]");
    let lines = world.lines(2).await;
    assert_eq!(lines[1]["tokens"]["output"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_closes_as_the_next_call_arrives_costs_no_call() {
    let vllm = server(Face::Vllm).await;
    vllm.add(Match { reused: Some(true), ..Match::default() }, Fault::Break { at: Place::Arrival, how: Break::Close });
    let world = World::new(plan(&[("llama", backend(Face::Vllm, vllm.address()))])).await;
    for _ in 0..20 {
        assert_eq!(world.chat(1).await.status(), 200);
    }
}
