//! The controllers: one file a kind, each with its watches and what it observes.

pub mod cut;
pub mod inference_backend;
