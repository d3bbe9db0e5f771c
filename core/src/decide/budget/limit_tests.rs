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

/// The period after it.
fn next_period() -> Period {
    let start = time("2026-11-30T09:00Z");
    Period { id: PeriodId(start.as_second()), start, end: Some(time("2026-12-14T09:00Z")) }
}

/// In a period that is open, of which no status knows anything.
fn in_open(spec: &TokenBudgetSpec, unit: Unit, period: &Period, before: Option<Closed>, now: Timestamp) -> Option<Limit> {
    of(spec, unit, period, before, &begun(spec, &[], period), now)
}

fn tokens(members: &Value, before: Option<Closed>) -> Limit {
    in_open(&spec(members), Unit::Tokens, &period(), before, within()).unwrap()
}

/// Of 500 tokens until then.
fn extended(until: &str) -> TokenBudgetSpec {
    spec(&json!({"tokens": 1000, "extensions": [{"tokens": 500, "until": until}]}))
}

#[test]
fn only_what_the_spec_limits_is_limited() {
    let limit = |members: &Value, unit| in_open(&spec(members), unit, &period(), None, within()).map(|limit| limit.total());
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
    let limit = in_open(&spec, Unit::Cost, &period(), Some(before), within());
    assert_eq!(limit, Some(Limit { base: 250_000_000, carried: 9_999_999, debt: 0, extended: 0 }));
}

#[test]
fn an_extension_counts_at_once_until_its_end_or_that_of_the_period() {
    for (until, now, added) in [
        ("2026-11-28T00:00:00Z", "2026-11-16T09:00:00Z", 500),
        ("2026-11-28T00:00:00Z", "2026-11-27T23:59:59Z", 500),
        ("2026-11-28T00:00:00Z", "2026-11-28T00:00:00Z", 0),
        ("2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z", 0),
        // Told before the period begins, where it is the first.
        ("2026-11-28T00:00:00Z", "2026-11-10T00:00:00Z", 500),
        // The end of the period belongs to it, its start to the one before.
        ("2026-11-30T09:00:00Z", "2026-11-30T08:59:59Z", 500),
        ("2026-11-30T09:00:00Z", "2026-11-30T09:00:00Z", 0),
        ("2026-11-16T09:00:00Z", "2026-11-16T08:59:59Z", 0),
        ("2026-11-16T09:00:01Z", "2026-11-16T09:00:00Z", 500),
        // Longer than the period.
        ("2026-11-30T09:00:01Z", "2026-11-20T00:00:00Z", 500),
        ("2027-06-01T00:00:00Z", "2026-11-30T08:59:59Z", 500),
        ("2027-06-01T00:00:00Z", "2026-11-30T09:00:00Z", 0),
        // Of an earlier period.
        ("2026-11-10T00:00:00Z", "2026-11-20T00:00:00Z", 0),
        ("2026-11-10T00:00:00Z", "2026-11-01T00:00:00Z", 0),
    ] {
        let limit = in_open(&extended(until), Unit::Tokens, &period(), None, time(now)).unwrap();
        assert_eq!(limit, Limit { base: 1000, carried: 0, debt: 0, extended: added }, "{until} {now}");
        assert_eq!(limit.total(), 1000 + added, "{until} {now}");
    }
}

#[test]
fn an_extension_that_is_longer_than_its_period_is_given_once() {
    let spec = extended("2027-06-01T00:00:00Z");
    let extended = |period: &Period, begun: &[ExtensionStatus], now: &str| {
        of(&spec, Unit::Tokens, period, None, begun, time(now)).unwrap().extended
    };
    let first = begun(&spec, &[], &period());
    assert_eq!(first.iter().map(|begun| begun.ends.0).collect::<Vec<_>>(), [time("2026-11-30T09:00Z")]);
    assert_eq!(extended(&period(), &first, "2026-11-20T00:00:00Z"), 500);
    assert_eq!(extended(&next_period(), &first, "2026-11-20T00:00:00Z"), 0, "of the next period, as it is known before");
    let second = begun(&spec, &first, &next_period());
    assert_eq!(second, first, "it has ended, and is remembered");
    assert_eq!(extended(&next_period(), &second, "2026-12-01T00:00:00Z"), 0);
    assert_eq!(extended(&period(), &second, "2026-11-16T09:00:00Z"), 500, "of the period before, as it was");
    // Who knows nothing of the period before gives it in this one.
    assert_eq!(extended(&next_period(), &begun(&spec, &[], &next_period()), "2026-12-01T00:00:00Z"), 500);
}

#[test]
fn an_extension_is_the_same_as_long_as_its_amounts_and_its_time_are() {
    let given = begun(&extended("2027-06-01T00:00:00Z"), &[], &period());
    for (extension, is_new) in [
        (json!({"tokens": 500, "until": "2027-06-01T00:00:00Z", "reason": "incident 4711"}), false),
        (json!({"tokens": 500, "until": "2027-06-01T02:00:00+02:00"}), false),
        (json!({"tokens": 501, "until": "2027-06-01T00:00:00Z"}), true),
        (json!({"tokens": 500, "until": "2027-06-01T00:00:01Z"}), true),
        (json!({"tokens": 500, "cost": "1", "until": "2027-06-01T00:00:00Z"}), true),
    ] {
        let spec = spec(&json!({"tokens": 1000, "cost": "1", "extensions": [extension]}));
        let begun = begun(&spec, &given, &next_period());
        let limit = of(&spec, Unit::Tokens, &next_period(), None, &begun, time("2026-12-01T00:00Z")).unwrap();
        assert_eq!(limit.extended > 0, is_new, "{:?}", spec.extensions);
    }
    assert_eq!(begun(&spec(&json!({"tokens": 1000})), &given, &next_period()), [], "what is taken away is forgotten");
}

#[test]
fn an_extension_ends_with_its_period_also_where_that_gets_another_end_or_start() {
    let spec = extended("2027-06-01T00:00:00Z");
    let given = begun(&spec, &[], &period());
    let extended =
        |period: &Period, begun: &[ExtensionStatus]| of(&spec, Unit::Tokens, period, None, begun, period.start).unwrap().extended;
    let shorter = Period { end: Some(time("2026-11-23T09:00Z")), ..period() };
    let of_shorter = begun(&spec, &given, &shorter);
    assert_eq!((extended(&shorter, &of_shorter), of_shorter[0].ends.0), (500, time("2026-11-23T09:00Z")));
    let after = Period { id: PeriodId(time("2026-11-23T09:00Z").as_second()), start: time("2026-11-23T09:00Z"), ..period() };
    assert_eq!(extended(&after, &begun(&spec, &of_shorter, &after)), 0);
    let moved = Period { id: PeriodId(time("2026-11-18T09:00Z").as_second()), start: time("2026-11-18T09:00Z"), ..next_period() };
    let of_moved = begun(&spec, &given, &moved);
    assert_eq!((extended(&moved, &of_moved), of_moved[0].ends.0), (500, time("2026-12-14T09:00Z")));
}

#[test]
fn a_period_that_never_ends_has_every_extension_that_ends_after_its_start() {
    let endless = Period { end: None, ..period() };
    let spec = spec(&json!({"tokens": 1000, "extensions": [{"tokens": 500, "until": "2099-01-01T00:00:00Z"}]}));
    assert_eq!(in_open(&spec, Unit::Tokens, &endless, None, within()).unwrap().extended, 500);
}

#[test]
fn extensions_add_up_each_in_its_unit() {
    let spec = spec(&json!({"tokens": 1000, "cost": "10", "extensions": [
        {"tokens": 500, "until": "2026-11-28T00:00:00Z", "reason": "incident 4711"},
        {"tokens": 70, "cost": "2.50", "until": "2026-11-25T00:00:00Z"},
        {"cost": "1", "until": "2026-11-30T09:00:00Z"},
        {"tokens": 9000, "cost": "9000", "until": "2026-11-18T00:00:00Z"},
    ]}));
    let total = |unit, now| in_open(&spec, unit, &period(), None, time(now)).unwrap().total();
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
fn extensions_that_are_over_are_told_in_the_order_of_the_spec() {
    let spec = spec(&json!({"tokens": 1000, "extensions": [
        {"tokens": 1, "until": "2026-11-20T00:00:00Z", "reason": "ends now"},
        {"tokens": 2, "until": "2026-11-20T00:00:01Z", "reason": "counts"},
        {"tokens": 3, "until": "2026-10-01T00:00:00Z", "reason": "of an earlier period"},
        {"tokens": 4, "until": "2026-12-24T00:00:00Z", "reason": "is longer than the period"},
    ]}));
    let reasons = |begun: &[ExtensionStatus], now| -> Vec<String> {
        past_extensions(&spec, begun, now).iter().filter_map(|past| past.reason.clone()).collect()
    };
    let given = begun(&spec, &[], &period());
    assert_eq!(reasons(&given, within()), ["ends now", "of an earlier period"]);
    assert!(reasons(&[], time("2026-01-01T00:00Z")).is_empty());
    let next = begun(&spec, &given, &next_period());
    assert_eq!(
        reasons(&next, time("2026-12-01T00:00Z")),
        ["ends now", "counts", "of an earlier period", "is longer than the period"]
    );
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
