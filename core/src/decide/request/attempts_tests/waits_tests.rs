//! How long a call waits, and until when.

use rstest::rstest;

use super::*;

#[test]
fn a_backend_that_asks_for_a_short_wait_is_asked_again_after_it() {
    let mut gateway = Gateway::of(&["a"], &[]);
    let steps =
        gateway.scripted(&[("a", fail_for(RateLimited, 7)), ("a", fail_for(Unavailable, 3)), ("a", fail_for(RateLimited, 60))]);
    assert_eq!(steps, ["a", "wait 7s", "retry 1 a", "wait 3s", "retry 2 a", "gives up: RateLimited, again in 60s"]);
}

#[test]
fn a_backend_that_asks_for_a_long_wait_is_not_waited_for() {
    for kind in [RateLimited, Unavailable] {
        let mut gateway = Gateway::of(&["a"], &[]);
        assert_eq!(gateway.scripted(&[("a", fail_for(kind, 11))]), ["a".to_owned(), format!("gives up: {kind:?}, again in 11s")]);
    }
}

#[test]
fn a_refusal_that_reaches_the_client_carries_the_smallest_wait() {
    let mut gateway = Gateway::of(&["a", "b"], &["c", "d"]);
    let limited = |wait| fail_for(RateLimited, wait);
    let script = [("a", limited(90)), ("b", limited(40)), ("c", limited(50)), ("d", limited(70))];
    let steps = gateway.scripted(&script);
    // The wait before the retry has passed.
    assert_eq!(steps, ["a", "wait 500ms", "retry 1 b", "fallback c", "fallback d", "gives up: RateLimited, again in 40s"]);
    gateway.now += seconds(10);
    assert_eq!(gateway.scripted(&script), ["nothing to ask: too many calls for its keys, again in 30s"]);
}

#[test]
fn a_call_waits_for_a_limit_that_is_new_soon_where_nobody_else_can_answer() {
    let cases: [(&[&str], u64, &[&str]); 3] = [
        (&[], 55, &["wait 5s", "a", "answered"]),
        (&[], 49, &["nothing to ask: too many calls for its keys, again in 11s"]),
        (&["c"], 55, &["fallback c", "answered"]),
    ];
    for (fallbacks, passed, expected) in cases {
        let mut gateway = Gateway::of(&["a"], fallbacks);
        let first = gateway.scripted(&[("a", fail_for(RateLimited, 60))]);
        assert_eq!(first[0], "a");
        gateway.now += seconds(passed);
        assert_eq!(gateway.failing(&[]), expected);
    }
    let mut gateway = Gateway::of(&["a"], &[]);
    gateway.route().timeouts.request = seconds(4);
    gateway.scripted(&[("a", fail_for(RateLimited, 60))]);
    gateway.now += seconds(55);
    assert_eq!(gateway.failing(&[]), ["nothing to ask: too many calls for its keys, again in 5s"], "longer than the call may take");
}

#[test]
fn all_attempts_together_have_the_time_of_the_request() {
    let mut gateway = Gateway::of(&["a", "b"], &["c"]);
    gateway.takes = seconds(250);
    gateway.route().timeouts.request = seconds(500);
    assert_eq!(
        gateway.failing(&[("a", Timeout), ("b", Timeout), ("c", Timeout)]),
        ["a", "wait 500ms", "retry 1 b", "gives up: Timeout"]
    );
    // A retry that would begin too late is none: the fallback is asked at once.
    let mut gateway = Gateway::of(&["a"], &["c"]);
    gateway.takes = seconds(250);
    gateway.route().timeouts.request = milliseconds(250_400);
    assert_eq!(gateway.failing(&[("a", Timeout)]), ["a", "fallback c", "answered"]);
}

#[rstest]
#[case(true, 120)]
#[case(false, 600)]
fn a_stream_has_its_own_time_to_the_first_content(#[case] streams: bool, #[case] deadline: u64) {
    let mut gateway = Gateway::of(&["a"], &[]);
    let labels = Labels::new();
    let plan = gateway.plan.clone();
    let world = World { plan: &plan, endpoints: &Endpoints::new(), key_value: &|_, _| Some([1; 32]) };
    let mut next = |request| {
        let mut plan = plan.clone();
        plan.routes.get_mut("smart").unwrap().timeouts.request = request;
        let world = World { plan: &plan, ..world };
        let mut attempts = Attempts::new(&world, &mut gateway.learned, &call(&labels), streams, seconds(1000)).unwrap();
        let Step::Attempt(attempt) = attempts.next(&world, &mut gateway.learned, seconds(1000), 1.0) else { panic!() };
        attempt.deadline
    };
    assert_eq!(next(seconds(600)), seconds(1000 + deadline));
    assert_eq!(next(seconds(30)), seconds(1030), "and never more than the whole call");
}

#[test]
fn the_wait_before_a_retry_is_by_chance_up_to_a_bound_that_doubles() {
    let mut gateway = Gateway::of(&["a"], &[]);
    let fails = [(); 7].map(|()| ("a", fail(Unavailable)));
    gateway.route().retries.max_retries = 6;
    gateway.route().circuit_breaker.failures = 100;
    let waits = |steps: Vec<String>| steps.into_iter().filter(|step| step.starts_with("wait")).collect::<Vec<_>>();
    assert_eq!(waits(gateway.scripted(&fails)), ["wait 500ms", "wait 1s", "wait 2s", "wait 4s", "wait 8s", "wait 10s"]);
    gateway.now += seconds(60);
    gateway.chance = 0.25;
    assert_eq!(waits(gateway.scripted(&fails)), ["wait 125ms", "wait 250ms", "wait 500ms", "wait 1s", "wait 2s", "wait 2.5s"]);
    gateway.now += seconds(60);
    gateway.chance = 0.0;
    assert_eq!(waits(gateway.scripted(&fails)), [""; 0], "no wait is no step");
}
