use proptest::prelude::*;

use super::super::testing::{DECEMBER, account, after, at, tokens};
use super::*;

fn rate(tokens_per_hour: u64, cost_per_hour: u64) -> BurnRate {
    BurnRate { tokens_per_hour, cached_input_per_hour: 0, cost_per_hour }
}

fn of(units: &PerUnit<AccountFacts>, burn: BurnRate) -> Option<Timestamp> {
    exhaustion(units, burn, Some(at(DECEMBER)), None, after(0))
}

#[test]
fn what_is_left_ends_at_the_present_rate_in_the_unit_in_which_that_comes_first() {
    let both = |tokens, cost| PerUnit { tokens: Some(account(1000, tokens)), cost: Some(account(1_000_000, cost)) };
    for (units, burn, expected) in [
        (tokens(1000, 0), rate(100, 0), Some("2026-11-26T22:00:00Z")),
        (tokens(1000, 500), rate(1000, 0), Some("2026-11-26T12:30:00Z")),
        (both(0, 900_000), rate(100, 100_000), Some("2026-11-26T13:00:00Z")),
        (both(900, 0), rate(100, 100_000), Some("2026-11-26T13:00:00Z")),
        // Money that is not limited does not run out.
        (tokens(1000, 0), rate(0, 1_000_000), None),
        (tokens(1000, 0), rate(0, 0), None),
        // It outlives the period.
        (tokens(1000, 0), rate(5, 0), None),
        // It is used up already.
        (tokens(1000, 1000), rate(100, 0), None),
        (tokens(1000, 1200), rate(100, 0), None),
    ] {
        assert_eq!(of(&units, burn), expected.map(at), "{units:?} {burn:?}");
    }
}

#[test]
fn a_time_is_told_to_two_digits_and_rather_too_early() {
    // 333 hours and 20 minutes are beyond the period, and a period that never ends has room for them.
    let endless = exhaustion(&tokens(10_000, 0), rate(30, 0), None, None, after(0));
    assert_eq!(endless, Some(at("2026-12-10T06:00:00Z")), "09:20 in steps of six hours");
    assert_eq!(of(&tokens(1000, 0), rate(97, 0)), Some(at("2026-11-26T22:15:00Z")), "22:18 in steps of a quarter");
    assert_eq!(of(&tokens(1000, 0), rate(70_000, 0)), Some(after(1)), "51 seconds, and not in the past");
}

#[test]
fn what_was_told_stays_while_it_is_about_right() {
    let told = of(&tokens(1000, 0), rate(97, 0));
    let later = |seconds, burn| exhaustion(&tokens(1000, 0), burn, Some(at(DECEMBER)), told, after(seconds));
    for (seconds, tokens_per_hour, stays) in [(0, 97, true), (300, 97, true), (0, 99, true), (0, 90, false), (3600, 97, false)] {
        assert_eq!(later(seconds, rate(tokens_per_hour, 0)) == told, stays, "{seconds} s, {tokens_per_hour}/h");
    }
    assert_eq!(later(0, rate(0, 0)), None);
}

#[test]
fn a_rate_is_shown_with_two_digits_and_with_what_counts_of_cached_input() {
    let burn = BurnRate { tokens_per_hour: 12_345, cached_input_per_hour: 10_000, cost_per_hour: 1_234_567 };
    let shown = |percent| (burn.shown(percent).tokens_per_hour, burn.shown(percent).cost_per_hour);
    assert_eq!(shown(100), (12_000, 1_200_000));
    assert_eq!(shown(10), (3_300, 1_200_000));
    assert!(rate(u64::MAX, 0).shown(100).tokens_per_hour > 0);
}

proptest! {
    #[test]
    fn a_time_is_after_now_and_off_by_a_twentieth_of_what_is_left_at_most(left in 1..=1_u64 << 53, per_hour in 1..=1_u64 << 53) {
        let exact = u128::from(left) * 3600 / u128::from(per_hour);
        if let Some(told) = exhaustion(&tokens(left, 0), rate(per_hour, 0), None, None, after(0)) {
            let told = u128::try_from(told.as_second() - after(0).as_second()).unwrap();
            prop_assert!(told > 0 && told <= exact.max(1), "{told} of {exact}");
            prop_assert!(exact - told.min(exact) <= (exact / 20).max(60), "{told} of {exact}");
        }
    }
}
