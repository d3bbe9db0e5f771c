//! Who is asked, and who is left out.

use super::*;
use crate::api::model_route::{DataPolicy, Strategy};

#[test]
fn when_everything_is_down_retries_stay_within_the_budget_and_calls_within_their_lists() {
    let mut gateway = Gateway::of(&["a", "b"], &["c"]);
    gateway.route().circuit_breaker.failures = 1000;
    gateway.route().retries.initial = Duration::ZERO;
    let mut attempts = 0;
    for _ in 0..100 {
        let steps = gateway.failing(&[("a", Unavailable), ("b", Unavailable), ("c", Unavailable)]);
        assert!(steps.len() <= 1 + 2 + 1 + 1, "{steps:?}");
        attempts += steps.iter().filter(|step| *step == "a" || step.starts_with("retry")).count();
    }
    assert_eq!(attempts, 100 + 20 + 10);
}

#[test]
fn an_open_breaker_costs_no_attempt_and_closes_with_the_call_that_tries() {
    let mut gateway = Gateway::of(&["a"], &["c"]);
    gateway.failing(&[("a", Unavailable)]);
    assert_eq!(gateway.failing(&[("a", Unavailable)]), ["fallback c", "answered"]);
    gateway.now += seconds(30);
    assert_eq!(gateway.failing(&[("a", Unavailable)]), ["a", "fallback c", "answered"], "it tries, and leaves it alone again");
    gateway.now += seconds(29);
    assert_eq!(gateway.failing(&[]), ["fallback c", "answered"]);
    gateway.now += seconds(1);
    assert_eq!(gateway.failing(&[]), ["a", "answered"]);
    assert_eq!(gateway.scripted(&[("a", fail(Unavailable))]), ["a", "wait 500ms", "retry 1 a", "answered"], "closed");
}

#[test]
fn a_backend_without_a_ready_pod_is_skipped_and_what_is_left_out_counts_as_unavailable() {
    let mut gateway = Gateway::of(&["a", "b"], &[]);
    gateway.route().fallback = vec![fallback("c", &[FallbackCause::RateLimited]), fallback("d", &[FallbackCause::Unavailable])];
    let starting = BackendEndpoints { ready: [].into(), expected_in_seconds: Some(40) };
    gateway.endpoints.insert("a".to_owned(), starting.clone());
    assert_eq!(gateway.failing(&[]), ["b", "answered"]);
    gateway.endpoints.insert("b".to_owned(), BackendEndpoints { expected_in_seconds: Some(20), ..starting.clone() });
    assert_eq!(gateway.failing(&[]), ["fallback d", "answered"]);
    gateway.endpoints.insert("d".to_owned(), starting);
    assert_eq!(gateway.failing(&[]), ["nothing to ask: it is starting: no pod of it is ready, again in 20s, wakes d"]);
}

#[test]
fn a_fallback_at_zero_that_would_have_answered_is_woken() {
    let mut gateway = Gateway::of(&["a"], &[]);
    gateway.route().fallback = vec![fallback("c", &[FallbackCause::RateLimited]), fallback("d", &[FallbackCause::NotFound])];
    for name in ["c", "d"] {
        let starting = BackendEndpoints { ready: [].into(), expected_in_seconds: Some(40) };
        gateway.endpoints.insert(name.to_owned(), starting);
    }
    assert_eq!(gateway.failing(&[("a", NotFound)]), ["a", "gives up: NotFound, again in 40s, wakes d"]);
}

#[test]
fn a_backend_whose_pod_is_overdue_is_not_asked() {
    let mut gateway = Gateway::of(&["a"], &[]);
    gateway.endpoints.insert("a".to_owned(), BackendEndpoints { ready: [].into(), expected_in_seconds: Some(0) });
    assert_eq!(gateway.failing(&[]), ["nothing to ask: it is starting: no pod of it is ready"]);
}

#[test]
fn a_rule_whose_candidates_are_out_goes_to_the_fallback_and_not_to_the_plain_backends() {
    let mut gateway = Gateway::of(&["a"], &["c"]);
    let rule = crate::decide::gateway::plan::Rule {
        name: "all".to_owned(),
        when: Default::default(),
        strategy: Strategy::Priority,
        backends: vec![candidate("b")],
    };
    gateway.route().rules = vec![rule];
    gateway.backend("b").formats.clear();
    assert_eq!(gateway.failing(&[]), ["fallback c", "answered"]);
    gateway.route().fallback.clear();
    assert_eq!(gateway.failing(&[]), ["nothing to ask: it does not speak ChatCompletions, the format of the call"]);
}

#[test]
fn a_filter_holds_for_the_fallback_too() {
    let mut gateway = Gateway::of(&["a"], &["c", "d"]);
    gateway.route().data_policy = DataPolicy::SelfHostedOnly;
    gateway.backend("a").self_hosted = true;
    gateway.backend("d").self_hosted = true;
    gateway.route().retries.max_retries = 0;
    assert_eq!(gateway.failing(&[("a", Unavailable)]), ["a", "fallback d", "answered"]);
    gateway.backend("d").self_hosted = false;
    assert_eq!(gateway.failing(&[("a", Unavailable)]), ["a", "gives up: Unavailable"]);
}

#[test]
fn a_backend_that_was_asked_is_not_asked_again_as_a_fallback() {
    let mut gateway = Gateway::of(&["a", "b"], &["a", "b", "c"]);
    gateway.route().retries.max_retries = 0;
    assert_eq!(gateway.failing(&[("a", Unavailable)]), ["a", "fallback b", "answered"]);
}

#[test]
fn a_call_that_goes_on_from_what_one_backend_keeps_is_tried_again_there_or_nowhere() {
    let mut gateway = Gateway::of(&["a", "b"], &["c"]);
    gateway.stored_input = true;
    assert_eq!(gateway.scripted(&[("a", fail(Unavailable))]), ["a", "wait 500ms", "retry 1 a", "answered"]);
    assert_eq!(gateway.failing(&[("a", RateLimited)])[4..], ["retry 2 a", "gives up: RateLimited, again in 5s"]);
    assert_eq!(gateway.failing(&[("a", NotFound)]), ["b", "answered"], "the first goes where the strategy says");
}

#[test]
fn a_route_whose_rules_do_not_match_has_its_fallback_alone() {
    let mut gateway = Gateway::of(&[], &["c"]);
    assert_eq!(gateway.failing(&[]), ["fallback c", "answered"]);
    gateway.route().fallback.clear();
    assert_eq!(gateway.failing(&[]), ["no candidates"]);
}

#[test]
fn pods_share_the_calls_and_a_retry_takes_another() {
    let mut gateway = Gateway::of(&["a"], &[]);
    let pods = ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"].map(|pod| pod.parse().unwrap());
    gateway.endpoints.insert("a".to_owned(), BackendEndpoints { ready: pods.into(), expected_in_seconds: None });
    let mut seen = Vec::new();
    let mut failures = 2;
    gateway.call(&mut |attempt| {
        seen.push(attempt.running.pod().unwrap());
        failures -= 1;
        if failures < 0 { Does::Answer } else { fail(Unavailable) }
    });
    assert_eq!(seen.iter().copied().collect::<BTreeSet<SocketAddr>>().len(), 3, "{seen:?}");
}
