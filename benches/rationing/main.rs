//! What budgets cost: the operator's accounts of a namespace with 200 budgets, 200 callers and 20 gateways, second by second;
//! looks at budgets; what the bookkeeping of a call takes in a gateway; and a sprint of a million calls in virtual time. All of
//! it is measured in one run on one machine, so that the ratios mean something elsewhere too. No cluster is needed.
//!
//! Run by `make bench`; arguments:
//!
//! * `accounts`, `calls` or `sprint`: only that part;
//! * `quick`: fewer seconds, and a sprint of fewer calls, to see that it works.
//!
//! Prints tables in Markdown and the same as JSON; progress goes to standard error. docs/figures.md says what is measured and
//! how.

// A bench says what is wrong by panicking, what it does on standard error, and divides counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::cast_precision_loss)]
#![allow(clippy::print_stderr)]

mod accounts;
mod calls;
mod decisions;
mod figures;
mod fleet;
mod replica;
mod sprint;

use std::time::Instant;

use figures::Figures;

/// The parts.
const PARTS: [&str; 3] = ["accounts", "calls", "sprint"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // What `cargo test --benches` says: that it builds is all that is asked.
    if arguments.is_empty() {
        return;
    }
    let started = Instant::now();
    let say = |what: &str| eprintln!("[{:5.1} s] {what}", started.elapsed().as_secs_f64());
    let has = |argument: &str| arguments.iter().any(|known| known == argument);
    let (quick, all) = (has("quick"), !PARTS.into_iter().any(has));
    let mut figures = Figures::default();
    if all || has("accounts") {
        accounts::measure(&mut figures, quick, &say);
    }
    if all || has("calls") {
        say("reserving and settling");
        figures.calls = calls::measure(quick);
    }
    if all || has("sprint") {
        figures.sprint = Some(sprint::measure(quick, &say));
    }
    say("done");
    figures.print();
    figures.check();
}
