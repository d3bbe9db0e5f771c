//! What follows each kind of failure, in each place.

use rstest::rstest;

use super::*;

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
