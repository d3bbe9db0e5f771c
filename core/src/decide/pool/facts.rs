//! What a decision about a pool is made from.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::figures;

/// What is known about one queue of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueueFacts {
    /// Name of the queue in the spec.
    pub name: String,
    /// What the last poll found; none has ended yet when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<Reading>,
    /// Why polls fail since the last reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl QueueFacts {
    /// Whether a pool that knows `told` should look again because of these facts: what is asked for, who may end, or what is
    /// shown could be something else. More than `cap` tasks make no difference, save for the figures that are shown.
    pub fn is_news(&self, told: &Self, cap: u64, max_task_age: Option<Duration>) -> bool {
        let failure = |facts: &Self| facts.failure.as_ref().map(|failure| (failure.cause, failure.message.clone()));
        if failure(self) != failure(told) {
            return true;
        }
        let (Some(now), Some(then)) = (&self.reading, &told.reading) else { return self.reading != told.reading };
        let counts = |reading: &Reading| {
            let (waiting, in_flight) = (reading.waiting, reading.in_flight);
            let tasks = waiting.saturating_add(in_flight.unwrap_or(0));
            let late = max_task_age.is_some_and(|most| reading.oldest_waiting.is_some_and(|oldest| oldest > most));
            let shown = (figures::rounded(waiting), in_flight.map(figures::rounded));
            (tasks.min(cap), waiting.min(cap), shown, late, reading.missing, reading.partial)
        };
        counts(now) != counts(then) || now.busy() != then.busy()
    }
}

impl Reading {
    /// The consumers that have tasks, where the queue tells.
    fn busy(&self) -> Option<Vec<&String>> {
        let consumers = self.consumers.as_ref()?;
        Some(consumers.iter().filter(|(_, tasks)| **tasks > 0).map(|(consumer, _)| consumer).collect())
    }
}

/// What one poll found. Unknown is not zero: what a queue cannot tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reading {
    /// Tasks that no agent has taken yet.
    pub waiting: u64,
    /// Tasks that an agent has taken and not finished, where the queue tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Age of the oldest task that no agent has taken yet, where the queue tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_waiting: Option<Duration>,
    /// Age of the oldest task that is not finished, where the queue tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Duration>,
    /// Tasks in flight by consumer, where the queue tells. A consumer that is a pod bears its name; one that is not listed
    /// has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<BTreeMap<String, u64>>,
    /// What the queue was asked for and does not exist. The numbers are then those of the agents that will make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
    /// The server warns that it has not seen everything: there may be more tasks than it counts, not fewer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// What does not exist on a server that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// The stream: nobody has added a task yet, and nobody has made the group.
    Stream,
    /// The group on a stream that exists. A group that agents make at the start of the stream finds all its entries, and
    /// they are counted so; one that they make at its end (`$`) finds none.
    Group,
}

/// Why a queue cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// What kind of failure it is, which decides the reason that is told.
    pub cause: FailureCause,
    /// What happened, without credentials.
    pub message: String,
    /// Since when no poll has succeeded.
    pub since: Timestamp,
}

/// The kinds of failures of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureCause {
    /// Nobody answers, or not in time.
    Unreachable,
    /// The server refuses the credentials.
    Unauthorized,
    /// The account may not use a command that is needed.
    Forbidden,
    /// The certificate cannot be verified.
    Tls,
    /// The address may not be reached from here.
    NotAllowed,
    /// The key holds something else, the answer is none that the query should give, or the server lacks what is needed.
    WrongType,
    /// The answer is there, and has no value: an empty vector, NaN, a group that does not exist.
    NoData,
    /// A Secret that is referred to does not exist.
    SecretNotFound,
    /// A Secret that is referred to lacks the key.
    SecretKeyMissing,
    /// The key of a Secret that is referred to is empty.
    SecretEmpty,
    /// The operator's account may not read a Secret that is referred to.
    SecretForbidden,
    /// A Secret that is referred to cannot be used.
    Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(waiting: u64, in_flight: u64, busy: &[&str]) -> QueueFacts {
        let consumers = Some(busy.iter().map(|name| ((*name).to_owned(), 1)).collect());
        let reading = Reading { waiting, in_flight: Some(in_flight), consumers, ..Reading::default() };
        QueueFacts { name: "tasks".into(), reading: Some(reading), failure: None }
    }

    fn failing(message: &str, second: i64) -> QueueFacts {
        let since = Timestamp::from_second(second).unwrap();
        let failure = Failure { cause: FailureCause::Unreachable, message: message.into(), since };
        QueueFacts { failure: Some(failure), ..facts(1, 0, &[]) }
    }

    #[test]
    fn only_what_could_change_the_decision_or_the_figures_is_news() {
        let known = facts(5, 1, &["a"]);
        let is_news = |now: &QueueFacts| now.is_news(&known, 100, None);
        assert!(!is_news(&facts(5, 1, &["a"])));
        assert!(is_news(&facts(6, 1, &["a"])) && is_news(&facts(5, 0, &["a"])));
        assert!(is_news(&facts(5, 1, &["b"])), "somebody else is at work");
        let (much, more) = (facts(10_010, 0, &[]), facts(10_040, 0, &[]));
        assert!(!more.is_news(&much, 100, None), "both are shown as 10000, and more than can be served");
        assert!(more.is_news(&much, 100_000, None));
    }

    #[test]
    fn a_failure_is_news_once() {
        assert!(failing("no answer", 1).is_news(&facts(1, 0, &[]), 100, None));
        assert!(!failing("no answer", 1).is_news(&failing("no answer", 1), 100, None));
        assert!(failing("refused", 1).is_news(&failing("no answer", 1), 100, None));
        assert!(facts(1, 0, &[]).is_news(&failing("no answer", 1), 100, None));
    }

    #[test]
    fn a_task_that_has_become_too_old_is_news() {
        let aged = |seconds| {
            let mut facts = facts(5, 1, &["a"]);
            facts.reading.as_mut().unwrap().oldest_waiting = Some(Duration::from_secs(seconds));
            facts
        };
        let most = Some(Duration::from_secs(60));
        assert!(!aged(50).is_news(&aged(40), 100, most) && aged(61).is_news(&aged(50), 100, most));
        assert!(!aged(61).is_news(&aged(50), 100, None));
    }
}
