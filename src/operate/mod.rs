//! The driver: everything that a controller does besides observing its own facts.
//!
//! [`watch`] feeds [`cache`]s and the [`queue`]; [`driver`] takes an object from it, lets its [`control`] observe and decide,
//! and [`act`]s through [`calls`], remembering in [`memory`] what need not be done again. [`leadership`] says whether this
//! process may; [`served_schema`] what the API server can store. [`admin`] shows all of it. [`namespaces`] does the same for what the
//! objects of a namespace have together.
//! [`poller`] is no reconcile: it reads the queues of pools, and wakes a pool when that matters.

pub mod act;
pub mod admin;
pub mod budget_figures;
pub mod cache;
pub mod calls;
pub mod children;
pub mod clients;
pub mod control;
pub mod count;
pub mod driver;
pub mod error;
pub mod events;
pub mod health;
pub mod key;
pub mod leadership;
pub mod ledger;
pub mod memory;
pub mod metric_definitions;
pub mod metrics;
pub mod namespaces;
pub mod object;
pub mod poller;
pub mod pool_figures;
pub mod queue;
pub mod served_schema;
pub mod shutdown;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod watch;
