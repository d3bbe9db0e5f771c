//! How fast it goes.

use jiff::Timestamp;

use super::bucket::{Bucket, HOUR};
use super::figures::tokens;
use super::{Covers, History};

/// What is used in an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Burn {
    /// Tokens per hour, each as one.
    pub tokens_per_hour: u64,
    /// The part of `tokens_per_hour` that backends' prefix caches served.
    pub cached_input_per_hour: u64,
    /// Millionths of the operator's currency per hour.
    pub cost_per_hour: u64,
}

/// Half-lives after which usage weighs nothing any more: less than a thousand-millionth.
const HALF_LIVES: u32 = 30;

/// The weight of what is used now, as a whole number.
const FULL: u64 = 1_000_000_000;

/// What is left of [`FULL`] after no, one, two, three and four quarters of a half-life: `2^(-n/4)`. Between them it is taken to
/// fall evenly, which is wrong by less than 0.4 %.
const QUARTERS: [u64; 5] = [FULL, 840_896_415, 707_106_781, 594_603_558, 500_000_000];

impl Burn {
    /// The same where of an input token that a prefix cache served only so many percent count.
    #[must_use]
    pub fn counted(self, cached_input_percent: u32) -> Self {
        let cached = self.cached_input_per_hour.min(self.tokens_per_hour);
        let counted = (u128::from(cached) * u128::from(cached_input_percent)).div_ceil(100);
        let counted = u64::try_from(counted).unwrap_or(u64::MAX);
        Self { tokens_per_hour: (self.tokens_per_hour - cached).saturating_add(counted), cached_input_per_hour: counted, ..self }
    }
}

impl History {
    /// How fast these calls use tokens and money: the average over the period until now, or over the last hour if the period is
    /// younger, in which what was used an hour ago weighs half of what is used now. `period_start` is in seconds since 1970.
    ///
    /// Within an hour of the table usage is taken to have been even. So the answer is exact for usage that is, and else lags by
    /// less than an hour. What is only known of [`super::OTHER`] callers together is left out.
    pub fn burn(&self, covers: &Covers, now: Timestamp, period_start: i64) -> Burn {
        let now = now.as_second();
        let longest = now.saturating_sub(i64::from(HALF_LIVES) * HOUR);
        let from = period_start.min(now.saturating_sub(HOUR)).max(longest);
        let (mut tokens_used, mut cached_input, mut cost) = (0_u128, 0_u128, 0_u128);
        for row in self.covered(covers, from, now) {
            // Of what is older only days are known: it hardly weighs anything.
            let Bucket::Hour(start) = row.bucket else { continue };
            let end = row.bucket.end().min(now);
            let weight = left_after(now.saturating_sub(end)).saturating_sub(left_after(now.saturating_sub(start.max(from))));
            let seconds = u128::try_from(end.saturating_sub(start)).unwrap_or(0);
            let per_hour = |used: u64| (u128::from(used) * 3600 * u128::from(weight)).checked_div(seconds).unwrap_or(0);
            tokens_used += per_hour(tokens(row.counts));
            cached_input += per_hour(row.counts.cached_input);
            cost += per_hour(row.counts.cost);
        }
        let all = u128::from(FULL.saturating_sub(left_after(now.saturating_sub(from))));
        let average = |sum: u128| sum.checked_div(all).map_or(0, |average| u64::try_from(average).unwrap_or(u64::MAX));
        Burn { tokens_per_hour: average(tokens_used), cached_input_per_hour: average(cached_input), cost_per_hour: average(cost) }
    }
}

/// What is left of [`FULL`] after so many seconds, with a half-life of an hour.
fn left_after(seconds: i64) -> u64 {
    const QUARTER: u64 = 900;
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let half_lives = u32::try_from(seconds / (4 * QUARTER)).unwrap_or(u32::MAX);
    if half_lives >= HALF_LIVES {
        return 0;
    }
    let [full, one, two, three, half] = QUARTERS;
    let within = seconds % (4 * QUARTER);
    let (before, after) = match within / QUARTER {
        0 => (full, one),
        1 => (one, two),
        2 => (two, three),
        _ => (three, half),
    };
    (before - (before - after) * (within % QUARTER) / QUARTER) >> half_lives
}

#[cfg(test)]
#[path = "burn_tests.rs"]
mod tests;
