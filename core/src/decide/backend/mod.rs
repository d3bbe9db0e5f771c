//! InferenceBackend: what to make of a backend, given the cluster.

pub mod accelerator;
pub mod arguments;
pub mod check;
pub mod children;
pub mod clocks;
pub mod destination;
pub mod engine_errors;
pub mod facts;
pub mod hosted;
pub mod model;
pub mod model_source;
pub mod patch;
pub mod provider;
pub mod rollout;
pub mod sizing;
