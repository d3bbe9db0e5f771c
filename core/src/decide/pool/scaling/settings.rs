//! What a pool's spec says about its scaling, with every default.

use std::time::Duration;

use super::rules::Rules;
use crate::api::agent_pool::AgentPoolSpec;
use crate::api::duration::{self, ParseDurationError};
use crate::api::quantity::ParseQuantityError;
use crate::api::scaling::Combine;

/// The most replicas of a pool whose spec does not say.
const MAX_REPLICAS: u32 = 10;
/// The time between two looks at the queues of a pool whose spec does not say.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest time between two looks.
const SHORTEST_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The time without tasks until the last replica ends: KEDA's cooldownPeriod.
const COOLDOWN: Duration = Duration::from_secs(300);
/// How long an unreadable queue changes nothing.
const HOLD: Duration = Duration::from_secs(180);

/// What a pool's spec says about its scaling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How tasks become replicas.
    pub mode: Mode,
    /// What several queues mean together.
    pub combine: Combine,
    /// How fast replicas may be added and removed.
    pub rules: Rules,
    /// The fewest replicas.
    pub least: u32,
    /// The most replicas.
    pub most: u32,
    /// The time without tasks until the last replica ends.
    pub cooldown: Duration,
    /// The time between two looks at the queues.
    pub poll_interval: Duration,
    /// How long an unreadable queue changes nothing.
    pub hold: Duration,
    /// How many replicas it counts for after that; absent: it goes on changing nothing.
    pub then_replicas: Option<u32>,
    /// Tasks that an agent takes at a time.
    pub batch: u32,
}

/// How tasks become replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As many as the tasks need.
    Proportional {
        /// Tasks for each replica.
        tasks_per_replica: u32,
    },
    /// A few more above one number of tasks, a few less below another.
    Step {
        /// Above this number replicas are added.
        high: u64,
        /// Below this number replicas are removed.
        low: u64,
        /// Replicas of one step.
        size: u32,
    },
    /// One more while the oldest waiting task is too old.
    Age {
        /// The age that no waiting task should reach.
        max_task_age: Duration,
    },
}

/// A spec that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A duration does not follow the format.
    #[error("spec.{field}: {source}")]
    Duration {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: ParseDurationError,
    },
    /// A tolerance is no number.
    #[error("spec.scaling.behavior: a tolerance of {0}")]
    Tolerance(ParseQuantityError),
}

impl Settings {
    /// What a spec says, with every default. Without a mode there is one task for each replica, or as many as an agent takes
    /// at a time.
    ///
    /// # Errors
    ///
    /// A duration or a tolerance that cannot be read.
    pub fn of(spec: &AgentPoolSpec) -> Result<Self, SettingsError> {
        let scaling = spec.scaling.clone().unwrap_or_default();
        let read = |field: &'static str, stated: Option<&duration::Duration>, default: Duration| match stated {
            Some(stated) => stated.to_std().map_err(|source| SettingsError::Duration { field, source }),
            None => Ok(default),
        };
        let batch = spec.batch.as_ref().and_then(|batch| batch.max_tasks).unwrap_or(1);
        let mode = match (&scaling.proportional, &scaling.step, &scaling.age) {
            (Some(proportional), _, _) => Mode::Proportional { tasks_per_replica: proportional.tasks_per_replica },
            (_, Some(step), _) => Mode::Step { high: step.high, low: step.low, size: step.size.unwrap_or(1) },
            (_, _, Some(age)) => {
                Mode::Age { max_task_age: read("scaling.age.maxTaskAge", Some(&age.max_task_age), Duration::ZERO)? }
            }
            _ => Mode::Proportional { tasks_per_replica: batch },
        };
        let failure = scaling.on_metric_failure.unwrap_or_default();
        let poll_interval = read("scaling.pollInterval", scaling.poll_interval.as_ref(), POLL_INTERVAL)?;
        Ok(Self {
            mode,
            combine: scaling.combine.unwrap_or_default(),
            rules: Rules::of(scaling.behavior.as_ref()).map_err(SettingsError::Tolerance)?,
            least: spec.min_replicas.unwrap_or(0),
            most: spec.max_replicas.unwrap_or(MAX_REPLICAS),
            cooldown: read("scaling.cooldown", scaling.cooldown.as_ref(), COOLDOWN)?,
            poll_interval: poll_interval.max(SHORTEST_POLL_INTERVAL),
            hold: read("scaling.onMetricFailure.hold", failure.hold.as_ref(), HOLD)?,
            then_replicas: failure.then_replicas,
            batch,
        })
    }

    /// Tasks that one replica is there for at a time.
    pub fn tasks_per_replica(&self) -> u32 {
        match self.mode {
            Mode::Proportional { tasks_per_replica } => tasks_per_replica,
            Mode::Step { .. } | Mode::Age { .. } => self.batch,
        }
    }
}
