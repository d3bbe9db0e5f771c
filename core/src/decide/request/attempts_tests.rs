#[path = "attempts_tests/any_route_tests.rs"]
mod any_route;
#[path = "attempts_tests/candidates_tests.rs"]
mod candidates;
#[path = "attempts_tests/failures_tests.rs"]
mod failures;
#[path = "attempts_tests/waits_tests.rs"]
mod waits;

use std::collections::BTreeMap;

use super::super::fixtures::{self, candidate, fallback, milliseconds, seconds};
use super::super::labels::Labels;
use super::super::learned::Outcome;
use super::*;
use crate::api::format::Format;
use crate::decide::gateway::plan::{Backend, BackendEndpoints, Endpoints, Plan, Route};
use FailureKind::{CallerFault, ContextLengthExceeded, KeyRejected, NotFound, QuotaExhausted, RateLimited, Timeout, Unavailable};

const KINDS: [FailureKind; 8] = FailureKind::ALL;

/// A gateway without a network: backends do what a script says.
struct Gateway {
    plan: Plan,
    endpoints: Endpoints,
    learned: Learned,
    now: Duration,
    chance: f64,
    /// How long an attempt takes that fails or is answered.
    takes: Duration,
    stored_input: bool,
}

/// How a scripted backend treats a call.
#[derive(Clone, Debug)]
enum Does {
    Answer,
    Fail(Failure),
}

fn fail(kind: FailureKind) -> Does {
    Does::Fail(Failure { kind, retry_after: None })
}

fn fail_for(kind: FailureKind, wait: u64) -> Does {
    Does::Fail(Failure { kind, retry_after: Some(seconds(wait)) })
}

impl Gateway {
    fn new(route: Route, backends: &[(&str, Backend)]) -> Self {
        let plan = fixtures::plan(route, backends);
        Self {
            plan,
            endpoints: Endpoints::new(),
            learned: Learned::default(),
            now: seconds(1000),
            chance: 1.0,
            takes: Duration::ZERO,
            stored_input: false,
        }
    }

    /// Candidates a and b and fallbacks c and d as far as named, each with one key.
    fn of(candidates: &[&str], fallbacks: &[&str]) -> Self {
        let fallback = fallbacks.iter().map(|backend| fallback(backend, &[])).collect();
        let route = Route { fallback, ..fixtures::route(candidates) };
        Self::new(route, &["a", "b", "c", "d"].map(|name| (name, fixtures::backend(&["k"]))))
    }

    fn route(&mut self) -> &mut Route {
        self.plan.routes.get_mut("smart").unwrap()
    }

    fn backend(&mut self, name: &str) -> &mut Backend {
        self.plan.backends.get_mut(name).unwrap()
    }

    fn settle(&mut self, running: Running, outcome: Outcome<'_>) {
        self.learned.ended(running, outcome, self.now);
    }

    /// What one call does, step by step, and its end.
    fn call(&mut self, does: &mut dyn FnMut(&Attempt) -> Does) -> Vec<String> {
        let labels = Labels::new();
        let (plan, endpoints) = (self.plan.clone(), self.endpoints.clone());
        let world = World { plan: &plan, endpoints: &endpoints, key_value: &|_, _| Some([1; 32]) };
        let call = Call { stored_input: self.stored_input, ..call(&labels) };
        let mut attempts = Attempts::new(&world, &mut self.learned, &call, true, self.now).unwrap();
        let mut log = Vec::new();
        loop {
            assert!(log.len() < 1000, "it does not end: {:?}", &log[..20]);
            match attempts.next(&world, &mut self.learned, self.now, self.chance) {
                Step::Attempt(attempt) => {
                    log.push(told(&attempt, &plan));
                    let done = does(&attempt);
                    self.now += self.takes;
                    match done {
                        Does::Answer => {
                            attempts.content();
                            self.learned.content(&attempt.running);
                            self.settle(attempt.running, Outcome::Succeeded);
                            assert!(matches!(
                                attempts.next(&world, &mut self.learned, self.now, self.chance),
                                Step::GiveUp(GiveUp { reason: GiveUpReason::Begun, wait: None, .. })
                            ));
                            log.push("answered".to_owned());
                            return log;
                        }
                        Does::Fail(failure) => {
                            self.settle(attempt.running, Outcome::Failed(&failure));
                            attempts.failed(&failure, self.now);
                        }
                    }
                }
                Step::Wait(wait) => {
                    assert!(!wait.is_zero());
                    log.push(format!("wait {wait:?}"));
                    self.now += wait;
                }
                Step::GiveUp(GiveUp { reason, wait, starting }) => {
                    let wait = wait.map_or(String::new(), |wait| format!(", again in {wait:?}"));
                    let wakes = starting.iter().map(|backend| format!(", wakes {backend}")).collect::<String>();
                    log.push(match reason {
                        GiveUpReason::Failed(kind) => format!("gives up: {kind:?}{wait}{wakes}"),
                        GiveUpReason::NothingToAsk(exclusion) => format!("nothing to ask: {exclusion}{wait}{wakes}"),
                        GiveUpReason::NoCandidates => "no candidates".to_owned(),
                        GiveUpReason::Begun => panic!("nothing has begun"),
                    });
                    return log;
                }
            }
        }
    }

    /// A call of which backends do what the script says, in this order each, and then answer.
    fn scripted(&mut self, script: &[(&str, Does)]) -> Vec<String> {
        let mut script: Vec<(String, Does)> = script.iter().map(|(name, does)| ((*name).to_owned(), does.clone())).collect();
        self.call(&mut |attempt| match script.iter().position(|(name, _)| name == attempt.running.backend()) {
            Some(place) => script.remove(place).1,
            None => Does::Answer,
        })
    }

    /// A call of which these backends always fail so.
    fn failing(&mut self, kinds: &[(&str, FailureKind)]) -> Vec<String> {
        let kinds: BTreeMap<&str, FailureKind> = kinds.iter().copied().collect();
        self.call(&mut |attempt| kinds.get(attempt.running.backend()).map_or(Does::Answer, |kind| fail(*kind)))
    }
}

fn call<'a>(labels: &'a Labels<'a>) -> Call<'a> {
    Call {
        route: "smart",
        caller: "coder",
        labels,
        format: Format::ChatCompletions,
        prompt_tokens: 100,
        output_limit: None,
        tier_ceiling: None,
        needs_price: false,
        budget_used_percent: None,
        stored_input: false,
    }
}

/// An attempt in words: the key only where the backend has several.
fn told(attempt: &Attempt, plan: &Plan) -> String {
    let (backend, key) = (attempt.running.backend(), attempt.running.key());
    let several = plan.backends[backend].keys.len() > 1;
    let place = if several { format!("{backend}/{}", key.unwrap()) } else { backend.to_owned() };
    match attempt.why {
        Why::Chosen => place,
        Why::NextKey => format!("key {place}"),
        Why::Retry(number) => format!("retry {number} {place}"),
        Why::Fallback => format!("fallback {place}"),
    }
}
