use std::collections::BTreeMap;

use proptest::prelude::*;
use rstest::rstest;

use super::*;

#[path = "lease_simulation_tests.rs"]
mod simulation;

fn timing() -> Timing {
    Timing::from_configuration(&LeaderElection::default()).unwrap()
}

fn wall() -> Timestamp {
    "2026-03-01T12:00:00.25Z".parse().unwrap()
}

fn at(seconds: u64) -> Now {
    Now { monotonic: Duration::from_secs(seconds), wall: wall() + Duration::from_secs(seconds) }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_after_the_deadline_makes_no_leader(late in 0..100_000u64) {
        let (candidate, action) = Candidate::new("system", "quartermaster", "a", timing()).decide(Observation::Missing, at(0));
        let Action::Create { lease, .. } = action else { panic!("{action:?}") };
        let now = Now { monotonic: Duration::from_millis(late), wall: wall() };
        let (candidate, action) = candidate.decide(Observation::Written { lease, sent: Duration::ZERO }, now);
        prop_assert_eq!(candidate.leads_until().is_some(), late < 10_000);
        prop_assert_eq!(matches!(action, Action::Wait(_)), late < 10_000);
    }
}

fn found(holder: &str, transitions: i32) -> Lease {
    let spec = LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(15),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some("quartermaster".to_owned()),
        uid: Some("u".to_owned()),
        resource_version: Some("7".to_owned()),
        labels: Some(BTreeMap::from([("team".to_owned(), "serving".to_owned())])),
        annotations: Some(BTreeMap::from([("note".to_owned(), "kept".to_owned())])),
        ..ObjectMeta::default()
    };
    Lease { metadata, spec: Some(spec) }
}

fn written(action: Action) -> Lease {
    match action {
        Action::Create { lease, .. } | Action::Replace { lease, .. } => *lease,
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::unreadable("soon", "10s", "2s", "leaderElection.leaseDuration")]
#[case::unreadable_deadline("15s", "ten", "2s", "leaderElection.renewDeadline")]
#[case::unreadable_period("15s", "10s", "", "leaderElection.retryPeriod")]
#[case::too_short("500ms", "200ms", "50ms", "leaderElection.leaseDuration")]
#[case::too_long("61m", "10s", "2s", "leaderElection.leaseDuration")]
#[case::two_leaders("15s", "15s", "2s", "leaderElection.renewDeadline")]
#[case::one_attempt("15s", "10s", "5001ms", "leaderElection.retryPeriod")]
#[case::no_pause("15s", "10s", "0s", "leaderElection.retryPeriod")]
fn times_out_of_order_are_refused(#[case] lease: &str, #[case] deadline: &str, #[case] period: &str, #[case] path: &str) {
    let [lease_duration, renew_deadline, retry_period] = [lease, deadline, period].map(|text| duration::Duration(text.to_owned()));
    let configuration = LeaderElection { lease_duration, renew_deadline, retry_period, ..LeaderElection::default() };
    assert_eq!(Timing::from_configuration(&configuration).unwrap_err().path, path);
}

#[rstest]
#[case::released("", 3, 4)]
#[case::own_write_whose_answer_was_lost("a", 3, 3)]
#[case::nonsense("", -5, 1)]
#[case::full("", i32::MAX, i32::MAX)]
fn a_change_of_hands_is_counted_and_what_others_wrote_is_kept(#[case] holder: &str, #[case] before: i32, #[case] after: i32) {
    let lease = found(holder, before);
    let (_, action) =
        Candidate::new("system", "quartermaster", "a", timing()).decide(Observation::Found(Box::new(lease.clone())), at(0));
    let written = written(action);
    assert_eq!(written.metadata, lease.metadata);
    let spec = serde_json::to_value(written.spec.unwrap()).unwrap();
    let expected = serde_json::json!({
        "holderIdentity": "a", "leaseDurationSeconds": 15, "leaseTransitions": after,
        "acquireTime": "2026-03-01T12:00:00.250000Z", "renewTime": "2026-03-01T12:00:00.250000Z",
    });
    assert_eq!(spec, expected);
}

#[test]
fn a_renewal_keeps_the_time_of_acquisition_and_differs_even_when_the_wall_clock_stands_still() {
    let (candidate, action) = Candidate::new("system", "quartermaster", "a", timing()).decide(Observation::Missing, at(0));
    let first = written(action);
    let (candidate, _) = candidate.decide(Observation::Written { lease: Box::new(first.clone()), sent: Duration::ZERO }, at(0));
    let (_, action) = candidate.decide(Observation::Time, Now { wall: wall(), ..at(2) });
    let (first, second) = (first.spec.unwrap(), written(action).spec.unwrap());
    assert_eq!(second.acquire_time, first.acquire_time);
    assert!(second.renew_time > first.renew_time);
}

#[test]
fn a_lease_that_vanished_is_waited_for_as_long_as_an_unseen_leader_could_lead() {
    let candidate = Candidate::new("system", "quartermaster", "b", timing());
    let (candidate, _) = candidate.decide(Observation::Found(Box::new(found("a", 0))), at(0));
    // Nothing could be read for a minute, in which `a` or anybody may have renewed.
    let (candidate, action) = candidate.decide(Observation::Missing, at(60));
    assert_eq!(action, Action::Wait(Duration::from_secs(1)));
    let (candidate, action) = candidate.decide(Observation::Missing, at(74));
    assert_eq!(action, Action::Wait(Duration::from_secs(1)));
    let (_, action) = candidate.decide(Observation::Missing, at(75));
    let lease = written(action);
    assert_eq!((lease.metadata.labels, lease.metadata.resource_version), (found("a", 0).metadata.labels, None));
}

#[test]
fn a_longer_promise_of_another_holder_is_respected() {
    let mut lease = found("a", 0);
    lease.spec.as_mut().unwrap().lease_duration_seconds = Some(60);
    let read = |candidate: Candidate, now| candidate.decide(Observation::Found(Box::new(lease.clone())), now);
    let (candidate, _) = read(Candidate::new("system", "quartermaster", "b", timing()), at(0));
    let (candidate, action) = read(candidate, at(59));
    assert_eq!(action, Action::Wait(Duration::from_secs(1)));
    assert!(matches!(read(candidate, at(60)).1, Action::Replace { .. }));
}
