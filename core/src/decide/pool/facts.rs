//! What a decision about a pool is made from.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// A Secret that is referred to cannot be used.
    Secret,
}
