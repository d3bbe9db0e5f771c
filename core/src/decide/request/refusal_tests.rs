use rstest::rstest;

use super::*;

fn failed(kind: FailureKind, milliseconds: Option<u64>) -> Refusal {
    Refusal::AttemptsFailed(Failure { kind, retry_after: milliseconds.map(Duration::from_millis) })
}

fn invalid(param: Option<&'static str>) -> Refusal {
    Refusal::InvalidBody { param, message: "must be a text".into() }
}

fn now() -> Timestamp {
    "2026-11-26T10:00:00.5Z".parse().unwrap()
}

/// A budget that begins anew in so many seconds.
fn spent(resets_in: Option<i64>) -> Refused {
    Refused {
        budget: "sprint".to_owned(),
        unit: Unit::Tokens,
        limit: 5_000_000,
        left: 120,
        resets: resets_in.map(|seconds| now().as_second() + seconds),
        message: Some("Ask #platform.".to_owned()),
    }
}

fn exceeded(resets_in: Option<i64>) -> Refusal {
    Refusal::budget_exceeded(spent(resets_in), now())
}

fn task_limit(unit: Unit, left: u64) -> Refusal {
    Refusal::TaskLimitExceeded { unit, limit: 2_000_000, left }
}

/// One of each, and of each kind of failure.
fn all() -> Vec<Refusal> {
    let own = [
        Refusal::Unauthorized,
        Refusal::UnknownPath,
        Refusal::MethodNotAllowed { allowed: "POST" },
        Refusal::ModelNotFound,
        invalid(None),
        invalid(Some("max_tokens")),
        Refusal::BodyTooLarge { limit: 32 << 20 },
        Refusal::BodyTimeout,
        Refusal::NoRoom,
        Refusal::NoBackendInTier,
        Refusal::FormatNotSupported,
        Refusal::NoRuleMatches,
        Refusal::BackendStarting { expected_in: None },
        Refusal::NoPlan,
        Refusal::Internal,
        exceeded(Some(3600)),
        Refusal::new_tasks_refused(spent(None), now()),
        Refusal::BudgetUnknown { budget: "sprint".to_owned() },
        Refusal::BudgetBusy,
        Refusal::UnboundedTool { tool: "web search" },
        Refusal::PriceMissing,
        Refusal::TaskRequestTooLarge { limit: 8000, most: 9000 },
        task_limit(Unit::Tokens, 50),
        Refusal::TaskBusy,
        Refusal::IdenticalRequests { limit: 20 },
    ];
    own.into_iter().chain(FailureKind::ALL.map(|kind| failed(kind, Some(1)))).collect()
}

fn json(answer: &Response<String>) -> Value {
    serde_json::from_str(answer.body()).unwrap()
}

// The classes are those of openai 3.57.0 (`_make_status_error`) and anthropic 2.13.0 (`ERROR_CLASSES`), which go by the status.
#[rstest]
#[case::authentication_error(Refusal::Unauthorized, 401, "invalid_request_error", "authentication_error", "invalid_api_key")]
#[case::not_found_error(Refusal::UnknownPath, 404, "invalid_request_error", "not_found_error", "unknown_url")]
#[case::status_error(Refusal::MethodNotAllowed { allowed: "GET" }, 405, "invalid_request_error", "invalid_request_error", "method_not_supported")]
#[case::not_found_error(Refusal::ModelNotFound, 404, "invalid_request_error", "not_found_error", "model_not_found")]
#[case::bad_request_error(invalid(None), 400, "invalid_request_error", "invalid_request_error", "invalid_body")]
#[case::content_too_large_error(Refusal::BodyTooLarge { limit: 1 }, 413, "invalid_request_error", "request_too_large", "request_too_large")]
#[case::request_timeout_error(Refusal::BodyTimeout, 408, "invalid_request_error", "timeout_error", "request_timeout")]
#[case::rate_limit_error(Refusal::NoBackendInTier, 429, "rate_limit_error", "rate_limit_error", "no_backend_in_tier")]
#[case::service_unavailable_error(Refusal::BackendStarting { expected_in: None }, 503, "server_error", "overloaded_error", "backend_starting")]
#[case::service_unavailable_error(Refusal::NoPlan, 503, "server_error", "overloaded_error", "gateway_starting")]
#[case::service_unavailable_error(Refusal::NoRoom, 503, "server_error", "overloaded_error", "gateway_overloaded")]
#[case::bad_request_error(
    Refusal::FormatNotSupported,
    400,
    "invalid_request_error",
    "invalid_request_error",
    "format_not_supported"
)]
#[case::bad_request_error(Refusal::NoRuleMatches, 400, "invalid_request_error", "invalid_request_error", "no_rule_matches")]
#[case::internal_server_error(Refusal::Internal, 500, "server_error", "api_error", "internal_error")]
#[case::rate_limit_error(exceeded(None), 429, "budget_exceeded", "budget_exceeded", "budget_exceeded")]
#[case::rate_limit_error(
    Refusal::new_tasks_refused(spent(None), now()),
    429,
    "budget_exceeded",
    "budget_exceeded",
    "budget_exceeded"
)]
#[case::service_unavailable_error(Refusal::BudgetUnknown { budget: "sprint".to_owned() }, 503, "server_error", "overloaded_error", "budget_unknown")]
#[case::service_unavailable_error(Refusal::BudgetBusy, 503, "server_error", "overloaded_error", "budget_busy")]
#[case::bad_request_error(
    Refusal::UnboundedTool { tool: "web search" },
    400,
    "invalid_request_error",
    "invalid_request_error",
    "unbounded_tool"
)]
#[case::service_unavailable_error(Refusal::PriceMissing, 503, "server_error", "overloaded_error", "price_missing")]
#[case::rate_limit_error(
    Refusal::TaskRequestTooLarge { limit: 8000, most: 9000 },
    429,
    "rate_limit_error",
    "rate_limit_error",
    "task_limit_exceeded"
)]
#[case::rate_limit_error(task_limit(Unit::Tokens, 0), 429, "rate_limit_error", "rate_limit_error", "task_limit_exceeded")]
#[case::service_unavailable_error(Refusal::TaskBusy, 503, "server_error", "overloaded_error", "task_busy")]
#[case::rate_limit_error(
    Refusal::IdenticalRequests { limit: 20 },
    429,
    "rate_limit_error",
    "rate_limit_error",
    "identical_requests"
)]
#[case::rate_limit_error(
    failed(FailureKind::RateLimited, None),
    429,
    "rate_limit_error",
    "rate_limit_error",
    "rate_limit_exceeded"
)]
#[case::rate_limit_error(
    failed(FailureKind::QuotaExhausted, None),
    429,
    "rate_limit_error",
    "rate_limit_error",
    "rate_limit_exceeded"
)]
#[case::gateway_timeout_error(failed(FailureKind::Timeout, None), 504, "server_error", "timeout_error", "backend_timeout")]
#[case::service_unavailable_error(
    failed(FailureKind::Unavailable, None),
    503,
    "server_error",
    "overloaded_error",
    "backend_unavailable"
)]
#[case::internal_server_error(failed(FailureKind::KeyRejected, None), 502, "server_error", "api_error", "backend_key_rejected")]
#[case::not_found_error(failed(FailureKind::NotFound, None), 404, "invalid_request_error", "not_found_error", "model_not_found")]
#[case::bad_request_error(
    failed(FailureKind::ContextLengthExceeded, None),
    400,
    "invalid_request_error",
    "invalid_request_error",
    "context_length_exceeded"
)]
#[case::bad_request_error(
    failed(FailureKind::CallerFault, None),
    400,
    "invalid_request_error",
    "invalid_request_error",
    "invalid_request"
)]
fn each_api_has_its_own_shape_type_and_code(
    #[case] refusal: Refusal,
    #[case] status: u16,
    #[case] openai: &str,
    #[case] anthropic: &str,
    #[case] code: &str,
) {
    assert_eq!((refusal.status().as_u16(), refusal.code()), (status, code));

    let answer = refusal.answer(Api::OpenAI, Some("req-1"));
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-request-id"]), (status, &HeaderValue::from_static("req-1")));
    let body = json(&answer);
    assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["error"]);
    assert_eq!((&body["error"]["type"], &body["error"]["code"]), (&json!(openai), &json!(code)));

    let answer = refusal.answer(Api::Anthropic, Some("req-1"));
    assert_eq!((answer.status().as_u16(), &answer.headers()["request-id"]), (status, &HeaderValue::from_static("req-1")));
    let body = json(&answer);
    assert_eq!((&body["type"], &body["request_id"]), (&json!("error"), &json!("req-1")));
    assert_eq!((&body["error"]["type"], &body["error"]["details"]["error_code"]), (&json!(anthropic), &json!(code)));
}

#[test]
fn a_provider_that_refuses_our_key_never_looks_like_a_refusal_of_the_callers() {
    for refusal in all() {
        let allowed = refusal == Refusal::Unauthorized;
        assert!(allowed || refusal.status() != StatusCode::UNAUTHORIZED, "{refusal:?}");
        assert_ne!(refusal.status(), StatusCode::FORBIDDEN, "{refusal:?}");
    }
}

#[test]
fn every_answer_is_json_with_a_message_in_both_shapes() {
    for refusal in all() {
        for api in [Api::OpenAI, Api::Anthropic] {
            let answer = refusal.answer(api, None);
            assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
            let message = json(&answer)["error"]["message"].as_str().unwrap().to_owned();
            assert!(!message.is_empty() && answer.status().as_u16() >= 400, "{refusal:?}");
        }
    }
}

#[rstest]
#[case::rounded_up(failed(FailureKind::RateLimited, Some(1_001)), Some("2"))]
#[case::whole(failed(FailureKind::RateLimited, Some(2_000)), Some("2"))]
#[case::at_least_a_second(failed(FailureKind::RateLimited, Some(0)), Some("1"))]
#[case::spent_quota(failed(FailureKind::QuotaExhausted, Some(300_000)), Some("300"))]
#[case::unavailable(failed(FailureKind::Unavailable, Some(30_000)), Some("30"))]
#[case::timeout(failed(FailureKind::Timeout, Some(30_000)), Some("30"))]
#[case::unknown(failed(FailureKind::RateLimited, None), None)]
#[case::of_no_use(failed(FailureKind::KeyRejected, Some(30_000)), None)]
#[case::starting(Refusal::BackendStarting { expected_in: Some(Duration::from_secs(95)) }, Some("95"))]
#[case::starting_some_time(Refusal::BackendStarting { expected_in: None }, None)]
#[case::without_a_plan(Refusal::NoPlan, Some("1"))]
#[case::without_room(Refusal::NoRoom, Some("1"))]
#[case::another_path(Refusal::FormatNotSupported, None)]
#[case::tier(Refusal::NoBackendInTier, None)]
#[case::until_a_budget_begins_anew(exceeded(Some(3600)), Some("3600"))]
#[case::a_day_of_a_budget_at_most(exceeded(Some(14 * 86_400)), Some("86400"))]
#[case::a_budget_that_should_have_begun_anew(exceeded(Some(-5)), Some("1"))]
#[case::a_budget_that_never_does(exceeded(None), None)]
#[case::new_tasks(Refusal::new_tasks_refused(spent(Some(60)), now()), Some("60"))]
#[case::an_unknown_budget(Refusal::BudgetUnknown { budget: "sprint".to_owned() }, Some("1"))]
#[case::a_busy_budget(Refusal::BudgetBusy, Some("1"))]
#[case::another_tool(Refusal::UnboundedTool { tool: "web search" }, None)]
#[case::no_price(Refusal::PriceMissing, None)]
#[case::a_task_at_its_limit(task_limit(Unit::Tokens, 0), None)]
#[case::a_busy_task(Refusal::TaskBusy, Some("1"))]
#[case::a_request_again(Refusal::IdenticalRequests { limit: 20 }, None)]
fn retry_after_is_in_whole_seconds(#[case] refusal: Refusal, #[case] expected: Option<&str>) {
    for api in [Api::OpenAI, Api::Anthropic] {
        let answer = refusal.answer(api, None);
        assert_eq!(answer.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap()), expected);
    }
}

#[rstest]
#[case(Refusal::NoBackendInTier, true)]
#[case(failed(FailureKind::KeyRejected, None), true)]
#[case(failed(FailureKind::RateLimited, Some(120_000)), false)]
#[case(failed(FailureKind::RateLimited, Some(121_000)), true)]
#[case(Refusal::BackendStarting { expected_in: Some(Duration::from_secs(1200)) }, true)]
#[case(failed(FailureKind::Unavailable, None), false)]
#[case(Refusal::Internal, false)]
#[case(exceeded(Some(5)), true)]
#[case(Refusal::new_tasks_refused(spent(Some(5)), now()), true)]
#[case(Refusal::BudgetUnknown { budget: "sprint".to_owned() }, false)]
#[case(Refusal::BudgetBusy, false)]
#[case(Refusal::PriceMissing, true)]
#[case(Refusal::TaskRequestTooLarge { limit: 8000, most: 9000 }, true)]
#[case(task_limit(Unit::Tokens, 0), true)]
#[case(Refusal::TaskBusy, false)]
#[case(Refusal::IdenticalRequests { limit: 20 }, true)]
fn an_sdk_repeats_only_what_may_succeed_before_its_agent_looks_hung(#[case] refusal: Refusal, #[case] no_use: bool) {
    let answer = refusal.answer(Api::Anthropic, None);
    assert_eq!(answer.headers().get("x-should-retry").map(|value| value.to_str().unwrap()), no_use.then_some("false"));
}

#[test]
fn a_budget_says_its_name_what_is_left_when_it_begins_anew_and_what_its_owner_says() {
    let refusal = exceeded(Some(3600));
    let expected = json!({
        "name": "sprint", "unit": "tokens", "limit": 5_000_000, "left": 120, "resetsAt": "2026-11-26T11:00:00Z", "message": "Ask #platform.",
    });
    let openai = json(&refusal.answer(Api::OpenAI, None));
    assert_eq!(openai["error"]["budget"], expected);
    assert_eq!(
        openai["error"]["message"],
        "the budget sprint has 120 of 5000000 tokens left, which is less than this call may use; it begins anew at \
         2026-11-26T11:00:00Z. Ask #platform."
    );
    let anthropic = json(&refusal.answer(Api::Anthropic, None));
    assert_eq!(anthropic["error"]["details"]["budget"], expected);
    assert_eq!(anthropic["error"]["message"], openai["error"]["message"]);
    assert_eq!(json(&Refusal::BudgetBusy.answer(Api::OpenAI, None))["error"].get("budget"), None);
}

#[test]
fn who_is_refused_for_its_task_is_told_by_which_limit_and_what_is_left() {
    let of = |refusal: Refusal, api| json(&refusal.answer(api, None))["error"].clone();
    let tokens = of(task_limit(Unit::Tokens, 50), Api::OpenAI);
    assert_eq!(tokens["taskLimit"], json!({ "name": "maxTokensPerTask", "limit": 2_000_000, "left": 50 }));
    assert_eq!(
        tokens["message"],
        "this task has 50 of 2000000 tokens left, which is less than this call may use: taskLimits.maxTokensPerTask of its \
         AgentPool is reached"
    );
    let cost = of(task_limit(Unit::Cost, 1_500_000), Api::Anthropic);
    let limit = json!({ "name": "maxCostPerTask", "limit": "2.00", "left": "1.50" });
    assert_eq!((&cost["details"]["taskLimit"], cost.get("taskLimit")), (&limit, None));
    assert!(cost["message"].as_str().unwrap().starts_with("this task has 1.50 of 2.00 left"));
    let large = of(Refusal::TaskRequestTooLarge { limit: 8000, most: 9000 }, Api::OpenAI);
    assert_eq!(large["taskLimit"], json!({ "name": "maxTokensPerRequest", "limit": 8000, "left": 8000 }));
    assert!(large["message"].as_str().unwrap().starts_with("this call may use 9000 tokens, and one of a task may use 8000"));
    let again = of(Refusal::IdenticalRequests { limit: 20 }, Api::OpenAI);
    assert_eq!(again["taskLimit"], json!({ "name": "maxIdenticalRequests", "limit": 20, "left": 0 }));
    assert!(again["message"].as_str().unwrap().contains("this very request 20 times"));
    assert_eq!(of(Refusal::TaskBusy, Api::OpenAI).get("taskLimit"), None);
}

#[test]
fn money_is_told_with_exact_decimals() {
    let cost = |limit, left| {
        let refused = Refused { unit: Unit::Cost, limit, left, message: None, ..spent(None) };
        json(&Refusal::budget_exceeded(refused, now()).answer(Api::OpenAI, None))["error"].clone()
    };
    let error = cost(250_000_000, 1_200_000);
    assert_eq!(error["message"], "the budget sprint has 1.20 of 250.00 left, which is less than this call may use");
    assert_eq!((&error["budget"]["limit"], &error["budget"]["left"]), (&json!("250.00"), &json!("1.20")));
    assert_eq!((&error["budget"]["resetsAt"], &error["budget"]["message"]), (&Value::Null, &Value::Null));
    assert_eq!(cost(250_000_000, 7)["budget"]["left"], "0.000007");
}

#[test]
fn new_tasks_hear_that_those_that_have_begun_go_on() {
    let answer = Refusal::new_tasks_refused(spent(None), now()).answer(Api::OpenAI, None);
    let message = json(&answer)["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("no new one begin") && message.contains("120 of 5000000 tokens"), "{message}");
    assert_eq!(json(&answer)["error"]["budget"]["name"], "sprint");
}

#[test]
fn a_wrong_method_and_a_missing_key_say_what_http_wants_of_them() {
    assert_eq!(Refusal::MethodNotAllowed { allowed: "POST" }.answer(Api::OpenAI, None).headers()[ALLOW], "POST");
    assert_eq!(Refusal::Unauthorized.answer(Api::OpenAI, None).headers()[WWW_AUTHENTICATE], "Bearer");
}

#[test]
fn the_wrong_field_is_named_where_each_api_names_it() {
    let refusal = invalid(Some("max_tokens"));
    assert_eq!(json(&refusal.answer(Api::OpenAI, None))["error"]["param"], "max_tokens");
    assert_eq!(json(&refusal.answer(Api::Anthropic, None))["error"]["message"], "max_tokens: must be a text");
    assert_eq!(json(&Refusal::FormatNotSupported.answer(Api::OpenAI, None))["error"]["param"], "model");
    assert_eq!(json(&invalid(None).answer(Api::OpenAI, None))["error"]["param"], Value::Null);
}

#[test]
fn clients_know_a_prompt_that_is_too_long_by_the_words_of_their_provider() {
    let refusal = failed(FailureKind::ContextLengthExceeded, None);
    let message = |api| json(&refusal.answer(api, None))["error"]["message"].as_str().unwrap().to_owned();
    assert!(message(Api::Anthropic).starts_with("prompt is too long"));
    assert!(message(Api::OpenAI).contains("maximum context length"));
}

#[test]
fn an_id_that_no_header_can_carry_is_left_out_of_the_headers() {
    let answer = Refusal::Internal.answer(Api::OpenAI, Some("a\nb"));
    assert_eq!(answer.headers().get("x-request-id"), None);
}
