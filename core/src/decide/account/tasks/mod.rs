//! Tasks: what the agents of a pool work on, as far as their calls say so in a header. A task is held to the limits of its pool, on
//! tokens, cost and identical requests, so that a loop that runs away ends; and where a budget lets no new task begin, one that has
//! begun is known by the calls that were heard of it.
//!
//! A call of a task may come to any replica of the gateway. Each counts what came to it, and tells the operator of the tasks that it
//! knows, and of what they used where that is more than a small part of a limit. The operator tells each replica what the others said:
//! of every task where a budget of the caller is nearly used up, and else of those that used something. So one replica keeps a limit
//! exactly; of several, each knows what has ended on the others a few tenths of a second later, and not what runs there: a limit may be
//! passed by that much.
//!
//! Sums of a task are cumulative in each process and never become less, so that a message that is lost, repeated or late does no
//! harm. A task of which nothing is heard for an hour is forgotten, and so are those that were heard of longest ago where there are
//! very many. Nothing of it outlives the processes: what one of them counted that has ended is known for as long as the operator's
//! leader lives that has heard it.
//!
//! * [`ledger`]: the gateway's half. * [`union`]: the operator's half. * `recent`: what is known of tasks, in the order in which they
//!   were heard of.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::message::CallerRow;

pub mod ledger;
mod recent;
pub mod union;

/// From this percentage of a budget on, the tasks of its callers are told to every replica: soon new ones may be refused.
const NEARLY_USED_PERCENT: u32 = 90;

/// Tasks by name of the AgentPool, each with what is said of it.
pub type Tasks = BTreeMap<String, BTreeMap<TaskId, TaskRow>>;

/// The first 64 bits of a SHA-256, as text in 16 hexadecimal digits. Two of a few thousand are the same with a probability of less than
/// one in a million million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct ShortHash(u64);

impl ShortHash {
    fn of(bytes: &[u8]) -> Self {
        let first = Sha256::digest(bytes).first_chunk::<8>().copied().unwrap_or_default();
        Self(u64::from_be_bytes(first))
    }
}

impl Serialize for ShortHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for ShortHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A task, by a hash of the id that its calls carry: ids may be long, and tell what agents do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(ShortHash);

impl TaskId {
    /// The task of an id; none where it says nothing.
    pub fn of(id: &[u8]) -> Option<Self> {
        (!id.is_empty()).then(|| Self(ShortHash::of(id)))
    }
}

/// A request, by a hash of its whole body: two are the same if every byte of them is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BodyHash(ShortHash);

impl BodyHash {
    /// The hash of a body.
    pub fn of(body: &[u8]) -> Self {
        Self(ShortHash::of(body))
    }
}

/// What the calls of a task came to; nothing, where all that is to be said is that there is such a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskRow {
    /// Tokens that they used.
    #[serde(skip_serializing_if = "is_zero")]
    pub tokens: u64,
    /// What they cost, in millionths of the operator's currency.
    #[serde(skip_serializing_if = "is_zero")]
    pub cost: u64,
    /// Requests that were made again, and how often.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub identical: BTreeMap<BodyHash, u32>,
}

impl TaskRow {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes a later word of the same source: what is less was said before. Whether anything became more.
    fn raise(&mut self, later: &Self) -> bool {
        let mut is_more = later.tokens > self.tokens || later.cost > self.cost;
        self.tokens = self.tokens.max(later.tokens);
        self.cost = self.cost.max(later.cost);
        for (body, number) in &later.identical {
            let known = self.identical.entry(*body).or_default();
            is_more |= *number > *known;
            *known = (*known).max(*number);
        }
        is_more
    }

    /// Adds what another source says.
    fn add(&mut self, other: &Self) {
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.cost = self.cost.saturating_add(other.cost);
        for (body, number) in &other.identical {
            let known = self.identical.entry(*body).or_default();
            *known = known.saturating_add(*number);
        }
    }
}

/// The callers of which every replica is to know all tasks: those that have a budget of which nearly all is used, or that refuses new
/// ones.
pub fn nearly_used(callers: &BTreeMap<String, CallerRow>) -> BTreeSet<String> {
    let is_nearly_used = |row: &CallerRow| {
        row.routes.values().any(|route| route.used_percent >= NEARLY_USED_PERCENT || route.new_tasks_refused.is_some())
    };
    callers.iter().filter(|(_, row)| is_nearly_used(row)).map(|(name, _)| name.clone()).collect()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::account::message::RouteRow;

    #[test]
    fn a_task_is_known_by_its_id_and_a_call_without_one_has_none() {
        assert_eq!(TaskId::of(b"fix-7"), TaskId::of(b"fix-7"));
        assert_ne!(TaskId::of(b"fix-7"), TaskId::of(b"fix-8"));
        assert_eq!(TaskId::of(b""), None);
    }

    #[test]
    fn what_is_told_of_tasks_is_what_it_always_was() {
        // The SHA-256 of "abc" begins so.
        let known =
            r#"{"coder":{"ba7816bf8f01cfea":{},"ba7816bf8f01cfeb":{"tokens":7,"cost":9,"identical":{"00000000000000ff":3}}}}"#;
        let tasks: Tasks = serde_json::from_str(known).unwrap();
        assert_eq!(tasks["coder"].first_key_value(), Some((&TaskId::of(b"abc").unwrap(), &TaskRow::default())));
        let row = TaskRow { tokens: 7, cost: 9, identical: [(BodyHash(ShortHash(255)), 3)].into() };
        assert_eq!(tasks["coder"].last_key_value().map(|(_, row)| row), Some(&row));
        assert_eq!(serde_json::to_string(&tasks).unwrap(), known);
        assert!(serde_json::from_str::<Tasks>(r#"{"coder":{"fix-7":{}}}"#).is_err());
    }

    #[test]
    fn a_later_word_raises_what_was_said_and_another_source_adds_to_it() {
        let (one, two) = (BodyHash::of(b"1"), BodyHash::of(b"2"));
        let mut row = TaskRow { tokens: 5, cost: 5, identical: [(one, 2)].into() };
        assert!(!row.raise(&TaskRow { tokens: 4, cost: 5, identical: [(one, 1)].into() }));
        assert!(row.raise(&TaskRow { tokens: 6, ..TaskRow::default() }));
        assert!(row.raise(&TaskRow { identical: [(two, 1)].into(), ..TaskRow::default() }));
        row.add(&TaskRow { tokens: u64::MAX, cost: 1, identical: [(two, 1)].into() });
        assert_eq!(row, TaskRow { tokens: u64::MAX, cost: 6, identical: [(one, 2), (two, 2)].into() });
    }

    #[test]
    fn tasks_are_told_of_callers_whose_budget_is_nearly_used_or_refuses_new_ones() {
        let caller = |used_percent: u32, new_tasks_refused: bool| {
            let refused = new_tasks_refused.then(|| "6f1c/tokens".parse().unwrap());
            let route = RouteRow { used_percent, new_tasks_refused: refused, ..RouteRow::default() };
            CallerRow { routes: [("free".to_owned(), RouteRow::default()), ("smart".to_owned(), route)].into() }
        };
        let callers = [("a", caller(89, false)), ("b", caller(90, false)), ("c", caller(50, true))];
        let callers = callers.into_iter().map(|(name, row)| (name.to_owned(), row)).collect();
        assert_eq!(nearly_used(&callers), ["b".to_owned(), "c".to_owned()].into());
    }
}
