//! The HorizontalPodAutoscaler's behavior: stabilization windows, policies and tolerance, as Kubernetes 1.30 and later apply
//! them (pkg/controller/podautoscaler/horizontal.go).

use std::time::Duration;

use jiff::Timestamp;

use super::history::{History, age};
use crate::api::quantity;
use crate::api::scaling::{Behavior, PolicyType, ScalingPolicy, ScalingRules, SelectPolicy};

/// Tolerances are counted in parts of a million.
const MILLION: u64 = 1_000_000;
/// The tolerance against removing replicas: the default of the HorizontalPodAutoscaler.
const DOWN_TOLERANCE: u64 = MILLION / 10;

/// The rules of both directions, with every default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How replicas are added.
    pub up: Direction,
    /// How replicas are removed.
    pub down: Direction,
}

/// The rules of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Recommendations that are younger than this are considered.
    pub window: Duration,
    /// Which policy counts.
    pub select: SelectPolicy,
    /// How many replicas may be changed in how much time.
    pub policies: Vec<ScalingPolicy>,
    /// Parts of a million of the present replicas by which the demand must differ.
    pub tolerance: u64,
}

/// What a limit allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The replicas that are allowed.
    pub replicas: u32,
    /// Whether something else was wanted.
    pub binds: bool,
}

impl Rules {
    /// The rules of a spec. What is absent is as in a HorizontalPodAutoscaler, except that no tolerance keeps replicas from
    /// being added: a task of an hour must not wait because it is only one in ten.
    ///
    /// # Errors
    ///
    /// A tolerance that is no number.
    pub fn of(behavior: Option<&Behavior>) -> Result<Self, quantity::ParseQuantityError> {
        let pods = ScalingPolicy { type_: PolicyType::Pods, value: 4, period_seconds: 15 };
        let percent = ScalingPolicy { type_: PolicyType::Percent, value: 100, period_seconds: 15 };
        let up = behavior.and_then(|behavior| behavior.scale_up.as_ref());
        let down = behavior.and_then(|behavior| behavior.scale_down.as_ref());
        Ok(Self { up: direction(up, 0, &[pods, percent], 0)?, down: direction(down, 300, &[percent], DOWN_TOLERANCE)? })
    }

    /// The longest time that a change of the replicas still counts for.
    pub fn longest_period(&self) -> Duration {
        let periods = self.up.policies.iter().chain(&self.down.policies).map(|policy| policy.period_seconds);
        Duration::from_secs(u64::from(periods.max().unwrap_or(0)))
    }

    /// Whether this much demand is too close to what `current` replicas are for to change anything.
    pub fn tolerates(&self, demand: u64, capacity_of_one: u64, current: u32) -> bool {
        let present = u128::from(capacity_of_one) * u128::from(current);
        let demand = u128::from(demand) * u128::from(MILLION);
        let least = present * u128::from(MILLION.saturating_sub(self.down.tolerance));
        let most = present * u128::from(MILLION.saturating_add(self.up.tolerance));
        current > 0 && least <= demand && demand <= most
    }

    /// The proposal, held where a recommendation of the window says otherwise. Both windows count whatever the direction.
    pub fn stabilize(&self, current: u32, proposal: u32, history: &History, now: Timestamp) -> Limited {
        let within = |window: Duration| {
            let young = history.recommendations.iter().filter(move |recommendation| age(recommendation.at, now) < window);
            young.map(|recommendation| recommendation.replicas)
        };
        let least = within(self.up.window).min().map_or(proposal, |least| least.min(proposal));
        let most = within(self.down.window).max().map_or(proposal, |most| most.max(proposal));
        let replicas = current.max(least).min(most);
        Limited { replicas, binds: replicas != proposal }
    }

    /// As many replicas as the policies allow on the way to `wanted`.
    pub fn limit(&self, current: u32, wanted: u32, history: &History, now: Timestamp) -> Limited {
        let replicas = match wanted {
            _ if wanted > current => wanted.min(self.most(current, history, now)),
            _ if wanted < current => wanted.max(self.least(current, history, now)),
            _ => wanted,
        };
        Limited { replicas, binds: replicas != wanted }
    }

    /// When the policies or a window may allow more than they do now.
    pub fn next(&self, history: &History, now: Timestamp) -> Option<Duration> {
        let changes = history.changes.iter().flat_map(|change| {
            let policies = self.up.policies.iter().chain(&self.down.policies);
            policies.map(|policy| (change.at, period(policy)))
        });
        let windows = history
            .recommendations
            .iter()
            .flat_map(|recommendation| [self.up.window, self.down.window].map(|window| (recommendation.at, window)));
        changes.chain(windows).filter_map(|(at, length)| length.checked_sub(age(at, now)).filter(|left| !left.is_zero())).min()
    }

    /// The most replicas that may be there now. Never less than there are.
    fn most(&self, current: u32, history: &History, now: Timestamp) -> u32 {
        let allowed = |policy: &ScalingPolicy| {
            let start = start(current, history, period(policy), now);
            match policy.type_ {
                PolicyType::Pods => start.saturating_add(u64::from(policy.value)),
                PolicyType::Percent => (start * (100 + u64::from(policy.value))).div_ceil(100),
            }
        };
        let limits = self.up.policies.iter().map(allowed);
        let most = match self.up.select {
            SelectPolicy::Max => limits.max(),
            SelectPolicy::Min => limits.min(),
            SelectPolicy::Disabled => None,
        };
        u32::try_from(most.unwrap_or(0)).unwrap_or(u32::MAX).max(current)
    }

    /// The fewest replicas that may be there now. Never more than there are.
    fn least(&self, current: u32, history: &History, now: Timestamp) -> u32 {
        let allowed = |policy: &ScalingPolicy| {
            let start = start(current, history, period(policy), now);
            match policy.type_ {
                PolicyType::Pods => start.saturating_sub(u64::from(policy.value)),
                PolicyType::Percent => start * 100_u64.saturating_sub(u64::from(policy.value)) / 100,
            }
        };
        let limits = self.down.policies.iter().map(allowed);
        let least = match self.down.select {
            SelectPolicy::Max => limits.min(),
            SelectPolicy::Min => limits.max(),
            SelectPolicy::Disabled => None,
        };
        u32::try_from(least.unwrap_or(u64::MAX)).unwrap_or(u32::MAX).min(current)
    }
}

fn direction(
    rules: Option<&ScalingRules>,
    window: u32,
    policies: &[ScalingPolicy],
    tolerance: u64,
) -> Result<Direction, quantity::ParseQuantityError> {
    let stated = rules.and_then(|rules| rules.tolerance.as_ref()).map(quantity::to_millionths).transpose()?;
    let window = rules.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(window);
    Ok(Direction {
        window: Duration::from_secs(u64::from(window)),
        select: rules.and_then(|rules| rules.select_policy).unwrap_or_default(),
        policies: rules.map(|rules| rules.policies.clone()).filter(|own| !own.is_empty()).unwrap_or_else(|| policies.to_vec()),
        tolerance: stated.unwrap_or(tolerance),
    })
}

fn period(policy: &ScalingPolicy) -> Duration {
    Duration::from_secs(u64::from(policy.period_seconds))
}

/// The replicas at the beginning of a period: the present ones without what was changed since, in both directions.
fn start(current: u32, history: &History, period: Duration, now: Timestamp) -> u64 {
    let changes = history.changes.iter().filter(|change| age(change.at, now) < period);
    let (added, removed) = changes.fold((0_u64, 0_u64), |(added, removed), change| {
        let (up, down) = (change.to.saturating_sub(change.from), change.from.saturating_sub(change.to));
        (added + u64::from(up), removed + u64::from(down))
    });
    (u64::from(current) + removed).saturating_sub(added)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
