//! InferenceBackend: what to make of a backend, given the cluster.

pub mod facts;
