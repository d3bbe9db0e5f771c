use super::super::fixtures::{self, backend, seconds};
use super::*;

const VALUE: Fingerprint = [1; 32];

fn plan() -> Plan {
    fixtures::plan(fixtures::route(&["a", "b"]), &[("a", backend(&["k1", "k2"])), ("b", backend(&[]))])
}

fn pod(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8000))
}

fn begin(learned: &mut Learned, plan: &Plan, name: &str, pod: Option<SocketAddr>, now: u64) -> Running {
    let world = World { plan, endpoints: &Endpoints::new(), key_value: &|_, _| Some(VALUE) };
    let key = learned.best_key(&world, name, &|_| false, seconds(now)).unwrap();
    learned.begin(&world, "smart", name, key, pod, seconds(now)).unwrap()
}

fn failed(kind: FailureKind) -> Failure {
    Failure { kind, retry_after: None }
}

fn check(learned: &Learned, plan: &Plan, name: &str, now: u64) -> Result<(), Exclusion> {
    let world = World { plan, endpoints: &Endpoints::new(), key_value: &|_, _| Some(VALUE) };
    learned.check(&world, "smart", name, seconds(now))
}

#[test]
fn several_keys_share_the_load_by_running_calls() {
    let (plan, mut learned) = (plan(), Learned::default());
    let running: Vec<Running> = (0..6).map(|now| begin(&mut learned, &plan, "a", None, now)).collect();
    assert_eq!(running.iter().map(|one| one.key().unwrap()).collect::<Vec<_>>(), ["k1", "k2", "k1", "k2", "k1", "k2"]);
    assert_eq!(learned.running("a"), 6);
    // All calls of the first key end: the next three go there.
    for one in running {
        if one.key() == Some("k1") {
            learned.ended(one, Outcome::Succeeded, seconds(10));
        }
    }
    let next: Vec<Running> = (10..14).map(|now| begin(&mut learned, &plan, "a", None, now)).collect();
    assert_eq!(next.iter().map(|one| one.key().unwrap()).collect::<Vec<_>>(), ["k1", "k1", "k1", "k2"]);
}

#[test]
fn calls_one_after_the_other_go_to_the_keys_in_turn() {
    let (plan, mut learned) = (plan(), Learned::default());
    let mut keys = Vec::new();
    for now in 0..4 {
        let running = begin(&mut learned, &plan, "a", None, now);
        keys.push(running.key().unwrap().to_owned());
        learned.ended(running, Outcome::Succeeded, seconds(now));
    }
    assert_eq!(keys, ["k1", "k2", "k1", "k2"]);
}

#[test]
fn the_pod_with_the_fewest_running_calls_is_taken_and_of_several_one_by_chance() {
    let (plan, mut learned) = (plan(), Learned::default());
    let endpoints = BackendEndpoints { ready: [pod(1), pod(2), pod(3)].into(), expected_in_seconds: None };
    let best = |learned: &Learned, tried: &[u8], chance: f64| {
        learned.best_pod("b", &endpoints, &tried.iter().map(|last| pod(*last)).collect::<Vec<_>>(), chance).unwrap()
    };
    assert_eq!([0.0, 0.4, 0.99, 1.0].map(|chance| best(&learned, &[], chance)), [pod(1), pod(2), pod(3), pod(3)]);
    let first = begin(&mut learned, &plan, "b", Some(pod(1)), 0);
    let second = begin(&mut learned, &plan, "b", Some(pod(3)), 0);
    assert_eq!([0.0, 1.0].map(|chance| best(&learned, &[], chance)), [pod(2); 2]);
    assert_eq!([0.0, 1.0].map(|chance| best(&learned, &[2], chance)), [pod(1), pod(3)], "one that failed comes last");
    assert_eq!(best(&learned, &[1, 2, 3], 0.0), pod(2), "and is asked where there is no other");
    learned.ended(first, Outcome::Succeeded, seconds(1));
    learned.ended(second, Outcome::Abandoned, seconds(1));
    assert_eq!(learned.backends["b"].running, BTreeMap::new(), "nothing is kept of pods without calls");
}

#[test]
fn failures_of_the_backend_open_its_breaker_for_the_route_and_those_of_keys_do_not() {
    let plan = plan();
    for (kind, opens) in [
        (FailureKind::Timeout, true),
        (FailureKind::Unavailable, true),
        (FailureKind::NotFound, false),
        (FailureKind::ContextLengthExceeded, false),
        (FailureKind::CallerFault, false),
        (FailureKind::KeyRejected, false),
        (FailureKind::QuotaExhausted, false),
    ] {
        let mut learned = Learned::default();
        for now in 0..3 {
            let running = begin(&mut learned, &plan, "b", None, now);
            learned.ended(running, Outcome::Failed(&failed(kind)), seconds(now));
        }
        assert_eq!(check(&learned, &plan, "b", 3).is_err(), opens, "{kind:?}");
    }
}

#[test]
fn a_failure_after_the_first_content_counts_like_one_before() {
    let (plan, mut learned) = (plan(), Learned::default());
    for now in 0..3 {
        let running = begin(&mut learned, &plan, "b", None, now);
        learned.content(&running);
        learned.ended(running, Outcome::Failed(&failed(FailureKind::Unavailable)), seconds(now));
    }
    assert_eq!(check(&learned, &plan, "b", 2), Err(Exclusion::CircuitOpen { wait: Some(seconds(30)) }));
}

#[test]
fn the_first_content_of_a_long_stream_closes_the_breaker() {
    let (plan, mut learned) = (plan(), Learned::default());
    for now in 0..3 {
        let running = begin(&mut learned, &plan, "b", None, now);
        learned.ended(running, Outcome::Failed(&failed(FailureKind::Timeout)), seconds(now));
    }
    let running = begin(&mut learned, &plan, "b", None, 32);
    assert_eq!(check(&learned, &plan, "b", 32), Err(Exclusion::CircuitOpen { wait: None }));
    learned.content(&running);
    assert_eq!(check(&learned, &plan, "b", 32), Ok(()));
    learned.ended(running, Outcome::Succeeded, seconds(90));
    assert_eq!(check(&learned, &plan, "b", 90), Ok(()));
}

#[test]
fn a_client_that_leaves_during_the_trial_lets_the_next_call_try() {
    let (plan, mut learned) = (plan(), Learned::default());
    for now in 0..3 {
        let running = begin(&mut learned, &plan, "b", None, now);
        learned.ended(running, Outcome::Failed(&failed(FailureKind::Timeout)), seconds(now));
    }
    let running = begin(&mut learned, &plan, "b", None, 32);
    learned.ended(running, Outcome::Abandoned, seconds(33));
    assert_eq!(check(&learned, &plan, "b", 33), Ok(()));
}

#[test]
fn a_key_that_is_refused_or_used_up_leaves_the_others() {
    let (plan, mut learned) = (plan(), Learned::default());
    let running = begin(&mut learned, &plan, "a", None, 0);
    learned.ended(running, Outcome::Failed(&failed(FailureKind::KeyRejected)), seconds(0));
    assert_eq!(learned.check_key("a", "k1", Some(&VALUE), seconds(0)), Err(KeyOut::Rejected));
    assert_eq!(check(&learned, &plan, "a", 0), Ok(()));
    let running = begin(&mut learned, &plan, "a", None, 1);
    assert_eq!(running.key(), Some("k2"));
    learned.ended(running, Outcome::Failed(&failed(FailureKind::QuotaExhausted)), seconds(1));
    assert_eq!(check(&learned, &plan, "a", 1), Err(Exclusion::QuotaExhausted { wait: Some(seconds(300)) }));
}

#[test]
fn pods_that_were_started_anew_are_tried_with_the_key_that_those_before_refused() {
    let (plan, mut learned) = (plan(), Learned::default());
    let at = |pods: &[u8]| {
        let ready = pods.iter().map(|last| pod(*last)).collect();
        Endpoints::from([("a".to_owned(), BackendEndpoints { ready, expected_in_seconds: None })])
    };
    let refused = |learned: &mut Learned| {
        let running = begin(learned, &plan, "a", Some(pod(1)), 0);
        assert_eq!(running.key(), Some("k1"));
        learned.ended(running, Outcome::Failed(&failed(FailureKind::KeyRejected)), seconds(0));
        learned.check_key("a", "k1", Some(&VALUE), seconds(0))
    };
    // Another pod comes, the old one goes; one is not ready for a moment and comes back; nothing changes, or something elsewhere.
    for (before, now, out) in [
        (at(&[1]), at(&[1, 2]), false),
        (at(&[1, 2]), at(&[2]), false),
        (at(&[]), at(&[1]), false),
        (Endpoints::new(), at(&[1]), false),
        (at(&[1]), at(&[1]), true),
        (at(&[1]), Endpoints::from([("b".to_owned(), BackendEndpoints::default())]).into_iter().chain(at(&[1])).collect(), true),
    ] {
        let mut learned = learned.clone();
        assert_eq!(refused(&mut learned), Err(KeyOut::Rejected));
        learned.pods_changed(&before, &now);
        assert_eq!(learned.check_key("a", "k1", Some(&VALUE), seconds(0)).is_err(), out, "{before:?} {now:?}");
    }
    // What is waited for is waited for all the same.
    let running = begin(&mut learned, &plan, "a", Some(pod(1)), 0);
    learned.ended(running, Outcome::Failed(&failed(FailureKind::QuotaExhausted)), seconds(0));
    learned.pods_changed(&at(&[1]), &at(&[2]));
    assert_eq!(
        learned.check_key("a", "k1", Some(&VALUE), seconds(0)),
        Err(KeyOut::QuotaExhausted(Some(seconds(300)))),
        "a pod has no part in a quota"
    );
}

#[test]
fn a_key_with_nothing_left_of_its_limits_leaves_the_others() {
    let (plan, mut learned) = (plan(), Learned::default());
    for (backend, key, expected) in [("a", Some("k1"), Ok(())), ("b", None, Err(Exclusion::RateLimited { wait: seconds(29) }))] {
        let running = begin(&mut learned, &plan, backend, None, 0);
        assert_eq!(running.key(), key);
        learned.limited(&running, seconds(30), seconds(0));
        learned.ended(running, Outcome::Succeeded, seconds(0));
        assert_eq!(check(&learned, &plan, backend, 1), expected);
    }
    let running = begin(&mut learned, &plan, "a", None, 1);
    assert_eq!(running.key(), Some("k2"));
    learned.limited(&running, seconds(9), seconds(1));
    assert_eq!(check(&learned, &plan, "a", 1), Err(Exclusion::RateLimited { wait: seconds(9) }), "until the first is free again");
}

#[test]
fn a_server_without_keys_waits_as_told_and_is_not_set_aside_for_a_key_that_it_has_not() {
    let (plan, mut learned) = (plan(), Learned::default());
    for kind in [FailureKind::KeyRejected, FailureKind::QuotaExhausted] {
        let running = begin(&mut learned, &plan, "b", None, 0);
        learned.ended(running, Outcome::Failed(&failed(kind)), seconds(0));
        assert_eq!(check(&learned, &plan, "b", 0), Ok(()));
    }
    let running = begin(&mut learned, &plan, "b", None, 0);
    let limited = Failure { kind: FailureKind::RateLimited, retry_after: Some(seconds(8)) };
    learned.ended(running, Outcome::Failed(&limited), seconds(0));
    assert_eq!(check(&learned, &plan, "b", 1), Err(Exclusion::RateLimited { wait: seconds(7) }));
}

#[test]
fn what_a_plan_drops_is_forgotten_and_a_call_that_still_runs_does_not_bring_it_back() {
    let (mut plan, mut learned) = (plan(), Learned::default());
    let running = begin(&mut learned, &plan, "a", Some(pod(1)), 0);
    let other = begin(&mut learned, &plan, "b", None, 0);
    let key = begin(&mut learned, &plan, "a", None, 0);
    plan.backends.get_mut("a").unwrap().keys = vec!["k1".to_owned()];
    learned.retain(&plan);
    assert_eq!(learned.backends["a"].keys.keys().collect::<Vec<_>>(), ["k1"]);
    learned.ended(key, Outcome::Failed(&failed(FailureKind::KeyRejected)), seconds(1));
    assert_eq!(learned.backends["a"].keys.keys().collect::<Vec<_>>(), ["k1"]);
    plan.backends.remove("a");
    learned.retain(&plan);
    learned.ended(running, Outcome::Failed(&failed(FailureKind::Unavailable)), seconds(1));
    assert_eq!(learned.backends.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(learned.routes["smart"].breakers.keys().collect::<Vec<_>>(), ["b"]);
    plan.routes.clear();
    plan.backends.clear();
    learned.retain(&plan);
    learned.ended(other, Outcome::Succeeded, seconds(1));
    assert_eq!(learned, Learned::default());
}
