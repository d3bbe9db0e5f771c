//! The arguments of `vllm serve`: what the parser of vLLM 0.33.0 knows, which of them a user may add, and the whole command
//! line of a backend.

pub mod command;
pub mod extra;
