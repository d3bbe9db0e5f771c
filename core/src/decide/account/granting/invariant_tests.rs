//! Whatever is lost, fails or ends, and in whatever order: the limit is never passed, and what was used is never forgotten.

use proptest::prelude::*;

use super::testing::{FIRST, Gateway, SECOND, START, World, account, daily, period};
use super::*;
use crate::decide::account::PeriodId;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A call wants to begin that can use so much.
    Begin(u64, u64),
    /// A call ends that used so many percent of what it had reserved.
    End(u64, u64),
    Report(u64),
    Tell(u64),
    /// A message is made, and lost.
    Lose(u64),
    Tick,
    Write,
    /// A write fails.
    Fail,
    /// A write is made, and nobody hears so.
    WriteUnheard,
    /// A gateway is killed, and another one starts in its place.
    Kill(u64),
    TakeOver,
    Limit(u64),
    Wait(u32),
    /// The day ends.
    Next,
}

/// The limit in all periods, as users raise it.
const LIMIT: u64 = 1000;

struct Run {
    world: World,
    limit: u64,
    /// By place: the process that runs there.
    places: [u64; 3],
    last: u64,
    days: i64,
    /// What processes that are gone had used, or may have, in each period.
    gone: BTreeMap<PeriodId, u64>,
}

impl Run {
    fn new() -> Self {
        let world = World::with(LIMIT, &[1, 2, 3]);
        Self { world, limit: LIMIT, places: [1, 2, 3], last: 3, days: 0, gone: BTreeMap::new() }
    }

    fn epoch(&self, place: u64) -> u64 {
        self.places[usize::try_from(place).unwrap() % self.places.len()]
    }

    /// The period in which a gateway begins calls.
    fn open(&self, epoch: u64) -> Option<PeriodId> {
        self.world.gateways[&epoch].told.get(&account("a/tokens")).map(|row| row.period)
    }

    fn configure(&mut self) {
        let mut terms = daily(self.limit);
        (terms.period, terms.next) = (period(self.days, self.limit), Some(period(self.days + 1, self.limit)));
        self.world.configure("a", terms);
    }

    fn step(&mut self, step: Step) {
        let now = self.world.now();
        match step {
            Step::Begin(place, need) => {
                let epoch = self.epoch(place);
                let Some(open) = self.open(epoch) else { return };
                let row = self.world.row(epoch, "a/tokens", open);
                let available = row.allowance - row.used - row.reserved;
                if available >= need {
                    row.reserved += need;
                    self.world.ask(epoch, "a/tokens", 0, 0);
                } else {
                    self.world.ask(epoch, "a/tokens", need - available, need - available);
                }
            }
            Step::End(place, percent) => {
                let epoch = self.epoch(place);
                let gateway = self.world.gateways.get_mut(&epoch).unwrap();
                for row in gateway.rows.values_mut().flat_map(BTreeMap::values_mut) {
                    row.used += row.reserved * percent / 100;
                    row.reserved = 0;
                }
            }
            Step::Report(place) => {
                let epoch = self.epoch(place);
                self.world.report(epoch);
            }
            Step::Tell(place) => {
                let epoch = self.epoch(place);
                self.world.tell(epoch);
            }
            Step::Lose(place) => {
                let epoch = self.epoch(place);
                self.world.message(epoch);
            }
            Step::Tick => self.world.granting.tick(now),
            Step::Write => _ = self.world.write(),
            Step::Fail | Step::WriteUnheard => {
                if self.world.granting.ledger_due(now).is_some_and(|due| due <= now.elapsed) {
                    let ledger = self.world.granting.ledger(now);
                    if matches!(step, Step::WriteUnheard) {
                        self.world.stored = Some(ledger);
                    }
                    self.world.granting.write_failed(now);
                }
            }
            Step::Kill(place) => {
                let epoch = self.epoch(place);
                for (id, row) in self.world.gateways[&epoch].rows.values().flatten() {
                    *self.gone.entry(*id).or_default() += row.used + row.reserved;
                }
                self.world.end(epoch);
                self.last += 1;
                self.world.gateways.insert(self.last, Gateway::default());
                for running in &mut self.places {
                    if *running == epoch {
                        *running = self.last;
                    }
                }
            }
            Step::TakeOver => {
                self.world.take_over();
                // It sees that those are gone whose pods are.
                for epoch in 1..=self.last {
                    if !self.world.gateways.contains_key(&epoch) {
                        self.world.granting.ended(epoch, now);
                    }
                }
            }
            Step::Limit(more) => {
                self.limit += more;
                self.configure();
            }
            Step::Wait(seconds) => self.world.wait(seconds),
            Step::Next => {
                self.days += 1;
                self.world.wall = START + self.days * 86_400 + 60;
                self.configure();
            }
        }
    }

    /// What has been used in a period, and what running calls can use.
    fn truth(&self, id: PeriodId) -> u64 {
        let of = |gateway: &Gateway| {
            gateway.rows.values().filter_map(|periods| periods.get(&id)).map(|row| row.used + row.reserved).sum::<u64>()
        };
        self.world.gateways.values().map(of).sum::<u64>() + self.gone.get(&id).copied().unwrap_or_default()
    }

    fn look(&self) -> Result<(), TestCaseError> {
        for days in 0..=self.days + 1 {
            let id = PeriodId(START + days * 86_400);
            prop_assert!(self.truth(id) <= self.limit, "{} were used of {} in {:?}", self.truth(id), self.limit, id);
            let committed = self.world.granting.committed("a", Unit::Tokens, id);
            if let Some(limit) = self.world.granting.limit("a", Unit::Tokens, id) {
                prop_assert!(committed <= limit, "{committed} are promised of {limit} in {id:?}");
                prop_assert!(committed >= self.truth(id), "{committed} are promised in {id:?}, and {} used", self.truth(id));
            }
        }
        Ok(())
    }
}

fn step() -> impl Strategy<Value = Step> {
    let place = || 0_u64..3;
    prop_oneof![
        12 => (place(), 1_u64..400).prop_map(|(place, need)| Step::Begin(place, need)),
        6 => (place(), 0_u64..=100).prop_map(|(place, percent)| Step::End(place, percent)),
        12 => place().prop_map(Step::Report),
        12 => place().prop_map(Step::Tell),
        3 => place().prop_map(Step::Lose),
        12 => Just(Step::Tick),
        8 => Just(Step::Write),
        2 => Just(Step::Fail),
        2 => Just(Step::WriteUnheard),
        2 => place().prop_map(Step::Kill),
        2 => Just(Step::TakeOver),
        1 => (1_u64..300).prop_map(Step::Limit),
        6 => (1_u32..40).prop_map(Step::Wait),
        1 => Just(Step::Next),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_limit_is_passed_and_nothing_that_was_used_is_forgotten(steps in prop::collection::vec(step(), 0..150)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
            run.look()?;
        }
        // When all goes well again, all is settled.
        for place in 0..3 {
            run.step(Step::End(place, 100));
        }
        run.world.gateways.values_mut().for_each(|gateway| gateway.asks.clear());
        for _ in 0..60 {
            run.world.round();
            run.world.wait(5);
            run.look()?;
        }
        let tokens = run.world.tokens();
        prop_assert_eq!(tokens.committed, tokens.used, "what nobody needs is given back");
        prop_assert_eq!(run.world.snapshot().known, Known::Yes);
        prop_assert!(tokens.used - tokens.estimated <= run.truth(run.world.snapshot().period));
        prop_assert_eq!(run.world.granting.ledger_due(run.world.now()), None, "at rest nothing is written");
    }
}

#[test]
fn a_run_without_faults_ends_with_the_truth() {
    let mut run = Run::new();
    for call in 0..200 {
        run.step(Step::Begin(call % 3, 5 + call % 7));
        run.world.round();
        run.world.wait(1);
        run.step(Step::Begin(call % 3, 5 + call % 7));
        run.step(Step::End(call % 3, 50 + call % 50));
    }
    run.world.settle();
    assert_eq!((run.world.tokens().used, run.world.tokens().estimated), (run.truth(FIRST), 0));
    assert!(run.truth(FIRST) > LIMIT * 9 / 10 && run.truth(SECOND) == 0);
}
