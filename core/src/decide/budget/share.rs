//! Who may use how much of a budget: its limit, divided among those whom it covers.
//!
//! *Equal* and *Weighted* divide the limit of the period, rounded down. Nobody has what another one leaves, until a threshold
//! with the action Redistribute is reached. Then each has what it has used, rounded up to the next tenth of its share, and the
//! rest of the limit is divided in proportion to what each has used: what idle callers leave goes to busy ones, and an idle one
//! still has its next tenth. Tenths, so that limits move seldom; they are written into the ledger before anybody is granted
//! more.
//!
//! The next tenths of many callers can be more than is left of the limit. So the sum of the limits can pass that of the budget,
//! by a tenth of it at most: they are grants to nobody, and whoever comes first has what is left. No account of the budget
//! passes its own limit.

use std::collections::BTreeMap;

use super::observation::PerUnit;
use crate::api::token_budget::{Share, ShareType};
use crate::decide::account::{Limits, Unit};

/// The weight of a caller that is not named.
const WEIGHT: u32 = 1;

/// Parts of a share in which it is looked at who uses it.
const PARTS: u64 = 10;

/// What each of these callers may use in a period, by name; none: the budget is not divided. `used` is what they have used in
/// it, and matters only where it is `redistributed`.
pub fn limits(
    share: Option<&Share>,
    total: Limits,
    callers: &[&str],
    used: &BTreeMap<String, PerUnit<u64>>,
    redistributed: bool,
) -> Option<BTreeMap<String, Limits>> {
    let share = share.filter(|share| share.type_ != ShareType::None)?;
    let weights: Vec<u64> = callers.iter().map(|caller| weight(share, caller)).collect();
    let of_unit = |unit: Unit| -> Vec<Option<u64>> {
        let Some(total) = total.of(unit) else { return vec![None; callers.len()] };
        let shares = divided(total, &weights);
        if !redistributed {
            return shares.into_iter().map(Some).collect();
        }
        let used = |caller: &&str| used.get(*caller).and_then(|used| used.of(unit).copied()).unwrap_or(0);
        let used: Vec<u64> = callers.iter().map(used).collect();
        moved(total, &shares, &used).into_iter().map(Some).collect()
    };
    let limits = of_unit(Unit::Tokens).into_iter().zip(of_unit(Unit::Cost)).map(|(tokens, cost)| Limits { tokens, cost });
    Some(callers.iter().map(|caller| (*caller).to_owned()).zip(limits).collect())
}

fn weight(share: &Share, caller: &str) -> u64 {
    let named = share.weights.as_ref().and_then(|weights| weights.get(caller)).copied();
    match share.type_ {
        ShareType::Weighted => u64::from(named.unwrap_or(WEIGHT)),
        ShareType::Equal | ShareType::None => u64::from(WEIGHT),
    }
}

/// An amount in proportion to weights, each part rounded down.
fn divided(amount: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().copied().map(u128::from).sum();
    let part = |weight: &u64| {
        let part = (u128::from(amount) * u128::from(*weight)).checked_div(sum).unwrap_or(0);
        u64::try_from(part).unwrap_or(u64::MAX)
    };
    weights.iter().map(part).collect()
}

/// Shares of which those who use theirs have what the others leave.
fn moved(total: u64, shares: &[u64], used: &[u64]) -> Vec<u64> {
    // What was used, in whole parts of the share, and up to where the next part goes.
    let parts = |(share, used): (&u64, &u64)| {
        let part = (share / PARTS).max(1);
        let whole = used / part * part;
        if *share == 0 { (0, 0) } else { (whole, whole.saturating_add(part)) }
    };
    let (whole, kept): (Vec<u64>, Vec<u64>) = shares.iter().zip(used).map(parts).unzip();
    let rest = total.saturating_sub(kept.iter().fold(0, |sum, kept| sum.saturating_add(*kept)));
    // Where nobody has used a part yet, nobody is busier than another one.
    let is_idle = whole.iter().all(|used| *used == 0);
    let more = divided(rest, if is_idle { shares } else { &whole });
    kept.into_iter().zip(more).map(|(kept, more)| kept.saturating_add(more)).collect()
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
