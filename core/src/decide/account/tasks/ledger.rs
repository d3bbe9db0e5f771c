//! The gateway's half: what the tasks of all callers used on one replica, what their running calls can still use, and what is heard
//! of the other replicas.

use std::time::Duration;

use super::recent::Recent;
use super::{BodyHash, TaskId, TaskRow, Tasks};
use crate::decide::account::spending::{Most, Used};
use crate::decide::account::{Amounts, Unit};
use crate::decide::gateway::plan::TaskLimits;

/// What a task used is reported once it is this part of a limit, or the others are said to have used something. So before anybody
/// is heard of, as many replicas together have used no more than the limit.
const REPORTED_PART: u64 = 16;
/// How often a request has been made before that is reported, at least: one that was made once is the same as no other.
const REPEATED: u32 = 2;
/// Different requests of one task that are remembered. Of more, those are forgotten that were made longest ago.
const BODIES: usize = 64;
/// How long nothing is reported of a task of which there is no more to say than that it goes on.
const REPORTED_AGAIN: Duration = Duration::from_secs(300);

/// The tasks of all callers, as one process of a gateway counts them. Times are counted from one origin of the process, on a clock
/// that never goes back.
#[derive(Debug, Default)]
pub struct TaskLedger {
    tasks: Recent<Task>,
}

/// A call of a task.
#[derive(Clone, Copy, Debug)]
pub struct TaskCall {
    /// The task.
    pub task: TaskId,
    /// What the pool allows each of its tasks.
    pub limits: TaskLimits,
    /// The request, where identical ones are limited; none where it was counted already.
    pub body: Option<BodyHash>,
}

/// What an attempt has reserved of the limits of its task. It is to be settled by [`TaskLedger::settle`], whatever becomes of it.
#[derive(Debug)]
#[must_use = "what is reserved stays reserved until it is settled"]
pub struct TaskReservation {
    caller: String,
    task: TaskId,
    amounts: Amounts,
}

/// Why a call of a task cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The call alone can use more than one may.
    TooLarge {
        /// The most tokens that one may use.
        limit: u64,
        /// The most that this one can use.
        most: u64,
    },
    /// Less is left of a limit than the call can use.
    Exceeded {
        /// What is limited.
        unit: Unit,
        /// The limit.
        limit: u64,
        /// What is left of it.
        left: u64,
    },
    /// Enough is left of a limit, if other calls of the task that run now do not use all that they can.
    Busy,
    /// The same request was made so often.
    Identical {
        /// As often as it may be.
        limit: u32,
    },
    /// Cost is limited, and what the call can cost is not known.
    PriceMissing,
}

/// A task.
#[derive(Debug, Default)]
struct Task {
    limits: TaskLimits,
    /// What its calls used here.
    used: Amounts,
    /// What those that run can use.
    reserved: Amounts,
    /// Its requests here, with how often they were made. The last is the latest.
    bodies: Vec<(BodyHash, u32)>,
    /// What is said that it used elsewhere.
    elsewhere: TaskRow,
    /// When it was last told that it goes on; none: no call came here.
    told: Option<Duration>,
}

impl TaskLedger {
    /// Whether a call of a task can begin, if it needs nothing. Nothing is counted.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn check(&self, caller: &str, call: &TaskCall, now: Duration) -> Result<(), Stopped> {
        let none = Task::default();
        self.tasks.get(caller, call.task, now).unwrap_or(&none).check(call, Most { tokens: 0, cost: Some(0) })
    }

    /// An attempt of a call begins that can use this much. Its request is counted, where the call has one.
    ///
    /// # Errors
    ///
    /// Why it cannot begin. Then nothing is counted.
    pub fn begin(&mut self, caller: &str, call: &TaskCall, most: Most, now: Duration) -> Result<TaskReservation, Stopped> {
        let none = Task::default();
        self.tasks.get(caller, call.task, now).unwrap_or(&none).check(call, most)?;
        let amounts = Amounts { tokens: most.tokens, cost: most.cost.unwrap_or(0) };
        let task = self.tasks.hear(caller, call.task, now);
        let before = task.row();
        task.limits = call.limits;
        task.reserved = plus(task.reserved, amounts);
        if let Some(body) = call.body {
            task.count(body);
        }
        let is_due = task.told.is_none_or(|told| now.saturating_sub(told) >= REPORTED_AGAIN);
        let is_news = is_due || task.row() != before;
        if is_news {
            task.told = Some(now);
            self.tasks.note(caller, call.task);
        }
        Ok(TaskReservation { caller: caller.to_owned(), task: call.task, amounts })
    }

    /// An attempt has ended. `used`: none where nothing was sent.
    pub fn settle(&mut self, reservation: TaskReservation, used: Option<&Used>) {
        let TaskReservation { caller, task: id, amounts } = reservation;
        let Some(task) = self.tasks.get_mut(&caller, id) else { return };
        task.reserved = minus(task.reserved, amounts);
        let Some(used) = used else { return };
        let before = task.row();
        let input = used.input.saturating_add(used.cached_input).saturating_add(used.cache_write);
        let used = Amounts { tokens: input.saturating_add(used.output), cost: used.cost.unwrap_or(0) };
        task.used = plus(task.used, used);
        if task.row() != before {
            self.tasks.note(&caller, id);
        }
    }

    /// Whether a task has been heard of lately, here or elsewhere.
    pub fn knows(&self, caller: &str, task: TaskId, now: Duration) -> bool {
        self.tasks.get(caller, task, now).is_some()
    }

    /// Takes what the operator says of the other replicas.
    pub fn take(&mut self, told: &Tasks, now: Duration) {
        for (caller, tasks) in told {
            for (id, row) in tasks {
                let task = self.tasks.hear(caller, *id, now);
                let before = task.row();
                task.elsewhere.raise(row);
                if task.row() != before {
                    self.tasks.note(caller, *id);
                }
            }
        }
    }

    /// How often what is reported has changed.
    pub fn changes(&self) -> u64 {
        self.tasks.changes()
    }

    /// What has changed since there were so many changes, and how many there are now.
    pub fn report(&self, since: u64) -> (Tasks, u64) {
        let mut report = Tasks::new();
        for (caller, id, task) in self.tasks.since(since) {
            report.entry(caller.to_owned()).or_default().insert(id, task.row());
        }
        (report, self.changes())
    }

    /// Forgets the tasks of those who are no callers any more.
    pub fn retain(&mut self, is_caller: impl Fn(&str) -> bool) {
        self.tasks.retain(is_caller);
    }
}

impl Task {
    /// Whether a call can begin that can use this much.
    fn check(&self, call: &TaskCall, most: Most) -> Result<(), Stopped> {
        let TaskLimits { max_tokens_per_request, max_tokens, max_cost, max_identical_requests } = call.limits;
        if let Some(limit) = max_tokens_per_request
            && most.tokens > limit
        {
            return Err(Stopped::TooLarge { limit, most: most.tokens });
        }
        if let Some((limit, body)) = max_identical_requests.zip(call.body)
            && self.made(body) >= limit
        {
            return Err(Stopped::Identical { limit });
        }
        for (unit, limit, most) in [(Unit::Tokens, max_tokens, Some(most.tokens)), (Unit::Cost, max_cost, most.cost)] {
            let Some(limit) = limit else { continue };
            let most = most.ok_or(Stopped::PriceMissing)?;
            let elsewhere = match unit {
                Unit::Tokens => self.elsewhere.tokens,
                Unit::Cost => self.elsewhere.cost,
            };
            let left = limit.saturating_sub(self.used.of(unit)).saturating_sub(elsewhere);
            // Where nothing is left, who needs nothing is refused too.
            if left == 0 || most > left {
                return Err(Stopped::Exceeded { unit, limit, left });
            }
            if most > left.saturating_sub(self.reserved.of(unit)) {
                return Err(Stopped::Busy);
            }
        }
        Ok(())
    }

    /// How often a request was made, here and elsewhere.
    fn made(&self, body: BodyHash) -> u32 {
        let here = self.bodies.iter().find(|(known, _)| *known == body).map_or(0, |(_, number)| *number);
        here.saturating_add(self.elsewhere.identical.get(&body).copied().unwrap_or(0))
    }

    /// A request is made.
    fn count(&mut self, body: BodyHash) {
        let known = self.bodies.iter().position(|(known, _)| *known == body);
        let number = known.map_or(0, |place| self.bodies.remove(place).1);
        if self.bodies.len() >= BODIES {
            self.bodies.remove(0);
        }
        self.bodies.push((body, number.saturating_add(1)));
    }

    /// What the others are to know of it.
    fn row(&self) -> TaskRow {
        let TaskLimits { max_tokens, max_cost, max_identical_requests, .. } = self.limits;
        let is_much = |used: u64, limit: Option<u64>| limit.is_some_and(|limit| used >= limit.div_ceil(REPORTED_PART));
        let is_told = is_much(self.used.tokens, max_tokens)
            || is_much(self.used.cost, max_cost)
            || self.elsewhere.tokens > 0
            || self.elsewhere.cost > 0;
        let used = if is_told { self.used } else { Amounts::default() };
        let repeated = |(body, number): &&(BodyHash, u32)| {
            let is_much = *number >= REPEATED && is_much(u64::from(*number), max_identical_requests.map(u64::from));
            is_much || self.elsewhere.identical.contains_key(body)
        };
        let identical = self.bodies.iter().filter(repeated).copied().collect();
        TaskRow { tokens: used.tokens, cost: used.cost, identical }
    }
}

fn plus(one: Amounts, other: Amounts) -> Amounts {
    Amounts { tokens: one.tokens.saturating_add(other.tokens), cost: one.cost.saturating_add(other.cost) }
}

fn minus(one: Amounts, other: Amounts) -> Amounts {
    Amounts { tokens: one.tokens.saturating_sub(other.tokens), cost: one.cost.saturating_sub(other.cost) }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
