//! How fast a budget is used, and when it is used up if that goes on.
//!
//! Both are shown with two significant digits, and what was told stays while it is about right: a status does not tick.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::observation::{AccountFacts, PerUnit};
use crate::decide::account::Unit;
use crate::decide::account::history::Burn;
use crate::decide::pool::figures::rounded;

/// The steps in which a time of exhaustion is told, in seconds: a minute, five, a quarter of an hour, an hour, six hours, a
/// day.
const STEPS: [i64; 6] = [60, 300, 900, 3_600, 21_600, 86_400];

/// How many steps lie between now and the time that is told, at least: that many are two significant digits. With fewer a
/// smaller step is taken.
const FEWEST_STEPS: i64 = 20;

/// What those whom a budget covers use in an hour: [`Burn`], as it can be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BurnRate {
    /// Tokens per hour, each as one.
    pub tokens_per_hour: u64,
    /// The part of `tokens_per_hour` that backends' prefix caches served.
    pub cached_input_per_hour: u64,
    /// Millionths of the operator's currency per hour.
    pub cost_per_hour: u64,
}

impl From<Burn> for BurnRate {
    fn from(burn: Burn) -> Self {
        let Burn { tokens_per_hour, cached_input_per_hour, cost_per_hour } = burn;
        Self { tokens_per_hour, cached_input_per_hour, cost_per_hour }
    }
}

impl From<BurnRate> for Burn {
    fn from(burn: BurnRate) -> Self {
        let BurnRate { tokens_per_hour, cached_input_per_hour, cost_per_hour } = burn;
        Self { tokens_per_hour, cached_input_per_hour, cost_per_hour }
    }
}

impl BurnRate {
    /// What of it counts, with two significant digits, where of an input token that a prefix cache served only so many percent
    /// do.
    #[must_use]
    pub fn shown(self, cached_input_percent: u32) -> Self {
        let counted = Burn::from(self).counted(cached_input_percent);
        let digits = |rate: u64| rounded(rate.min(u64::MAX / 2));
        Self {
            tokens_per_hour: digits(counted.tokens_per_hour),
            cached_input_per_hour: digits(counted.cached_input_per_hour),
            cost_per_hour: digits(counted.cost_per_hour),
        }
    }

    fn of(self, unit: Unit) -> u64 {
        match unit {
            Unit::Tokens => self.tokens_per_hour,
            Unit::Cost => self.cost_per_hour,
        }
    }
}

/// When a budget is used up at a rate, in the unit in which that comes first. None: not before the period ends, or it is used
/// up already, or nothing is used. `told`: what was told last, which stays while it is off by no more than a step.
pub fn exhaustion(
    units: &PerUnit<AccountFacts>,
    burn: BurnRate,
    end: Option<Timestamp>,
    told: Option<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    let seconds = Unit::ALL.into_iter().filter_map(|unit| seconds_left(units.of(unit)?.left(), burn.of(unit))).min()?;
    let exact = now.as_second().checked_add(seconds).filter(|_| seconds > 0)?;
    if end.is_some_and(|end| exact >= end.as_second()) {
        return None;
    }
    let step = STEPS.into_iter().rev().find(|step| step.saturating_mul(FEWEST_STEPS) <= seconds).unwrap_or(60);
    let is_about_right = |told: &Timestamp| *told > now && (-step..2 * step).contains(&exact.saturating_sub(told.as_second()));
    if let Some(told) = told.filter(is_about_right) {
        return Some(told);
    }
    // Rather too early than too late, and never in the past.
    let rounded = (exact.div_euclid(step) * step).max(now.as_second().saturating_add(1));
    Timestamp::from_second(rounded).ok()
}

/// Seconds until what is left is used up. None: nothing is used, or it takes longer than can be written down.
fn seconds_left(left: u64, per_hour: u64) -> Option<i64> {
    let seconds = (u128::from(left) * 3600).checked_div(u128::from(per_hour))?;
    i64::try_from(seconds).ok()
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
