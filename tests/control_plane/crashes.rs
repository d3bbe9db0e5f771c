//! Killed before or after any of its writes, or left without the response to one, the operator ends in the same state as if
//! nothing had happened. The schedule is Sieve's (OSDI 2022): the writes of runs without faults, events too, each by its
//! identity, times the faults; then pairs, of which the second is counted after the restart.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::BoxFuture;
use quartermaster_dev::fault_proxy::{Action, FaultProxy, Match, RuleId, Verb, WriteIdentity};
use tokio::sync::Semaphore;

use crate::differential::{QUIET, Reference, Workload};

/// Plans at the same time in `make test`, beside other tests: they mostly wait.
const AT_ONCE: usize = 3;
/// Plans at the same time in the soak.
const AT_ONCE_IN_SOAK: usize = 6;
/// What `make test` takes of the plans.
const SAMPLE: Sample = Sample { within: Duration::from_secs(240), plans: 40, least: 6 };
/// Of the sample, every such plan is a pair.
const PAIR_EVERY: usize = 5;
/// Pairs in the soak.
const PAIRS: usize = 60;
/// Time without a write in the soak: longer than the fourth delay of the operator's back-off.
const QUIET_IN_SOAK: Duration = Duration::from_secs(5);

/// Writes of children that a run with the fault does not come to, each with the reason. None: each of them is reached.
const NOT_REACHED: &[(&str, &str)] = &[];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_of_its_writes_the_operator_ends_in_the_same_state() {
    let started = Instant::now();
    schedule(Reference::get().await).hold_for_some(started, SAMPLE).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: crash at every write, about ten seconds for each of some hundred plans"]
async fn killed_at_each_of_its_writes_the_operator_ends_in_the_same_state() {
    schedule(Reference::get().await).hold_for_all(PAIRS).await;
}

/// Chance from the seed in the environment, or from one that is printed.
pub fn seeded() -> Rng {
    let seed = std::env::var("QUARTERMASTER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("QUARTERMASTER_SEED={seed}");
    Rng::with_seed(seed)
}

/// What befalls which writes.
#[derive(Clone, Debug)]
pub struct Plan {
    first: Fault,
    /// Its write is counted after the restart that the first one leads to.
    second: Option<Fault>,
}

#[derive(Clone, Debug)]
struct Fault {
    write: WriteIdentity,
    action: Action,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} at {}", self.action, self.write)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.first)?;
        self.second.as_ref().map_or(Ok(()), |second| write!(formatter, ", then {second} after the restart"))
    }
}

impl Plan {
    /// Adds the rules of the faults, of the first and of the second.
    pub fn add_to(&self, proxy: &FaultProxy) -> (RuleId, Option<RuleId>) {
        let first = proxy.add(matching(&self.first.write), self.first.action.clone());
        let second = self.second.as_ref().map(|second| proxy.add(matching(&second.write).after_kills(1), second.action.clone()));
        (first, second)
    }
}

/// The requests that a write stands for. One without a name is about objects whose names are drawn by chance: it is counted among
/// those of its kind.
fn matching(write: &WriteIdentity) -> Match {
    if !write.name.is_empty() {
        return Match::write(write);
    }
    let of_kind = Match::all().verb(write.verb).resource(&write.resource).subresource(&write.subresource);
    of_kind.skip(write.nth.saturating_sub(1)).times(1)
}

const FAULTS: [Action; 3] = [Action::KillBefore, Action::KillAfter, Action::DropResponse];

/// This many plans by chance, of which some are pairs.
fn sample(writes: &[WriteIdentity], events: &[WriteIdentity], chance: &mut Rng, number: usize) -> Vec<Plan> {
    let mut plans = single(writes, events);
    chance.shuffle(&mut plans);
    for (index, pair) in pairs(writes, chance, number / PAIR_EVERY).into_iter().enumerate() {
        plans.insert(index * PAIR_EVERY, pair);
    }
    plans.truncate(number);
    plans
}

/// Every fault at every write.
fn single(writes: &[WriteIdentity], events: &[WriteIdentity]) -> Vec<Plan> {
    let at = |write: &WriteIdentity| {
        let write = write.clone();
        FAULTS.map(|action| Plan { first: Fault { write: write.clone(), action }, second: None })
    };
    writes.iter().chain(events).flat_map(at).collect()
}

/// Pairs of a kill and of another fault at one of the writes that come after it in a run without faults. What is written again
/// after a restart comes on top, so that the second write is nearly always reached. Events are not told again: no pair has one.
fn pairs(writes: &[WriteIdentity], chance: &mut Rng, count: usize) -> Vec<Plan> {
    let pair = || {
        let place = chance.usize(..writes.len() - 1);
        let killed = FAULTS[chance.usize(..2)].clone();
        // A write that never arrived is still to be made.
        let after = &writes[place + usize::from(killed == Action::KillAfter)..];
        let chosen = chance.usize(..after.len());
        let like = |write: &&WriteIdentity| WriteIdentity { nth: 0, ..(*write).clone() };
        let nth = after[..=chosen].iter().filter(|write| like(write) == like(&&after[chosen])).count();
        let second = WriteIdentity { nth: u64::try_from(nth).unwrap(), ..after[chosen].clone() };
        Plan {
            first: Fault { write: writes[place].clone(), action: killed },
            second: Some(Fault { write: second, action: FAULTS[chance.usize(..3)].clone() }),
        }
    };
    std::iter::repeat_with(pair).take(count).collect()
}

/// What became of a plan.
pub struct Outcome {
    /// What ended differently than without a fault.
    pub found: Vec<String>,
    /// Whether the faults befell, the first and the second.
    pub befell: (bool, bool),
}

/// Runs a plan, until nothing was written for a while.
pub type Run = Box<dyn Fn(Plan, Duration) -> BoxFuture<'static, Outcome>>;

/// The workload of backends.
fn schedule(reference: &'static Reference) -> Schedule {
    let run = move |plan: Plan, quiet| -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            let workload = Workload::new("crash").await;
            let proxy = workload.faulty.proxy.clone();
            let (first, second) = plan.add_to(&proxy);
            let end = workload.run(quiet).await;
            let befell = (proxy.befell(first) == 1, second.is_some_and(|second| proxy.befell(second) == 1));
            Outcome { found: reference.differs(&end), befell }
        })
    };
    Schedule { writes: &reference.writes, events: &reference.events, run: Box::new(run) }
}

/// How much of a schedule is tried.
#[derive(Clone, Copy)]
pub struct Sample {
    /// Time that it may take, with the runs without faults.
    pub within: Duration,
    /// Plans that it takes at most.
    pub plans: usize,
    /// Plans below which it says little.
    pub least: usize,
}

/// A workload of which it is known how it ends without faults.
pub struct Schedule {
    /// The writes that every run without faults makes, in their order.
    pub writes: &'static [WriteIdentity],
    /// The same of the events.
    pub events: &'static [WriteIdentity],
    /// Runs it under a plan.
    pub run: Run,
}

impl Schedule {
    /// Holds for plans by chance, as many as end in the time of the sample, which has `started`.
    pub async fn hold_for_some(&self, started: Instant, sample: Sample) {
        let Sample { within, plans, least } = sample;
        let chosen = self::sample(self.writes, self.events, &mut seeded(), plans);
        let begun = self.hold_for(chosen, QUIET, AT_ONCE, Some((started, within))).await;
        assert!(begun >= least, "only {begun} plans within {within:?}");
    }

    /// Holds for every fault at every write, and for pairs by chance.
    pub async fn hold_for_all(&self, pairs: usize) {
        let mut plans = single(self.writes, self.events);
        plans.extend(self::pairs(self.writes, &mut seeded(), pairs));
        self.hold_for(plans, QUIET_IN_SOAK, AT_ONCE_IN_SOAK, None).await;
    }

    /// Whether a run may do without a write. What is written about children follows from the spec. How many statuses are written
    /// on the way, and how many events tell of them, depends on when pods become ready: one by one on a busy machine, together on
    /// an idle one. An object's last ones may not come then. Those up to the middle always come. The same holds for what is written
    /// into ConfigMaps: the ledger by the clock, and the plan when something of it changes.
    fn is_optional(&self, write: &WriteIdentity) -> bool {
        let of = |write: &WriteIdentity| (write.resource.clone(), write.subresource.clone(), write.name.clone());
        let like: Vec<&WriteIdentity> = self.writes.iter().chain(self.events).filter(|other| of(other) == of(write)).collect();
        let place = like.iter().position(|other| *other == write);
        let depends = write.subresource == "status" && write.verb == Verb::Patch
            || write.resource == "events"
            || write.resource == "configmaps";
        depends && place.is_some_and(|before| 2 * (before + 1) > like.len() + 1)
    }

    /// Runs the plans, in their order; within a time, as many as end in it. Returns how many that were. Fails with what every plan
    /// found.
    async fn hold_for(&self, plans: Vec<Plan>, quiet: Duration, at_once: usize, within: Option<(Instant, Duration)>) -> usize {
        let begin = Instant::now();
        let places = Arc::new(Semaphore::new(at_once));
        let longest = Arc::new(std::sync::Mutex::new(Duration::from_secs(20)));
        let mut running = Vec::new();
        for plan in plans {
            let place = places.clone().acquire_owned().await.unwrap();
            let estimate = *longest.lock().unwrap();
            if within.is_some_and(|(started, time)| started.elapsed() + estimate > time) {
                break;
            }
            let (longest, run) = (longest.clone(), (self.run)(plan.clone(), quiet));
            running.push((
                plan.clone(),
                tokio::spawn(async move {
                    let (_place, begin) = (place, Instant::now());
                    let outcome = run.await;
                    // A long run is watched while it goes on.
                    let verdict = if outcome.found.is_empty() { "holds" } else { "FAILS" };
                    println!("{verdict} after {:.0?}: {plan} {}", begin.elapsed(), outcome.found.join("\n"));
                    let mut longest = longest.lock().unwrap();
                    *longest = (*longest).max(begin.elapsed());
                    outcome
                }),
            ));
        }
        let (begun, mut failures, mut missed, mut pairs, mut second) = (running.len(), Vec::new(), Vec::new(), 0, 0);
        for (plan, ended) in running {
            match ended.await {
                Ok(outcome) => {
                    let found = &outcome.found;
                    failures.extend((!found.is_empty()).then(|| format!("{plan}\n{}", found.join("\n"))));
                    missed.extend((!outcome.befell.0).then(|| plan.first.clone()));
                    pairs += usize::from(plan.second.is_some());
                    second += usize::from(outcome.befell.1);
                }
                Err(panicked) => failures.push(format!("{plan}\n{panicked}")),
            }
        }
        println!("{begun} plans, {pairs} of them pairs, in {:?}; the second fault of {second} pairs befell", begin.elapsed());
        missed.iter().for_each(|fault| println!("did not befall: {fault}"));
        assert!(failures.is_empty(), "{} of {begun} plans failed:\n{}", failures.len(), failures.join("\n\n"));
        let excused = |fault: &Fault| NOT_REACHED.iter().any(|(write, _)| *write == fault.write.to_string());
        let is_explained = |fault: &Fault| self.is_optional(&fault.write) || excused(fault);
        let unexplained: Vec<String> = missed.iter().filter(|fault| !is_explained(fault)).map(ToString::to_string).collect();
        assert!(unexplained.is_empty(), "never befell: {unexplained:?}");
        // Of a small sample chance may choose many such writes.
        assert!(missed.len() <= (begun / 5).max(5), "{} of {begun} faults did not befall", missed.len());
        assert!(pairs - second <= (pairs / 5).max(2), "the second fault of only {second} of {pairs} pairs befell");
        begun
    }
}
