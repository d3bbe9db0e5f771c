//! What the gateway costs with everything on, beside the backend alone, Envoy with a plain route, and LiteLLM; and what it costs
//! that calls count for a budget. All of it is measured in one run on one machine, so that the ratios mean something elsewhere too.
//!
//! Run by `make bench`; arguments:
//!
//! * `quick`: one short round, to see that it works;
//! * `apart`: the gateways have a processor of their own, instead of sharing all of them with callers and backend;
//! * `load TEXT`: only loads whose name has this text in it, without LiteLLM;
//! * `soak MINUTES`: no table; a mix of all loads for so long, and whether memory stays flat.
//!
//! The variable `QUARTERMASTER` names the binary to measure instead of the one that was built beside this; the gateway's own has to
//! stand beside that, as in an image. Prints tables in Markdown and the same as JSON; progress goes to standard error.
//! docs/figures.md says what is measured and how.

// A bench says what is wrong by panicking, what it does on standard error, and divides counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::cast_precision_loss)]
#![allow(clippy::print_stderr)]

mod backend;
mod budgeted;
mod contestants;
mod figures;
mod load;
#[path = "../operator/process.rs"]
mod process;
mod soak;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use contestants::{Contestant, Directory, Processors};
use figures::Figures;
use load::LOADS;

/// How often everything is measured: each round has all contestants, so that what else the machine does falls on all of them.
const ROUNDS: usize = 5;
/// How long a contestant is called in a round, with one load.
const TIME: Duration = Duration::from_secs(2);
/// The same in a quick round.
const QUICK: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let has = |argument: &str| arguments.contains(&argument);
    let processors = if has("apart") { Processors::Apart } else { Processors::Shared };
    processors.keep_apart();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match arguments.as_slice() {
        [backend::MODE] => runtime.block_on(backend::run()),
        // What `cargo test --benches` says: that it builds is all that is asked.
        [] => {}
        [.., "soak", minutes] => return runtime.block_on(soak::run(minutes.parse().expect("minutes"), processors)),
        _ => {
            let (rounds, time) = if has("quick") { (1, QUICK) } else { (ROUNDS, TIME) };
            let only = arguments.iter().position(|argument| *argument == "load").and_then(|at| arguments.get(at + 1).copied());
            runtime.block_on(measure(rounds, time, processors, only));
        }
    }
    ExitCode::SUCCESS
}

async fn measure(rounds: usize, time: Duration, processors: Processors, only: Option<&str>) {
    let started = Instant::now();
    let say = |what: &str| eprintln!("[{:5.1} s] {what}", started.elapsed().as_secs_f64());
    let directory = Directory::new();
    let backend = backend::Backend::start();
    let mut contestants = vec![Contestant::direct(backend.address)];
    say("starting the gateway");
    contestants.push(Contestant::gateway(&directory, backend.address, processors).await);
    say("starting the gateway with a budget");
    contestants.push(Contestant::budgeted(&directory, backend.address, processors).await);
    say("starting Envoy");
    let envoy = Contestant::envoy(&directory, backend.address, processors).await;
    let mut others = vec![envoy];
    if only.is_none() {
        say("starting LiteLLM");
        others.push(Contestant::litellm(&directory, backend.address, processors).await);
    }
    for other in others {
        match other {
            Ok(other) => contestants.push(other),
            Err(problem) => say(&format!("NOT MEASURED: {problem}")),
        }
    }
    let mut figures = Figures::new(&contestants);
    for round in 0..rounds {
        for load in LOADS.iter().filter(|load| only.is_none_or(|only| load.name().contains(only))) {
            say(&format!("round {} of {rounds}: {}", round + 1, load.name()));
            // In another order each time: what comes first or last in a round may meet another machine.
            for place in 0..contestants.len() {
                let contestant = &contestants[(place + round) % contestants.len()];
                if !contestant.is_called_with(load) {
                    continue;
                }
                let sample = load::drive(contestant.address, contestant.process(), load, time).await;
                figures.add(load, contestant.name, sample);
            }
        }
    }
    say("done");
    figures.print();
}
