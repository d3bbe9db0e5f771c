use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use rstest::rstest;

use super::super::fixtures::{self, candidate, fallback, milliseconds, seconds};
use super::super::labels::Labels;
use super::super::learned::Outcome;
use super::*;
use crate::api::format::Format;
use crate::api::model_route::{DataPolicy, Strategy};
use crate::decide::gateway::plan::{Backend, BackendEndpoints, Endpoints, Plan, Route};
use FailureKind::{CallerFault, ContextLengthExceeded, KeyRejected, NotFound, QuotaExhausted, RateLimited, Timeout, Unavailable};

const KINDS: [FailureKind; 8] = FailureKind::ALL;

/// A gateway without a network: backends do what a script says.
struct Gateway {
    plan: Plan,
    endpoints: Endpoints,
    learned: Learned,
    now: Duration,
    chance: f64,
    /// How long an attempt takes that fails or is answered.
    takes: Duration,
    stored_input: bool,
}

/// How a scripted backend treats a call.
#[derive(Clone, Debug)]
enum Does {
    Answer,
    Fail(Failure),
}

fn fail(kind: FailureKind) -> Does {
    Does::Fail(Failure { kind, retry_after: None })
}

fn fail_for(kind: FailureKind, wait: u64) -> Does {
    Does::Fail(Failure { kind, retry_after: Some(seconds(wait)) })
}

impl Gateway {
    fn new(route: Route, backends: &[(&str, Backend)]) -> Self {
        let plan = fixtures::plan(route, backends);
        Self {
            plan,
            endpoints: Endpoints::new(),
            learned: Learned::default(),
            now: seconds(1000),
            chance: 1.0,
            takes: Duration::ZERO,
            stored_input: false,
        }
    }

    /// Candidates a and b and fallbacks c and d as far as named, each with one key.
    fn of(candidates: &[&str], fallbacks: &[&str]) -> Self {
        let fallback = fallbacks.iter().map(|backend| fallback(backend, &[])).collect();
        let route = Route { fallback, ..fixtures::route(candidates) };
        Self::new(route, &["a", "b", "c", "d"].map(|name| (name, fixtures::backend(&["k"]))))
    }

    fn route(&mut self) -> &mut Route {
        self.plan.routes.get_mut("smart").unwrap()
    }

    fn backend(&mut self, name: &str) -> &mut Backend {
        self.plan.backends.get_mut(name).unwrap()
    }

    fn settle(&mut self, running: Running, outcome: Outcome<'_>) {
        self.learned.ended(running, outcome, self.now);
    }

    /// What one call does, step by step, and its end.
    fn call(&mut self, does: &mut dyn FnMut(&Attempt) -> Does) -> Vec<String> {
        let labels = Labels::new();
        let (plan, endpoints) = (self.plan.clone(), self.endpoints.clone());
        let world = World { plan: &plan, endpoints: &endpoints, key_value: &|_, _| Some([1; 32]) };
        let call = Call { stored_input: self.stored_input, ..call(&labels) };
        let mut attempts = Attempts::new(&world, &mut self.learned, &call, true, self.now).unwrap();
        let mut log = Vec::new();
        loop {
            assert!(log.len() < 1000, "it does not end: {:?}", &log[..20]);
            match attempts.next(&world, &mut self.learned, self.now, self.chance) {
                Step::Attempt(attempt) => {
                    log.push(told(&attempt, &plan));
                    let done = does(&attempt);
                    self.now += self.takes;
                    match done {
                        Does::Answer => {
                            attempts.content();
                            self.learned.content(&attempt.running);
                            self.settle(attempt.running, Outcome::Succeeded);
                            assert!(matches!(
                                attempts.next(&world, &mut self.learned, self.now, self.chance),
                                Step::GiveUp(GiveUp { reason: GiveUpReason::Begun, wait: None, .. })
                            ));
                            log.push("answered".to_owned());
                            return log;
                        }
                        Does::Fail(failure) => {
                            self.settle(attempt.running, Outcome::Failed(&failure));
                            attempts.failed(&failure, self.now);
                        }
                    }
                }
                Step::Wait(wait) => {
                    assert!(!wait.is_zero());
                    log.push(format!("wait {wait:?}"));
                    self.now += wait;
                }
                Step::GiveUp(GiveUp { reason, wait, starting }) => {
                    let wait = wait.map_or(String::new(), |wait| format!(", again in {wait:?}"));
                    let wakes = starting.iter().map(|backend| format!(", wakes {backend}")).collect::<String>();
                    log.push(match reason {
                        GiveUpReason::Failed(kind) => format!("gives up: {kind:?}{wait}{wakes}"),
                        GiveUpReason::NothingToAsk(exclusion) => format!("nothing to ask: {exclusion}{wait}{wakes}"),
                        GiveUpReason::NoCandidates => "no candidates".to_owned(),
                        GiveUpReason::Begun => panic!("nothing has begun"),
                    });
                    return log;
                }
            }
        }
    }

    /// A call of which backends do what the script says, in this order each, and then answer.
    fn scripted(&mut self, script: &[(&str, Does)]) -> Vec<String> {
        let mut script: Vec<(String, Does)> = script.iter().map(|(name, does)| ((*name).to_owned(), does.clone())).collect();
        self.call(&mut |attempt| match script.iter().position(|(name, _)| name == attempt.running.backend()) {
            Some(place) => script.remove(place).1,
            None => Does::Answer,
        })
    }

    /// A call of which these backends always fail so.
    fn failing(&mut self, kinds: &[(&str, FailureKind)]) -> Vec<String> {
        let kinds: BTreeMap<&str, FailureKind> = kinds.iter().copied().collect();
        self.call(&mut |attempt| kinds.get(attempt.running.backend()).map_or(Does::Answer, |kind| fail(*kind)))
    }
}

fn call<'a>(labels: &'a Labels<'a>) -> Call<'a> {
    Call {
        route: "smart",
        caller: "coder",
        labels,
        format: Format::ChatCompletions,
        prompt_tokens: 100,
        output_limit: None,
        tier_ceiling: None,
        needs_price: false,
        budget_used_percent: None,
        stored_input: false,
    }
}

/// An attempt in words: the key only where the backend has several.
fn told(attempt: &Attempt, plan: &Plan) -> String {
    let (backend, key) = (attempt.running.backend(), attempt.running.key());
    let several = plan.backends[backend].keys.len() > 1;
    let place = if several { format!("{backend}/{}", key.unwrap()) } else { backend.to_owned() };
    match attempt.why {
        Why::Chosen => place,
        Why::NextKey => format!("key {place}"),
        Why::Retry(number) => format!("retry {number} {place}"),
        Why::Fallback => format!("fallback {place}"),
    }
}

#[rstest]
#[case(QuotaExhausted, &["a", "fallback c", "answered"])]
#[case(RateLimited, &["a", "fallback c", "answered"])]
#[case(Timeout, &["a", "wait 500ms", "retry 1 a", "wait 1s", "retry 2 a", "fallback c", "answered"])]
#[case(Unavailable, &["a", "wait 500ms", "retry 1 a", "wait 1s", "retry 2 a", "fallback c", "answered"])]
#[case(KeyRejected, &["a", "fallback c", "answered"])]
#[case(NotFound, &["a", "fallback c", "answered"])]
#[case(ContextLengthExceeded, &["a", "fallback c", "answered"])]
#[case(CallerFault, &["a", "gives up: CallerFault"])]
fn one_candidate_that_fails_and_a_fallback(#[case] kind: FailureKind, #[case] steps: &[&str]) {
    assert_eq!(Gateway::of(&["a"], &["c", "d"]).failing(&[("a", kind)]), steps);
    let mut without_keys = Gateway::of(&["a"], &["c", "d"]);
    without_keys.backend("a").keys.clear();
    assert_eq!(without_keys.failing(&[("a", kind)]), steps);
}

#[rstest]
#[case(QuotaExhausted, &["a", "gives up: QuotaExhausted, again in 300s"])]
#[case(RateLimited, &["a", "wait 5s", "retry 1 a", "wait 5s", "retry 2 a", "gives up: RateLimited, again in 5s"])]
#[case(Timeout, &["a", "wait 500ms", "retry 1 a", "wait 1s", "retry 2 a", "gives up: Timeout, again in 30s"])]
#[case(Unavailable, &["a", "wait 500ms", "retry 1 a", "wait 1s", "retry 2 a", "gives up: Unavailable, again in 30s"])]
#[case(KeyRejected, &["a", "gives up: KeyRejected"])]
#[case(NotFound, &["a", "gives up: NotFound"])]
#[case(ContextLengthExceeded, &["a", "gives up: ContextLengthExceeded"])]
#[case(CallerFault, &["a", "gives up: CallerFault"])]
fn one_candidate_that_fails_and_nobody_else(#[case] kind: FailureKind, #[case] steps: &[&str]) {
    assert_eq!(Gateway::of(&["a"], &[]).failing(&[("a", kind)]), steps);
}

#[rstest]
#[case(QuotaExhausted, true)]
#[case(RateLimited, true)]
#[case(Timeout, true)]
#[case(Unavailable, true)]
#[case(KeyRejected, true)]
#[case(NotFound, true)]
#[case(ContextLengthExceeded, true)]
#[case(CallerFault, false)]
fn the_first_of_two_candidates_fails(#[case] kind: FailureKind, #[case] goes_on: bool) {
    let steps = Gateway::of(&["a", "b"], &["c"]).failing(&[("a", kind)]);
    if goes_on {
        assert_eq!(steps, ["a", "wait 500ms", "retry 1 b", "answered"]);
    } else {
        assert_eq!(steps, ["a", "gives up: CallerFault"]);
    }
}

#[rstest]
#[case(QuotaExhausted, &["wait 1s", "retry 2 a", "answered"])]
#[case(RateLimited, &["wait 1s", "retry 2 a", "answered"])]
#[case(Timeout, &["wait 1s", "retry 2 a", "answered"])]
#[case(Unavailable, &["wait 1s", "retry 2 a", "answered"])]
#[case(KeyRejected, &["wait 1s", "retry 2 a", "answered"])]
#[case(NotFound, &["wait 1s", "retry 2 a", "answered"])]
#[case(ContextLengthExceeded, &["wait 1s", "retry 2 a", "answered"])]
#[case(CallerFault, &["gives up: CallerFault"])]
fn the_retry_fails(#[case] kind: FailureKind, #[case] steps: &[&str]) {
    let mut gateway = Gateway::of(&["a", "b"], &["c"]);
    let found = gateway.scripted(&[("a", fail(Unavailable)), ("b", fail(kind))]);
    assert_eq!(found, [&["a", "wait 500ms", "retry 1 b"], steps].concat());
}

#[rstest]
fn the_last_retry_fails(#[values(0, 1, 2, 3, 4, 5, 6, 7)] kind: usize) {
    let kind = KINDS[kind];
    let mut gateway = Gateway::of(&["a", "b"], &["c"]);
    let found = gateway.scripted(&[("a", fail(Unavailable)), ("b", fail(Timeout)), ("a", fail(kind))]);
    let end: &[&str] = if kind == CallerFault { &["gives up: CallerFault"] } else { &["fallback c", "answered"] };
    assert_eq!(found, [&["a", "wait 500ms", "retry 1 b", "wait 1s", "retry 2 a"], end].concat());
}

#[rstest]
#[case(QuotaExhausted, &["fallback d", "answered"])]
#[case(RateLimited, &["fallback d", "answered"])]
#[case(Timeout, &["fallback d", "answered"])]
#[case(Unavailable, &["fallback d", "answered"])]
#[case(KeyRejected, &["fallback d", "answered"])]
#[case(NotFound, &["fallback d", "answered"])]
#[case(ContextLengthExceeded, &["fallback d", "answered"])]
#[case(CallerFault, &["gives up: CallerFault"])]
fn the_fallback_fails(#[case] kind: FailureKind, #[case] steps: &[&str]) {
    let mut gateway = Gateway::of(&["a"], &["c", "d"]);
    gateway.route().retries.max_retries = 0;
    assert_eq!(gateway.failing(&[("a", Unavailable), ("c", kind)]), [&["a", "fallback c"], steps].concat());
}

#[rstest]
#[case(QuotaExhausted, "gives up: QuotaExhausted, again in 300s")]
#[case(RateLimited, "gives up: RateLimited, again in 5s")]
#[case(Timeout, "gives up: Timeout")]
#[case(Unavailable, "gives up: Unavailable")]
#[case(KeyRejected, "gives up: KeyRejected")]
#[case(NotFound, "gives up: NotFound")]
#[case(ContextLengthExceeded, "gives up: ContextLengthExceeded")]
#[case(CallerFault, "gives up: CallerFault")]
fn the_last_fallback_fails_and_the_chain_does_not_begin_again(#[case] kind: FailureKind, #[case] end: &str) {
    let mut gateway = Gateway::of(&["a"], &["c"]);
    gateway.route().retries.max_retries = 0;
    // The candidate answers again by now, and is not asked.
    assert_eq!(gateway.scripted(&[("a", fail(NotFound)), ("c", fail(kind))]), ["a", "fallback c", end]);
}

#[rstest]
#[case(QuotaExhausted, &["a/k1", "key a/k2", "answered"])]
#[case(RateLimited, &["a/k1", "key a/k2", "answered"])]
#[case(KeyRejected, &["a/k1", "key a/k2", "answered"])]
#[case(Timeout, &["a/k1", "wait 500ms", "retry 1 b", "answered"])]
#[case(Unavailable, &["a/k1", "wait 500ms", "retry 1 b", "answered"])]
#[case(NotFound, &["a/k1", "wait 500ms", "retry 1 b", "answered"])]
#[case(ContextLengthExceeded, &["a/k1", "wait 500ms", "retry 1 b", "answered"])]
#[case(CallerFault, &["a/k1", "gives up: CallerFault"])]
fn a_failure_of_the_key_goes_to_the_next_key_at_once(#[case] kind: FailureKind, #[case] steps: &[&str]) {
    let mut gateway = Gateway::of(&["a", "b"], &["c"]);
    gateway.backend("a").keys = vec!["k1".to_owned(), "k2".to_owned()];
    assert_eq!(gateway.scripted(&[("a", fail(kind))]), steps);
}

#[rstest]
fn when_all_keys_have_failed_the_next_candidate_is_asked(#[values(QuotaExhausted, RateLimited, KeyRejected)] kind: FailureKind) {
    let keys = || ["k1", "k2", "k3"].map(str::to_owned).to_vec();
    let mut gateway = Gateway::of(&["a", "b"], &["c"]);
    gateway.backend("a").keys = keys();
    let asked = ["a/k1", "key a/k2", "key a/k3"];
    assert_eq!(gateway.failing(&[("a", kind)]), [&asked[..], &["wait 500ms", "retry 1 b", "answered"]].concat());
    assert_eq!(gateway.failing(&[("a", kind)]), ["b", "answered"], "the next call leaves it alone");

    let mut gateway = Gateway::of(&["a"], &["c"]);
    gateway.route().retries.max_retries = 0;
    gateway.backend("c").keys = keys();
    let asked = ["a", "fallback c/k1", "key c/k2", "key c/k3"];
    assert_eq!(gateway.failing(&[("a", Unavailable), ("c", kind)])[..4], asked, "a fallback's keys as well");
}

#[rstest]
fn after_the_first_content_no_failure_is_tried_again(#[values(0, 1, 2, 3, 4, 5, 6, 7)] kind: usize) {
    let mut gateway = Gateway::of(&["a", "b"], &["c"]);
    let labels = Labels::new();
    let plan = gateway.plan.clone();
    let world = World { plan: &plan, endpoints: &Endpoints::new(), key_value: &|_, _| Some([1; 32]) };
    let mut attempts = Attempts::new(&world, &mut gateway.learned, &call(&labels), true, gateway.now).unwrap();
    let Step::Attempt(attempt) = attempts.next(&world, &mut gateway.learned, gateway.now, 1.0) else { panic!() };
    attempts.content();
    let failure = Failure { kind: KINDS[kind], retry_after: None };
    gateway.learned.ended(attempt.running, Outcome::Failed(&failure), gateway.now);
    attempts.failed(&failure, gateway.now);
    let step = attempts.next(&world, &mut gateway.learned, gateway.now, 1.0);
    assert_eq!(step, Step::GiveUp(GiveUp { reason: GiveUpReason::Begun, wait: None, starting: Vec::new() }));
    assert_eq!(attempts.made(), 1);
}

#[rstest]
#[case(QuotaExhausted, FallbackCause::RateLimited)]
#[case(RateLimited, FallbackCause::RateLimited)]
#[case(Timeout, FallbackCause::Timeout)]
#[case(Unavailable, FallbackCause::Unavailable)]
#[case(KeyRejected, FallbackCause::Unavailable)]
#[case(NotFound, FallbackCause::NotFound)]
#[case(ContextLengthExceeded, FallbackCause::ContextLengthExceeded)]
fn a_fallback_answers_for_its_causes_only(#[case] kind: FailureKind, #[case] cause: FallbackCause) {
    use FallbackCause as Cause;
    let all = [Cause::RateLimited, Cause::Timeout, Cause::Unavailable, Cause::NotFound, Cause::ContextLengthExceeded];
    let others: Vec<Cause> = all.into_iter().filter(|one| *one != cause).collect();
    let mut gateway = Gateway::of(&["a"], &[]);
    gateway.route().retries.max_retries = 0;
    gateway.route().fallback = vec![fallback("c", &others), fallback("d", &[cause])];
    assert_eq!(gateway.failing(&[("a", kind)]), ["a", "fallback d", "answered"]);
    gateway.learned = Learned::default();
    gateway.route().fallback.pop();
    assert!(gateway.failing(&[("a", kind)])[1].starts_with("gives up"));
}

#[test]
fn a_fallback_answers_for_any_failure_that_the_call_has_met() {
    let mut gateway = Gateway::of(&["a", "b"], &[]);
    gateway.route().fallback = vec![fallback("c", &[FallbackCause::ContextLengthExceeded])];
    let steps = gateway.failing(&[("a", ContextLengthExceeded), ("b", Unavailable)]);
    assert_eq!(steps, ["a", "wait 500ms", "retry 1 b", "wait 1s", "retry 2 b", "fallback c", "answered"]);
}

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

/// A route over a few backends, and what the backends do.
#[derive(Clone, Debug)]
struct Scene {
    candidates: Vec<usize>,
    fallbacks: Vec<(usize, BTreeSet<FallbackCause>)>,
    keys: Vec<usize>,
    policy: bool,
    max_retries: u32,
    percent: u32,
    failures: u32,
    strategy: Strategy,
    outcomes: Vec<(u8, Option<u64>)>,
    chance: f64,
    takes: u64,
}

fn scene() -> impl proptest::strategy::Strategy<Value = Scene> {
    let causes = proptest::sample::subsequence(
        vec![
            FallbackCause::RateLimited,
            FallbackCause::Timeout,
            FallbackCause::Unavailable,
            FallbackCause::NotFound,
            FallbackCause::ContextLengthExceeded,
        ],
        1..=5,
    );
    let causes = causes.prop_map(|causes| causes.into_iter().collect::<BTreeSet<_>>());
    let strategies = [Strategy::Priority, Strategy::RoundRobin, Strategy::Weighted, Strategy::LowestCost];
    let shape = (
        proptest::collection::vec(0_usize..6, 0..4),
        proptest::collection::vec((0_usize..6, causes), 0..4),
        proptest::collection::vec(0_usize..4, 6),
        any::<bool>(),
        proptest::sample::select(strategies.to_vec()),
    );
    let settings = (0_u32..5, 0_u32..=100, 1_u32..6, 0.0..=1.0_f64, 0_u64..100);
    let outcomes = proptest::collection::vec((0_u8..10, proptest::option::of(0_u64..40)), 1..80);
    (shape, settings, outcomes).prop_map(|((candidates, fallbacks, keys, policy, strategy), settings, outcomes)| {
        let (max_retries, percent, failures, chance, takes) = settings;
        let candidates = candidates.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        Scene { candidates, fallbacks, keys, policy, max_retries, percent, failures, strategy, outcomes, chance, takes }
    })
}

impl Scene {
    fn gateway(&self) -> Gateway {
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut route = fixtures::route(&self.candidates.iter().map(|index| names[*index]).collect::<Vec<_>>());
        let fallback =
            |(index, on): &(usize, BTreeSet<FallbackCause>)| fallback(names[*index], &on.iter().copied().collect::<Vec<_>>());
        route.fallback = self.fallbacks.iter().map(fallback).collect();
        route.strategy = self.strategy;
        route.retries.max_retries = self.max_retries;
        route.retries.budget_percent = self.percent;
        route.circuit_breaker.failures = self.failures;
        let keys = ["k1", "k2", "k3"];
        let backend = |index: usize| Backend {
            self_hosted: index.is_multiple_of(2),
            formats: if index == 5 { [].into() } else { [Format::ChatCompletions].into() },
            ..fixtures::backend(&keys[..self.keys[index]])
        };
        let backends: Vec<(&str, Backend)> = names.iter().enumerate().map(|(index, name)| (*name, backend(index))).collect();
        if self.policy {
            route.data_policy = DataPolicy::SelfHostedOnly;
        }
        let mut gateway = Gateway::new(route, &backends);
        gateway.chance = self.chance;
        gateway.takes = seconds(self.takes);
        gateway
    }
}

proptest! {
    #[test]
    fn attempts_end_within_their_bounds_and_go_nowhere_else(scene in scene()) {
        let mut gateway = scene.gateway();
        let route = gateway.plan.routes["smart"].clone();
        let plan = gateway.plan.clone();
        let mut outcomes = scene.outcomes.iter().cycle();
        for _ in 0..scene.outcomes.len() {
            let began = gateway.now;
            let mut attempts: Vec<(String, Option<String>, Why, Duration)> = Vec::new();
            let mut kinds = Vec::new();
            let steps = gateway.call(&mut |attempt| {
                let running = &attempt.running;
                attempts.push((running.backend().to_owned(), running.key().map(str::to_owned), attempt.why, attempt.deadline));
                let (outcome, retry_after) = outcomes.next().unwrap();
                match KINDS.get(usize::from(*outcome)) {
                    Some(kind) => {
                        kinds.push(*kind);
                        Does::Fail(Failure { kind: *kind, retry_after: retry_after.map(seconds) })
                    }
                    None => Does::Answer,
                }
            });
            let count = |holds: &dyn Fn(&Why) -> bool| attempts.iter().filter(|(_, _, why, _)| holds(why)).count();
            let retries = count(&|why| matches!(why, Why::Retry(_)));
            prop_assert!(count(&|why| *why == Why::Chosen) <= 1);
            prop_assert!(retries <= usize::try_from(scene.max_retries).unwrap());
            prop_assert!(scene.percent > 0 || retries == 0);
            prop_assert!(count(&|why| *why == Why::Fallback) <= route.fallback.len());
            let fallbacks: BTreeSet<&String> =
                attempts.iter().filter(|(_, _, why, _)| *why == Why::Fallback).map(|(backend, ..)| backend).collect();
            prop_assert_eq!(fallbacks.len(), count(&|why| *why == Why::Fallback), "each once");
            let keys: Vec<_> = attempts.iter().filter(|(_, _, why, _)| *why == Why::NextKey).map(|(backend, key, ..)| (backend, key)).collect();
            prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "no key is the next one twice");
            for (number, (backend, key, why, deadline)) in attempts.iter().enumerate() {
                let backend_of_plan = &plan.backends[backend];
                prop_assert!(backend_of_plan.formats.contains(&Format::ChatCompletions));
                prop_assert!(backend_of_plan.self_hosted || !scene.policy);
                prop_assert_eq!(key.is_none(), backend_of_plan.keys.is_empty());
                prop_assert!(*deadline <= began + route.timeouts.request);
                match why {
                    Why::Fallback => prop_assert!(route.fallback.iter().any(|fallback| fallback.backend == *backend)),
                    Why::NextKey => {
                        prop_assert!([QuotaExhausted, RateLimited, KeyRejected].contains(&kinds[number - 1]));
                        prop_assert_eq!(backend, &attempts[number - 1].0);
                    }
                    Why::Chosen | Why::Retry(_) => prop_assert!(route.backends.iter().any(|candidate| candidate.backend == *backend)),
                }
            }
            // Nothing follows the caller's own fault, or an answer.
            let last = kinds.iter().position(|kind| *kind == CallerFault);
            prop_assert!(last.is_none_or(|last| last + 1 == attempts.len()));
            let answered = steps.last().is_some_and(|step| step == "answered");
            prop_assert_eq!(attempts.len(), kinds.len() + usize::from(answered));
            let waited: Vec<&String> = steps.iter().filter(|step| step.starts_with("wait")).collect();
            // And once before the first attempt.
            prop_assert!(waited.len() <= usize::try_from(scene.max_retries).unwrap() + 1);
            prop_assert!(gateway.now <= began + route.timeouts.request + gateway.takes, "one attempt may end late, and none begins");
            for name in plan.backends.keys() {
                prop_assert_eq!(gateway.learned.running(name), 0);
            }
            gateway.now += seconds(3);
        }
    }
}
