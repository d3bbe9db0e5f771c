//! The replicas of the gateway: what each has learnt, what it may spend, and the calls that it lets in.
//!
//! A call goes through the steps of the gateway, in their order: what its budgets say of it, who may answer, the room that it has to get
//! in its budgets. It then takes its time, and settles what it used. Of a prompt its length is known: it is taken for one message of so
//! many letters as its tokens have on average.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use super::Model;
use super::chance::Random;
use super::result::BackendOutcome;
use super::trace::{Call, Kind};
use crate::api::format::Format;
use crate::decide::account::message::{AccountRow, CallerRow};
use crate::decide::account::spending::{Most, Reservation, Short, Spending, Terms, Ticket, Used};
use crate::decide::account::{AccountId, Now};
use crate::decide::gateway::exchange::usage::{Counts, Hour, Series, UsageCounters};
use crate::decide::gateway::plan::{Backend, Endpoints, Plan, Price};
use crate::decide::request::attempts::{Attempts, GiveUp, GiveUpReason, Step};
use crate::decide::request::body::{self, Body};
use crate::decide::request::candidates::{self, Exclusion, World};
use crate::decide::request::failure::{Failure, FailureKind};
use crate::decide::request::labels::{self, Labels};
use crate::decide::request::learned::{Learned, Outcome, Running};
use crate::decide::request::operation::Operation;
use crate::decide::request::upper_bound;
use crate::decide::request::usage::Usage;

/// How long a call waits for room that the operator may grant, as the gateway lets it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Letters of a token, on average (<https://help.openai.com/en/articles/4936856>).
const LETTERS: u64 = 4;

/// The longest prompt that is written out, in letters: longer ones have room nowhere.
const MOST_LETTERS: u64 = 8 << 20;

/// Steps of a call, beyond which it is given up: each backend can be asked a few times at most.
const STEPS: usize = 256;

/// The header that states the label taskType.
const TASK_TYPE: &str = "x-quartermaster-task-type";

/// The formats in which calls are made: the first that a backend of the route speaks.
const FORMATS: [(Format, Operation); 5] = [
    (Format::ChatCompletions, Operation::ChatCompletions),
    (Format::Responses, Operation::Responses),
    (Format::Messages, Operation::Messages),
    (Format::Completions, Operation::Completions),
    (Format::Embeddings, Operation::Embeddings),
];

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
    pub(super) callers: BTreeMap<String, CallerRow>,
}

/// Calls that go the same way.
struct CallKind<'a> {
    caller: &'a str,
    route: &'a str,
    labels: Labels<'a>,
    format: Format,
    operation: Operation,
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
    most: Most,
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
        let Usage { input, cached_input, cache_write, output } = usage;
        let (counted, unpriced) = cost.map_or((0, 1), |cost| (cost, 0));
        let counts = Counts { input, output, requests: 1, cost: counted, unpriced, ..Counts::default() };
        replica.usage.record(series, admitted, Hour::of(now.wall), &counts);
        replica.spending.settle(reservation, Some(Used { input, cached_input, cache_write, output, cost, exact: true }));
        let answered = self.answered.entry(backend).or_insert_with(|| BackendOutcome {
            name: backend.to_owned(),
            calls: 0,
            input: 0,
            output: 0,
            cost: cost.map(|_| 0),
        });
        answered.calls += 1;
        answered.input = answered.input.saturating_add(input);
        answered.output = answered.output.saturating_add(output);
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
            let bound =
                backend.zip(body).and_then(|((name, backend), body)| Some((name, backend, bound(backend, body, call, terms)?)));
            let Some((name, backend, (most, usage))) = bound else {
                let failure = Failure { kind: FailureKind::ContextLengthExceeded, retry_after: None };
                learned.ended(running, Outcome::Failed(&failure), at);
                attempts.failed(&failure, at);
                continue;
            };
            let price = candidates::price(backend);
            let most =
                Most { tokens: most.input.saturating_add(most.output), cost: price.map(|price| cost(&most, &at_most(price))) };
            let took = at.saturating_sub(now.elapsed).saturating_add(time(call, usage.output, model));
            return Ok(Attempt { running, backend: name, most, usage, cost: price.map(|price| cost(&usage, &price)), took });
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
        let end = match spending.reserve(caller, route, attempt.most, waits.map(|(ticket, _)| ticket), now) {
            Ok(reservation) => {
                let Attempt { running, backend, usage, cost, took, .. } = attempt;
                let admitted = Hour::of(now.wall);
                return Begun::Runs(InFlight { replica, kind, running, reservation, admitted, backend, usage, cost }, took);
            }
            Err(Short::Wait) => {
                let (ticket, since) = waits.unwrap_or_else(|| (spending.wait(caller, route, attempt.most, now), now.elapsed));
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

impl<'a> CallKind<'a> {
    /// Those of a kind of the trace, whose names are those of the plan.
    fn of(plan: &'a Plan, kind: &'a Kind) -> Self {
        let headers = kind.task_type.iter().map(|type_| (TASK_TYPE, type_.as_str()));
        let of_plan = plan.callers.get(&kind.pool).zip(plan.routes.get(&kind.route));
        let labels = of_plan.map(|(caller, route)| labels::of_call(caller, &route.trusted_labels, headers, []));
        let named = of_plan.into_iter().flat_map(|(_, route)| {
            let of_rules = route.rules.iter().flat_map(|rule| &rule.backends).map(|candidate| &candidate.backend);
            route.backends.iter().map(|candidate| &candidate.backend).chain(of_rules)
        });
        let spoken: Vec<&Backend> = named.filter_map(|name| plan.backends.get(name)).collect();
        let speaks = |(format, _): &(Format, Operation)| spoken.iter().any(|backend| backend.formats.contains(format));
        let (format, operation) = FORMATS.into_iter().find(speaks).unwrap_or((Format::ChatCompletions, Operation::ChatCompletions));
        Self { caller: &kind.pool, route: &kind.route, labels: labels.unwrap_or_default(), format, operation }
    }
}

/// The most that a call can use at a backend, and what it does use. None: its prompt is longer than the backend can read.
fn bound(backend: &Backend, body: &Body, call: &Call, terms: &Terms) -> Option<(Usage, Usage)> {
    let ceiling = terms.bounded_output.then(|| upper_bound::output_ceiling(body, backend)).flatten();
    let most = upper_bound::within(body, backend, ceiling);
    let input = Some(u64::from(call.prompt_tokens)).filter(|input| *input <= most.input)?;
    let usage = Usage { input, output: u64::from(call.output_tokens).min(most.output), ..Usage::default() };
    Some((most, usage))
}

/// How long it takes until a call is answered to the end.
fn time(call: &Call, output: u64, model: &Model) -> Duration {
    if let Some(milliseconds) = call.duration {
        return Duration::from_millis(u64::from(milliseconds));
    }
    let milliseconds = output.saturating_mul(1_000) / u64::from(model.tokens_per_second.max(1));
    model.first_token.saturating_add(Duration::from_millis(milliseconds))
}

/// The price of a bound: nobody knows before which of the input is read from a cache, or written into one.
fn at_most(price: Price) -> Price {
    Price { input: price.input.max(price.cache_write).max(price.cached_input), ..price }
}

/// What input that no cache served and output cost, in millionths of the currency, rounded up: prices are for a million tokens.
fn cost(usage: &Usage, price: &Price) -> u64 {
    let of = |tokens: u64, price: u64| u128::from(tokens).saturating_mul(u128::from(price));
    let sum = of(usage.input, price.input).saturating_add(of(usage.output, price.output));
    u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Bodies of calls, by the operation and the letters of the prompt: each is read once, as a gateway reads it.
#[derive(Default)]
struct Bodies(BTreeMap<(&'static str, u64), Body>);

impl Bodies {
    /// The body of a call; none: it cannot be read, which no body of this form is.
    fn of(&mut self, operation: Operation, call: &Call) -> Option<&Body> {
        let letters = rounded_up(u64::from(call.prompt_tokens).saturating_mul(LETTERS).min(MOST_LETTERS));
        let body = match self.0.entry((operation.name(), letters)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(body::read(operation, text(operation, letters).as_bytes()).ok()?),
        };
        body.output_limit = call.max_output_tokens;
        Some(body)
    }
}

/// At most a thirty-second more, so that few bodies are read.
fn rounded_up(letters: u64) -> u64 {
    let step = 1_u64 << letters.checked_ilog2().unwrap_or(0).saturating_sub(5);
    letters.div_ceil(step).saturating_mul(step)
}

/// What a client sends.
fn text(operation: Operation, letters: u64) -> String {
    let prompt = "x".repeat(usize::try_from(letters).unwrap_or(0));
    match operation {
        Operation::ChatCompletions | Operation::Messages => {
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{prompt}"}}]}}"#)
        }
        Operation::Completions => format!(r#"{{"model":"m","prompt":"{prompt}"}}"#),
        _ => format!(r#"{{"model":"m","input":"{prompt}"}}"#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_rounded_up_and_by_little() {
        for letters in [0, 1, 31, 32, 33, 1_000, 40_001, 8_388_608] {
            let rounded = rounded_up(letters);
            assert!(rounded >= letters && rounded - letters <= letters / 32, "{letters}: {rounded}");
        }
    }

    #[test]
    fn every_operation_of_a_trace_has_a_body_that_is_bounded_by_its_prompt() {
        let call = Call::new(0, 0, 1_000, 10, Some(100));
        let backend = Backend {
            server: crate::decide::gateway::plan::Server::Vllm,
            formats: FORMATS.into_iter().map(|(format, _)| format).collect(),
            model: "m".to_owned(),
            base_url: "http://model".to_owned(),
            self_hosted: true,
            keys: Vec::new(),
            headers: Vec::new(),
            certificate_authority: None,
            context_length: None,
            max_output_tokens: None,
            price: None,
            region: None,
        };
        let mut bodies = Bodies::default();
        for (format, operation) in FORMATS {
            let body = bodies.of(operation, &call).unwrap();
            let (most, usage) = bound(&backend, body, &call, &Terms { bounded_output: true, ..Terms::default() }).unwrap();
            assert!((4_000..6_000).contains(&most.input), "{format:?}: {}", most.input);
            let output = if format == Format::Embeddings { (0, 0) } else { (100, 10) };
            assert_eq!((most.output, usage.output), output, "{format:?}");
            assert_eq!(usage.input, 1_000);
        }
        let small = Backend { context_length: Some(999), ..backend };
        let body = bodies.of(Operation::ChatCompletions, &call).unwrap();
        assert_eq!(bound(&small, body, &call, &Terms::default()), None);
    }

    #[test]
    fn a_call_takes_as_long_as_the_trace_says_or_by_its_output() {
        let model = Model::default();
        assert_eq!(time(&Call::new(0, 0, 1, 100, None), 100, &model), Duration::from_millis(2_500));
        let stated = Call { duration: Some(70), ..Call::new(0, 0, 1, 100, None) };
        assert_eq!(time(&stated, 100, &model), Duration::from_millis(70));
    }
}
