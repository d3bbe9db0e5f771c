//! The exchange between the operator's leader and the replicas of gateways: what the two tell each other, and both halves as
//! state machines without clock or socket.
//!
//! There is one connection from the leader to each replica. The leader sends what the replica is to do: the plan, the secrets and
//! the endpoints, each only where the replica has another one in force; and what it may spend of budgets. The replica reports what it
//! does: what is in force, how many tokens its callers used, what it spent of budgets and asks for, which backends are wanted, how
//! their keys fare. Each says something at least once in [`HEARTBEAT`].
//!
//! Both sides ignore fields that they do not know, and read a missing field as "nothing": a later version adds fields, and never
//! changes what one means. What is reported is cumulative, so that a message that is lost, repeated or late changes nothing.
//!
//! * [`documents`]: plan, secrets and endpoints, as they travel, and their hashes.
//! * [`gateway_session`]: the gateway's half.
//! * [`message`]: what is sent, in both directions.
//! * [`operator_session`]: the operator's half, for one replica; `rows`: which rows of accounts it lacks; `untaken`: the same of tasks.
//! * [`usage`]: what callers used, by hour.
//! * [`usage_totals`]: what all replicas reported, summed.

use std::time::Duration;

pub mod documents;
pub mod gateway_session;
pub mod message;
pub mod operator_session;
mod rows;
mod untaken;
pub mod usage;
pub mod usage_totals;

/// The version of the messages that this code writes. It tells a reader of recorded messages what they are; neither side refuses
/// another one.
pub const SCHEMA: u32 = 1;

/// The longest time in which a side says nothing.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// The shortest time between two reports, so that a burst of settlements is one report; and between two messages of which the later
/// one is about accounts, so that what is granted for them is one message.
pub const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Time without a message after which a side takes the connection for dead.
pub const SILENCE: Duration = Duration::from_secs(10);

/// For how long a replica may go by what the operator last said: longer than a takeover of the leadership takes (a lease of 15 s,
/// and a connection to each replica).
pub const VALID_FOR: Duration = Duration::from_secs(30);

/// Time after which a document that is neither in force nor refused is sent again on the same connection.
pub const SEND_AGAIN_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod lossy_channel_tests;
#[cfg(test)]
mod recorded_messages_tests;
