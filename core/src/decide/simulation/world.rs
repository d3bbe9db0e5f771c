//! Time, and what happens in it: tasks come and are taken, calls begin and end, the operator looks and decides.
//!
//! Time goes in milliseconds from one thing that happens to the next. What happens at the same time happens in the order in which it was
//! arranged for. The operator hears the gateway soon while calls wait for it, and else so seldom that it does so at most
//! [`EXCHANGES`] times: a simulation of two weeks is to take less than a minute.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use jiff::Timestamp;

use super::budgets::Operator;
use super::calls::{Begun, End, Gateways, InFlight, Waiting};
use super::pools::Pool;
use super::prepared::Prepared;
use super::result::{Calls, Outcome};
use super::statuses::{Events, Statuses};
use super::trace::Trace;
use super::{Progress, Setup, SetupError};
use crate::decide::account::Now;
use crate::decide::budget::concerned::Concerned;

/// How long everything is there before the first call comes: gateways, budgets, and the agents that are always there.
const BEFORE: u64 = 60_000;

/// Rounds of reports, at most, apart from those for calls that wait.
const EXCHANGES: u64 = 120_000;
/// The shortest time between two of these.
const EXCHANGE: u64 = 1_000;
/// The longest: as time goes by, what is held and not used is given back.
const HEARTBEAT: u64 = 30_000;
/// The time until a report and the answer to it where calls wait.
const HURRY: u64 = 100;
/// The time that an agent takes to give a task up of which a call was not answered.
const GIVE_UP: u64 = 1_000;

/// Looks at a pool's queue, at most, apart from those that the decision asks for.
const LOOKS: u64 = 40_000;
/// How many times less often figures alone are looked at than reports come.
const FIGURES: u64 = 60;

/// Points of a curve, about.
const POINTS: u64 = 1_000;
/// The shortest time that it goes on after the last call of the trace, while something is left to be done.
const AFTER: u64 = 3_600_000;

/// Something that was arranged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// The next call of a task is made.
    Call(usize),
    /// A call is answered, by its place.
    Answer(usize),
    /// A task ends of which a call was not answered.
    GiveUp(usize),
    /// An agent of a pool begins to work.
    Ready(usize),
}

/// A task that has begun.
struct Active {
    pool: usize,
    replica: usize,
    /// When it began.
    since: u64,
    /// Its next call.
    next: usize,
    /// A call of it was let in.
    is_known: bool,
}

/// Everything. Times are in milliseconds since the beginning.
pub(super) struct World<'a> {
    trace: &'a Trace,
    notes: &'a [String],
    /// The beginning, in milliseconds since 1970.
    origin: i64,
    at: u64,
    /// When the trace is over, and when everything is.
    traced: u64,
    until: u64,
    happenings: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    arranged: u64,
    /// The next task that comes.
    next_task: usize,
    active: BTreeMap<usize, Active>,
    in_flight: Vec<Option<(usize, InFlight<'a>)>>,
    free: Vec<usize>,
    waiting: Vec<(usize, Waiting<'a>)>,
    gateways: Gateways<'a>,
    operator: Operator,
    statuses: Statuses,
    /// In the order of their names.
    pools: Vec<Pool>,
    /// The place of the pool of each kind of calls.
    pool_of: Vec<usize>,
    /// When the operator last heard the gateway, and when it does again.
    exchanged: u64,
    exchange_at: u64,
    exchange_pause: u64,
    sample_at: u64,
    sample_pause: u64,
    calls: Calls,
    /// Calls that each budget has refused, by its name.
    refused: BTreeMap<String, u64>,
    events: Events,
}

impl<'a> World<'a> {
    /// The world before the first call of a trace.
    ///
    /// # Errors
    ///
    /// How a pool is scaled cannot be read.
    pub(super) fn new(setup: &Setup, trace: &'a Trace, prepared: &'a Prepared) -> Result<Self, SetupError> {
        let (first, last) = trace.span();
        let origin = first.saturating_sub(i64::try_from(BEFORE).unwrap_or(0));
        let since_origin = |time: i64| u64::try_from(time.saturating_sub(origin)).unwrap_or(0);
        let traced = since_origin(last);
        let stated = setup.until.map(|until| since_origin(until.as_millisecond()));
        let until = stated.unwrap_or_else(|| traced.saturating_add((traced / 10).max(AFTER)));
        let exchange_pause = (until / EXCHANGES).clamp(EXCHANGE, HEARTBEAT);
        let poll = Duration::from_millis(until / LOOKS);
        let pools: Result<Vec<Pool>, SetupError> = prepared.pools.iter().map(|pool| Pool::new(pool, &setup.model, poll)).collect();
        let pools = pools?;
        let place = |name: &str| pools.iter().position(|pool| pool.name == name).unwrap_or(0);
        let now = moment(origin, 0);
        Ok(Self {
            trace,
            notes: &prepared.notes,
            origin,
            at: 0,
            traced,
            until,
            happenings: BinaryHeap::new(),
            arranged: 0,
            next_task: 0,
            active: BTreeMap::new(),
            in_flight: Vec::new(),
            free: Vec::new(),
            waiting: Vec::new(),
            gateways: Gateways::new(&prepared.plan, trace.kinds(), setup.model, setup.seed),
            operator: Operator::new(prepared, Duration::from_millis(exchange_pause.saturating_mul(FIGURES)), now),
            statuses: Statuses::new(setup, prepared, now.wall),
            pool_of: trace.kinds().iter().map(|kind| place(&kind.pool)).collect(),
            pools,
            exchanged: 0,
            exchange_at: 0,
            exchange_pause,
            sample_at: 0,
            sample_pause: (until / POINTS).max(1_000),
            calls: Calls { traced: number(trace.len()), ..Calls::default() },
            refused: BTreeMap::new(),
            events: Events::default(),
        })
    }

    /// Lets time go by until nothing is left to be done, or the end.
    pub(super) fn run(&mut self, progress: &mut dyn FnMut(&Progress)) {
        let mut told = 0;
        while let Some(next) = self.next().filter(|next| *next <= self.until) {
            self.at = self.at.max(next);
            self.happen();
            self.arrive();
            if self.exchange_at <= self.at {
                self.exchange();
            }
            self.look();
            if self.sample_at <= self.at {
                self.take_sample();
            }
            let percent = self.at.saturating_mul(100).checked_div(self.until).unwrap_or(100);
            if percent > told {
                told = percent;
                progress(&Progress { time: self.moment().wall, percent, calls: self.calls.answered + self.calls.refused() });
            }
            if self.rests() {
                break;
            }
        }
        if !self.rests() {
            self.at = self.at.max(self.until);
        }
        // What ran last is heard, and what follows from it is decided.
        self.exchange();
        self.exchange();
        self.take_sample();
    }

    /// What would have happened.
    pub(super) fn outcome(self) -> Outcome {
        let end = moment(self.origin, self.at).wall;
        let tasks = |counts: &mut Vec<u64>, pool: usize| {
            if let Some(count) = counts.get_mut(pool) {
                *count += 1;
            }
        };
        let (mut unfinished, mut to_come) = (vec![0; self.pools.len()], vec![0; self.pools.len()]);
        self.active.values().for_each(|active| tasks(&mut unfinished, active.pool));
        (self.next_task..self.trace.tasks().len()).for_each(|task| tasks(&mut to_come, self.pool_of_task(task)));
        let ended = self.calls.answered + self.calls.refused() + self.calls.failed;
        let counts = unfinished.into_iter().zip(to_come);
        Outcome {
            start: moment(self.origin, 0).wall,
            end,
            calls: Calls { not_made: self.calls.traced.saturating_sub(ended), ..self.calls },
            budgets: self.operator.outcome(),
            pools: self
                .pools
                .into_iter()
                .zip(counts)
                .map(|(pool, (unfinished, to_come))| pool.outcome(unfinished, to_come))
                .collect(),
            backends: self.gateways.answered(),
            events: self.events.0,
            notes: self.notes.to_vec(),
        }
    }

    fn moment(&self) -> Now {
        moment(self.origin, self.at)
    }

    /// When something happens next.
    fn next(&self) -> Option<u64> {
        let arranged = self.happenings.peek().map(|Reverse((at, ..))| *at);
        let task = self.trace.tasks().get(self.next_task).map(|task| self.since_origin(task.arrives));
        let looks = self.pools.iter().filter_map(Pool::next_look);
        looks.chain(arranged).chain(task).chain([self.exchange_at, self.sample_at]).min()
    }

    /// Whether nothing is left to be done. Time goes on all the same until the trace is over: agents may have to go.
    fn rests(&self) -> bool {
        let is_over = self.at >= self.traced && self.next_task >= self.trace.tasks().len();
        is_over && self.active.is_empty() && self.pools.iter().all(Pool::is_idle)
    }

    fn since_origin(&self, time: i64) -> u64 {
        u64::try_from(time.saturating_sub(self.origin)).unwrap_or(0)
    }

    fn arrange(&mut self, at: u64, happening: Happening) {
        self.arranged += 1;
        self.happenings.push(Reverse((at, self.arranged, happening)));
    }

    /// What was arranged for happens.
    fn happen(&mut self) {
        while let Some(Reverse((at, _, happening))) = self.happenings.peek().copied() {
            if at > self.at {
                return;
            }
            self.happenings.pop();
            match happening {
                Happening::Call(task) => self.call(task),
                Happening::Answer(place) => self.answer(place),
                Happening::GiveUp(task) => self.end(task, false),
                Happening::Ready(pool) => {
                    self.take_tasks(pool);
                    self.await_agent(pool);
                }
            }
        }
    }

    /// Tasks come.
    fn arrive(&mut self) {
        let trace = self.trace;
        while let Some(task) = trace.tasks().get(self.next_task).filter(|task| self.since_origin(task.arrives) <= self.at) {
            let (number, arrives) = (self.next_task, self.since_origin(task.arrives));
            self.next_task += 1;
            let place = self.pool_of_task(number);
            let Some(pool) = self.pools.get_mut(place) else { continue };
            if pool.arrive(number, arrives) {
                self.begin(number, place);
            } else {
                self.take_tasks(place);
            }
        }
    }

    fn pool_of_task(&self, task: usize) -> usize {
        let kind = self.trace.calls_of(task).first().map(|call| call.kind);
        kind.and_then(|kind| self.pool_of.get(kind)).copied().unwrap_or(0)
    }

    /// Agents that are free take tasks.
    fn take_tasks(&mut self, place: usize) {
        let now = self.moment().wall;
        let Some(pool) = self.pools.get_mut(place) else { return };
        for task in pool.taken(self.at, now) {
            self.begin(task, place);
        }
    }

    /// When the next agent of a pool begins to work, it takes tasks.
    fn await_agent(&mut self, place: usize) {
        let now = self.moment().wall;
        let ready = self.pools.get(place).and_then(|pool| pool.next_ready(now));
        if let Some(ready) = ready {
            self.arrange(self.since_origin(ready.as_millisecond()), Happening::Ready(place));
        }
    }

    fn begin(&mut self, task: usize, pool: usize) {
        let replica = self.gateways.any_replica();
        self.active.insert(task, Active { pool, replica, since: self.at, next: 0, is_known: false });
        self.call(task);
    }

    /// The next call of a task is made.
    fn call(&mut self, task: usize) {
        let trace = self.trace;
        let Some(active) = self.active.get(&task) else { return };
        let Some(call) = trace.calls_of(task).get(active.next) else {
            self.end(task, true);
            return;
        };
        let (replica, is_known) = (active.replica, active.is_known);
        let now = self.moment();
        let begun = self.gateways.begin(replica, call, is_known, now);
        self.calls.waited += u64::from(matches!(begun, Begun::Waits(_)));
        self.follow(task, begun);
    }

    /// What follows from how a call began.
    fn follow(&mut self, task: usize, begun: Begun<'a>) {
        match begun {
            Begun::Runs(in_flight, took) => {
                if let Some(active) = self.active.get_mut(&task) {
                    active.is_known = true;
                }
                let place = self.place((task, in_flight));
                let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                self.arrange(self.at.saturating_add(took), Happening::Answer(place));
            }
            Begun::Waits(waiting) => self.waiting.push((task, waiting)),
            Begun::Ends(end) => {
                self.count(end);
                self.arrange(self.at.saturating_add(GIVE_UP), Happening::GiveUp(task));
                // That calls are refused shows in the report of the next second.
                self.exchange_at = self.exchange_at.min(self.exchanged.saturating_add(EXCHANGE).max(self.at));
            }
        }
        self.hear_soon();
    }

    fn place(&mut self, call: (usize, InFlight<'a>)) -> usize {
        let place = self.free.pop().unwrap_or(self.in_flight.len());
        match self.in_flight.get_mut(place) {
            Some(free) => *free = Some(call),
            None => self.in_flight.push(Some(call)),
        }
        place
    }

    /// A call is answered, and its task goes on.
    fn answer(&mut self, place: usize) {
        let Some((task, in_flight)) = self.in_flight.get_mut(place).and_then(Option::take) else { return };
        self.free.push(place);
        let now = self.moment();
        self.gateways.settle(in_flight, now);
        self.calls.answered += 1;
        self.hear_soon();
        let Some(active) = self.active.get_mut(&task) else { return };
        active.next += 1;
        let (since, next) = (active.since, active.next);
        let calls = self.trace.calls_of(task);
        match calls.first().zip(calls.get(next)) {
            // As long after the first as it was traced, but not before the last one is answered.
            Some((first, call)) => {
                let after = u64::try_from(call.at.saturating_sub(first.at)).unwrap_or(0);
                self.arrange(since.saturating_add(after).max(self.at), Happening::Call(task));
            }
            None => self.end(task, true),
        }
    }

    fn end(&mut self, task: usize, is_done: bool) {
        let Some(active) = self.active.remove(&task) else { return };
        let Some(pool) = self.pools.get_mut(active.pool) else { return };
        pool.end(task, is_done);
        self.take_tasks(active.pool);
    }

    fn count(&mut self, end: End) {
        let calls = &mut self.calls;
        let (count, budget) = match end {
            End::Exceeded(budget) => (&mut calls.exceeded, Some(budget)),
            End::NewTask(budget) => (&mut calls.new_task_refused, Some(budget)),
            End::Busy => (&mut calls.busy, None),
            End::Unknown => (&mut calls.unknown, None),
            End::PriceMissing => (&mut calls.price_missing, None),
            End::NoBackendInTier => (&mut calls.no_backend_in_tier, None),
            End::Failed => (&mut calls.failed, None),
        };
        *count += 1;
        if let Some(budget) = budget {
            *self.refused.entry(budget).or_default() += 1;
        }
    }

    /// The operator hears the gateway soon, if there is something to hear.
    fn hear_soon(&mut self) {
        if !self.waiting.is_empty() {
            self.exchange_at = self.exchange_at.min(self.at.max(self.exchanged).saturating_add(HURRY));
        } else if self.gateways.has_news() {
            self.exchange_at = self.exchange_at.min(self.exchanged.saturating_add(self.exchange_pause).max(self.at));
        }
    }

    /// The operator hears the gateway and tells it what is new. Calls that wait look again.
    fn exchange(&mut self) {
        let now = self.moment();
        let concerned = self.operator.exchange(self.gateways.replicas(), &mut self.events, now);
        self.exchanged = self.at;
        self.exchange_at = self.at.saturating_add(HEARTBEAT);
        if let Some(next) = self.operator.next(now) {
            let next = u64::try_from(next.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
            self.exchange_at = self.exchange_at.min(next.max(self.at.saturating_add(HURRY)));
        }
        if concerned != Concerned::default() {
            let budgets = self.operator.budgets();
            for pool in self.pools.iter_mut().filter(|pool| concerned.pools.contains(&pool.name)) {
                pool.told(&budgets, now.wall);
            }
            self.statuses.look(&concerned, &budgets, now.wall, &mut self.events);
        }
        for (task, waiting) in std::mem::take(&mut self.waiting) {
            let begun = self.gateways.retry(waiting, now);
            self.follow(task, begun);
        }
        self.hear_soon();
    }

    /// The operator looks at the pools for which it is time.
    fn look(&mut self) {
        for place in 0..self.pools.len() {
            let now = self.moment().wall;
            let Some(pool) = self.pools.get_mut(place) else { return };
            if pool.next_look().is_none_or(|next| next > self.at) {
                continue;
            }
            let ready = pool.look(self.at, now);
            if let Some(ready) = ready {
                self.arrange(self.since_origin(ready.as_millisecond()), Happening::Ready(place));
            }
            self.take_tasks(place);
        }
    }

    fn take_sample(&mut self) {
        let now = self.moment();
        self.operator.sample(&self.refused, now);
        self.pools.iter_mut().for_each(|pool| pool.sample(now.wall));
        self.sample_at = self.at.saturating_add(self.sample_pause);
    }
}

/// A time, by both clocks.
fn moment(origin: i64, at: u64) -> Now {
    let wall = origin.saturating_add(i64::try_from(at).unwrap_or(i64::MAX));
    Now { wall: Timestamp::from_millisecond(wall).unwrap_or(Timestamp::MAX), elapsed: Duration::from_millis(at) }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
