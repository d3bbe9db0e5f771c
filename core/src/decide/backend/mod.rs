//! InferenceBackend: what to make of a backend, given the cluster.

pub mod check;
pub mod destination;
pub mod facts;
pub mod hosted;
pub mod provider;
