//! What happens to one model call: pure decisions that the gateway, `quartermaster route` and simulations share.
//!
//! * [`body`]: what is read of a request's body, and what is sent to a backend instead.
//! * [`operation`]: what a path asks for, in which format.
//! * [`model_name`]: the model that a client asks for -> the route that answers.
//! * [`labels`]: key, headers and body -> the labels of a call; [`rules`]: labels -> the rule that it falls under.
//! * [`candidates`]: who may answer, and why the others may not; [`strategy`]: in which order they are asked.
//! * [`attempts`]: who is asked, attempt by attempt, until one answers or the client is told.
//! * [`learned`]: what a replica knows from its calls: [`circuit_breaker`], [`key_state`], [`retry_budget`], running calls.
//! * [`failure`]: what went wrong at a backend, and what follows from it.
//! * [`upstream`]: how a call reaches a backend: formats, address, the key's header.
//! * [`error_event`](mod@error_event): how a stream that broke ends for its client.
//! * [`events`]: events of a stream, cut out of its bytes.
//! * [`meter`]: the meter of a streamed answer: what goes on, content, errors, the end, usage.
//! * [`plain_answer`]: the meter of an answer that is no stream.
//! * [`usage`]: tokens of an answer; [`upper_bound`]: the most that an attempt can use, for answers of which nobody says it.
//! * [`cost`]: what an attempt costs, and the most that it can cost. * [`counted`]: what it counts as.
//! * [`classify`]: which kind of failure an answer is; `error_body`: what an error says; `retry_after`: how long to wait.
//! * [`headers`]: which headers pass, and in which direction.
//! * [`refusal`]: what the gateway answers itself, as each API shapes it.
//! * [`remaining_limits`]: what a provider says is left of a key's limits.

mod answer_error;
pub mod attempts;
pub mod body;
pub mod candidates;
pub mod circuit_breaker;
pub mod classify;
pub mod cost;
pub mod counted;
pub(crate) mod error_body;
pub mod error_event;
pub mod events;
pub mod failure;
#[cfg(test)]
mod fixtures;
pub mod headers;
pub mod key_state;
pub mod labels;
pub mod learned;
pub mod meter;
pub mod model_name;
pub mod operation;
pub mod plain_answer;
pub mod refusal;
pub mod remaining_limits;
pub mod retry_after;
pub mod retry_budget;
pub mod rules;
pub mod strategy;
pub mod upper_bound;
pub mod upstream;
pub mod usage;
