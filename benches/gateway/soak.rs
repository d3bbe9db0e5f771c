//! Whether the gateway's memory stays flat: all kinds of calls at once for a long time, no two with the same prompt, and clients
//! that leave.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::backend::{BURST, BURST_HOSTED, Backend, PACED, PLAIN};
use crate::contestants::{Contestant, Directory, Processors};
use crate::figures::MEMORY;
use crate::load::{self, LONG, Load, SHORT};
use crate::process;

/// The mix.
const LOADS: &[Load] = &[
    Load { model: PLAIN, prompt: SHORT, callers: 8, leaves: false },
    Load { model: BURST, prompt: SHORT, callers: 4, leaves: false },
    Load { model: BURST_HOSTED, prompt: SHORT, callers: 4, leaves: false },
    Load { model: PACED, prompt: SHORT, callers: 16, leaves: false },
    Load { model: PACED, prompt: SHORT, callers: 2, leaves: true },
    Load { model: PLAIN, prompt: LONG, callers: 4, leaves: false },
];
/// How often memory is looked at, in each tenth of the time.
const LOOKS: u32 = 60;
/// How much more memory the last tenth may have than the second one, in MiB. The first one fills pools and tables.
const GROWTH: f64 = 1.0;

/// Calls for so many minutes; a failure where memory grew, was too much, or a call failed.
pub async fn run(minutes: u32, processors: Processors) -> ExitCode {
    let (directory, backend) = (Directory::new(), Backend::start());
    let gateway = Contestant::gateway(&directory, backend.address, processors).await;
    let process = gateway.process().unwrap();
    let time = Duration::from_secs(60) * minutes;
    let (begun, until) = (Instant::now(), Instant::now() + time);
    let number = Arc::new(AtomicU64::new(0));
    let calling: Vec<_> =
        LOADS.iter().map(|load| tokio::spawn(load::go_on(gateway.address, *load, Arc::clone(&number), until))).collect();

    let mut ticks = tokio::time::interval(time / 10 / LOOKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tenths: Vec<Vec<f64>> = Vec::new();
    while Instant::now() < until {
        ticks.tick().await;
        let resident = process::memory(process).resident as f64 / 1024.0 / 1024.0;
        let tenth = usize::try_from(begun.elapsed().as_secs() * 10 / time.as_secs().max(1)).unwrap().min(9);
        if tenths.len() <= tenth {
            tenths.resize_with(tenth + 1, Vec::new);
            eprintln!("[{:6.0} s] {resident:.1} MiB", begun.elapsed().as_secs_f64());
        }
        tenths[tenth].push(resident);
    }
    let mut sum = (0, 0);
    for load in calling {
        let (calls, failures) = load.await.unwrap();
        sum = (sum.0 + calls, sum.1 + failures);
    }

    let medians: Vec<f64> = tenths.into_iter().filter_map(median).collect();
    let (early, late) = (medians[medians.len().min(2) - 1], medians[medians.len() - 1]);
    let most = medians.iter().copied().fold(0.0, f64::max);
    let holds = late - early <= GROWTH && most <= MEMORY && sum.1 == 0;
    println!("\n| {minutes} minutes | |\n|---|--:|");
    println!("| calls | {} |\n| … that failed | {} |", sum.0, sum.1);
    println!("| memory, resident, in the second tenth (median) | {early:.1} MiB |");
    println!("| … in the last tenth, at most {GROWTH} MiB more | {late:.1} MiB |");
    println!("| … in any tenth, at most {MEMORY} MiB | {most:.1} MiB |");
    println!("| | {} |", if holds { "flat" } else { "**missed**" });
    println!(
        "\n{}",
        serde_json::json!({ "minutes": minutes, "calls": sum.0, "failures": sum.1, "residentMebibytes": medians, "holds": holds })
    );
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}
