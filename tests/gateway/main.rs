//! The gateway against simulated model servers: real sockets, real faults, exact counts. No control plane is needed.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod admission;
mod bad_requests;
mod bad_upstreams;
mod bodies;
mod budgets;
mod expectations;
mod failures;
mod harness;
mod leaving;
mod matrix;
mod operator;
mod plans;
mod process;
mod sdks;
mod spine;
mod streams;
mod tasks;
mod usage;
