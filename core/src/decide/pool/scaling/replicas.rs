//! How many replicas there should be now: from the demand through windows, policies and bounds, with the reason that binds.

use std::time::Duration;

use jiff::Timestamp;

use super::demand::{Demand, Source};
use super::history::{History, age};
use super::settings::Settings;
use crate::api::agent_pool::LimitedBy;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What the spec says about scaling.
    pub settings: &'a Settings,
    /// Replicas that the user pins the pool to.
    pub pinned: Option<u32>,
    /// Whether the pool is suspended.
    pub suspended: bool,
    /// Whether a budget pauses it.
    pub paused: bool,
    /// What the queues ask for.
    pub demand: &'a Demand,
    /// Replicas that there should be until now.
    pub current: u32,
    /// What the pool wanted and what was done.
    pub history: &'a History,
}

/// How many replicas there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Replicas that are wanted before anything holds them back.
    pub wanted: u32,
    /// Replicas that there should be now.
    pub replicas: u32,
    /// What holds the replicas back from what is wanted.
    pub limited_by: Option<LimitedBy>,
    /// When the answer may become another one by the time alone.
    pub next: Option<Duration>,
}

/// How many replicas there should be now. The first of these that says something decides: suspend, the pause of a budget, the
/// pinned replicas, the bounds, the demand after windows and policies.
///
/// A pause is a bound of 0, which holds at once as the others do. How many there are after it follows from what decides then, and is
/// remembered nowhere: so a pool whose size nothing decides is not made smaller.
pub fn replicas(question: &Question<'_>, now: Timestamp) -> Answer {
    let Question { settings, current, .. } = *question;
    let fixed = |replicas, limited_by| Answer { wanted: replicas, replicas, limited_by, next: None };
    if question.suspended {
        return fixed(current, Some(LimitedBy::Suspended));
    }
    let is_sized = question.pinned.is_some() || question.demand.source != Source::Nothing || current <= settings.least;
    if question.paused && is_sized {
        return fixed(0, Some(LimitedBy::Budget));
    }
    if let Some(pinned) = question.pinned {
        return fixed(pinned, Some(LimitedBy::Pinned));
    }
    // A spec that contradicts itself is refused before; should it come here, the upper bound holds.
    let bounded = |replicas: u32| replicas.max(settings.least).min(settings.most);
    let Some(wanted) = question.demand.replicas else {
        let limited_by = match question.demand.source {
            Source::Nothing | Source::Unread => None,
            _ => Some(LimitedBy::QueueFailure),
        };
        return fixed(bounded(current), limited_by);
    };
    let steps = Steps { wanted, replicas: wanted, limited_by: None, next: None };
    let answer = steps
        .stabilized(question, now)
        .held_while_unknown(question)
        .kept_for_cooldown(question, now)
        .limited_by_policies(question, now)
        .bounded(settings);
    Answer { wanted, replicas: answer.replicas, limited_by: answer.limited_by, next: answer.next }
}

/// An answer on its way.
struct Steps {
    wanted: u32,
    replicas: u32,
    limited_by: Option<LimitedBy>,
    next: Option<Duration>,
}

impl Steps {
    fn to(self, replicas: u32, limited_by: LimitedBy, next: Option<Duration>) -> Self {
        if replicas == self.replicas {
            return self;
        }
        // What brings the replicas back to what is wanted holds nothing back.
        let limited_by = (replicas != self.wanted).then_some(limited_by);
        Self { replicas, limited_by, next: next.or(self.next), ..self }
    }

    /// What the windows hold.
    fn stabilized(self, question: &Question<'_>, now: Timestamp) -> Self {
        let rules = &question.settings.rules;
        let held = rules.stabilize(question.current, self.replicas, question.history, now);
        self.to(held.replicas, LimitedBy::StabilizationWindow, rules.next(question.history, now))
    }

    /// Nothing is taken away while a queue cannot be read, unless the spec says how many there should be then.
    fn held_while_unknown(self, question: &Question<'_>) -> Self {
        let said = matches!(question.demand.source, Source::Fallback { .. });
        if !question.demand.unknown || said || self.replicas >= question.current {
            return self;
        }
        self.to(question.current, LimitedBy::QueueFailure, None)
    }

    /// The last replica stays for the cooldown after the last task. While there is a task, a replica is wanted anyway.
    fn kept_for_cooldown(self, question: &Question<'_>, now: Timestamp) -> Self {
        if self.replicas > 0 || question.current == 0 || question.settings.least > 0 {
            return self;
        }
        let idle = question.history.last_active.map_or(Duration::ZERO, |active| age(active, now));
        match question.settings.cooldown.checked_sub(idle).filter(|left| !left.is_zero()) {
            Some(left) => self.to(1, LimitedBy::Cooldown, Some(left)),
            None => self,
        }
    }

    /// As fast as the policies allow.
    fn limited_by_policies(self, question: &Question<'_>, now: Timestamp) -> Self {
        let rules = &question.settings.rules;
        let limited = rules.limit(question.current, self.replicas, question.history, now);
        let reason = if limited.replicas < self.replicas { LimitedBy::ScaleUpPolicy } else { LimitedBy::ScaleDownPolicy };
        self.to(limited.replicas, reason, rules.next(question.history, now))
    }

    /// Within the bounds, at once.
    fn bounded(self, settings: &Settings) -> Self {
        if self.replicas > settings.most {
            return self.to(settings.most, LimitedBy::MaxReplicas, None);
        }
        if self.replicas < settings.least {
            return self.to(settings.least, LimitedBy::MinReplicas, None);
        }
        self
    }
}

#[cfg(test)]
#[path = "replicas_tests.rs"]
mod tests;
