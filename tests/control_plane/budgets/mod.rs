//! Promises about TokenBudgets, kept against a real control plane, gateways that really run on the local node, and a simulated model
//! server whose count of tokens is the truth.
//!
//! * [`harness`]: how budgets are applied and waited for, and the namespace in which they are spent.
//! * [`chaos`]: operators and gateways that are killed, an API server that falls silent, and callers who do not mind.
//! * [`contract`]: what every version of a status keeps, in every test.

mod chaos;
pub mod contract;
pub mod harness;

mod bad_input;
mod commands;
mod exact;
mod in_force;
mod ledger;
mod lifecycle;
mod obey;
mod operator_away;
mod rights;
mod writes;

pub use rights::use_every_right_on_budgets;
