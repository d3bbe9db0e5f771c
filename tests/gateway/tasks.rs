//! What the limits of a task let its calls do, with a budget over them or without one.

use std::collections::BTreeMap;

use quartermaster::gateway::request_body::{Room, TOGETHER};
use quartermaster_core::decide::account::tasks::{BodyHash, TaskId, TaskRow, Tasks};
use quartermaster_dev::model_server::{Break, Face, Fault, Match, ModelServer, Place};
use reqwest::Response;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{KEY, World, backend, chat, plan, read_until, server, within};
use crate::operator::{Operator, TOKENS, row};

const CHAT: &str = "/v1/chat/completions";
const REFUSALS: &str = "quartermaster_gateway_task_refusals_total";

/// A plan with one backend, whose caller limits its tasks so.
fn limited(limits: Value, backend: Value) -> Value {
    let mut plan = plan(&[("llama", backend)]);
    plan["callers"]["coder"]["taskLimits"] = limits;
    plan
}

async fn world(limits: Value) -> (World, ModelServer) {
    let vllm = server(Face::Vllm).await;
    (World::new(limited(limits, backend(Face::Vllm, vllm.address()))).await, vllm)
}

/// A call of a task; none: of no task.
async fn call(world: &World, path: &str, task: Option<&str>, body: &Value) -> Response {
    let request = world.client.post(world.url(path)).bearer_auth(KEY).json(body);
    let request = task.into_iter().fold(request, |request, task| request.header("x-quartermaster-task-id", task));
    within(request.send()).await.unwrap()
}

async fn status(world: &World, task: Option<&str>, body: &Value) -> u16 {
    let response = call(world, CHAT, task, body).await;
    let status = response.status().as_u16();
    // What a call used is settled when its answer has ended.
    within(response.text()).await.unwrap();
    status
}

/// What was made for all calls of a server.
fn truth(server: &ModelServer) -> u64 {
    let tokens = server.totals().tokens;
    tokens.input + tokens.output
}

#[rstest]
#[case::openai(CHAT)]
#[case::anthropic("/v1/messages")]
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_has_used_up_its_tokens_is_refused_in_the_shape_of_the_api_and_others_go_on(#[case] path: &str) {
    const LIMIT: u64 = 2000;
    let (world, vllm) = world(json!({ "maxTokens": LIMIT })).await;
    let mut calls = 0;
    let refused = loop {
        let response = call(&world, path, Some("fix-7"), &chat(300)).await;
        if response.status() != 200 {
            break response;
        }
        within(response.text()).await.unwrap();
        calls += 1;
    };
    let used = truth(&vllm);
    assert!(calls > 1 && used <= LIMIT, "{used} in {calls} calls");
    assert_eq!((refused.status().as_u16(), vllm.totals().calls), (429, calls));
    assert_eq!(refused.headers()["x-should-retry"], "false");
    let body: Value = within(refused.json()).await.unwrap();
    let of_limit = if path == CHAT { &body["error"] } else { &body["error"]["details"] };
    let expected = json!({ "name": "maxTokensPerTask", "limit": LIMIT, "left": LIMIT - used });
    assert_eq!(of_limit["taskLimit"], expected, "{body}");
    assert_eq!((status(&world, Some("fix-8"), &chat(300)).await, status(&world, None, &chat(300)).await), (200, 200));
    let metrics = world.metrics();
    assert!(metrics.contains(&format!("{REFUSALS}{{reason=\"task_limit_exceeded\",route=\"smart\"}} 1")), "{metrics}");
    let lines = world.lines(usize::try_from(calls).unwrap() + 3).await;
    assert!(lines.iter().any(|line| line["outcome"] == "task_limit_exceeded"), "{lines:?}");
}

#[rstest]
#[case::openai(CHAT)]
#[case::anthropic("/v1/messages")]
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_may_use_more_than_one_of_a_task_may_is_refused_and_one_that_sets_no_limit_gets_one_that_fits(
    #[case] path: &str,
) {
    const LIMIT: u64 = 700;
    let (world, vllm) = world(json!({ "maxTokensPerRequest": LIMIT })).await;
    let refused = call(&world, path, Some("fix-7"), &chat(LIMIT)).await;
    assert_eq!((refused.status().as_u16(), vllm.totals().calls), (429, 0));
    assert_eq!(refused.headers()["x-should-retry"], "false");
    let body: Value = within(refused.json()).await.unwrap();
    let of_limit = if path == CHAT { &body["error"] } else { &body["error"]["details"] };
    assert_eq!(of_limit["taskLimit"], json!({ "name": "maxTokensPerRequest", "limit": LIMIT, "left": LIMIT }), "{body}");
    let metrics = world.metrics();
    assert!(metrics.contains(&format!("{REFUSALS}{{reason=\"task_limit_exceeded\",route=\"smart\"}} 1")), "{metrics}");
    for _ in 0..5 {
        assert_eq!(status(&world, Some("fix-7"), &chat(300)).await, 200, "of the whole task nothing is limited");
    }
    assert_eq!(status(&world, None, &chat(LIMIT)).await, 200, "who names no task has no limits of one");
    let mut unlimited = chat(5000);
    unlimited.as_object_mut().unwrap().remove("max_tokens");
    let before = truth(&vllm);
    assert_eq!(status(&world, Some("fix-7"), &unlimited).await, 200);
    let used = truth(&vllm) - before;
    assert!(used > 300 && used <= LIMIT, "{used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_is_stopped_and_the_task_may_do_something_else() {
    let (world, vllm) = world(json!({ "maxIdenticalRequests": 3 })).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(status(&world, Some("fix-7"), &chat(1)).await);
    }
    assert_eq!((statuses, vllm.totals().calls), (vec![200, 200, 200, 429, 429], 3));
    let refused = call(&world, CHAT, Some("fix-7"), &chat(1)).await;
    assert_eq!(refused.headers()["x-should-retry"], "false");
    let body: Value = within(refused.json()).await.unwrap();
    assert_eq!(body["error"]["code"], "identical_requests", "{body}");
    assert_eq!(status(&world, Some("fix-7"), &chat(2)).await, 200);
    assert_eq!(status(&world, Some("fix-8"), &chat(1)).await, 200);
    assert_eq!(status(&world, None, &chat(1)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_of_one_call_are_one_request_and_are_charged_each() {
    let limits = json!({ "maxIdenticalRequests": 1, "maxTokens": 10_000 });
    let openai = server(Face::OpenAI).await;
    let world = World::without_plan(Room::new(TOGETHER)).await;
    let plan = limited(limits, backend(Face::OpenAI, openai.address()));
    let operator = Operator::of(&world, &plan).await;
    openai.add(Match { times: Some(1), ..Match::default() }, Fault::Break { at: Place::Head, how: Break::Reset });
    // It is reported from a sixteenth of the limit on, and the first attempt counts as if it had used all that it could: that is more
    // than the server made, whether or not that was made at all.
    let body = chat(700);
    assert_eq!(status(&world, Some("fix-7"), &body).await, 200);
    assert_eq!(openai.totals().calls, 2);
    let used = truth(&openai);
    operator.until_heard("fix-7", |row| row.tokens > used).await;
    assert_eq!(status(&world, Some("fix-7"), &body).await, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_run_keep_what_they_can_use_and_the_next_one_is_told_to_come_again() {
    let (world, vllm) = world(json!({ "maxTokens": 1000 })).await;
    let hang = vllm.add(Match::default(), Fault::Break { at: Place::Events(3), how: Break::Hang });
    let mut body = chat(500);
    body["stream"] = true.into();
    let mut stream = call(&world, CHAT, Some("fix-7"), &body).await;
    read_until(&mut stream, "\"content\":").await;
    let busy = call(&world, CHAT, Some("fix-7"), &chat(400)).await;
    assert_eq!((busy.status().as_u16(), busy.headers()["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(!busy.headers().contains_key("x-should-retry"));
    vllm.remove(hang);
    within(stream.text()).await.unwrap();
    assert_eq!(status(&world, Some("fix-7"), &chat(10)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_cost_of_a_task_is_limited_what_has_no_price_gets_no_calls_of_tasks() {
    let openai = server(Face::OpenAI).await;
    let mut backend = backend(Face::OpenAI, openai.address());
    let limits = json!({ "maxCost": 20_000 });
    let world = World::new(limited(limits.clone(), backend.clone())).await;
    assert_eq!(status(&world, Some("fix-7"), &chat(5)).await, 503);
    assert_eq!(status(&world, None, &chat(5)).await, 200);
    backend["price"] = json!({ "input": 3_000_000, "output": 15_000_000, "cachedInput": 300_000, "cacheWrite": 0 });
    world.apply(limited(limits, backend));
    let before = openai.totals().tokens;
    while status(&world, Some("fix-7"), &chat(100)).await == 200 {}
    let after = openai.totals().tokens;
    let cost = 3 * (after.input - before.input) + 15 * (after.output - before.output);
    assert!(cost > 15 * 100 && cost <= 20_000, "{cost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_calls_come_to_several_replicas_has_one_limit() {
    let vllm = server(Face::Vllm).await;
    let limits = json!({ "maxTokens": 4000, "maxIdenticalRequests": 5 });
    let plan = limited(limits, backend(Face::Vllm, vllm.address()));
    let world = World::without_plan(Room::new(TOGETHER)).await;
    let operator = Operator::of(&world, &plan).await;
    assert_eq!(status(&world, Some("fix-7"), &chat(1)).await, 200);
    // This replica has nothing to say of so little before another one has.
    let body = BodyHash::of(&serde_json::to_vec(&chat(1)).unwrap());
    let elsewhere = TaskRow { tokens: 3000, identical: [(body, 4)].into(), ..TaskRow::default() };
    let tasks: BTreeMap<TaskId, TaskRow> = [(TaskId::of(b"fix-7").unwrap(), elsewhere)].into();
    operator.tell(|said| said.tasks = Tasks::from([("coder".to_owned(), tasks)])).await;
    let used = truth(&vllm);
    operator.until_heard("fix-7", |row| row.tokens == 3000 + used && row.identical.get(&body) == Some(&5)).await;
    assert_eq!(status(&world, Some("fix-7"), &chat(1)).await, 429, "the same request was made elsewhere");
    assert_eq!(status(&world, Some("fix-7"), &chat(1000)).await, 429, "the tokens were used elsewhere");
    assert_eq!(status(&world, Some("fix-7"), &chat(100)).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_has_begun_on_another_replica_goes_on_where_new_ones_are_refused() {
    let (world, vllm) = world(json!({})).await;
    let plan = plan(&[("llama", backend(Face::Vllm, vllm.address()))]);
    let operator = Operator::of(&world, &plan).await;
    operator.tell(|said| said.only(TOKENS, row(10_000, 10_000))).await;
    operator.tell(|said| said.route.new_tasks_refused = Some(TOKENS.parse().unwrap())).await;
    assert_eq!(status(&world, Some("fix-7"), &chat(1)).await, 429);
    let tasks: BTreeMap<TaskId, TaskRow> = [(TaskId::of(b"fix-7").unwrap(), TaskRow { tokens: 1, ..TaskRow::default() })].into();
    operator.tell(|said| said.tasks = Tasks::from([("coder".to_owned(), tasks)])).await;
    assert_eq!(status(&world, Some("fix-7"), &chat(1)).await, 200);
    assert_eq!(status(&world, Some("fix-8"), &chat(1)).await, 429);
}
