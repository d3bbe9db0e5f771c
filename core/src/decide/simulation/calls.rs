//! The replicas of the gateway: what each has learnt, what it may spend, and the calls that it lets in.
//!
//! A call goes through the steps of the gateway, in their order: what its budgets say of it, who may answer, the room that it has to get
//! in its budgets. It then takes its time, and settles what it used.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Model;
use super::bodies::{Bodies, bound};
use super::chance::Random;
use super::kinds::CallKind;
use super::result::BackendOutcome;
use super::trace::{Call, Kind};
use crate::decide::account::message::{AccountRow, CallerRow};
use crate::decide::account::spending::{Most, Need, Reservation, Short, Spending, Terms, Ticket};
use crate::decide::account::{AccountId, Now};
use crate::decide::gateway::exchange::usage::{Hour, Series, UsageCounters};
use crate::decide::gateway::plan::{Endpoints, Plan};
use crate::decide::request::attempts::{Attempts, GiveUp, GiveUpReason, Step};
use crate::decide::request::candidates::{self, Exclusion, World};
use crate::decide::request::failure::{Failure, FailureKind};
use crate::decide::request::learned::{Learned, Outcome, Running};
use crate::decide::request::usage::Usage;
use crate::decide::request::{cost, counted, upper_bound};

/// How long a call waits for room that the operator may grant, as the gateway lets it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Steps of a call, beyond which it is given up: each backend can be asked a few times at most.
const STEPS: usize = 256;

/// All replicas.
pub(super) struct Gateways<'a> {
    plan: &'a Plan,
    /// None are known: every backend is called at its address, and is there.
    endpoints: Endpoints,
    model: Model,
    random: Random,
    kinds: Vec<CallKind<'a>>,
    bodies: Bodies,
    replicas: Vec<Replica>,
    /// By name.
    answered: BTreeMap<&'a str, BackendOutcome>,
}

/// A replica.
pub(super) struct Replica {
    /// Its process.
    pub(super) epoch: u64,
    pub(super) spending: Spending,
    pub(super) usage: UsageCounters,
    pub(super) reported: Reported,
    learned: Learned,
}

/// What a replica has reported and was told.
#[derive(Default)]
pub(super) struct Reported {
    /// Its last report.
    pub(super) seq: u64,
    /// The changes that it had said by then.
    pub(super) spent: u64,
    pub(super) used: u64,
    /// The last message that it was told.
    pub(super) told: u64,
    pub(super) accounts: BTreeMap<AccountId, AccountRow>,
    /// The changes of accounts of which it was told by then.
    pub(super) changes: u64,
    pub(super) callers: BTreeMap<String, CallerRow>,
}

/// What becomes of a call that begins.
pub(super) enum Begun<'a> {
    /// It is answered, after so long.
    Runs(InFlight<'a>, Duration),
    /// It waits for room in its budgets.
    Waits(Waiting<'a>),
    /// It is over.
    Ends(End),
}

/// A call that is being answered.
pub(super) struct InFlight<'a> {
    replica: usize,
    kind: usize,
    running: Running,
    reservation: Reservation,
    admitted: Hour,
    backend: &'a str,
    usage: Usage,
    cost: Option<u64>,
}

/// A call that waits.
pub(super) struct Waiting<'a> {
    replica: usize,
    kind: usize,
    since: Duration,
    ticket: Ticket,
    attempt: Attempt<'a>,
}

/// A call that knows who would answer it.
struct Attempt<'a> {
    running: Running,
    backend: &'a str,
    need: Need,
    usage: Usage,
    cost: Option<u64>,
    /// Until it is answered to the end.
    took: Duration,
}

/// How a call ends that is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// This budget has no room for it.
    Exceeded(String),
    /// This budget lets no new task begin.
    NewTask(String),
    /// The room did not come in time.
    Busy,
    /// Nobody knows what a budget has room for.
    Unknown,
    /// A budget counts cost, and the backend has no price.
    PriceMissing,
    /// Its budgets leave it no backend.
    NoBackendInTier,
    /// No backend can answer it.
    Failed,
}

impl From<Short> for End {
    fn from(short: Short) -> Self {
        match short {
            Short::Wait => Self::Busy,
            Short::Exceeded(refused) => Self::Exceeded(refused.budget),
            Short::Unknown(_) => Self::Unknown,
            Short::PriceMissing(_) => Self::PriceMissing,
        }
    }
}

impl From<GiveUp> for End {
    fn from(give_up: GiveUp) -> Self {
        match give_up.reason {
            GiveUpReason::NothingToAsk(Exclusion::Tier { .. }) => Self::NoBackendInTier,
            GiveUpReason::NothingToAsk(Exclusion::PriceMissing) => Self::PriceMissing,
            _ => Self::Failed,
        }
    }
}

impl<'a> Gateways<'a> {
    /// Replicas that no operator has spoken to.
    pub(super) fn new(plan: &'a Plan, kinds: &'a [Kind], model: Model, seed: u64) -> Self {
        let replica = |epoch: u32| {
            let mut spending = Spending::default();
            spending.plan(plan.budgets.clone());
            Replica {
                epoch: u64::from(epoch),
                spending,
                usage: UsageCounters::default(),
                reported: Reported::default(),
                learned: Learned::default(),
            }
        };
        Self {
            plan,
            endpoints: Endpoints::new(),
            model,
            random: Random::new(seed),
            kinds: kinds.iter().map(|kind| CallKind::of(plan, kind)).collect(),
            bodies: Bodies::default(),
            replicas: (1..=model.gateways.max(1)).map(replica).collect(),
            answered: BTreeMap::new(),
        }
    }

    pub(super) fn replicas(&mut self) -> &mut [Replica] {
        &mut self.replicas
    }

    /// Whether something was used or reserved that the operator has not heard.
    pub(super) fn has_news(&self) -> bool {
        self.replicas.iter().any(|replica| {
            let Reported { spent, used, .. } = replica.reported;
            replica.spending.changes() != spent || replica.usage.changes() != used
        })
    }

    /// A replica, by chance: what makes the calls of a task stays with it.
    pub(super) fn any_replica(&mut self) -> usize {
        self.random.place(self.replicas.len())
    }

    /// What backends have answered, by name.
    pub(super) fn answered(self) -> Vec<BackendOutcome> {
        self.answered.into_values().collect()
    }

    /// A call comes to a replica. `is_known`: it is of a task of which calls were let in before.
    pub(super) fn begin(&mut self, replica: usize, call: &Call, is_known: bool, now: Now) -> Begun<'a> {
        let Some(kind) = self.kinds.get(call.kind) else { return Begun::Ends(End::Failed) };
        let Some(of_replica) = self.replicas.get_mut(replica) else { return Begun::Ends(End::Failed) };
        let terms = of_replica.spending.terms(kind.caller, kind.route, now).unwrap_or_default();
        if let Some(end) = of_replica.refusal(kind, &terms, is_known, now) {
            return Begun::Ends(end);
        }
        let attempt = match self.attempt(replica, call, &terms, now) {
            Ok(attempt) => attempt,
            Err(end) => return Begun::Ends(end),
        };
        self.reserve(replica, call.kind, attempt, None, now)
    }

    /// A call that waits looks again.
    pub(super) fn retry(&mut self, waiting: Waiting<'a>, now: Now) -> Begun<'a> {
        let Waiting { replica, kind, since, ticket, attempt } = waiting;
        self.reserve(replica, kind, attempt, Some((ticket, since)), now)
    }

    /// A call is answered to the end.
    pub(super) fn settle(&mut self, in_flight: InFlight<'a>, now: Now) {
        let InFlight { replica, kind, running, reservation, admitted, backend, usage, cost } = in_flight;
        let (Some(kind), Some(replica)) = (self.kinds.get(kind), self.replicas.get_mut(replica)) else { return };
        replica.learned.ended(running, Outcome::Succeeded, now.elapsed);
        let series = Series { caller: kind.caller.to_owned(), route: kind.route.to_owned(), backend: backend.to_owned() };
        replica.usage.record(series, admitted, Hour::of(now.wall), &counted::counts(&usage, cost, true, false));
        replica.spending.settle(reservation, Some(counted::used(&usage, cost, true)));
        let answered = self.answered.entry(backend).or_insert_with(|| BackendOutcome {
            name: backend.to_owned(),
            calls: 0,
            input: 0,
            output: 0,
            cost: cost.map(|_| 0),
        });
        answered.calls += 1;
        answered.input = answered.input.saturating_add(usage.input);
        answered.output = answered.output.saturating_add(usage.output);
        answered.cost = answered.cost.zip(cost).map(|(sum, cost)| sum.saturating_add(cost));
    }

    /// Chooses who is asked. Nobody fails, but a prompt can be too long for a backend.
    fn attempt(&mut self, replica: usize, call: &Call, terms: &Terms, now: Now) -> Result<Attempt<'a>, End> {
        let Self { plan, endpoints, model, random, kinds, bodies, replicas, .. } = self;
        let plan = *plan;
        let (kind, replica) = kinds.get(call.kind).zip(replicas.get_mut(replica)).ok_or(End::Failed)?;
        let asked = candidates::Call {
            route: kind.route,
            caller: kind.caller,
            labels: &kind.labels,
            format: kind.format,
            prompt_tokens: u64::from(call.prompt_tokens),
            output_limit: call.max_output_tokens,
            tier_ceiling: terms.tier_ceiling,
            needs_price: terms.needs_price,
            budget_used_percent: terms.used_percent,
            stored_input: false,
        };
        let key_value = |_: &str, _: &str| Some([0_u8; 32]);
        let world = World { plan, endpoints, key_value: &key_value };
        let learned = &mut replica.learned;
        let mut at = now.elapsed;
        let mut attempts = Attempts::new(&world, learned, &asked, true, at).ok_or(End::Failed)?;
        for _ in 0..STEPS {
            let running = match attempts.next(&world, learned, at, random.share()) {
                Step::Attempt(attempt) => attempt.running,
                Step::Wait(wait) => {
                    at = at.saturating_add(wait);
                    continue;
                }
                Step::GiveUp(give_up) => return Err(give_up.into()),
            };
            let backend = plan.backends.get_key_value(running.backend());
            let body = bodies.of(kind.operation, call);
            let bound = backend.zip(body).and_then(|(backend, body)| Some((backend, body, bound(backend.1, body, call, terms)?)));
            let Some(((name, backend), body, (most, usage))) = bound else {
                let failure = Failure { kind: FailureKind::ContextLengthExceeded, retry_after: None };
                learned.ended(running, Outcome::Failed(&failure), at);
                attempts.failed(&failure, at);
                continue;
            };
            let price = candidates::price(backend);
            let if_walled = upper_bound::if_walled(body, backend);
            let need = Need { most: cost::most(&most, price), if_walled: cost::most(&if_walled, price) };
            let cost = cost::of(&usage, price, true);
            let took = at.saturating_sub(now.elapsed).saturating_add(time(call, usage.output, model));
            return Ok(Attempt { running, backend: name, need, usage, cost, took });
        }
        Err(End::Failed)
    }

    /// Gets the room that an attempt needs. `waits`: the call does, since then.
    fn reserve(
        &mut self,
        replica: usize,
        kind: usize,
        attempt: Attempt<'a>,
        waits: Option<(Ticket, Duration)>,
        now: Now,
    ) -> Begun<'a> {
        let (Some(of_kind), Some(of_replica)) = (self.kinds.get(kind), self.replicas.get_mut(replica)) else {
            return Begun::Ends(End::Failed);
        };
        let (caller, route) = (of_kind.caller, of_kind.route);
        let spending = &mut of_replica.spending;
        let end = match spending.reserve(caller, route, attempt.need, waits.map(|(ticket, _)| ticket), now) {
            Ok(reservation) => {
                let Attempt { running, backend, usage, cost, took, .. } = attempt;
                let admitted = Hour::of(now.wall);
                return Begun::Runs(InFlight { replica, kind, running, reservation, admitted, backend, usage, cost }, took);
            }
            Err(Short::Wait) => {
                let (ticket, since) = waits.unwrap_or_else(|| (spending.wait(caller, route, attempt.need.most, now), now.elapsed));
                if now.elapsed < since.saturating_add(PATIENCE) {
                    return Begun::Waits(Waiting { replica, kind, since, ticket, attempt });
                }
                spending.withdraw(ticket);
                End::Busy
            }
            Err(short) => short.into(),
        };
        // It says nothing about the backend.
        of_replica.learned.ended(attempt.running, Outcome::Abandoned, now.elapsed);
        Begun::Ends(end)
    }
}

impl Replica {
    /// Why a call may not begin, whatever it needs.
    fn refusal(&mut self, kind: &CallKind<'_>, terms: &Terms, is_known: bool, now: Now) -> Option<End> {
        if terms.refused.is_some() {
            // Who refuses everything refuses what needs nothing, and counts it.
            match self.spending.reserve(kind.caller, kind.route, Most { tokens: 0, cost: Some(0) }, None, now) {
                Ok(reservation) => _ = self.spending.settle(reservation, None),
                Err(Short::Wait) => {}
                Err(short) => return Some(short.into()),
            }
        }
        terms.new_tasks_refused.as_ref().filter(|_| !is_known).map(|refused| End::NewTask(refused.budget.clone()))
    }
}

/// How long it takes until a call is answered to the end.
fn time(call: &Call, output: u64, model: &Model) -> Duration {
    if let Some(milliseconds) = call.duration {
        return Duration::from_millis(u64::from(milliseconds));
    }
    let milliseconds = output.saturating_mul(1_000) / u64::from(model.tokens_per_second.max(1));
    model.first_token.saturating_add(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_takes_as_long_as_the_trace_says_or_by_its_output() {
        let model = Model::default();
        assert_eq!(time(&Call::new(0, 0, 1, 100, None), 100, &model), Duration::from_millis(2_500));
        let stated = Call { duration: Some(70), ..Call::new(0, 0, 1, 100, None) };
        assert_eq!(time(&stated, 100, &model), Duration::from_millis(70));
    }
}
