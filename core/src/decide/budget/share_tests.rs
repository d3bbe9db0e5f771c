use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn share(share: Value) -> Share {
    serde_json::from_value(share).unwrap()
}

fn total(tokens: u64) -> Limits {
    Limits { tokens: Some(tokens), cost: None }
}

fn in_tokens(limits: Option<BTreeMap<String, Limits>>) -> Vec<(String, u64)> {
    limits.unwrap().into_iter().map(|(caller, limits)| (caller, limits.tokens.unwrap())).collect()
}

fn expected(shares: &[(&str, u64)]) -> Vec<(String, u64)> {
    shares.iter().map(|(caller, limit)| ((*caller).to_owned(), *limit)).collect()
}

fn used(used: &[(&str, u64)]) -> BTreeMap<String, PerUnit<u64>> {
    used.iter().map(|(caller, tokens)| ((*caller).to_owned(), PerUnit { tokens: Some(*tokens), cost: None })).collect()
}

#[test]
fn a_limit_is_divided_equally_or_by_weights_and_rounded_down() {
    let callers = ["batch", "coder", "planner"];
    let none = BTreeMap::new();
    for (of, tokens, shares) in [
        (json!({ "type": "Equal" }), 1000, [333, 333, 333]),
        (json!({ "type": "Weighted", "weights": { "coder": 5, "planner": 3 } }), 900, [100, 500, 300]),
        (json!({ "type": "Weighted", "weights": { "somebody": 9 } }), 3, [1, 1, 1]),
        (json!({ "type": "Equal" }), 2, [0, 0, 0]),
    ] {
        let limits = limits(Some(&share(of.clone())), total(tokens), &callers, &none, false);
        let shares: Vec<(&str, u64)> = callers.into_iter().zip(shares).collect();
        assert_eq!(in_tokens(limits), expected(&shares), "{of}");
    }
    assert_eq!(limits(Some(&share(json!({ "type": "None" }))), total(1000), &callers, &none, false), None);
    assert_eq!(limits(None, total(1000), &callers, &none, true), None);
    assert_eq!(limits(Some(&share(json!({ "type": "Equal" }))), total(1000), &[], &none, true), Some(BTreeMap::new()));
}

#[test]
fn each_unit_that_is_limited_is_divided() {
    let both = Limits { tokens: Some(1000), cost: Some(9_000_000) };
    let equal = share(json!({ "type": "Equal" }));
    let shares = |total| limits(Some(&equal), total, &["batch", "coder"], &BTreeMap::new(), false).unwrap()["coder"];
    assert_eq!(shares(both), Limits { tokens: Some(500), cost: Some(4_500_000) });
    assert_eq!(shares(Limits { tokens: None, ..both }), Limits { tokens: None, cost: Some(4_500_000) });
}

#[test]
fn once_it_is_redistributed_busy_callers_have_what_idle_ones_leave() {
    let equal = share(json!({ "type": "Equal" }));
    for (of, shares) in [
        // Each keeps what it used and the next tenth of its share; the rest goes by what each used.
        ([("batch", 100), ("coder", 500)], [("batch", 200), ("coder", 800)]),
        ([("batch", 0), ("coder", 500)], [("batch", 50), ("coder", 950)]),
        // Below a tenth nobody is busy.
        ([("batch", 0), ("coder", 49)], [("batch", 500), ("coder", 500)]),
        ([("batch", 400), ("coder", 400)], [("batch", 500), ("coder", 500)]),
        // The last tenths can be more than is left: the budget's own limit holds.
        ([("batch", 490), ("coder", 500)], [("batch", 500), ("coder", 550)]),
    ] {
        let limits = limits(Some(&equal), total(1000), &["batch", "coder"], &used(&of), true);
        assert_eq!(in_tokens(limits), expected(&shares), "{of:?}");
    }
    let before = limits(Some(&equal), total(1000), &["batch", "coder"], &used(&[("coder", 500)]), false);
    assert_eq!(in_tokens(before), expected(&[("batch", 500), ("coder", 500)]), "until then each has its own");
}

#[test]
fn shares_move_only_with_a_tenth_of_a_share() {
    let equal = share(json!({ "type": "Equal" }));
    let of = |coder| limits(Some(&equal), total(1000), &["batch", "coder"], &used(&[("batch", 60), ("coder", coder)]), true);
    assert_eq!(of(450), of(499));
    assert_ne!(of(450), of(500));
}

proptest! {
    #[test]
    fn nobody_is_given_less_than_it_used_and_all_together_hardly_more_than_there_is(
        tokens in 1..=1_u64 << 53,
        callers in proptest::collection::vec((1..=1_000_000_u32, 0..=1000_u64), 1..20),
    ) {
        let names: Vec<String> = (0..callers.len()).map(|number| format!("p{number:02}")).collect();
        let weights: BTreeMap<String, u32> = names.iter().cloned().zip(callers.iter().map(|(weight, _)| *weight)).collect();
        let weighted = Share { type_: ShareType::Weighted, weights: Some(weights) };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // Thousandths of the limit, of which all together use no more than all.
        let parts: u64 = callers.iter().map(|(_, part)| *part).sum::<u64>().max(1000);
        let spent = |part: u64| u64::try_from(u128::from(tokens) * u128::from(part) / u128::from(parts)).unwrap();
        let spent: Vec<u64> = callers.iter().map(|(_, part)| spent(*part)).collect();
        let used: BTreeMap<String, PerUnit<u64>> = names.iter().zip(&spent)
            .map(|(name, spent)| ((*name).to_owned(), PerUnit { tokens: Some(*spent), cost: None })).collect();
        let of = |redistributed| in_tokens(limits(Some(&weighted), total(tokens), &names, &used, redistributed));
        let fixed = of(false);
        let sum = |shares: &[(String, u64)]| shares.iter().map(|(_, limit)| u128::from(*limit)).sum::<u128>();
        prop_assert!(sum(&fixed) <= u128::from(tokens));
        let moved = of(true);
        let tenths: u128 = fixed.iter().map(|(_, share)| u128::from((share / 10).max(1))).sum();
        let most = u128::from(tokens).max(spent.iter().copied().map(u128::from).sum::<u128>() + tenths);
        prop_assert!(sum(&moved) <= most, "{moved:?}");
        for (((_, share), (_, limit)), spent) in fixed.iter().zip(&moved).zip(&spent) {
            prop_assert!(*share == 0 || limit > spent, "{limit} of {spent}");
        }
    }
}
