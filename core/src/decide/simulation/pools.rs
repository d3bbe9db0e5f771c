//! The pools: each has a queue of its own, whose tasks its agents take. A pool without agents is somebody who begins a task when it comes.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;

use super::result::{Pause, PoolOutcome, PoolPoint};
use super::{Model, SetupError};
use crate::api::{AgentPool, TokenBudget};
use crate::decide::pool::budgets;
use crate::decide::pool::scaling::settings::Settings;
use crate::decide::pool::simulation::Waits;
use crate::decide::pool::simulation::agents::Agents;

/// A pool. Times are in milliseconds since the beginning.
pub(super) struct Pool {
    pub(super) name: String,
    /// None: it makes none.
    agents: Option<Agents>,
    /// Tasks that wait, each with when it came.
    queue: VecDeque<(usize, u64)>,
    /// The time between two looks at the queue.
    poll: u64,
    looked: Option<u64>,
    /// When the decision wanted to look again.
    due: u64,
    /// The queue is another one than when it was looked at.
    is_news: bool,
    /// What budgets say of it is something else.
    is_told: bool,
    waits: Vec<u64>,
    outcome: PoolOutcome,
}

impl Pool {
    /// A pool whose queue is looked at no more often than in this time.
    ///
    /// # Errors
    ///
    /// How it is scaled cannot be read.
    pub(super) fn new(pool: &AgentPool, model: &Model, poll: Duration) -> Result<Self, SetupError> {
        let name = pool.name_any();
        let settings = Settings::of(&pool.spec).map_err(|source| SetupError::Scaling { name: name.clone(), source })?;
        let has_agents = pool.spec.template.is_some() || pool.spec.target_ref.is_some();
        Ok(Self {
            agents: has_agents.then(|| Agents::new(&plain(pool), model.agent_start)),
            queue: VecDeque::new(),
            poll: milliseconds(settings.poll_interval.max(poll)),
            looked: None,
            due: 0,
            is_news: true,
            is_told: false,
            waits: Vec::new(),
            outcome: PoolOutcome {
                name: name.clone(),
                tasks: 0,
                done: 0,
                ended_early: 0,
                left: 0,
                waits: Waits::default(),
                most_agents: 0,
                changes: 0,
                ended_at_work: 0,
                pauses: Vec::new(),
                points: Vec::new(),
            },
            name,
        })
    }

    /// A task comes. Whether it begins at once, since nobody takes it.
    pub(super) fn arrive(&mut self, task: usize, at: u64) -> bool {
        self.outcome.tasks += 1;
        if self.agents.is_some() {
            self.queue.push_back((task, at));
            self.is_news = true;
        }
        self.agents.is_none()
    }

    /// The tasks that agents take now, in their order.
    pub(super) fn taken(&mut self, at: u64, now: Timestamp) -> Vec<usize> {
        let mut taken = Vec::new();
        let Some(agents) = &mut self.agents else { return taken };
        while !self.queue.is_empty() {
            let Some(agent) = agents.free(now) else { break };
            let Some((task, since)) = self.queue.pop_front() else { break };
            agent.tasks.push(number(task));
            self.waits.push(at.saturating_sub(since) / 1_000);
            self.is_news = true;
            taken.push(task);
        }
        taken
    }

    /// A task is over, done or not.
    pub(super) fn end(&mut self, task: usize, is_done: bool) {
        *(if is_done { &mut self.outcome.done } else { &mut self.outcome.ended_early }) += 1;
        if let Some(agents) = &mut self.agents {
            agents.finish(|number_of| number_of == number(task));
            self.is_news = true;
        }
    }

    /// Budgets mean something else for it from now on.
    pub(super) fn told(&mut self, named: &[(String, &TokenBudget)], now: Timestamp) {
        let facts = budgets::of(named, &self.name);
        let is_paused = budgets::pauses(&facts);
        let pauses = &mut self.outcome.pauses;
        match pauses.last_mut().filter(|pause| pause.to.is_none()) {
            Some(pause) if !is_paused => pause.to = Some(now),
            None if is_paused => pauses.push(Pause { from: now, to: None, by: budgets::who(&facts) }),
            _ => {}
        }
        if let Some(agents) = &mut self.agents {
            agents.budgets(facts);
            self.is_told = true;
        }
    }

    /// When the operator looks at it; none: not before something happens.
    pub(super) fn next_look(&self) -> Option<u64> {
        self.agents.as_ref()?;
        if self.is_told {
            return Some(0);
        }
        let poll = self.looked.map_or(0, |looked| looked.saturating_add(self.poll));
        let next = if self.is_news { poll } else { self.due.max(poll) };
        (next < u64::MAX).then_some(next)
    }

    /// The operator looks at it. When its next agent begins to work.
    pub(super) fn look(&mut self, at: u64, now: Timestamp) -> Option<Timestamp> {
        let agents = self.agents.as_mut()?;
        let oldest = self.queue.front().map(|(_, since)| Duration::from_millis(at.saturating_sub(*since)));
        let desired = agents.desired();
        let next = agents.look(number(self.queue.len()), oldest, now);
        self.due = next.map_or(u64::MAX, |next| at.saturating_add(milliseconds(next).max(1)));
        (self.looked, self.is_news, self.is_told) = (Some(at), false, false);
        self.outcome.most_agents = self.outcome.most_agents.max(agents.there());
        let next_ready = agents.next_ready(now);
        if agents.desired() != desired {
            self.sample(now);
        }
        next_ready
    }

    /// When the next agent begins to work that has not yet.
    pub(super) fn next_ready(&self, now: Timestamp) -> Option<Timestamp> {
        self.agents.as_ref()?.next_ready(now)
    }

    /// Takes down how it is.
    pub(super) fn sample(&mut self, now: Timestamp) {
        let Some(agents) = &self.agents else { return };
        let (desired, agents) = (agents.desired(), agents.there());
        self.outcome.points.push(PoolPoint { time: now, desired, agents, waiting: number(self.queue.len()) });
    }

    /// Whether no task waits.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// What became of it. `unfinished`: tasks that have begun and are not over; `to_come`: those that had yet to come.
    pub(super) fn outcome(self, unfinished: u64, to_come: u64) -> PoolOutcome {
        let (changes, ended_at_work) = self.agents.as_ref().map_or((0, 0), |agents| (agents.changes, agents.ended_at_work));
        PoolOutcome {
            tasks: self.outcome.tasks + to_come,
            left: number(self.queue.len()) + unfinished + to_come,
            waits: Waits::of(self.waits),
            changes,
            ended_at_work,
            ..self.outcome
        }
    }
}

/// A pool with a template that costs nothing to make a Deployment of: nobody looks at that here.
fn plain(pool: &AgentPool) -> AgentPool {
    let mut plain = pool.clone();
    if let Some(template) = &mut plain.spec.template {
        *template = serde_json::json!({ "spec": { "containers": [{ "name": "agent", "image": "agent" }] } });
    }
    plain
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
