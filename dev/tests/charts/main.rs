//! What the charts promise: their rules and definitions are those of deploy/ and crds/, a value that they do not know is
//! refused, and what they install runs.

// clippy.toml allows this in test functions, but not in what they share.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod helm;
mod installation;
#[path = "../plain_http/mod.rs"]
mod plain_http;
mod rendering;
mod values;
