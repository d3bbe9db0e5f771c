//! The data plane: `quartermaster gateway`. It answers model calls by the plan of its namespace and decides nothing itself: every
//! decision is one of `quartermaster_core::decide::request`.
//!
//! A call goes through these, in this order:
//!
//! * [`listener`] accepts its connection, and [`timed_stream`] bounds what a peer may take of it;
//! * [`call`] takes it, under a [`call_id`], through its steps: path, method, [`authenticate`], [`request_body`], [`budgets`],
//!   labels, choice;
//! * [`attempt`] makes one attempt after another, each [`forward`]ed to a backend;
//! * [`reply`] makes the head of the answer, and [`relay`] the body of a streamed one;
//! * [`settle`] says what it came to, once, into [`metrics`] and the [`routing_log`].
//!
//! What all calls share is in [`state`]: the plan with its secrets ([`in_force`]), swapped as one pointer, and what outlives
//! plans: what this replica learns, what it spends of budgets, what its callers' [`tasks`] used. [`mounted`] reads
//! plan and secrets from files, [`exchange`] gets them from the operator, with what may be spent, and reports what callers used
//! and what they want ([`demand`]), with its [`certificate`]; [`run`] starts and ends the process.

mod attempt;
pub mod authenticate;
mod budgets;
mod call;
pub mod call_id;
pub mod certificate;
pub mod demand;
pub mod exchange;
mod forward;
pub mod in_force;
pub mod listener;
pub mod metrics;
pub mod mounted;
mod relay;
pub mod reply;
pub mod request_body;
pub mod routing_log;
pub mod run;
pub mod settle;
pub mod state;
pub mod tasks;
#[cfg(test)]
mod testing;
pub mod timed_stream;
