//! What the operator costs with 1,000 backends, beside the least that a program can do with the same objects: a bare kube
//! reflector; and with 100 and 1,000 pools, beside the least program that scales by the same queues. Everything is measured in one run on one machine, so that the ratios mean something elsewhere too.
//!
//! Run by `make bench`; with the argument `backends` or `pools` only that half. Prints tables in Markdown and the same as JSON;
//! progress goes to standard error.
//! docs/figures.md says what is measured and how.

// A bench says what is wrong by panicking, what it does on standard error, and divides counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::cast_precision_loss)]
#![allow(clippy::print_stderr)]

mod cluster;
mod decision;
mod figures;
mod least;
mod operator;
mod pools;
mod process;
mod reflector;
#[path = "../../tests/control_plane/rules.rs"]
mod rules;

use std::time::{Duration, Instant};

use cluster::Cluster;
use figures::Figures;

/// Backends of the fleet. Each has one pod on one GPU.
const BACKENDS: usize = 1000;
/// Nodes with eight GPUs each, beside the fleet of the development control plane.
const NODES: usize = BACKENDS / 8;
/// Times that every backend is woken.
const ROUNDS: usize = 20;
/// Pools of agents.
const POOLS: [usize; 2] = [100, 1000];
/// How long the operator is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(20);

fn main() {
    quartermaster::sources::connect::install_cryptography();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [reflector::MODE, namespace] => runtime.block_on(reflector::run(namespace)),
        [least::MODE, namespace, url, number] => runtime.block_on(least::run(namespace, url, number)),
        // What `cargo test --benches` says: that it builds is all that is asked.
        [] => {}
        arguments => runtime.block_on(async {
            let started = Instant::now();
            let say = |what: &str| eprintln!("[{:5.1} s] {what}", started.elapsed().as_secs_f64());
            if !arguments.contains(&"pools") {
                measure(&say).await;
            }
            if !arguments.contains(&"backends") {
                let mut figures = Figures::new("least program");
                for number in POOLS {
                    pools::measure(&mut figures, number, &say).await;
                }
                figures.print();
            }
        }),
    }
}

async fn measure(say: &impl Fn(&str)) {
    let mut figures = Figures::new("bare reflector");

    say(&format!("creating {NODES} nodes and {BACKENDS} backends"));
    let cluster = Cluster::create(NODES, BACKENDS).await;

    say("a bare reflector over the new backends");
    let reflector = reflector::Reflector::start(&cluster).await;
    let synced_new = reflector.synced;
    drop(reflector);

    say("the operator's first start: every child is made");
    let decided = cluster.watch_decided().await;
    let first = operator::Operator::start(&cluster);
    let first_decided = decided.all(BACKENDS, first.started).await;
    say(&format!(
        "all decided after {:.1} s; waiting until every pod is ready and nothing happens any more",
        first_decided.as_secs_f64()
    ));
    cluster.until_ready(BACKENDS).await;
    let calls = first.quiet().await.calls();
    figures.first_start(BACKENDS, first_decided, synced_new, calls);

    say(&format!("nothing happens for {} s", IDLE.as_secs()));
    let before = first.metrics().await;
    tokio::time::sleep(IDLE).await;
    figures.idle(IDLE, &first.metrics().await.since(&before));

    say("reconciling every backend again and again, without a change");
    let before = first.quiet().await;
    let mut busy = Duration::ZERO;
    for round in 0..ROUNDS {
        busy += first.wake_all(&cluster, round, BACKENDS).await;
    }
    figures.without_change(busy, &first.metrics().await.since(&before));

    say("one decision, in this process");
    figures.decision(&decision::measure(&cluster).await);
    first.end();

    say("a restart with everything in place, beside a bare reflector over the same objects");
    let reflector = reflector::Reflector::start(&cluster).await;
    let second = operator::Operator::start(&cluster);
    let again = second.reconciled(BACKENDS).await;
    let calls = second.quiet().await.calls();
    figures.restart(BACKENDS, again, reflector.synced, calls);
    figures.memory(&second.memory(), &reflector.memory());
    figures.objects(&reflector.objects);
    second.end();

    say("done");
    figures.print();
}
