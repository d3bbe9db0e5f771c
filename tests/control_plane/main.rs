//! Promises kept against a real control plane. Run by `make test`, or by
//! `cargo run -p quartermaster-dev -- with-cluster --nodes -- cargo test --test control_plane`.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod harness;
mod operator;
mod rules;

mod bad_input;
mod columns;
mod contract;
mod crashes;
mod differential;
mod faults;
mod faulty;
mod kubectl;
mod leadership;
mod memory;
mod other_writers;
mod placement;
mod probes;
mod providers;
mod quiet;
mod rights;
mod schema;
mod schema_outdated;
mod stale;
mod surroundings;
mod undecodable;
mod watch_events;
