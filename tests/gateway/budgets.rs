//! What budgets let the calls of their callers do. The truth is what the simulated servers counted.

use quartermaster::exchange::server::End;
use quartermaster::gateway::request_body::{Room, TOGETHER};
use quartermaster_core::api::model_route::Tier;
use quartermaster_core::api::token_budget::{Enforcement, WhenUsageUnknown};
use quartermaster_core::decide::account::message::{AccountRow, RouteRow, SpentRow};
use quartermaster_core::decide::account::spending::{Most, Short};
use quartermaster_core::decide::gateway::plan::Backend;
use quartermaster_core::decide::request::operation::Operation;
use quartermaster_core::decide::request::{body, upper_bound};
use quartermaster_dev::model_server::{Break, Face, Fault, Match, ModelServer, Place, Refusal};
use reqwest::Response;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{KEY, World, backend, chat, hash, plan, read_until, server, until, within};
use crate::operator::{COST, ENDS_IN, Operator, TOKENS, id, row};

const CHAT: &str = "/v1/chat/completions";
const REFUSALS: &str = "quartermaster_gateway_budget_refusals_total";

/// A gateway with this plan, and an operator that says this of the one account that the calls of `coder` need.
async fn budgeted(plan: &Value, account: &str, row: AccountRow) -> (World, Operator) {
    let world = World::without_plan(Room::new(TOGETHER)).await;
    let operator = Operator::of(&world, plan).await;
    operator.tell(|said| said.only(account, row)).await;
    (world, operator)
}

/// The same with one backend.
async fn one_backend(face: Face, row: AccountRow) -> (World, Operator, ModelServer) {
    let server = server(face).await;
    let (world, operator) = budgeted(&plan(&[("llama", backend(face, server.address()))]), TOKENS, row).await;
    (world, operator, server)
}

/// What was made for all calls of a server.
fn truth(server: &ModelServer) -> u64 {
    let tokens = server.totals().tokens;
    tokens.input + tokens.output
}

/// The most that a call can use where a budget covers it.
fn most(body: &Value, face: Face) -> u64 {
    let bytes = serde_json::to_vec(body).unwrap();
    let read = body::read(Operation::ChatCompletions, &bytes).unwrap();
    let backend: Backend = serde_json::from_value(backend(face, ([127, 0, 0, 1], 1).into())).unwrap();
    let most = upper_bound::within(&read, &backend, upper_bound::output_ceiling(&read, &backend));
    most.input + most.output
}

/// What an answer says is left.
fn remaining(response: &Response) -> u64 {
    response.headers()["x-quartermaster-budget-remaining"].to_str().unwrap().parse().unwrap()
}

/// Its status, and the code of its error.
async fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = within(response.json()).await.unwrap();
    (status, body["error"]["code"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_room_is_charged_what_it_used_and_told_what_is_left() {
    let (world, operator, vllm) = one_backend(Face::Vllm, row(10_000, 10_000)).await;
    let response = world.chat(5).await;
    assert_eq!(response.status(), 200);
    assert_eq!(remaining(&response), 10_000);
    within(response.text()).await.unwrap();
    let used = truth(&vllm);
    assert!(used > 5);
    let spent = operator.until_spent(TOKENS, |spent| spent.used > 0).await;
    assert_eq!(spent, SpentRow { used, allowance: 10_000, ..SpentRow::default() });
    let response = world.stream(5).await;
    // What the operator has heard of may count twice until it is known that it has.
    let left = remaining(&response);
    assert!(left <= 10_000 - used && left >= 10_000 - 2 * used, "{left}");
    within(response.text()).await.unwrap();
    let used = truth(&vllm);
    let spent = operator.until_spent(TOKENS, |spent| spent.used == used).await;
    assert_eq!((spent.estimated, spent.reserved), (0, 0));
    // Whom no budget covers is told nothing.
    operator.tell(|said| said.accounts.clear()).await;
    assert!(!world.chat(1).await.headers().contains_key("x-quartermaster-budget-remaining"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_larger_than_the_allowance_waits_for_a_grant_and_goes_on() {
    let (world, operator, vllm) = one_backend(Face::Vllm, row(10_000, 0)).await;
    operator.tell(|said| said.grants = true).await;
    assert_eq!(world.chat(5).await.status(), 200);
    let used = truth(&vllm);
    operator.until_spent(TOKENS, |spent| spent.used == used && spent.allowance > 0).await;
    let metrics = world.metrics();
    assert!(metrics.contains("quartermaster_gateway_budget_wait_seconds_count{outcome=\"granted\"} 1"), "{metrics}");
}

#[rstest]
#[case::openai(CHAT)]
#[case::anthropic("/v1/messages")]
#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_room_is_refused_in_the_shape_of_its_api(#[case] path: &str) {
    let (world, operator, vllm) = one_backend(Face::Vllm, row(100, 100)).await;
    let response = world.post(path, &chat(1000)).await;
    assert_eq!(response.status(), 429);
    let headers = response.headers().clone();
    let seconds: i64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(seconds <= ENDS_IN && seconds > ENDS_IN - 600, "{seconds}");
    assert_eq!(headers["x-should-retry"], "false");
    let body: Value = within(response.json()).await.unwrap();
    let error = &body["error"];
    assert_eq!(error["type"], "budget_exceeded", "{body}");
    assert!(error["message"].as_str().unwrap().contains("Ask #platform."), "{body}");
    let budget = if path == CHAT { &error["budget"] } else { &error["details"]["budget"] };
    assert_eq!((&budget["name"], &budget["left"], &budget["limit"]), (&json!("sprint"), &json!(100), &json!(100)), "{body}");
    assert_eq!(vllm.totals().calls, 0, "nothing was sent");
    operator.until_spent(TOKENS, |spent| spent.refused == 1 && spent.used == 0).await;
    let line = world.lines(1).await.remove(0);
    assert_eq!((&line["outcome"], &line["budgetRefused"]), (&json!("budget_exceeded"), &json!("sprint")));
    assert_eq!((line["attempts"].as_array().unwrap().len(), line.get("backend")), (0, None), "{line}");
    let metrics = world.metrics();
    assert!(metrics.contains(&format!("{REFUSALS}{{reason=\"budget_exceeded\",route=\"smart\"}} 1")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_only_alerts_refuses_nobody_and_counts() {
    let lenient = AccountRow { enforcement: Enforcement::Alert, ..row(100, 0) };
    let (world, operator, vllm) = one_backend(Face::Vllm, lenient).await;
    assert_eq!(world.chat(200).await.status(), 200);
    let used = truth(&vllm);
    assert!(used > 200);
    operator.until_spent(TOKENS, |spent| spent.used == used && spent.refused == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_refuses_everything_refuses_what_needs_nothing_too() {
    let (world, operator, vllm) = one_backend(Face::Vllm, row(10_000, 10_000)).await;
    operator.tell(|said| said.route.refused = Some(id(TOKENS))).await;
    assert_eq!(code(world.chat(1).await).await, (429, "budget_exceeded".to_owned()));
    let count = world.post("/v1/messages/count_tokens", &json!({ "model": "smart", "messages": [] })).await;
    assert_eq!(count.status(), 429);
    assert_eq!(vllm.totals().calls, 0);
    operator.until_spent(TOKENS, |spent| spent.refused == 2).await;
}

/// A plan in which a budget covers `coder`, and none `reviewer`.
fn planned(vllm: &ModelServer, when_usage_unknown: &str) -> Value {
    let mut plan = plan(&[("llama", backend(Face::Vllm, vllm.address()))]);
    plan["callers"]["reviewer"] = json!({ "keyHashes": [hash("qm-key-of-reviewer")], "routes": ["smart"] });
    plan["budgets"] = json!([{ "name": "sprint", "callers": ["coder"], "whenUsageUnknown": when_usage_unknown }]);
    plan
}

#[rstest]
#[case("Hold", false)]
#[case("Block", false)]
#[case("Allow", true)]
#[tokio::test(flavor = "multi_thread")]
async fn before_any_operator_has_spoken_who_has_a_budget_is_refused_and_nobody_else(
    #[case] when_usage_unknown: &str,
    #[case] is_let_in: bool,
) {
    let vllm = server(Face::Vllm).await;
    let plan = planned(&vllm, when_usage_unknown);
    let world = World::new(plan.clone()).await;
    let of_reviewer = world.client.post(world.url(CHAT)).bearer_auth("qm-key-of-reviewer").json(&chat(1)).send();
    assert_eq!(within(of_reviewer).await.unwrap().status(), 200);
    let response = world.chat(1).await;
    if is_let_in {
        assert_eq!(response.status(), 200);
        return;
    }
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(code(response).await, (503, "budget_unknown".to_owned()));
    let metrics = world.metrics();
    assert!(metrics.contains(&format!("{REFUSALS}{{reason=\"budget_unknown\",route=\"smart\"}} 1")), "{metrics}");
    // From its first word on the operator alone counts.
    let operator = Operator::of(&world, &plan).await;
    assert_eq!(world.chat(1).await.status(), 200);
    operator.tell(|said| said.only(TOKENS, row(10_000, 10_000))).await;
    assert_eq!(world.chat(1).await.status(), 200);
    operator.until_spent(TOKENS, |spent| spent.used > 0).await;
}

/// Whether the gateway has noticed that it hears nothing: until then more than the allowance is waited for.
fn is_alone(world: &World) -> bool {
    match world.gateway.reserve("coder", "smart", Most { tokens: 10_000, cost: Some(0) }, None) {
        Ok(reservation) => {
            world.gateway.give_back(reservation);
            true
        }
        Err(short) => matches!(short, Short::Unknown(_)),
    }
}

#[rstest]
#[case(WhenUsageUnknown::Hold)]
#[case(WhenUsageUnknown::Block)]
#[case(WhenUsageUnknown::Allow)]
#[tokio::test(flavor = "multi_thread")]
async fn when_the_operators_word_holds_no_more_the_budget_says_what_happens(#[case] when_usage_unknown: WhenUsageUnknown) {
    // The allowance is enough for one call.
    let allowance = most(&chat(50), Face::Vllm);
    let told = AccountRow { when_usage_unknown, ..row(10_000, allowance) };
    let (world, mut operator, vllm) = one_backend(Face::Vllm, told).await;
    operator.tell(|said| said.valid_for = 1).await;
    operator.leave();
    until("the silence is noticed", || is_alone(&world)).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(world.chat(50).await.status().as_u16());
    }
    match when_usage_unknown {
        WhenUsageUnknown::Hold => {
            assert_eq!((statuses[0], statuses[4]), (200, 503), "{statuses:?}");
            assert!(truth(&vllm) <= allowance);
        }
        WhenUsageUnknown::Block => assert_eq!((statuses, truth(&vllm)), (vec![503; 5], 0)),
        WhenUsageUnknown::Allow => {
            assert_eq!(statuses, [200; 5]);
            assert!(truth(&vllm) > allowance);
        }
    }
    // An operator that comes back hears all of it.
    operator.come_back();
    let used = truth(&vllm);
    operator.until_spent(TOKENS, |spent| spent.used == used && spent.reserved == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_callers_never_pass_the_limit_and_leave_less_than_one_call_needs() {
    const LIMIT: u64 = 12_000;
    let (world, operator, vllm) = one_backend(Face::Vllm, row(LIMIT, 0)).await;
    operator.tell(|said| said.grants = true).await;
    vllm.change(|behaviour| behaviour.token_milliseconds = 1);
    let mut callers = JoinSet::new();
    for number in 0..32_u64 {
        let (client, url) = (world.client.clone(), world.url(CHAT));
        callers.spawn(async move {
            let mut answered = 0_u64;
            loop {
                let mut body = chat(5 + number);
                body["stream"] = number.is_multiple_of(2).into();
                let response = within(client.post(&url).bearer_auth(KEY).json(&body).send()).await.unwrap();
                let status = response.status().as_u16();
                let text = within(response.text()).await.unwrap();
                match status {
                    200 => answered += 1,
                    429 => return answered,
                    _ => panic!("{status}: {text}"),
                }
            }
        });
    }
    let mut answered = 0;
    while let Some(caller) = callers.join_next().await {
        answered += caller.unwrap();
    }
    // What the others had reserved is there for one that goes on.
    while world.chat(5).await.status() == 200 {
        answered += 1;
    }
    until("all calls are settled", || world.gateway.is_settled()).await;
    let used = truth(&vllm);
    assert!(used <= LIMIT && LIMIT - used < most(&chat(5), Face::Vllm), "{used} of {LIMIT}");
    assert_eq!(vllm.totals().calls, answered);
    let spent = operator.until_spent(TOKENS, |spent| spent.used == used).await;
    assert_eq!((spent.estimated, spent.reserved), (0, 0));
    assert!(spent.allowance <= LIMIT && spent.refused >= 32, "{spent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_client_leaves_is_charged_the_most_that_it_could_use_where_nobody_says_more() {
    let (world, operator, openai) = one_backend(Face::OpenAI, row(10_000, 10_000)).await;
    openai.add(Match::default(), Fault::Break { at: Place::Events(3), how: Break::Hang });
    let mut body = chat(50);
    body["stream"] = true.into();
    let mut stream = world.post(CHAT, &body).await;
    read_until(&mut stream, "\"content\":").await;
    let reserved = most(&body, Face::OpenAI);
    operator.tell(|_| {}).await;
    operator.until_spent(TOKENS, |spent| spent.reserved == reserved).await;
    drop(stream);
    let spent = operator.until_spent(TOKENS, |spent| spent.reserved == 0).await;
    assert_eq!((spent.used, spent.estimated), (reserved, reserved));
    assert!(truth(&openai) <= reserved);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_needs_room_of_its_own() {
    let body = chat(20);
    let one = most(&body, Face::OpenAI);
    // Of the first attempt nobody knows what it used: it counts as if that was all that it could.
    for (limit, status, calls) in [(2 * one, 200, 2), (2 * one - 1, 429, 1)] {
        let (world, operator, openai) = one_backend(Face::OpenAI, row(limit, limit)).await;
        openai.add(Match { times: Some(1), ..Match::default() }, Fault::Break { at: Place::Head, how: Break::Reset });
        let response = world.post(CHAT, &body).await;
        assert_eq!(response.status().as_u16(), status);
        within(response.text()).await.unwrap();
        assert_eq!(openai.totals().calls, calls);
        let spent = operator.until_spent(TOKENS, |spent| spent.used >= one && spent.reserved == 0).await;
        assert_eq!(spent.estimated, one);
        let line = world.lines(1).await.remove(0);
        assert_eq!(u64::try_from(line["attempts"].as_array().unwrap().len()).unwrap(), calls, "{line}");
    }
    // What was refused before any content used nothing.
    let (world, operator, openai) = one_backend(Face::OpenAI, row(one, one)).await;
    openai.add(Match { times: Some(2), ..Match::default() }, Fault::Refuse(Refusal::ServerError));
    assert_eq!(world.post(CHAT, &body).await.status(), 200);
    let used = truth(&openai);
    operator.until_spent(TOKENS, |spent| spent.used == used && spent.estimated == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_budget_may_refuse_it_the_output_has_a_limit() {
    let vllm = server(Face::Vllm).await;
    let mut backend = backend(Face::Vllm, vllm.address());
    backend["maxOutputTokens"] = 50.into();
    let plan = plan(&[("llama", backend)]);
    let (world, operator) = budgeted(&plan, TOKENS, row(10_000, 10_000)).await;
    let body = json!({ "model": "smart", "messages": [{ "role": "user", "content": "hello [[tokens=200]]" }] });
    let made = async |before: u64| {
        assert_eq!(world.post(CHAT, &body).await.status(), 200);
        vllm.totals().tokens.output - before
    };
    assert_eq!(made(0).await, 50);
    operator.tell(|said| said.accounts.clear()).await;
    assert_eq!(made(50).await, 200, "where nothing counts, an absent limit stays absent");
}

#[rstest]
#[case(Enforcement::Alert)]
#[case(Enforcement::DryRun)]
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_refuses_nobody_changes_no_call_and_counts_by_what_it_would_have_sent(#[case] enforcement: Enforcement) {
    // Room for one call whose output has the limit that a budget gives it, and for none without.
    let lenient = AccountRow { enforcement, ..row(20_000, 0) };
    let (world, operator, vllm) = one_backend(Face::Vllm, lenient).await;
    let body = json!({ "model": "smart", "messages": [{ "role": "user", "content": "hello [[tokens=17000]]" }] });
    for refused in [0, 1] {
        assert_eq!(world.post(CHAT, &body).await.status(), 200);
        let used = truth(&vllm);
        let spent = operator.until_spent(TOKENS, |spent| spent.used == used && spent.reserved == 0).await;
        assert_eq!((spent.refused, spent.estimated), (refused, 0));
    }
    assert_eq!(vllm.totals().tokens.output, 34_000, "no limit was sent");
    let metrics = world.metrics();
    assert!(!metrics.contains("quartermaster_gateway_reservation_exceeded_total{"), "{metrics}");
}

/// A plan with a backend of the class Standard, and one of Economy.
fn two_classes(standard: &ModelServer, economy: &ModelServer) -> Value {
    let backends = [("standard", backend(Face::Vllm, standard.address())), ("economy", backend(Face::Vllm, economy.address()))];
    let mut plan = plan(&backends);
    plan["routes"]["smart"]["backends"][1]["tier"] = "Economy".into();
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ceiling_leaves_the_backends_up_to_that_class() {
    let (standard, economy) = (server(Face::Vllm).await, server(Face::Vllm).await);
    let mut plan = two_classes(&standard, &economy);
    let (world, operator) = budgeted(&plan, TOKENS, row(10_000, 10_000)).await;
    assert_eq!(world.chat(1).await.headers()["x-quartermaster-backend"], "standard");
    operator.tell(|said| said.route = RouteRow { tier_ceiling: Some(Tier::Economy), ..RouteRow::default() }).await;
    assert_eq!(world.chat(1).await.headers()["x-quartermaster-backend"], "economy");
    assert_eq!((standard.totals().calls, economy.totals().calls), (1, 1));
    drop((world, operator));

    plan["routes"]["smart"]["backends"].as_array_mut().unwrap().remove(1);
    let (world, operator) = budgeted(&plan, TOKENS, row(10_000, 10_000)).await;
    operator.tell(|said| said.route = RouteRow { tier_ceiling: Some(Tier::Economy), ..RouteRow::default() }).await;
    assert_eq!(code(world.chat(1).await).await, (429, "no_backend_in_tier".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_about_what_is_used_of_budgets_decides_by_what_the_operator_says() {
    let (standard, economy) = (server(Face::Vllm).await, server(Face::Vllm).await);
    let mut plan = two_classes(&standard, &economy);
    let cheap = plan["routes"]["smart"]["backends"].as_array_mut().unwrap().remove(1);
    let when = json!({ "budgetUsedPercent": { "atLeast": 80 } });
    plan["routes"]["smart"]["rules"] = json!([{ "name": "thrifty", "when": when, "strategy": "Priority", "backends": [cheap] }]);
    let (world, operator) = budgeted(&plan, TOKENS, row(10_000, 10_000)).await;
    assert_eq!(world.chat(1).await.headers()["x-quartermaster-backend"], "standard");
    operator.tell(|said| said.route.used_percent = 80).await;
    let response = world.chat(1).await;
    assert_eq!(response.headers()["x-quartermaster-backend"], "economy");
    assert_eq!(response.headers()["x-quartermaster-rule"], "thrifty");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_cost_is_limited_what_has_no_price_gets_no_calls_and_others_are_charged_theirs() {
    let openai = server(Face::OpenAI).await;
    let mut backend = backend(Face::OpenAI, openai.address());
    let unpriced = plan(&[("gpt", backend.clone())]);
    let (world, operator) = budgeted(&unpriced, COST, row(1_000_000, 1_000_000)).await;
    let response = world.chat(5).await;
    assert_eq!(response.headers()["x-should-retry"], "false");
    assert_eq!(code(response).await, (503, "price_missing".to_owned()));
    assert_eq!(openai.totals().calls, 0);
    drop((world, operator));

    backend["price"] = json!({ "input": 3_000_000, "output": 15_000_000, "cachedInput": 300_000, "cacheWrite": 0 });
    let (world, operator) = budgeted(&plan(&[("gpt", backend)]), COST, row(1_000_000, 1_000_000)).await;
    let response = world.chat(5).await;
    assert!(!response.headers().contains_key("x-quartermaster-budget-remaining"), "that is about tokens");
    assert_eq!(response.status(), 200);
    let made = openai.totals().tokens;
    assert_eq!(made.cached, 0);
    operator.until_spent(COST, |spent| spent.used == 3 * made.input + 15 * made.output && spent.estimated == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_input_that_a_prefix_cache_served_counts_as_much_as_the_budget_says() {
    let thrifty = AccountRow { cached_input_percent: 10, ..row(100_000, 100_000) };
    let (world, operator, openai) = one_backend(Face::OpenAI, thrifty).await;
    let long = format!("{}[[tokens=5]]", "hello ".repeat(3000));
    let body = json!({ "model": "smart", "max_tokens": 5, "messages": [{ "role": "user", "content": long }] });
    let call = async || {
        let response = world.post(CHAT, &body).await;
        assert_eq!(response.status(), 200);
        within(response.text()).await.unwrap();
        openai.totals().tokens
    };
    let made = call().await;
    assert_eq!(made.cached, 0);
    operator.until_spent(TOKENS, |spent| spent.used == made.input + made.output).await;
    let made = call().await;
    assert!(made.cached >= 1024, "{made:?}");
    // Of a part of a token counts a whole one.
    let used = made.input - made.cached + made.cached.div_ceil(10) + made.output;
    let spent = operator.until_spent(TOKENS, |spent| spent.used == used).await;
    assert_eq!((spent.estimated, spent.reserved), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_runs_itself_is_refused_where_a_budget_must_not_be_passed() {
    let (world, operator, openai) = one_backend(Face::OpenAI, row(100_000, 100_000)).await;
    let mut body = chat(1);
    body["web_search_options"] = json!({});
    assert_eq!(code(world.post(CHAT, &body).await).await, (400, "unbounded_tool".to_owned()));
    assert_eq!(openai.totals().calls, 0);
    operator.tell(|said| said.accounts.clear()).await;
    world.post(CHAT, &body).await;
    assert_eq!(openai.totals().calls, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_new_tasks_are_refused_those_that_have_begun_go_on() {
    let (world, operator, _vllm) = one_backend(Face::Vllm, row(10_000, 10_000)).await;
    let call = async |task: Option<&str>| {
        let request = world.client.post(world.url(CHAT)).bearer_auth(KEY).json(&chat(1));
        let request = task.into_iter().fold(request, |request, task| request.header("x-quartermaster-task-id", task));
        within(request.send()).await.unwrap().status().as_u16()
    };
    assert_eq!(call(Some("fix-7")).await, 200);
    operator.tell(|said| said.route.new_tasks_refused = Some(id(TOKENS))).await;
    assert_eq!((call(Some("fix-7")).await, call(Some("fix-8")).await, call(None).await), (200, 429, 429));
    let metrics = world.metrics();
    assert!(metrics.contains(&format!("{REFUSALS}{{reason=\"new_task\",route=\"smart\"}} 2")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recalled_is_given_back_at_once_as_far_as_calls_leave_it() {
    let (world, operator, vllm) = one_backend(Face::Vllm, row(10_000, 10_000)).await;
    let hang = vllm.add(Match::default(), Fault::Break { at: Place::Events(3), how: Break::Hang });
    let mut body = chat(20);
    body["stream"] = true.into();
    let mut stream = world.post(CHAT, &body).await;
    read_until(&mut stream, "\"content\":").await;
    let reserved = most(&body, Face::Vllm);
    operator.tell(|said| said.only(TOKENS, AccountRow { recall: Some(0), free: 0, ..row(10_000, 0) })).await;
    operator.until_spent(TOKENS, |spent| spent.allowance == reserved && spent.reserved == reserved).await;
    vllm.remove(hang);
    within(stream.text()).await.unwrap();
    let used = truth(&vllm);
    operator.until_spent(TOKENS, |spent| spent.allowance == used && spent.used == used).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_leaves_stays_until_its_last_call_is_settled_and_known() {
    let (world, mut operator, vllm) = one_backend(Face::Vllm, row(10_000, 10_000)).await;
    let hang = vllm.add(Match::default(), Fault::Break { at: Place::Events(3), how: Break::Hang });
    let mut stream = world.stream(20).await;
    read_until(&mut stream, "\"content\":").await;
    world.gateway.drain();
    operator.finish.cancel();
    operator.tell(|_| {}).await;
    operator.until_spent(TOKENS, |spent| spent.reserved > 0).await;
    assert!(!operator.serving.is_finished());
    vllm.remove(hang);
    within(stream.text()).await.unwrap();
    assert_eq!(within(&mut operator.serving).await.unwrap(), End::Acknowledged);
    let spent = operator.spent(TOKENS);
    assert_eq!((spent.used, spent.reserved), (truth(&vllm), 0));
}
