//! The package `quartermaster`: one binary, in the role of the operator.
//!
//! * [`sources`]: one file a system that we ask: provider health, model facts.

pub mod sources;
