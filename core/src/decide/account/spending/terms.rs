//! What budgets mean for a call, before it is known where it goes.

use super::account::Account;
use super::cover::accounts_of;
use super::{Moment, Refused, Spending};
use crate::api::model_route::Tier;
use crate::api::token_budget::{Enforcement, WhenUsageUnknown};
use crate::decide::account::{Now, Unit};

/// What budgets mean for the calls of a caller on a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The highest tier that may answer; none: any.
    pub tier_ceiling: Option<Tier>,
    /// How much of the budgets is used, in percent: the highest. None: the operator has not said.
    pub used_percent: Option<u32>,
    /// Calls of tasks that are new are refused.
    pub new_tasks_refused: Option<Refused>,
    /// Every call is refused. Nothing is counted here: [`Spending::reserve`] refuses too, and counts.
    pub refused: Option<Refused>,
    /// Whether a budget covers them that refuses, so that nothing may be sent whose use has no bound.
    pub walled: bool,
    /// Whether a backend without a price may not answer.
    pub needs_price: bool,
    /// Whether their output has to have a limit: a budget that refuses covers them, and has room for the most that they can use.
    pub bounded_output: bool,
    /// Tokens that are left of the limits: the least. None: no limit of tokens is known.
    pub remaining: Option<u64>,
}

impl Spending {
    /// What budgets mean for calls of a caller on a route; none: no budget covers them.
    pub fn terms(&self, caller: &str, route: &str, now: Now) -> Option<Terms> {
        if !self.told {
            return self.planned.terms(caller, route, now.wall.as_second());
        }
        let cover = self.cover(caller, route)?;
        let moment = self.moment(now);
        let mut terms = Terms { tier_ceiling: cover.tier_ceiling, used_percent: Some(cover.used_percent), ..Terms::default() };
        for account in accounts_of(cover, &self.accounts).filter(|account| !account.gone) {
            terms.walled |= account.is_walled();
            terms.needs_price |= account.id.unit == Unit::Cost && account.needs_price();
            if account.id.unit == Unit::Tokens
                && let Some(left) = account.left(moment.wall)
            {
                terms.remaining = Some(terms.remaining.map_or(left, |least| least.min(left)));
            }
        }
        terms.bounded_output = terms.walled;
        let of = |slot: Option<usize>| slot.and_then(|slot| self.accounts.get(slot));
        terms.refused = of(cover.refused).filter(|account| account.refuses(&moment)).map(|account| account.refused(moment.wall));
        terms.new_tasks_refused =
            of(cover.new_tasks_refused).filter(|account| account.restricts(&moment)).map(|account| account.refused(moment.wall));
        Some(terms)
    }
}

impl Account {
    /// Whether a call that has no price is refused.
    pub(super) fn needs_price(&self) -> bool {
        self.is_walled() && self.row.as_ref().is_none_or(|row| row.when_usage_unknown != WhenUsageUnknown::Allow)
    }

    /// Whether it still refuses every call, where the operator said that it does: in the period of which that was said. When that
    /// is over and nothing is heard of the operator, nobody knows.
    pub(super) fn refuses(&self, moment: &Moment) -> bool {
        self.is_walled() && self.is_in_force(moment)
    }

    /// Whether it still refuses calls of new tasks, where the operator said that it does.
    fn restricts(&self, moment: &Moment) -> bool {
        let acts = self.row.as_ref().is_none_or(|row| row.enforcement != Enforcement::DryRun);
        acts && !self.gone && self.is_in_force(moment)
    }

    fn is_in_force(&self, moment: &Moment) -> bool {
        let is_over = self.at(moment.wall).is_some_and(|spent| spent.is_over(moment.wall));
        self.row.is_none() || self.is_told(moment.wall) && !(moment.silent && is_over)
    }

    /// What whoever is refused is told.
    pub(super) fn refused(&self, wall: i64) -> Refused {
        let row = self.row.as_ref();
        Refused {
            budget: row.map_or(&self.id.budget, |row| &row.budget).clone(),
            unit: self.id.unit,
            limit: row.map_or(0, |row| row.limit),
            left: self.left(wall).unwrap_or_else(|| self.available(wall)),
            resets: self.at(wall).and_then(|spent| spent.end),
            message: row.and_then(|row| row.message.clone()),
        }
    }
}

#[cfg(test)]
#[path = "terms_tests.rs"]
mod tests;
