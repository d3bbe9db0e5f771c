//! A sprint of 14 days and a million calls in virtual time, as `quartermaster simulate` runs it.

use std::time::{Duration, Instant};

use jiff::tz::TimeZoneDatabase;
use quartermaster_core::decide::simulation::generated::{self, Generated};
use quartermaster_core::decide::simulation::result::{BudgetOutcome, Calls};
use quartermaster_core::decide::simulation::{self, Progress, Setup};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The namespace.
const NAMESPACE: &str = include_str!("sprint.yaml");
/// When its sprint starts, and with it the calls, by whose clocks people work, and for how long.
const START: &str = "2026-11-16T08:00:00Z";
const TIME_ZONE: &str = "Europe/Madrid";
const DAYS: u32 = 14;
/// What is left to chance where the command line says nothing of it.
const SEED: u64 = 1;

const CALLS: u32 = 1_000_000;
/// The same in a quick run.
const QUICK: u32 = 20_000;

/// How long it may take.
pub const WANTED: Duration = Duration::from_secs(60);
/// After this it is taken to hang.
const DEADLINE: Duration = Duration::from_secs(600);

/// A simulation.
#[derive(Clone, Debug)]
pub struct Run {
    /// The days that were simulated.
    pub days: u32,
    /// To generate the calls.
    pub generated: Duration,
    /// To simulate them.
    pub simulated: Duration,
    /// What became of the calls.
    pub calls: Calls,
    /// Steps that were taken.
    pub steps: usize,
    /// Changes of replicas.
    pub changes: u64,
}

/// Generates the calls, and simulates them.
pub fn measure(quick: bool, say: &impl Fn(&str)) -> Run {
    let calls = if quick { QUICK } else { CALLS };
    let documents: Vec<Value> = serde_saphyr::from_multiple(NAMESPACE).unwrap();
    let setup = Setup {
        routes: objects(&documents, "ModelRoute"),
        backends: objects(&documents, "InferenceBackend"),
        pools: objects(&documents, "AgentPool"),
        budgets: objects(&documents, "TokenBudget"),
        seed: SEED,
        ..Setup::default()
    };
    let time_zone = TimeZoneDatabase::bundled().get(TIME_ZONE).unwrap();
    let spec = Generated { calls, seed: SEED, start: START.parse().unwrap(), days: DAYS, time_zone };

    say(&format!("generating {calls} calls of {DAYS} days"));
    let begun = Instant::now();
    let trace = generated::generate(&spec, &setup.pools, &setup.routes).unwrap();
    let generated = begun.elapsed();

    say("simulating them");
    let begun = Instant::now();
    let mut told = 0;
    let mut progress = |progress: &Progress| {
        assert!(begun.elapsed() < DEADLINE, "after {} s only {} % are simulated", DEADLINE.as_secs(), progress.percent);
        if progress.percent >= told + 20 {
            told = progress.percent;
            say(&format!("{told} %: {} calls", progress.calls));
        }
    };
    let outcome = simulation::simulate(&setup, &trace, &mut progress).unwrap();
    let simulated = begun.elapsed();
    let steps = |budget: &BudgetOutcome| budget.periods.iter().map(|period| period.steps.len()).sum::<usize>();
    Run {
        days: DAYS,
        generated,
        simulated,
        calls: outcome.calls,
        steps: outcome.budgets.iter().map(steps).sum(),
        changes: outcome.pools.iter().map(|pool| pool.changes).sum(),
    }
}

fn objects<K: DeserializeOwned>(documents: &[Value], kind: &str) -> Vec<K> {
    let of_kind = documents.iter().filter(|document| document["kind"] == kind);
    of_kind.map(|document| serde_json::from_value(document.clone()).unwrap()).collect()
}
