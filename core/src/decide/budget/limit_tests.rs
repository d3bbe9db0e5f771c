use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decide::account::PeriodId;

/// 2^53, the largest limit.
const LARGEST: u64 = 9_007_199_254_740_992;

/// A spec with these members.
fn spec(members: &Value) -> TokenBudgetSpec {
    let mut spec = json!({"period": {"type": "Sprint", "start": "2026-11-16T09:00", "lengthDays": 14}, "appliesTo": {}});
    for (name, value) in members.as_object().unwrap() {
        spec[name] = value.clone();
    }
    serde_json::from_value(spec).unwrap_or_else(|error| panic!("{error}: {members}"))
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn period() -> Period {
    let start = time("2026-11-16T09:00Z");
    Period { id: PeriodId(start.as_second()), start, end: Some(time("2026-11-30T09:00Z")) }
}

fn within() -> Timestamp {
    time("2026-11-20T00:00Z")
}

fn tokens(members: &Value, before: Option<Closed>) -> Limit {
    of(&spec(members), Unit::Tokens, &period(), before, within()).unwrap()
}

#[test]
fn only_what_the_spec_limits_is_limited() {
    let limit = |members: &Value, unit| of(&spec(members), unit, &period(), None, within()).map(|limit| limit.total());
    for (members, in_tokens, in_cost) in [
        (json!({"tokens": 5_000_000}), Some(5_000_000), None),
        (json!({"cost": "250.00"}), None, Some(250_000_000)),
        (json!({"tokens": 1, "cost": "0.000001"}), Some(1), Some(1)),
        (json!({"tokens": LARGEST, "cost": "999999999.999999"}), Some(LARGEST), Some(999_999_999_999_999)),
        // An extension is one of a limit that there is.
        (json!({"tokens": 10, "extensions": [{"cost": "5", "until": "2026-11-28T00:00:00Z"}]}), Some(10), None),
        // Read by nobody, and so closed.
        (json!({"tokens": -1, "cost": "much"}), Some(0), Some(0)),
    ] {
        assert_eq!(limit(&members, Unit::Tokens), in_tokens, "{members}");
        assert_eq!(limit(&members, Unit::Cost), in_cost, "{members}");
    }
}

#[test]
fn what_was_left_is_carried_over_up_to_a_percent_of_the_base_and_never_twice() {
    for (base, percent, before, carried) in [
        (1000, 20, Closed { limit: 1000, used: 900, base: 1000 }, 100),
        (1000, 20, Closed { limit: 1000, used: 800, base: 1000 }, 200),
        (1000, 20, Closed { limit: 1000, used: 0, base: 1000 }, 200),
        (1000, 100, Closed { limit: 1000, used: 0, base: 1000 }, 1000),
        (1000, 20, Closed { limit: 1000, used: 1000, base: 1000 }, 0),
        // 200 had been carried over: what is left of them stays behind.
        (1000, 20, Closed { limit: 1200, used: 1100, base: 1000 }, 0),
        (1000, 20, Closed { limit: 1200, used: 950, base: 1000 }, 50),
        // A debt of 300 had been taken off: what it took is not left.
        (1000, 50, Closed { limit: 700, used: 650, base: 1000 }, 50),
        // The base of now says how much at most, that of then what was left.
        (100, 20, Closed { limit: 1000, used: 0, base: 1000 }, 20),
        (1000, 20, Closed { limit: 100, used: 50, base: 100 }, 50),
        // Rounded down.
        (10, 33, Closed { limit: 10, used: 0, base: 10 }, 3),
        (2, 1, Closed { limit: 2, used: 0, base: 2 }, 0),
        (LARGEST, 99, Closed { limit: LARGEST, used: 0, base: LARGEST }, 8_917_127_262_193_582),
    ] {
        let limit = tokens(&json!({"tokens": base, "carryOver": {"maxPercent": percent}}), Some(before));
        assert_eq!(limit, Limit { base, carried, debt: 0, extended: 0 }, "{percent} {before:?}");
        assert_eq!(limit.total(), base + carried);
    }
}

#[test]
fn what_was_used_beyond_the_limit_is_taken_off() {
    for (before, debt, total) in [
        (Closed { limit: 1000, used: 1000, base: 1000 }, 0, 1000),
        (Closed { limit: 1000, used: 1300, base: 1000 }, 300, 700),
        (Closed { limit: 1200, used: 1300, base: 1000 }, 100, 900),
        // An extension of 500 had been used, and had ended.
        (Closed { limit: 1500, used: 1400, base: 1000 }, 0, 1000),
        // More than a whole limit: the period is closed, and the one after it is not.
        (Closed { limit: 1000, used: 3500, base: 1000 }, 2500, 0),
        (Closed { limit: 0, used: 0, base: 1000 }, 0, 1000),
    ] {
        let limit = tokens(&json!({"tokens": 1000, "carryOver": {"maxPercent": 20}}), Some(before));
        assert_eq!(limit, Limit { base: 1000, carried: 0, debt, extended: 0 }, "{before:?}");
        assert_eq!(limit.total(), total, "{before:?}");
    }
}

#[test]
fn without_carry_over_or_a_period_before_nothing_is_carried() {
    let nothing = Limit { base: 1000, ..Limit::default() };
    for used in [0, 500, 1000, 1500] {
        let before = Closed { limit: 1000, used, base: 1000 };
        assert_eq!(tokens(&json!({"tokens": 1000}), Some(before)), nothing, "{used}");
    }
    assert_eq!(tokens(&json!({"tokens": 1000, "carryOver": {"maxPercent": 20}}), None), nothing);
}

#[test]
fn cost_is_carried_over_in_millionths() {
    let spec = spec(&json!({"cost": "250.00", "carryOver": {"maxPercent": 10}}));
    let before = Closed { limit: 250_000_000, used: 240_000_001, base: 250_000_000 };
    let limit = of(&spec, Unit::Cost, &period(), Some(before), within());
    assert_eq!(limit, Some(Limit { base: 250_000_000, carried: 9_999_999, debt: 0, extended: 0 }));
}

#[test]
fn an_extension_counts_from_the_start_of_its_period_until_its_end() {
    for (until, now, extended) in [
        ("2026-11-28T00:00:00Z", "2026-11-16T09:00:00Z", 500),
        ("2026-11-28T00:00:00Z", "2026-11-27T23:59:59Z", 500),
        ("2026-11-28T00:00:00Z", "2026-11-28T00:00:00Z", 0),
        ("2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z", 0),
        // Told before the period begins, as the limit of the next one is.
        ("2026-11-28T00:00:00Z", "2026-11-10T00:00:00Z", 500),
        // The end of the period belongs to it, its start to the one before.
        ("2026-11-30T09:00:00Z", "2026-11-30T08:59:59Z", 500),
        ("2026-11-30T09:00:00Z", "2026-11-30T09:00:00Z", 0),
        ("2026-11-16T09:00:00Z", "2026-11-16T08:59:59Z", 0),
        ("2026-11-16T09:00:01Z", "2026-11-16T09:00:00Z", 500),
        // Of another period.
        ("2026-11-30T09:00:01Z", "2026-11-20T00:00:00Z", 0),
        ("2026-11-10T00:00:00Z", "2026-11-20T00:00:00Z", 0),
        ("2026-11-10T00:00:00Z", "2026-11-01T00:00:00Z", 0),
    ] {
        let spec = spec(&json!({"tokens": 1000, "extensions": [{"tokens": 500, "until": until}]}));
        let limit = of(&spec, Unit::Tokens, &period(), None, time(now)).unwrap();
        assert_eq!(limit, Limit { base: 1000, carried: 0, debt: 0, extended }, "{until} {now}");
        assert_eq!(limit.total(), 1000 + extended, "{until} {now}");
    }
}

#[test]
fn a_period_that_never_ends_has_every_extension_that_ends_after_its_start() {
    let endless = Period { end: None, ..period() };
    let spec = spec(&json!({"tokens": 1000, "extensions": [{"tokens": 500, "until": "2099-01-01T00:00:00Z"}]}));
    assert_eq!(of(&spec, Unit::Tokens, &endless, None, within()).unwrap().extended, 500);
}

#[test]
fn extensions_add_up_each_in_its_unit() {
    let spec = spec(&json!({"tokens": 1000, "cost": "10", "extensions": [
        {"tokens": 500, "until": "2026-11-28T00:00:00Z", "reason": "incident 4711"},
        {"tokens": 70, "cost": "2.50", "until": "2026-11-25T00:00:00Z"},
        {"cost": "1", "until": "2026-11-30T09:00:00Z"},
        {"tokens": 9000, "cost": "9000", "until": "2026-11-18T00:00:00Z"},
    ]}));
    let total = |unit, now| of(&spec, unit, &period(), None, time(now)).unwrap().total();
    assert_eq!(total(Unit::Tokens, "2026-11-20T00:00:00Z"), 1570);
    assert_eq!(total(Unit::Cost, "2026-11-20T00:00:00Z"), 13_500_000);
    assert_eq!(total(Unit::Tokens, "2026-11-29T00:00:00Z"), 1000);
    assert_eq!(total(Unit::Cost, "2026-11-29T00:00:00Z"), 11_000_000);
}

#[test]
fn an_extension_pays_off_a_debt() {
    let members = json!({
        "tokens": 1000,
        "carryOver": {"maxPercent": 20},
        "extensions": [{"tokens": 400, "until": "2026-11-28T00:00:00Z"}],
    });
    let limit = tokens(&members, Some(Closed { limit: 1000, used: 1300, base: 1000 }));
    assert_eq!(limit, Limit { base: 1000, carried: 0, debt: 300, extended: 400 });
    assert_eq!(limit.total(), 1100);
}

#[test]
fn a_total_is_never_below_nothing_nor_beyond_what_can_be_counted() {
    assert_eq!(Limit { base: 10, carried: 5, debt: 100, extended: 20 }.total(), 0);
    assert_eq!(Limit { base: u64::MAX, carried: 1, debt: 0, extended: 1 }.total(), u64::MAX);
}

#[test]
fn extensions_in_the_past_are_told_in_the_order_of_the_spec() {
    let spec = spec(&json!({"tokens": 1000, "extensions": [
        {"tokens": 1, "until": "2026-11-20T00:00:00Z", "reason": "ends now"},
        {"tokens": 2, "until": "2026-11-20T00:00:01Z", "reason": "counts"},
        {"tokens": 3, "until": "2026-10-01T00:00:00Z", "reason": "of an earlier period"},
        {"tokens": 4, "until": "2026-12-24T00:00:00Z", "reason": "of a later period"},
    ]}));
    let reasons = |now| -> Vec<Option<String>> { past_extensions(&spec, now).iter().map(|past| past.reason.clone()).collect() };
    assert_eq!(reasons(within()), [Some("ends now".to_owned()), Some("of an earlier period".to_owned())]);
    assert!(reasons(time("2026-01-01T00:00Z")).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Over any number of periods that keep to their limits, what is used is no more than what the spec gave in them: carrying
    /// over moves, and makes nothing. No period may use more than one base and the percent of it.
    #[test]
    fn carrying_over_never_compounds(base in 1..=LARGEST / 64, percent in 1..=100_u32, wishes in prop::collection::vec(0..=150_u64, 1..50)) {
        let members = json!({"tokens": base, "carryOver": {"maxPercent": percent}});
        let most = base + percent_of(base, percent);
        let (mut before, mut given, mut used_in_all) = (None, 0, 0);
        for wish in wishes {
            let limit = tokens(&members, before);
            prop_assert!(limit.total() >= base && limit.total() <= most);
            let used = percent_of(base, 1).saturating_mul(wish).min(limit.total());
            given += base;
            used_in_all += used;
            prop_assert!(used_in_all <= given);
            before = Some(Closed { limit: limit.total(), used, base });
        }
    }

    /// What was used beyond one limit lacks in the next, to the token.
    #[test]
    fn a_debt_that_fits_into_a_period_is_paid_in_full(base in 1..=LARGEST, beyond in 0..=100_u32) {
        let debt = percent_of(base, beyond);
        let limit = tokens(
            &json!({"tokens": base, "carryOver": {"maxPercent": 50}}),
            Some(Closed { limit: base, used: base + debt, base }),
        );
        prop_assert_eq!(limit.total() + debt, base);
    }
}
