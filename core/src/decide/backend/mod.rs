//! InferenceBackend: what to make of a backend, given the cluster.

pub mod accelerator;
pub mod facts;
pub mod model;
pub mod sizing;
