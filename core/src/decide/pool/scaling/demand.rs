//! How many replicas the queues ask for.

use std::time::Duration;

use jiff::Timestamp;

use super::history::{History, age};
use super::settings::{Mode, Settings};
use super::share::{Part, Taker, part_of};
use crate::api::scaling::Combine;
use crate::decide::pool::facts::{QueueFacts, Reading};

/// What the queues ask for together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Replicas that are asked for; absent while no queue can be read, and nothing is said about that case.
    pub replicas: Option<u32>,
    /// What the replicas are asked for by.
    pub source: Source,
    /// Whether a queue cannot be read: nothing is taken away then.
    pub unknown: bool,
    /// Tasks of this pool that are known, waiting and in flight.
    pub own_tasks: u64,
    /// Tasks that are known to be waiting.
    pub waiting: u64,
    /// Tasks that are known to be in flight.
    pub in_flight: u64,
    /// Whether every queue tells its tasks in flight.
    pub in_flight_known: bool,
    /// When the same queues may ask for something else by the time alone.
    pub next: Option<Duration>,
}

/// What the replicas are asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One queue, of one or several.
    Queue {
        /// Its name.
        name: String,
        /// Tasks of this pool that wait.
        waiting: u64,
        /// Tasks of this pool in flight.
        in_flight: u64,
    },
    /// The sum of several queues.
    Sum,
    /// What the spec says for the case that a queue cannot be read.
    Fallback {
        /// The queue.
        name: String,
    },
    /// No queue can be read.
    Unknown,
    /// No queue has been read yet.
    Unread,
    /// There is no queue.
    Nothing,
}

/// A queue with the pools that take from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue<'a> {
    /// What is known about it.
    pub facts: &'a QueueFacts,
    /// The other pools that take from the same queue.
    pub others: &'a [Taker],
    /// Tasks that this pool's own agents are known to work on.
    pub held: u64,
}

/// What the queues ask for together. `own` is this pool as a taker of tasks.
pub fn demand(queues: &[Queue<'_>], own: &Taker, settings: &Settings, current: u32, history: &History, now: Timestamp) -> Demand {
    let mut result = Demand {
        replicas: None,
        source: match queues {
            [] => Source::Nothing,
            _ if queues.iter().all(|queue| queue.facts.reading.is_none() && queue.facts.failure.is_none()) => Source::Unread,
            _ => Source::Unknown,
        },
        unknown: false,
        own_tasks: 0,
        waiting: 0,
        in_flight: 0,
        in_flight_known: true,
        next: None,
    };
    let mut next: Vec<Duration> = Vec::new();
    let mut sum: Option<Part> = None;
    let mut late = false;
    for queue in queues {
        let name = &queue.facts.name;
        let proposal = match (&queue.facts.reading, &queue.facts.failure) {
            (Some(reading), None) => {
                result.unknown |= reading.partial;
                result.waiting += reading.waiting;
                result.in_flight += reading.in_flight.unwrap_or(0);
                result.in_flight_known &= reading.in_flight.is_some();
                let own = Taker { held: queue.held, ..own.clone() };
                let known = reading.consumers.is_some();
                let part = part_of(reading.waiting, reading.in_flight.unwrap_or(0), &own, queue.others, known);
                let Part { waiting, in_flight } = part;
                result.own_tasks += waiting + in_flight;
                next.extend(next_step(history, settings, now));
                let is_late = is_late(reading, waiting, settings);
                if settings.combine == Combine::Sum && queues.len() > 1 {
                    // What several queues ask for together is asked once: each would count the replicas that there are.
                    let before = sum.unwrap_or_default();
                    let together = |one: u64, other: u64| one.saturating_add(other);
                    sum =
                        Some(Part { waiting: together(before.waiting, waiting), in_flight: together(before.in_flight, in_flight) });
                    late |= is_late;
                    continue;
                }
                let replicas = propose(part, is_late, settings, current, history, now);
                Some((replicas, Source::Queue { name: name.clone(), waiting, in_flight }))
            }
            (_, failure) => {
                result.unknown = true;
                let failing = failure.as_ref().map(|failure| age(failure.since, now));
                let over = failing.is_some_and(|failing| failing >= settings.hold);
                let replicas = settings.then_replicas.filter(|_| over);
                let left = failing.and_then(|failing| settings.hold.checked_sub(failing)).filter(|left| !left.is_zero());
                next.extend(left.filter(|_| settings.then_replicas.is_some()));
                replicas.map(|replicas| (replicas, Source::Fallback { name: name.clone() }))
            }
        };
        let Some((replicas, source)) = proposal else { continue };
        (result.replicas, result.source) = match (result.replicas, settings.combine) {
            (None, _) => (Some(replicas), source),
            (Some(before), Combine::Sum) => (Some(before.saturating_add(replicas)), Source::Sum),
            (Some(before), Combine::Max) if before >= replicas => (Some(before), result.source),
            (Some(_), Combine::Max) => (Some(replicas), source),
        };
    }
    if let Some(sum) = sum {
        let replicas = propose(sum, late, settings, current, history, now);
        let fallback = result.replicas.unwrap_or(0);
        (result.replicas, result.source) = (Some(replicas.saturating_add(fallback)), Source::Sum);
    }
    result.next = next.into_iter().min();
    result
}

/// When the next step may be made, after one that was just made.
fn next_step(history: &History, settings: &Settings, now: Timestamp) -> Option<Duration> {
    let steps = matches!(settings.mode, Mode::Step { .. } | Mode::Age { .. });
    let last = history.changes.last().filter(|_| steps)?;
    settings.poll_interval.checked_sub(age(last.at, now)).filter(|left| !left.is_zero())
}

/// Whether a waiting task is older than any should become.
fn is_late(reading: &Reading, waiting: u64, settings: &Settings) -> bool {
    let Mode::Age { max_task_age } = settings.mode else { return false };
    waiting > 0 && reading.oldest_waiting.is_some_and(|oldest| oldest > max_task_age)
}

/// How many replicas one queue asks for, or several together.
fn propose(
    Part { waiting, in_flight }: Part,
    is_late: bool,
    settings: &Settings,
    current: u32,
    history: &History,
    now: Timestamp,
) -> u32 {
    let tasks = waiting.saturating_add(in_flight);
    // Where there are tasks, somebody has to take them.
    let least = u32::from(tasks > 0);
    let capped = |replicas: u64| u32::try_from(replicas).unwrap_or(u32::MAX);
    match &settings.mode {
        Mode::Proportional { tasks_per_replica } => {
            let per_replica = u64::from(*tasks_per_replica).max(1);
            if settings.rules.tolerates(tasks, per_replica, current) { current } else { capped(tasks.div_ceil(per_replica)) }
        }
        Mode::Step { .. } if stepped(history, settings.poll_interval, now) => current.max(least),
        Mode::Step { high, size, .. } if tasks > *high => current.saturating_add(*size),
        Mode::Step { low, size, .. } if tasks < *low => current.saturating_sub(*size).max(least),
        Mode::Step { .. } => current.max(least),
        Mode::Age { .. } => {
            match () {
                () if is_late && stepped(history, settings.poll_interval, now) => current.max(least),
                () if is_late => current.saturating_add(1),
                () if waiting > 0 => current.max(least),
                // Nothing waits: as many stay as are at work.
                () => current.min(capped(in_flight)),
            }
        }
    }
}

/// Whether a step was made since the last look at the queue: the next one waits until its effect can be seen.
fn stepped(history: &History, poll_interval: Duration, now: Timestamp) -> bool {
    history.changes.last().is_some_and(|change| age(change.at, now) < poll_interval)
}

#[cfg(test)]
#[path = "demand_tests.rs"]
mod tests;
