//! A pool against a trace of arrivals, with the decision that the operator makes: what would have happened.
//!
//! Time goes in whole seconds. Agents take the oldest waiting tasks, as many at a time as the pool's batch says; `agents` is the rest of
//! what is assumed about them.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use self::agents::Agents;
use super::scaling::settings::{Settings, SettingsError};
use crate::api::AgentPool;
use crate::api::agent_pool::LimitedBy;

pub(in crate::decide) mod agents;

/// Longest time that is simulated, in seconds: a week. A pool that never comes to rest ends there.
const LONGEST: u64 = 7 * 24 * 3600;

/// Tasks that arrive at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Seconds after the beginning.
    pub second: u64,
    /// How many tasks.
    pub tasks: u64,
    /// Seconds that each of them takes; the model's where absent.
    pub task_seconds: Option<u64>,
}

/// What is assumed about agents and tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Seconds that a task takes.
    pub task_seconds: u64,
    /// Seconds from when an agent is made until it takes its first task.
    pub start_seconds: u64,
    /// Seconds after which the simulation ends; until the pool has come to rest where absent.
    pub until: Option<u64>,
}

/// The state of a pool at some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// Seconds after the beginning.
    pub second: u64,
    /// Tasks that wait.
    pub waiting: u64,
    /// Tasks in flight.
    pub in_flight: u64,
    /// Replicas that there should be.
    pub desired: u32,
    /// Agents that are there, with those that are starting and those that finish their last task.
    pub agents: u32,
    /// What holds the replicas back.
    pub limited_by: Option<LimitedBy>,
    /// Why there should be as many.
    pub decision: String,
}

/// What would have happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Seconds until the end.
    pub seconds: u64,
    /// Tasks that were finished.
    pub tasks_done: u64,
    /// Tasks that still wait or are in flight at the end.
    pub tasks_left: u64,
    /// Seconds that tasks waited for an agent: the median, the 95th and the 99th percentile, and the longest.
    pub waits: Waits,
    /// The most agents at the same time.
    pub most_agents: u32,
    /// Seconds of all agents together.
    pub agent_seconds: u64,
    /// Share of these in which an agent had a task, in percent.
    pub busy_percent: u64,
    /// Agents that were asked to end while they had a task.
    pub ended_at_work: u64,
    /// Changes of the replicas.
    pub changes: u64,
    /// The pool at each look at its queue.
    pub moments: Vec<Moment>,
}

/// Seconds that tasks waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    /// The median.
    pub p50: u64,
    /// The 95th percentile.
    pub p95: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The longest.
    pub longest: u64,
}

/// A pool that cannot be simulated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulationError {
    /// A setting cannot be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is no queue that tasks could arrive in.
    #[error("spec.queues is empty: name a queue, or there is nothing to follow")]
    NoQueue,
}

/// What would have happened to this pool with these arrivals, which all go to its first queue.
///
/// # Errors
///
/// A setting that cannot be read, and a pool without a queue.
pub fn simulate(pool: &AgentPool, arrivals: &[Arrival], model: Model) -> Result<Outcome, SimulationError> {
    let settings = Settings::of(&pool.spec)?;
    if pool.spec.queues.is_empty() {
        return Err(SimulationError::NoQueue);
    }
    let mut arrivals = arrivals.to_vec();
    arrivals.sort_by_key(|arrival| arrival.second);
    let mut world = World::new(pool, arrivals.into(), model);
    let poll = settings.poll_interval.as_secs().max(1);
    let mut due = 0;
    for second in 0..=model.until.unwrap_or(LONGEST).min(LONGEST) {
        world.pass_time(second);
        if second % poll == 0 || second >= due {
            let next = world.look(second);
            due = next.map_or(u64::MAX, |next| second.saturating_add(next.as_secs().max(1)));
        }
        world.count(second);
        if model.until.is_none() && world.rests() {
            break;
        }
    }
    Ok(world.outcome())
}

/// A task that waits.
struct Task {
    arrived: u64,
    seconds: u64,
}

struct World {
    arrivals: VecDeque<Arrival>,
    model: Model,
    /// The fewest replicas at rest.
    least: u32,
    /// A task has the second in which it ends for its number.
    agents: Agents,
    waiting: VecDeque<Task>,
    waits: Vec<u64>,
    busy_seconds: u64,
    outcome: Outcome,
}

impl World {
    fn new(pool: &AgentPool, arrivals: VecDeque<Arrival>, model: Model) -> Self {
        Self {
            arrivals,
            model,
            least: pool.spec.replicas.or(pool.spec.min_replicas).unwrap_or(0),
            agents: Agents::new(pool, Duration::from_secs(model.start_seconds)),
            waiting: VecDeque::new(),
            waits: Vec::new(),
            busy_seconds: 0,
            outcome: Outcome::default(),
        }
    }

    /// Tasks arrive, end and are taken.
    fn pass_time(&mut self, second: u64) {
        while let Some(arrival) = self.arrivals.front().filter(|arrival| arrival.second <= second).cloned() {
            self.arrivals.pop_front();
            let seconds = arrival.task_seconds.unwrap_or(self.model.task_seconds);
            self.waiting.extend((0..arrival.tasks).map(|_| Task { arrived: arrival.second, seconds }));
        }
        self.outcome.tasks_done += self.agents.finish(|end| end <= second);
        let now = at(second);
        while !self.waiting.is_empty() {
            let Some(agent) = self.agents.free(now) else { break };
            let Some(task) = self.waiting.pop_front() else { break };
            self.waits.push(second.saturating_sub(task.arrived));
            agent.tasks.push(second + task.seconds.max(1));
        }
    }

    /// The operator looks at the queue and decides. Returns when it wants to look again.
    fn look(&mut self, second: u64) -> Option<Duration> {
        let age = |arrived: u64| Duration::from_secs(second.saturating_sub(arrived));
        let oldest_waiting = self.waiting.front().map(|task| age(task.arrived));
        let next = self.agents.look(number(self.waiting.len()), oldest_waiting, at(second));
        self.outcome.moments.push(self.moment(second));
        next
    }

    fn moment(&self, second: u64) -> Moment {
        let status = self.agents.status();
        Moment {
            second,
            waiting: number(self.waiting.len()),
            in_flight: self.agents.in_flight(),
            desired: self.agents.desired(),
            agents: self.agents.there(),
            limited_by: status.and_then(|status| status.limited_by),
            decision: status.and_then(|status| status.decision.clone()).unwrap_or_default(),
        }
    }

    fn count(&mut self, second: u64) {
        let agents = self.agents.there();
        self.outcome.seconds = second;
        self.outcome.agent_seconds += u64::from(agents);
        self.busy_seconds += u64::from(self.agents.at_work());
        self.outcome.most_agents = self.outcome.most_agents.max(agents);
    }

    /// Whether nothing will happen any more.
    fn rests(&self) -> bool {
        let idle = self.arrivals.is_empty() && self.waiting.is_empty() && self.agents.in_flight() == 0;
        idle && self.agents.desired() <= self.least
    }

    fn outcome(mut self) -> Outcome {
        let to_come: u64 = self.arrivals.iter().map(|arrival| arrival.tasks).sum();
        self.outcome.tasks_left = number(self.waiting.len()) + self.agents.in_flight() + to_come;
        self.outcome.busy_percent = (self.busy_seconds * 100).checked_div(self.outcome.agent_seconds).unwrap_or(0);
        (self.outcome.changes, self.outcome.ended_at_work) = (self.agents.changes, self.agents.ended_at_work);
        self.outcome.waits = Waits::of(self.waits);
        self.outcome
    }
}

impl Waits {
    /// Those of tasks that waited for so many seconds.
    pub(in crate::decide) fn of(mut waits: Vec<u64>) -> Self {
        waits.sort_unstable();
        let share = |percent: usize| waits.get((waits.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Self {
            p50: share(50).unwrap_or(0),
            p95: share(95).unwrap_or(0),
            p99: share(99).unwrap_or(0),
            longest: waits.last().copied().unwrap_or(0),
        }
    }
}

fn at(second: u64) -> Timestamp {
    let since = SignedDuration::from_secs(i64::try_from(second).unwrap_or(i64::MAX));
    Timestamp::UNIX_EPOCH.checked_add(since).unwrap_or(Timestamp::MAX)
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(more: serde_json::Value) -> AgentPool {
        let mut spec = json!({
            "template": { "spec": { "containers": [{ "name": "agent", "image": "coder:1" }] } },
            "queues": [{ "name": "tasks", "redisStream": { "url": "redis://redis:6379", "stream": "s", "group": "g" } }],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool", "metadata": { "name": "coder", "generation": 1 }, "spec": spec,
        }))
        .unwrap()
    }

    fn model() -> Model {
        Model { task_seconds: 30, start_seconds: 5, until: None }
    }

    fn burst(tasks: u64) -> Vec<Arrival> {
        vec![Arrival { second: 10, tasks, task_seconds: None }]
    }

    #[test]
    fn a_burst_is_worked_off_and_the_pool_comes_to_rest() {
        let outcome = simulate(&pool(json!({ "maxReplicas": 20 })), &burst(200), model()).unwrap();
        assert_eq!((outcome.tasks_done, outcome.tasks_left, outcome.most_agents), (200, 0, 20));
        assert_eq!(outcome.moments.last().unwrap().desired, 0);
        let first = outcome.moments.iter().find(|moment| moment.desired > 0).unwrap();
        assert_eq!((first.second, first.desired, first.limited_by), (10, 4, Some(LimitedBy::ScaleUpPolicy)));
        assert!(outcome.waits.p50 > 30 && outcome.waits.longest < 600, "{:?}", outcome.waits);
    }

    #[test]
    fn nobody_at_work_ends_where_the_pool_waits_for_idle_agents() {
        let arrivals: Vec<Arrival> =
            (0..40).map(|number| Arrival { second: number * 7, tasks: 1, task_seconds: Some(10 + number % 90) }).collect();
        let hasty = json!({ "scaling": { "cooldown": "5s", "behavior": { "scaleDown": { "stabilizationWindowSeconds": 0 } } } });
        let mut patient = hasty.clone();
        patient["scaleIn"] = json!({ "waitForIdle": "10m" });
        let outcome = simulate(&pool(patient), &arrivals, model()).unwrap();
        assert_eq!((outcome.tasks_done, outcome.ended_at_work), (40, 0));
        assert_eq!(simulate(&pool(hasty), &arrivals, model()).unwrap().tasks_done, 40, "who ends finishes its task");
    }

    #[test]
    fn a_pool_that_never_rests_ends_when_it_is_told() {
        let outcome = simulate(&pool(json!({ "replicas": 2 })), &burst(3), Model { until: Some(100), ..model() }).unwrap();
        assert_eq!((outcome.seconds, outcome.most_agents, outcome.tasks_done), (100, 2, 3));
        assert_eq!(outcome.changes, 1);
    }

    #[test]
    fn a_pool_without_a_queue_is_refused() {
        assert_eq!(simulate(&pool(json!({ "queues": [] })), &burst(1), model()).unwrap_err(), SimulationError::NoQueue);
    }
}
