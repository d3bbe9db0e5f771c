//! The metrics of pools, whose labels are names of objects. [`super::metrics`] defines them, and asks when it is asked.

use std::time::Duration;

use prometheus::{GaugeVec, IntGaugeVec};

use super::key::ObjectKey;

/// The figures of pools. What is not known has none.
#[derive(Clone, Debug)]
pub struct PoolFigures {
    pub(super) replicas: IntGaugeVec,
    pub(super) tasks: IntGaugeVec,
    pub(super) oldest: GaugeVec,
}

impl PoolFigures {
    /// Forgets all of them before they are told anew: a pool that is gone has none any more.
    pub(super) fn reset(&self) {
        self.replicas.reset();
        self.tasks.reset();
        self.oldest.reset();
    }

    /// The age of the oldest task of a pool's queue that is not done.
    pub fn oldest(&self, pool: &ObjectKey, queue: &str, age: Option<Duration>) {
        if let Some(age) = age {
            self.oldest.with_label_values(&[pool.namespace.as_str(), pool.name.as_str(), queue]).set(age.as_secs_f64());
        }
    }

    /// The replicas of a pool that are wanted, desired, current or ready.
    pub fn replicas(&self, pool: &ObjectKey, state: &str, replicas: Option<u32>) {
        if let Some(replicas) = replicas {
            self.replicas.with_label_values(&[&pool.namespace, &pool.name, state]).set(replicas.into());
        }
    }

    /// The tasks of a pool's queue that are waiting or in flight.
    pub fn tasks(&self, pool: &ObjectKey, queue: &str, state: &str, tasks: Option<u64>) {
        if let Some(tasks) = tasks {
            let tasks = i64::try_from(tasks).unwrap_or(i64::MAX);
            self.tasks.with_label_values(&[pool.namespace.as_str(), pool.name.as_str(), queue, state]).set(tasks);
        }
    }
}
