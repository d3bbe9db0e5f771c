//! What a leader has promised, by what processes have said to it: what it grants after a report respects what that report said, also
//! where that is more than anybody had granted.

use std::collections::BTreeMap;

use super::super::granting::{Granting, HeldBy, Holding};
use super::super::{PeriodId, Unit};
use super::budget::Budget;

/// What each process that is heard holds, by uid of the budget.
pub(super) struct Promises(BTreeMap<String, BTreeMap<HeldBy, Holding>>);

impl Promises {
    pub(super) fn of(granting: &Granting, budgets: &[Budget]) -> Self {
        Self(budgets.iter().map(|budget| (budget.uid.clone(), granting.holdings(&budget.uid))).collect())
    }

    /// These were the promises, and these are they now: nothing else has happened between but that the leader has granted.
    pub(super) fn hold(&self, now: &Self, granting: &Granting) {
        for (uid, holdings) in &now.0 {
            let mut known: BTreeMap<(Unit, PeriodId), u64> = BTreeMap::new();
            for (held_by, holding) in holdings {
                *known.entry((held_by.unit, held_by.period)).or_default() += holding.busy.max(holding.sent);
            }
            for ((unit, period), known) in known {
                let committed = granting.committed(uid, unit, period);
                assert!(
                    committed >= known,
                    "{uid} in {period:?}: {known} may be used, and the leader knows of {committed} {unit:?}"
                );
            }
            for (held_by, holding) in holdings {
                let before = self.0.get(uid).and_then(|before| before.get(held_by)).map_or(0, |before| before.sent);
                // What it says itself that it may use was granted before, by whomever.
                if holding.sent > before.max(holding.allowance) {
                    hold_to_limit(granting, uid, held_by);
                }
            }
        }
    }
}

/// Something was granted: all that is promised is within the limits as they are now.
fn hold_to_limit(granting: &Granting, uid: &str, held_by: &HeldBy) {
    let HeldBy { period, unit, share, .. } = held_by;
    let (committed, limit) = (granting.committed(uid, *unit, *period), granting.limit(uid, *unit, *period));
    assert!(limit.is_some_and(|limit| committed <= limit), "{uid}: granted to {held_by:?}, {committed} of {limit:?}");
    if let Some(caller) = share {
        let of_share = granting.share(uid, *unit, *period, caller);
        let is_within = of_share.is_some_and(|(committed, limit)| committed <= limit);
        assert!(is_within, "{uid}: granted to {held_by:?}, {of_share:?} of the share");
    }
}
