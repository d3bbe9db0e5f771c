//! Promises about pools of agents, kept against a real control plane and a real Redis.
//!
//! * [`harness`]: how pools are applied and waited for; what they are made of in these tests.
//! * [`redis`], [`prometheus`]: the servers that have the queues. [`agents`]: who takes the tasks.
//! * [`contract`]: what every version of a status keeps, in every test.

mod agents;
pub mod contract;
pub mod harness;
mod prometheus;
pub mod redis;

mod bad_answers;
mod bad_queues;
mod bad_specs;
mod crashes;
mod destinations;
mod leadership;
mod outage;
mod pinning;
mod quiet;
mod replay;
mod rights;
mod scale_in;
mod shares;
mod targets;
mod tasks;

pub use rights::use_every_right_on_pools;
