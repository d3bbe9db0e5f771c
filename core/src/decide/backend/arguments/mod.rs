//! The arguments of `vllm serve`: what the parser of vLLM 0.33.0 knows, which of them a user may add, and the whole command
//! line of a backend.
//!
//! * [`options`]: every option, as vLLM's own parser registers it.
//! * `words`, `parser`, `values`: how that parser reads a list of arguments.
//! * `managed`, `removed`, `combinations`: what is refused although, or because, the parser knows better.
//! * [`extra`]: the verdict about `extraArgs`.
//! * [`given`]: what a list of arguments sets.
//! * [`command`]: the whole command line.

mod combinations;
pub mod command;
pub mod extra;
pub mod given;
mod managed;
pub mod options;
mod parser;
mod removed;
mod values;
mod words;
