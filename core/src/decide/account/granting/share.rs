//! A share of an account, and sums over what processes hold.

use std::collections::BTreeMap;

use super::grant::Grant;
use crate::decide::account::message::SpentRow;

/// The caller of a share; none: a budget without shares.
pub(super) type ShareKey = Option<String>;

/// A caller's share, or all of a budget without shares.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// None: it is no share any more.
    pub(super) limit: Option<u64>,
    /// What counts against the share, and in the account already: what the caller had used in the period before it had a share,
    /// what processes that vanished may have used of this share, or else of another one, and what processes count in shares that
    /// there are no more.
    pub(super) before: u64,
    pub(super) settled: u64,
    pub(super) estimated: u64,
    pub(super) refused: u64,
    pub(super) grants: BTreeMap<u64, Grant>,
    pub(super) totals: Totals,
}

/// Sums over grants.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) used: u64,
    pub(super) estimated: u64,
    pub(super) refused: u64,
    /// Used and reserved.
    pub(super) busy: u64,
    /// The most that those may use that are heard, and what of it they have not used.
    promised: u64,
    unused: u64,
    /// The most that those may use that are not heard, if each uses what it may, and what they did use and reserve.
    reach: u64,
    pub(super) busy_unheard: u64,
    /// How many are not heard, and how many of them have ended.
    pub(super) unheard: u64,
    pub(super) vanished: u64,
}

impl Totals {
    pub(super) fn of(grant: &Grant) -> Self {
        let SpentRow { used, estimated, refused, .. } = grant.reported;
        let sums = Self { used, estimated, refused, busy: grant.busy(), ..Self::default() };
        if grant.heard {
            return Self { promised: grant.promised(), unused: grant.unused(), ..sums };
        }
        Self { reach: grant.reach(), busy_unheard: grant.busy(), unheard: 1, vanished: u64::from(grant.vanished), ..sums }
    }

    pub(super) fn replace(&mut self, before: &Self, after: &Self) {
        for (sum, before, after) in [
            (&mut self.used, before.used, after.used),
            (&mut self.estimated, before.estimated, after.estimated),
            (&mut self.refused, before.refused, after.refused),
            (&mut self.busy, before.busy, after.busy),
            (&mut self.promised, before.promised, after.promised),
            (&mut self.unused, before.unused, after.unused),
            (&mut self.reach, before.reach, after.reach),
            (&mut self.busy_unheard, before.busy_unheard, after.busy_unheard),
            (&mut self.unheard, before.unheard, after.unheard),
            (&mut self.vanished, before.vanished, after.vanished),
        ] {
            *sum = sum.saturating_sub(before).saturating_add(after);
        }
    }

    /// What those that are heard may use and have not.
    pub(super) fn unused(&self) -> u64 {
        self.unused
    }

    /// The most that all may use, where those that are not heard have no more than the pool, but for what they say themselves.
    pub(super) fn committed(&self, pool: u64) -> u64 {
        self.promised.saturating_add(self.reach.min(pool).max(self.busy_unheard))
    }
}

impl Share {
    /// What was used of it.
    pub(super) fn used(&self) -> u64 {
        self.before.saturating_add(self.settled).saturating_add(self.totals.used)
    }

    /// What was used of it and can be used by running calls, as far as is known.
    pub(super) fn busy(&self) -> u64 {
        self.before.saturating_add(self.settled).saturating_add(self.totals.busy)
    }

    pub(super) fn estimated(&self) -> u64 {
        self.estimated.saturating_add(self.totals.estimated)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.saturating_add(self.totals.refused)
    }

    /// What processes have reported of it as used.
    pub(super) fn live(&self) -> u64 {
        self.totals.used
    }

    pub(super) fn committed(&self, pool: u64) -> u64 {
        self.before.saturating_add(self.settled).saturating_add(self.totals.committed(pool))
    }

    /// What would be left of it if those that are heard gave back all that they have not used.
    pub(super) fn leaves(&self, pool: u64) -> u64 {
        self.limit.unwrap_or(0).saturating_sub(self.committed(pool).saturating_sub(self.totals.unused()))
    }

    /// What may still be granted of it, as far as it alone is concerned.
    pub(super) fn room(&self, pool: u64) -> u64 {
        self.limit.unwrap_or(0).saturating_sub(self.committed(pool))
    }
}
