use proptest::prelude::*;

use super::*;
use crate::decide::request::fixtures::{milliseconds, seconds};

const SETTINGS: Settings = Settings { failures: 3, window: seconds(60), cooldown: seconds(30) };

/// A breaker that opened at second 100.
fn open() -> CircuitBreaker {
    let mut breaker = CircuitBreaker::default();
    for second in [98, 99, 100] {
        breaker.failed(&SETTINGS, false, seconds(second));
    }
    breaker
}

#[test]
fn so_many_failures_within_the_window_open_it() {
    let mut breaker = CircuitBreaker::default();
    breaker.failed(&SETTINGS, false, seconds(10));
    breaker.failed(&SETTINGS, false, seconds(69));
    breaker.failed(&SETTINGS, false, seconds(71));
    assert_eq!(breaker.check(&SETTINGS, seconds(71)), Ok(()), "the first is out of the window");
    breaker.failed(&SETTINGS, false, seconds(72));
    assert_eq!(breaker.check(&SETTINGS, seconds(72)), Err(Open { wait: Some(seconds(30)) }));
    assert_eq!(breaker.check(&SETTINGS, milliseconds(101_500)), Err(Open { wait: Some(milliseconds(500)) }));
}

#[test]
fn after_the_cooldown_one_call_tries_and_its_success_closes() {
    let mut breaker = open();
    assert_eq!(breaker.check(&SETTINGS, seconds(130)), Ok(()));
    assert!(breaker.begin(seconds(130)));
    assert_eq!(breaker.check(&SETTINGS, seconds(131)), Err(Open { wait: None }), "one at a time");
    breaker.succeeded(true);
    assert!(breaker.is_closed());
    assert!(!breaker.begin(seconds(131)));
    breaker.failed(&SETTINGS, false, seconds(131));
    assert!(breaker.is_closed(), "what failed before it opened is forgotten");
}

#[test]
fn its_failure_opens_anew() {
    let mut breaker = open();
    assert!(breaker.begin(seconds(140)));
    breaker.failed(&SETTINGS, true, seconds(145));
    assert_eq!(breaker.check(&SETTINGS, seconds(145)), Err(Open { wait: Some(seconds(30)) }));
}

#[test]
fn what_was_sent_before_it_opened_decides_nothing() {
    let mut breaker = open();
    breaker.failed(&SETTINGS, false, seconds(120));
    assert_eq!(breaker.check(&SETTINGS, seconds(130)), Ok(()), "a late failure does not prolong it");
    breaker.succeeded(false);
    breaker.begin(seconds(130));
    breaker.succeeded(false);
    breaker.failed(&SETTINGS, false, seconds(131));
    assert_eq!(breaker.check(&SETTINGS, seconds(131)), Err(Open { wait: None }), "neither does it end the trial");
}

#[test]
fn a_trial_that_says_nothing_lets_the_next_call_try() {
    let mut breaker = open();
    breaker.begin(seconds(130));
    breaker.released(true);
    assert_eq!(breaker.check(&SETTINGS, seconds(131)), Ok(()));
    breaker.begin(seconds(131));
    breaker.released(false);
    assert_eq!(breaker.check(&SETTINGS, seconds(132)), Err(Open { wait: None }), "only the one that tries can give up the trial");
}

#[test]
fn a_trial_whose_outcome_is_never_told_keeps_nobody_out_for_ever() {
    let mut breaker = open();
    breaker.begin(seconds(130));
    assert_eq!(breaker.check(&SETTINGS, seconds(159)), Err(Open { wait: None }));
    assert_eq!(breaker.check(&SETTINGS, seconds(160)), Ok(()));
}

#[test]
fn what_an_open_breaker_refuses_is_no_outcome() {
    let mut breaker = open();
    for second in 100..130 {
        assert!(breaker.check(&SETTINGS, seconds(second)).is_err());
    }
    breaker.begin(seconds(130));
    (0..1000).for_each(|_| assert!(breaker.check(&SETTINGS, seconds(131)).is_err()));
    breaker.succeeded(true);
    assert_eq!(breaker.check(&SETTINGS, seconds(131)), Ok(()));
}

proptest! {
    #[test]
    fn closed_or_open_or_one_that_tries(
        failures in 1_u32..5, window in 1_u64..20, cooldown in 1_u64..20,
        steps in proptest::collection::vec((0_u8..5, 0_u64..8), 1..200),
    ) {
        let settings = Settings { failures, window: seconds(window), cooldown: seconds(cooldown) };
        let (mut breaker, mut now, mut running) = (CircuitBreaker::default(), 0, Vec::new());
        // A trial counts as lost after the cooldown, so only younger ones are counted.
        let young = |running: &Vec<(bool, u64)>, now: u64| running.iter().filter(|(tries, since)| *tries && now < since + cooldown).count();
        let mut recent: Vec<u64> = Vec::new();
        for (step, passed) in steps {
            now += passed;
            if step < 2 {
                if breaker.check(&settings, seconds(now)).is_ok() {
                    running.push((breaker.begin(seconds(now)), now));
                }
            } else if let Some((tries, _)) = running.pop() {
                match step {
                    2 => {
                        if breaker.is_closed() {
                            recent.push(now);
                        }
                        breaker.failed(&settings, tries, seconds(now));
                    }
                    3 => breaker.succeeded(tries),
                    _ => breaker.released(tries),
                }
            }
            prop_assert!(breaker.failures.len() < usize::try_from(failures).unwrap());
            prop_assert!(young(&running, now) <= 1, "one at a time");
            if breaker.is_closed() {
                prop_assert!(breaker.check(&settings, seconds(now)).is_ok());
                let within = recent.iter().rev().take_while(|failure| **failure + window >= now).count();
                prop_assert!(within >= breaker.failures.iter().filter(|failure| **failure + settings.window >= seconds(now)).count());
            }
            prop_assert!(breaker.check(&settings, seconds(now + 2 * cooldown)).is_ok(), "it lets somebody try in the end");
        }
    }
}
