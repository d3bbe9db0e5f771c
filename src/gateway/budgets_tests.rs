//! Time is tokio's paused one.

use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue};
use quartermaster_core::api::token_budget::Enforcement;
use quartermaster_core::decide::account::message::{AccountRow, CallerRow, RouteRow, SpentRow, Told};
use quartermaster_core::decide::account::tasks::{TaskId, TaskRow};
use quartermaster_core::decide::account::{AccountId, PeriodId, Unit};
use quartermaster_core::decide::request::body;
use quartermaster_core::decide::request::operation::Operation;

use super::*;
use crate::exchange::server::Changes;
use crate::gateway::testing;
use crate::operate::metrics::Exposition as _;

/// The word of the operator holds for the whole test.
const VALID: Duration = Duration::from_secs(600);

fn account() -> AccountId {
    "uid/tokens".parse().unwrap()
}

/// Of a period that never ends.
fn row(allowance: u64) -> AccountRow {
    AccountRow {
        budget: "sprint".to_owned(),
        period: PeriodId(1000),
        allowance,
        limit: 100,
        free: 100_u64.saturating_sub(allowance),
        cached_input_percent: 100,
        ..AccountRow::default()
    }
}

fn told(row: AccountRow, route: RouteRow) -> Told {
    let caller = CallerRow { routes: [("smart".to_owned(), route)].into() };
    let callers = [("coder".to_owned(), Some(caller))].into();
    Told { all: true, accounts: [(account(), Some(row))].into(), callers, ..Told::default() }
}

fn plain() -> RouteRow {
    RouteRow { accounts: vec![account()], ..RouteRow::default() }
}

/// A gateway that was told this.
fn gateway(row: AccountRow, route: RouteRow) -> Arc<Gateway> {
    let gateway = testing::gateway();
    gateway.told(&told(row, route), 0, VALID);
    gateway
}

fn of_coder(gateway: &Gateway) -> Budgets<'_> {
    Budgets::new(gateway, "coder", TaskLimits::default(), "smart", &HeaderMap::new(), b"")
}

fn of_task<'call>(gateway: &'call Gateway, id: &str) -> Budgets<'call> {
    of_limited_task(gateway, id, TaskLimits::default())
}

/// A call of a task whose pool limits tasks so.
fn of_limited_task<'call>(gateway: &'call Gateway, id: &str, limits: TaskLimits) -> Budgets<'call> {
    let headers = HeaderMap::from_iter([(HeaderName::from_static("x-quartermaster-task-id"), HeaderValue::from_str(id).unwrap())]);
    Budgets::new(gateway, "coder", limits, "smart", &headers, PLAIN.as_bytes())
}

fn tokens(tokens: u64) -> Need {
    Most { tokens, cost: Some(0) }.into()
}

fn far() -> Instant {
    Instant::now() + VALID
}

fn admit(budgets: &Budgets<'_>, json: &str) -> Result<(), Refusal> {
    budgets.admit(&body::read(Operation::ChatCompletions, json.as_bytes()).unwrap(), json.as_bytes())
}

const PLAIN: &str = r#"{"model":"smart","messages":[]}"#;
const WITH_SEARCH: &str = r#"{"model":"smart","messages":[],"web_search_options":{}}"#;

fn spent(gateway: &Gateway) -> SpentRow {
    gateway.used_since(Changes::default(), 1).accounts.accounts[&account()][&PeriodId(1000)]
}

/// How many attempts have waited, by what came of it.
fn waited(gateway: &Gateway, outcome: &str) -> bool {
    let text = String::from_utf8(gateway.metrics.text().unwrap()).unwrap();
    text.contains(&format!("quartermaster_gateway_budget_wait_seconds_count{{outcome=\"{outcome}\"}} 1"))
}

#[tokio::test(start_paused = true)]
async fn a_call_that_no_budget_covers_may_do_anything() {
    let gateway = gateway(row(0), plain());
    let mut budgets = Budgets::new(&gateway, "planner", TaskLimits::default(), "smart", &HeaderMap::new(), b"");
    assert_eq!(budgets.terms(), &Terms::default());
    assert_eq!(admit(&budgets, WITH_SEARCH), Ok(()));
    let reservation = budgets.reserve(tokens(u64::MAX), far()).await.unwrap();
    gateway.give_back(reservation);
    assert_eq!(spent(&gateway).reserved, 0);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_waits_for_what_the_operator_grants_and_asks_for_it_at_once() {
    let gateway = gateway(row(10), plain());
    let mut budgets = of_coder(&gateway);
    let began = Instant::now();
    let grant = async {
        gateway.news.notified().await;
        let asked = gateway.used_since(Changes::default(), 1).accounts.asks[&account()];
        assert_eq!((asked.waiting, asked.smallest), (50, 50));
        tokio::time::sleep(Duration::from_millis(200)).await;
        gateway.told(&told(row(60), plain()), 1, VALID);
    };
    let (reservation, ()) = tokio::join!(budgets.reserve(tokens(60), far()), grant);
    let waited_for = began.elapsed();
    assert!(waited_for >= Duration::from_millis(200) && waited_for <= Duration::from_millis(200) + PAUSE * 2, "{waited_for:?}");
    assert_eq!(spent(&gateway).reserved, 60);
    gateway.give_back(reservation.unwrap());
    assert!(waited(&gateway, "granted") && gateway.is_settled());
}

#[tokio::test(start_paused = true)]
async fn what_another_call_has_not_used_lets_the_next_one_begin() {
    let gateway = gateway(row(60), plain());
    let first = of_coder(&gateway).reserve(tokens(60), far()).await.unwrap();
    let mut budgets = of_coder(&gateway);
    let end = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        gateway.give_back(first);
    };
    let (reservation, ()) = tokio::join!(budgets.reserve(tokens(30), far()), end);
    gateway.give_back(reservation.unwrap());
}

#[tokio::test(start_paused = true)]
async fn all_attempts_of_a_call_together_wait_for_three_seconds_and_no_longer_than_the_call_may_take() {
    let gateway = gateway(row(10), plain());
    let mut budgets = of_coder(&gateway);
    let began = Instant::now();
    let soon = began + Duration::from_secs(1);
    assert_eq!(budgets.reserve(tokens(60), soon).await.unwrap_err(), Refusal::BudgetBusy);
    assert_eq!(began.elapsed().as_secs(), 1);
    assert_eq!(budgets.reserve(tokens(60), far()).await.unwrap_err(), Refusal::BudgetBusy);
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(budgets.reserve(tokens(60), far()).await.unwrap_err(), Refusal::BudgetBusy);
    assert_eq!(began.elapsed().as_secs(), 3);
    // Nothing is set aside for it any more.
    gateway.give_back(of_coder(&gateway).reserve(tokens(10), soon).await.unwrap());
    assert!(gateway.is_settled());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_refused_as_soon_as_the_operator_knows_of_it_and_has_nothing_to_give() {
    let gateway = gateway(AccountRow { free: 0, used: 95, ..row(5) }, plain());
    let mut budgets = of_coder(&gateway);
    let answer = async {
        gateway.news.notified().await;
        gateway.used_since(Changes::default(), 1);
        gateway.told(&Told::default(), 1, VALID);
    };
    let began = Instant::now();
    let (refused, ()) = tokio::join!(budgets.reserve(tokens(60), far()), answer);
    let Refusal::BudgetExceeded(budget) = refused.unwrap_err() else { panic!("not exceeded") };
    assert_eq!((budget.budget.as_str(), budget.limit, budget.left), ("sprint", 100, 5));
    assert!(began.elapsed() < Duration::from_secs(1) && waited(&gateway, "refused"));
    assert_eq!(spent(&gateway).refused, 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_it_waits_holds_up_nobody() {
    let gateway = gateway(row(10), plain());
    let left = tokio::time::timeout(Duration::from_millis(100), of_coder(&gateway).reserve(tokens(60), far())).await;
    assert!(left.is_err() && waited(&gateway, "left"));
    gateway.give_back(of_coder(&gateway).reserve(tokens(10), Instant::now()).await.unwrap());
    assert_eq!(gateway.used_since(Changes::default(), 1).accounts.asks.get(&account()).map_or(0, |ask| ask.waiting), 0);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_makes_way_for_who_waits_behind() {
    let gateway = gateway(row(10), plain());
    let leaves = tokio::time::timeout(Duration::from_millis(100), async { of_coder(&gateway).reserve(tokens(60), far()).await });
    let stays = async {
        tokio::task::yield_now().await;
        of_coder(&gateway).reserve(tokens(10), far()).await
    };
    let began = Instant::now();
    let (left, reservation) = tokio::join!(leaves, stays);
    assert!(left.is_err() && began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    gateway.give_back(reservation.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_refuses_everything_does_so_before_anything_is_chosen_and_counts_it() {
    let gateway = gateway(AccountRow { used: 100, ..row(0) }, RouteRow { refused: Some(account()), ..plain() });
    let budgets = of_coder(&gateway);
    assert_eq!(budgets.terms().remaining, Some(0));
    assert!(matches!(admit(&budgets, PLAIN), Err(Refusal::BudgetExceeded(budget)) if budget.budget == "sprint"));
    assert_eq!(spent(&gateway).refused, 1);
    // It lets them in again between the two looks.
    gateway.told(&told(row(100), plain()), 0, VALID);
    assert_eq!(admit(&budgets, PLAIN), Ok(()));
    assert!(gateway.is_settled());
}

#[tokio::test(start_paused = true)]
async fn where_new_tasks_are_refused_those_that_have_begun_go_on() {
    let gateway = gateway(row(100), plain());
    let mut known = of_task(&gateway, "fix-7");
    gateway.give_back(known.reserve(tokens(1), far()).await.unwrap());
    gateway.told(&told(row(100), RouteRow { new_tasks_refused: Some(account()), ..plain() }), 0, VALID);
    assert_eq!(admit(&of_task(&gateway, "fix-7"), PLAIN), Ok(()));
    for new in [of_task(&gateway, "fix-8"), of_coder(&gateway)] {
        assert!(matches!(admit(&new, PLAIN), Err(Refusal::NewTasksRefused(budget)) if budget.left == 100));
    }
    // It was looked at, and has not begun by that.
    assert!(admit(&of_task(&gateway, "fix-8"), PLAIN).is_err());
    assert_eq!(spent(&gateway).refused, 0, "they had room");
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(admit(&of_task(&gateway, "fix-7"), PLAIN).is_err(), "nothing was heard of it for an hour");
}

const LIMITED: TaskLimits =
    TaskLimits { max_tokens_per_request: None, max_tokens: Some(50), max_cost: None, max_identical_requests: Some(2) };

#[tokio::test(start_paused = true)]
async fn a_task_is_held_to_its_limits_also_where_no_budget_covers_it() {
    let gateway = testing::gateway();
    gateway.told(&Told { all: true, ..Told::default() }, 0, VALID);
    let mut first = of_limited_task(&gateway, "fix-7", LIMITED);
    assert!(first.terms().bounded_output && !first.terms().needs_price);
    assert_eq!(admit(&first, WITH_SEARCH), Ok(()));
    let running = first.reserve(tokens(40), far()).await.unwrap();
    let mut second = of_limited_task(&gateway, "fix-7", LIMITED);
    assert_eq!(admit(&second, PLAIN), Ok(()));
    assert_eq!(second.reserve(tokens(20), far()).await.unwrap_err(), Refusal::TaskBusy);
    gateway.give_back(running);
    // Another attempt of the same call is the same request.
    let retried = first.reserve(tokens(40), far()).await.unwrap();
    gateway.give_back(retried);
    let exceeded = Refusal::TaskLimitExceeded { unit: Unit::Tokens, limit: 50, left: 50 };
    assert_eq!(second.reserve(tokens(51), far()).await.unwrap_err(), exceeded);
    gateway.give_back(second.reserve(tokens(50), far()).await.unwrap());
    let third = of_limited_task(&gateway, "fix-7", LIMITED);
    assert_eq!(admit(&third, PLAIN), Err(Refusal::IdenticalRequests { limit: 2 }));
    assert_eq!(admit(&of_limited_task(&gateway, "fix-8", LIMITED), PLAIN), Ok(()));
    // Who names no task has no limits of one.
    let mut nobody = Budgets::new(&gateway, "coder", LIMITED, "smart", &HeaderMap::new(), PLAIN.as_bytes());
    assert!(!nobody.terms().bounded_output);
    gateway.give_back(nobody.reserve(tokens(1000), far()).await.unwrap());
    assert!(gateway.is_settled());
}

#[tokio::test(start_paused = true)]
async fn one_call_of_a_task_may_use_so_much_and_output_that_is_not_limited_is_what_fits() {
    let gateway = testing::gateway();
    gateway.told(&Told { all: true, ..Told::default() }, 0, VALID);
    let limits = TaskLimits { max_tokens_per_request: Some(500), ..TaskLimits::default() };
    let mut call = of_limited_task(&gateway, "fix-7", limits);
    assert!(call.terms().bounded_output);
    let too_large = Refusal::TaskRequestTooLarge { limit: 500, most: 501 };
    assert_eq!(call.reserve(tokens(501), far()).await.unwrap_err(), too_large);
    for _ in 0..3 {
        gateway.give_back(call.reserve(tokens(500), far()).await.unwrap());
    }
    let body = body::read(Operation::ChatCompletions, PLAIN.as_bytes()).unwrap();
    let backend: Backend = serde_json::from_value(serde_json::json!({
        "server": "Vllm", "formats": ["ChatCompletions"], "model": "m", "baseUrl": "http://m", "selfHosted": true,
    }))
    .unwrap();
    let ceiling = call.output_ceiling(&body, &backend);
    let most = upper_bound::within(&body, &backend, ceiling);
    assert_eq!(most.input + most.output, 500, "{ceiling:?}");
    assert!(of_task(&gateway, "fix-7").output_ceiling(&body, &backend) > ceiling);
}

#[tokio::test(start_paused = true)]
async fn what_a_task_is_refused_is_reserved_in_no_budget_and_the_other_way_round() {
    let gateway = gateway(AccountRow { free: 0, used: 40, ..row(60) }, plain());
    let mut call = of_limited_task(&gateway, "fix-7", LIMITED);
    assert!(matches!(call.reserve(tokens(51), far()).await, Err(Refusal::TaskLimitExceeded { .. })));
    assert_eq!(spent(&gateway).reserved, 0);
    let other = of_coder(&gateway).reserve(tokens(60), far()).await.unwrap();
    assert_eq!(call.reserve(tokens(50), Instant::now()).await.unwrap_err(), Refusal::BudgetBusy);
    gateway.give_back(other);
    gateway.give_back(call.reserve(tokens(50), far()).await.unwrap());
    assert!(gateway.is_settled());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_has_begun_elsewhere_is_none_that_is_new() {
    let gateway = gateway(row(100), RouteRow { new_tasks_refused: Some(account()), ..plain() });
    assert!(admit(&of_task(&gateway, "fix-7"), PLAIN).is_err());
    let elsewhere = [(TaskId::of(b"fix-7").unwrap(), TaskRow::default())].into();
    gateway.told(&Told { tasks: [("coder".to_owned(), elsewhere)].into(), ..Told::default() }, 0, VALID);
    assert_eq!(admit(&of_task(&gateway, "fix-7"), PLAIN), Ok(()));
    assert!(admit(&of_task(&gateway, "fix-8"), PLAIN).is_err());
}

#[tokio::test(start_paused = true)]
async fn tools_that_providers_run_are_refused_where_a_budget_must_not_be_passed() {
    let alert = AccountRow { enforcement: Enforcement::Alert, ..row(100) };
    assert_eq!(admit(&of_coder(&gateway(alert, plain())), WITH_SEARCH), Ok(()));
    let walled = gateway(row(100), plain());
    assert_eq!(admit(&of_coder(&walled), PLAIN), Ok(()));
    assert_eq!(admit(&of_coder(&walled), WITH_SEARCH), Err(Refusal::UnboundedTool { tool: "web search" }));
}
