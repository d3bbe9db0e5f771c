//! Promises kept against a real control plane. Run by `make test`, or by
//! `cargo run -p quartermaster-dev -- with-cluster --nodes --local-node -- cargo test --test control_plane`.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod argo_cd;
mod events;
mod harness;
mod operator;
mod rules;
mod versions;

mod bad_input;
mod budget_definition;
mod budgets;
mod caller_usage;
mod cluster_wide;
mod columns;
mod contract;
mod crashes;
mod crashes_together;
mod differential;
mod engines;
mod faults;
mod faulty;
mod health;
mod hub;
mod kubectl;
mod leadership;
mod memory;
mod ollama;
mod other_writers;
mod owners;
mod placement;
mod plan;
mod pools;
mod probes;
mod providers;
mod quiet;
mod rights;
mod rollouts;
mod routes;
mod schema;
mod schema_outdated;
mod stale;
mod surroundings;
mod undecodable;
mod user_roles;
mod watch_events;
