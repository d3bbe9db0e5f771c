use rstest::rstest;

use super::*;
use crate::decide::request::fixtures::seconds;

const VALUE: Fingerprint = [1; 32];
const ANOTHER: Fingerprint = [2; 32];

fn failure(kind: FailureKind) -> Failure {
    Failure { kind, retry_after: None }
}

fn minutes(minutes: u64) -> Duration {
    seconds(minutes * 60)
}

impl KeyState {
    fn out(&self, now: Duration) -> Option<KeyOut> {
        self.check(Some(&VALUE), now).err()
    }
}

#[test]
fn a_key_can_be_used_once_its_value_is_here() {
    assert_eq!(KeyState::default().check(None, seconds(0)), Err(KeyOut::NoValue));
    assert_eq!(KeyState::default().check(Some(&VALUE), seconds(0)), Ok(()));
}

#[test]
fn a_used_up_quota_leaves_it_alone_for_five_minutes_doubling_to_an_hour_and_then_one_call_tries() {
    let (mut key, mut now) = (KeyState::default(), seconds(1000));
    assert!(!key.begin(now));
    key.failed(&failure(FailureKind::QuotaExhausted), &VALUE, false, now);
    for wait in [5, 10, 20, 40, 60, 60] {
        assert_eq!(key.out(now), Some(KeyOut::QuotaExhausted(Some(minutes(wait)))));
        now += minutes(wait);
        assert_eq!(key.out(now), None);
        assert!(key.begin(now), "it tries");
        assert_eq!(key.out(now), Some(KeyOut::QuotaExhausted(None)), "one at a time");
        key.failed(&failure(FailureKind::QuotaExhausted), &VALUE, true, now);
    }
    now += minutes(60);
    key.begin(now);
    key.succeeded(true);
    assert_eq!(key.out(now), None);
    assert!(!key.begin(now));
    key.failed(&failure(FailureKind::QuotaExhausted), &VALUE, false, now);
    assert_eq!(key.out(now), Some(KeyOut::QuotaExhausted(Some(minutes(5)))), "from the beginning");
}

#[test]
fn many_calls_that_run_into_the_same_end_count_once() {
    let mut key = KeyState::default();
    for second in 0..100 {
        key.failed(&failure(FailureKind::QuotaExhausted), &VALUE, false, seconds(second));
    }
    assert_eq!(key.out(seconds(100)), Some(KeyOut::QuotaExhausted(Some(seconds(200)))));
    key.succeeded(false);
    assert_eq!(
        key.out(seconds(100)),
        Some(KeyOut::QuotaExhausted(Some(seconds(200)))),
        "a late answer to an earlier call is no trial"
    );
}

#[rstest]
#[case(FailureKind::RateLimited)]
#[case(FailureKind::Timeout)]
#[case(FailureKind::Unavailable)]
#[case(FailureKind::NotFound)]
#[case(FailureKind::ContextLengthExceeded)]
#[case(FailureKind::CallerFault)]
fn a_trial_that_fails_for_another_reason_lets_the_next_call_try(#[case] kind: FailureKind) {
    let mut key = KeyState::default();
    key.failed(&failure(FailureKind::QuotaExhausted), &VALUE, false, seconds(0));
    assert!(key.begin(minutes(5)));
    key.failed(&failure(kind), &VALUE, true, minutes(5));
    let now = minutes(5) + seconds(5);
    assert_eq!(key.out(now), None);
    assert!(key.begin(now), "nothing is known of the quota yet");
}

#[test]
fn a_trial_whose_outcome_is_never_told_keeps_nobody_out_for_ever() {
    let mut key = KeyState::default();
    key.failed(&failure(FailureKind::QuotaExhausted), &VALUE, false, seconds(0));
    key.begin(minutes(5));
    assert_eq!(key.out(minutes(9)), Some(KeyOut::QuotaExhausted(None)));
    assert_eq!(key.out(minutes(10)), None);
    key.begin(minutes(10));
    key.released(true);
    assert_eq!(key.out(minutes(10)), None, "a client that leaves ends the trial");
}

#[rstest]
#[case(None, 5)]
#[case(Some(30), 30)]
#[case(Some(86_400), 3600)]
fn too_many_calls_wait_as_told(#[case] told: Option<u64>, #[case] wait: u64) {
    let mut key = KeyState::default();
    key.failed(&Failure { kind: FailureKind::RateLimited, retry_after: told.map(seconds) }, &VALUE, false, seconds(100));
    assert_eq!(key.out(seconds(100)), Some(KeyOut::RateLimited(seconds(wait))));
    assert_eq!(key.out(seconds(100 + wait)), None);
    key.failed(&Failure { kind: FailureKind::RateLimited, retry_after: Some(seconds(1)) }, &VALUE, false, seconds(101));
    assert_eq!(
        key.out(seconds(102)),
        Some(KeyOut::RateLimited(seconds(wait - 2))),
        "a shorter wait takes nothing from a longer one"
    );
}

#[rstest]
#[case(30, 30)]
#[case(86_400, 3600)]
fn a_key_of_which_a_good_answer_says_that_nothing_is_left_waits_before_the_wall_is_hit(#[case] told: u64, #[case] wait: u64) {
    let mut key = KeyState::default();
    assert!(!key.begin(seconds(100)));
    key.limited(seconds(told), seconds(100));
    key.succeeded(false);
    assert_eq!(key.out(seconds(100)), Some(KeyOut::RateLimited(seconds(wait))), "that the call was answered takes nothing from it");
    key.limited(seconds(1), seconds(101));
    assert_eq!(key.out(seconds(102)), Some(KeyOut::RateLimited(seconds(wait - 2))));
    assert_eq!(key.out(seconds(100 + wait)), None);
}

#[test]
fn a_key_that_is_refused_is_out_until_its_value_is_another_one() {
    let mut key = KeyState::default();
    key.failed(&failure(FailureKind::KeyRejected), &VALUE, false, seconds(0));
    assert_eq!(key.out(minutes(600)), Some(KeyOut::Rejected));
    assert_eq!(key.check(Some(&ANOTHER), seconds(1)), Ok(()));
    key.failed(&failure(FailureKind::KeyRejected), &VALUE, false, seconds(2));
    assert_eq!(key.check(Some(&ANOTHER), seconds(2)), Ok(()), "a late refusal of the old value says nothing of the new one");
}

#[rstest]
#[case(FailureKind::Timeout)]
#[case(FailureKind::Unavailable)]
#[case(FailureKind::NotFound)]
#[case(FailureKind::ContextLengthExceeded)]
#[case(FailureKind::CallerFault)]
fn what_is_not_the_keys_matter_does_not_set_it_aside(#[case] kind: FailureKind) {
    let mut key = KeyState::default();
    key.failed(&failure(kind), &VALUE, false, seconds(0));
    assert_eq!(key.out(seconds(0)), None);
}

#[test]
fn load_is_calls_that_run_and_then_when_the_last_began() {
    let (mut one, mut other) = (KeyState::default(), KeyState::default());
    one.begin(seconds(1));
    assert!(other.load() < one.load());
    one.ended();
    assert!(other.load() < one.load(), "one that was never used comes first");
    other.begin(seconds(2));
    assert!(one.load() < other.load());
    other.ended();
    assert!(one.load() < other.load());
    one.ended();
    assert_eq!(one.load().0, 0);
}
