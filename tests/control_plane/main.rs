//! Promises kept against a real control plane. Run by `make test`, or by
//! `cargo run -p quartermaster-dev -- with-cluster --nodes -- cargo test --test control_plane`.

mod harness;

mod placement;
