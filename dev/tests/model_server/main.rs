//! What the simulated model servers promise: the shapes of the real ones, every fault, and counts that are true.

// clippy.toml allows this in test functions, but not in what they share.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod anthropic;
mod client;
mod faults;
mod local_node;
mod ollama;
mod openai;
mod record;
mod vllm;
