//! What a pool wanted and what was done, for as long as that still counts.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a pool wanted and what was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct History {
    /// Replicas that the queues asked for, the oldest first.
    #[serde(default)]
    pub recommendations: Vec<Recommendation>,
    /// Changes of the replicas, the oldest first.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// When a task was last seen, waiting or in flight; absent: none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_active: Option<Timestamp>,
    /// Whether there was a task when it was last looked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub active: bool,
    /// Since when the end of agents at work is put off; absent: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending_since: Option<Timestamp>,
    /// Replicas that there should have been when it was last looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// When the figures of the status last changed; absent: not in this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures_changed: Option<Timestamp>,
}

/// Replicas that the queues asked for at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recommendation {
    /// When.
    pub at: Timestamp,
    /// How many.
    pub replicas: u32,
}

/// A change of the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// Replicas before.
    pub from: u32,
    /// Replicas after.
    pub to: u32,
}

impl History {
    /// The history of a pool that is seen for the first time, by this process or at all. The present size counts as
    /// recommended, so that nobody is ended for a window's time only because the past is not known.
    pub fn beginning(now: Timestamp, replicas: u32, changes: Vec<Change>) -> Self {
        let last_active = (replicas > 0).then_some(now);
        let recommendations = vec![Recommendation { at: now, replicas }];
        Self { recommendations, changes, last_active, active: replicas > 0, replicas: Some(replicas), ..Self::default() }
    }

    /// What was asked for at the last look was asked for until then: the queues were read meanwhile, and said nothing else, else
    /// somebody would have looked.
    pub fn held_until(&mut self, then: Timestamp) {
        if self.active {
            self.last_active = self.last_active.map(|active| active.max(then));
        }
        let Some(last) = self.recommendations.last().copied().filter(|last| last.at < then) else { return };
        // Of a time that asked for the same all along, its begin and its end say everything.
        let before = self.recommendations.len().checked_sub(2).and_then(|place| self.recommendations.get(place));
        if before.is_some_and(|before| before.replicas == last.replicas) {
            self.recommendations.pop();
        }
        self.recommendations.push(Recommendation { at: then, ..last });
    }

    /// Takes a recommendation down, and forgets the ones that can decide nothing any more: they are too old for both windows,
    /// or a later one says as much in either direction. So the list stays short however often it is asked.
    pub fn recommend(&mut self, now: Timestamp, replicas: u32, up_window: Duration, down_window: Duration) {
        self.recommendations.push(Recommendation { at: now, replicas });
        let (mut least_since, mut most_since) = (u32::MAX, None::<u32>);
        let mut kept: Vec<Recommendation> = Vec::new();
        for recommendation in self.recommendations.iter().rev() {
            let age = age(recommendation.at, now);
            let latest = kept.is_empty();
            let least = age < up_window && recommendation.replicas < least_since;
            let most = age < down_window && most_since.is_none_or(|most| recommendation.replicas > most);
            if latest || least || most {
                kept.push(*recommendation);
            }
            least_since = least_since.min(recommendation.replicas);
            most_since = most_since.max(Some(recommendation.replicas));
        }
        kept.reverse();
        self.recommendations = kept;
    }

    /// Takes a change of the replicas down, and forgets those that are older than the longest period of a policy.
    pub fn change(&mut self, now: Timestamp, from: u32, to: u32, longest_period: Duration) {
        self.changes.retain(|change| age(change.at, now) < longest_period);
        if from != to {
            self.changes.push(Change { at: now, from, to });
        }
    }
}

/// How long ago something was. What was written by a clock that is ahead has just been.
pub fn age(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_long_history_is_kept_short_and_says_the_same() {
        let (up, down) = (Duration::from_secs(60), Duration::from_secs(300));
        let mut history = History::beginning(at(0), 5, Vec::new());
        let mut all = history.recommendations.clone();
        for second in 1..2000_i64 {
            let replicas = u32::try_from((second * 7919) % 23).unwrap();
            history.recommend(at(second), replicas, up, down);
            all.push(Recommendation { at: at(second), replicas });
            let within = |window: Duration| move |recommendation: &&Recommendation| age(recommendation.at, at(second)) < window;
            let of = |list: &[Recommendation]| {
                let replicas = |recommendation: &Recommendation| recommendation.replicas;
                (list.iter().filter(within(up)).map(replicas).min(), list.iter().filter(within(down)).map(replicas).max())
            };
            assert_eq!(of(&history.recommendations), of(&all), "second {second}");
            assert!(history.recommendations.len() <= 2 * 23, "{}", history.recommendations.len());
        }
    }

    #[test]
    fn what_was_asked_for_until_just_now_is_not_forgotten_although_nobody_looked_for_long() {
        let mut history = History::beginning(at(0), 5, Vec::new());
        history.active = true;
        for second in [600, 900, 1200] {
            history.held_until(at(second));
        }
        let expected = [Recommendation { at: at(0), replicas: 5 }, Recommendation { at: at(1200), replicas: 5 }];
        assert_eq!((history.recommendations.as_slice(), history.last_active), (expected.as_slice(), Some(at(1200))));
        history.held_until(at(1100));
        assert_eq!(history.last_active, Some(at(1200)), "time does not go back");
        history.recommend(at(1205), 0, Duration::ZERO, Duration::from_secs(300));
        let most = history.recommendations.iter().filter(|one| age(one.at, at(1205)) < Duration::from_secs(300));
        assert_eq!(most.map(|one| one.replicas).max(), Some(5));
    }

    #[test]
    fn without_windows_only_the_latest_recommendation_stays() {
        let mut history = History::default();
        for second in 0..10 {
            history.recommend(at(second), 3, Duration::ZERO, Duration::ZERO);
        }
        assert_eq!(history.recommendations, [Recommendation { at: at(9), replicas: 3 }]);
    }

    #[test]
    fn changes_are_forgotten_after_the_longest_period() {
        let mut history = History::default();
        history.change(at(0), 1, 3, Duration::from_secs(60));
        history.change(at(30), 3, 3, Duration::from_secs(60));
        history.change(at(60), 3, 2, Duration::from_secs(60));
        assert_eq!(history.changes, [Change { at: at(60), from: 3, to: 2 }]);
    }
}
