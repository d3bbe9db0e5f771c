//! One call, attempt by attempt: who is asked next, after how long, and when the client is told that it failed.
//!
//! * Where all that may answer are at a limit that is new soon, and no fallback stands in for them, the call waits for it.
//! * A failure of the key itself (quota, too many calls, refused) goes to the next key of the same backend, at once. That is no retry:
//!   each key is asked so at most once.
//! * A retry goes to the next candidate, and to those that were asked already when there is no other; after a wait by chance, out of the
//!   route's budget. A backend that said that it has not got the model, or that the prompt is too long for it, is not asked again.
//! * Then the fallback answers, in its order and each once, for the kinds of failure that were met.
//! * A call that goes on from what one backend keeps is retried there, and has no fallback.
//! * A caller's own fault, and any failure after the first content, ends it. `timeouts.request` bounds all of it.
//!
//! So there are at most 1 + maxRetries + fallbacks attempts, and one for each further key.

use std::collections::BTreeSet;
use std::iter::Chain;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::candidates::{self, Call, Choice, Exclusion, Judged, World};
use super::failure::{Failure, FailureKind};
use super::learned::{Learned, Running};
use crate::api::model_route::FallbackCause;
use crate::decide::gateway::plan::Route;

/// The attempts of one call, by the plan that it began with. Times are counted from one origin of the process, on a clock that never
/// goes back.
#[derive(Debug)]
pub struct Attempts<'p> {
    name: &'p str,
    route: &'p Route,
    choice: Choice<'p>,
    /// What this call has met at each of `choice.candidates`.
    met: Vec<Met>,
    streams: bool,
    stored_input: bool,
    came: Duration,
    deadline: Duration,
    made: u32,
    retries_made: u32,
    /// A retry that is paid for is made then.
    retry_at: Option<Duration>,
    /// The first of `choice.fallback` that has not been looked at. `None`: the candidates are being asked.
    fallback_from: Option<usize>,
    last: Option<Last<'p>>,
    causes: BTreeSet<FallbackCause>,
    /// The keys that were used, each with its backend.
    keys: Vec<(&'p str, &'p str)>,
    pods: Vec<SocketAddr>,
    asked: Vec<&'p str>,
    begun: bool,
}

/// When is decided, and on what.
#[derive(Clone, Copy)]
struct At<'p, 'a> {
    world: &'a World<'p, 'a>,
    now: Duration,
    chance: f64,
}

/// What a call has met at a candidate.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    asked: bool,
    /// Asking again would bring the same.
    spent: bool,
    /// It asked to be left alone until then.
    not_before: Option<Duration>,
}

/// The last attempt.
#[derive(Clone, Copy, Debug)]
struct Last<'p> {
    /// Its place in `choice.order`; `None` for a fallback.
    place: Option<usize>,
    backend: &'p str,
    key: Option<&'p str>,
    failure: Option<FailureKind>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the call.
    Attempt(Attempt),
    /// Ask again after this time.
    Wait(Duration),
    /// Tell the client.
    GiveUp(GiveUp),
}

/// An attempt that has begun.
#[derive(Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Where it goes. To be handed to [`Learned::ended`] when it is over.
    pub running: Running,
    /// Why it goes there.
    pub why: Why,
    /// Its number among the attempts of the call, from 1.
    pub number: u32,
    /// When it has failed: without content of a stream, or without a plain answer's end.
    pub deadline: Duration,
}

/// Why an attempt goes where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The strategy chose it.
    Chosen,
    /// The key before it failed at the same backend.
    NextKey,
    /// It is the retry of this number, from 1.
    Retry(u32),
    /// Those before it have failed.
    Fallback,
}

/// Why no further attempt is made, and what the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GiveUp {
    /// What the client is told.
    pub reason: GiveUpReason,
    /// The smallest time until a backend of the call may be asked again, where one is known: `Retry-After` of a 429 or 503.
    pub wait: Option<Duration>,
    /// Fallbacks that would have been asked, had they a ready pod: the call is a demand for them.
    pub starting: Vec<String>,
}

/// What ended a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GiveUpReason {
    /// The last attempt's failure.
    Failed(FailureKind),
    /// No backend could be asked, for this reason at the one that comes back soonest. A reason that does not pass holds for all.
    NothingToAsk(Exclusion),
    /// The call falls under no rule, and the route has no other backends and no fallback that could answer.
    NoCandidates,
    /// The client has content already, and nothing can take its place.
    Begun,
}

impl<'p> Attempts<'p> {
    /// Chooses for a call that has just come, and counts it for the route's retry budget. `streams`: the client asked for a stream.
    /// `None`: the plan has no such route.
    pub fn new(world: &World<'p, '_>, learned: &mut Learned, call: &Call<'_>, streams: bool, now: Duration) -> Option<Self> {
        let (name, route) = world.plan.routes.get_key_value(call.route)?;
        let choice = candidates::choose(world, learned, call, now)?;
        learned.retries(name)?.call(now);
        Some(Self {
            name,
            route,
            met: vec![Met::default(); choice.candidates.len()],
            choice,
            streams,
            stored_input: call.stored_input,
            came: now,
            deadline: now.saturating_add(route.timeouts.request),
            made: 0,
            retries_made: 0,
            retry_at: None,
            fallback_from: None,
            last: None,
            causes: BTreeSet::new(),
            keys: Vec::new(),
            pods: Vec::new(),
            asked: Vec::new(),
            begun: false,
        })
    }

    /// Who answers, as it was when the call came.
    pub fn choice(&self) -> &Choice<'p> {
        &self.choice
    }

    /// Attempts that were made.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// What to do next: at the beginning, after a wait, and after [`failed`](Self::failed). `chance` is from 0 to 1.
    pub fn next(&mut self, world: &World<'p, '_>, learned: &mut Learned, now: Duration, chance: f64) -> Step {
        let failure = self.last.as_ref().and_then(|last| last.failure);
        if self.begun {
            return Step::GiveUp(GiveUp { reason: GiveUpReason::Begun, wait: None, starting: Vec::new() });
        }
        if failure == Some(FailureKind::CallerFault) || now >= self.deadline {
            let reason = GiveUpReason::Failed(failure.unwrap_or(FailureKind::Timeout));
            return Step::GiveUp(GiveUp { reason, wait: None, starting: Vec::new() });
        }
        let at = &At { world, now, chance };
        let step = self.next_key(at, learned);
        let step = step.or_else(|| self.next_candidate(at, learned)).or_else(|| self.next_fallback(at, learned));
        step.unwrap_or_else(|| self.give_up(at, learned))
    }

    /// The last attempt failed before its first content. [`Learned::ended`] is told apart.
    pub fn failed(&mut self, failure: &Failure, now: Duration) {
        let Some(last) = &mut self.last else { return };
        last.failure = Some(failure.kind);
        self.causes.extend(failure.kind.fallback_cause());
        let candidate = last.place.and_then(|place| self.choice.order.get(place));
        if let Some(met) = candidate.and_then(|candidate| self.met.get_mut(*candidate)) {
            met.spent |= match failure.kind {
                FailureKind::NotFound | FailureKind::ContextLengthExceeded => true,
                FailureKind::QuotaExhausted | FailureKind::KeyRejected => last.key.is_none(),
                _ => false,
            };
            // Of a key's wait the state of the key knows: another key need not wait.
            let of_backend = last.key.is_none() || failure.kind == FailureKind::Unavailable;
            met.not_before = failure.retry_after.filter(|_| of_backend).map(|wait| now.saturating_add(wait));
        }
    }

    /// The client got its first content: nothing is tried again from here on.
    pub fn content(&mut self) {
        self.begun = true;
    }

    /// After a failure of a key, another key of the same backend.
    fn next_key(&mut self, at: &At<'p, '_>, learned: &mut Learned) -> Option<Step> {
        let last = self.last.as_ref()?;
        let of_key = [FailureKind::QuotaExhausted, FailureKind::RateLimited, FailureKind::KeyRejected];
        if self.retry_at.is_some() || !last.failure.is_some_and(|kind| of_key.contains(&kind)) {
            return None;
        }
        let (backend, place) = (last.backend, last.place);
        learned.check(at.world, self.name, backend, at.now).ok()?;
        let tried = |key: &str| self.keys.iter().any(|(of, tried)| *of == backend && *tried == key);
        let key = learned.best_key(at.world, backend, &tried, at.now)??;
        self.attempt(at, learned, backend, Some(key), place, Why::NextKey)
    }

    fn next_candidate(&mut self, at: &At<'p, '_>, learned: &mut Learned) -> Option<Step> {
        if self.fallback_from.is_some() {
            return None;
        }
        if self.last.is_none() {
            return self.ask(at, learned, Why::Chosen).or_else(|| self.wait_for_a_limit(at, learned));
        }
        match self.retry_at {
            Some(then) if at.now < then => return Some(Step::Wait(then.saturating_sub(at.now))),
            Some(_) => {
                self.retry_at = None;
                return self.ask(at, learned, Why::Retry(self.retries_made));
            }
            None => {}
        }
        let soonest = self.in_turn().filter_map(|place| self.wait_of(at, learned, place)).min()?;
        // Others are not kept waiting for one who asked to be left alone, and neither is the client for long.
        if soonest > self.route.retries.max || (!soonest.is_zero() && self.fallback(at, learned).is_some()) {
            return None;
        }
        let wait = soonest.max(self.back_off(at.chance));
        if self.retries_made >= self.route.retries.max_retries || at.now.saturating_add(wait) >= self.deadline {
            return None;
        }
        if !learned.retries(self.name)?.take(self.route.retries.budget_percent, at.now) {
            return None;
        }
        self.retries_made = self.retries_made.saturating_add(1);
        if wait.is_zero() {
            return self.ask(at, learned, Why::Retry(self.retries_made));
        }
        self.retry_at = Some(at.now.saturating_add(wait));
        Some(Step::Wait(wait))
    }

    /// Waits, before the first attempt, for a limit that is new soon, where nobody else can answer: no longer than for a retry.
    fn wait_for_a_limit(&self, at: &At<'p, '_>, learned: &Learned) -> Option<Step> {
        let candidates = self.choice.order.iter().filter_map(|candidate| self.choice.candidates.get(*candidate));
        let limits = candidates.filter_map(|judged| match learned.check(at.world, self.name, judged.backend, at.now) {
            Err(Exclusion::RateLimited { wait }) => Some(wait),
            _ => None,
        });
        let wait = limits.min()?;
        let until = at.now.saturating_add(wait);
        let in_time = until <= self.came.saturating_add(self.route.retries.max) && until < self.deadline;
        (in_time && self.fallback(at, learned).is_none()).then_some(Step::Wait(wait))
    }

    /// A random time up to the longest before this retry, which doubles with each ("full jitter").
    fn back_off(&self, chance: f64) -> Duration {
        let retries = &self.route.retries;
        let longest = retries.initial.saturating_mul(2_u32.saturating_pow(self.retries_made)).min(retries.max);
        longest.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// Asks the next candidate that can answer now: one that was not asked before, else the next in turn.
    fn ask(&mut self, at: &At<'p, '_>, learned: &mut Learned, why: Why) -> Option<Step> {
        let is_free = |place: &usize| self.wait_of(at, learned, *place) == Some(Duration::ZERO);
        let is_fresh = |place: &usize| self.candidate(*place).is_some_and(|(_, met)| !met.asked);
        let fresh = self.in_turn().filter(is_fresh).find(is_free);
        let place = fresh.or_else(|| self.in_turn().find(is_free))?;
        let backend = self.candidate(place)?.0.backend;
        let key = learned.best_key(at.world, backend, &|_| false, at.now)?;
        self.attempt(at, learned, backend, key, Some(place), why)
    }

    /// The places of those that may be asked next, from the one after the last on.
    fn in_turn(&self) -> Chain<Range<usize>, Range<usize>> {
        let places = self.choice.order.len();
        match self.last.as_ref().and_then(|last| last.place) {
            Some(last) if self.stored_input => (last..last.saturating_add(1)).chain(0..0),
            Some(last) => (last.saturating_add(1)..places).chain(0..places.min(last.saturating_add(1))),
            None => (0..places).chain(0..0),
        }
    }

    fn candidate(&self, place: usize) -> Option<(&Judged<'p>, &Met)> {
        let candidate = *self.choice.order.get(place)?;
        Some((self.choice.candidates.get(candidate)?, self.met.get(candidate)?))
    }

    /// How long until a candidate can be asked (again); `None`: never, or nobody knows.
    fn wait_of(&self, at: &At<'p, '_>, learned: &Learned, place: usize) -> Option<Duration> {
        let (judged, met) = self.candidate(place)?;
        if met.spent {
            return None;
        }
        let asked_for = met.not_before.map_or(Duration::ZERO, |until| until.saturating_sub(at.now));
        match learned.check(at.world, self.name, judged.backend, at.now) {
            Ok(()) => Some(asked_for),
            // One that should be back by now and is not comes back nobody knows when.
            Err(exclusion) => exclusion.wait().filter(|wait| !wait.is_zero()).map(|wait| wait.max(asked_for)),
        }
    }

    fn next_fallback(&mut self, at: &At<'p, '_>, learned: &mut Learned) -> Option<Step> {
        let index = self.fallback(at, learned)?;
        self.fallback_from = Some(index.saturating_add(1));
        let backend = self.choice.fallback.get(index)?.backend;
        let key = learned.best_key(at.world, backend, &|_| false, at.now)?;
        self.attempt(at, learned, backend, key, None, Why::Fallback)
    }

    /// The next fallback that can answer now.
    fn fallback(&self, at: &At<'p, '_>, learned: &Learned) -> Option<usize> {
        if self.stored_input && self.last.is_some() {
            return None;
        }
        let causes = self.causes(at, learned);
        let can = |index: &usize| {
            let judged = self.choice.fallback.get(*index).filter(|judged| !self.asked.contains(&judged.backend));
            judged.is_some_and(|judged| {
                self.answers(*index, &causes) && learned.check(at.world, self.name, judged.backend, at.now).is_ok()
            })
        };
        (self.fallback_from.unwrap_or(0)..self.choice.fallback.len()).find(can)
    }

    /// Whether a fallback may answer, and for what was met.
    fn answers(&self, index: usize, causes: &BTreeSet<FallbackCause>) -> bool {
        let judged = self.choice.fallback.get(index);
        judged.is_some_and(|judged| judged.out.as_ref().is_none_or(Exclusion::passes))
            && self.route.fallback.get(index).is_some_and(|fallback| !fallback.causes.is_disjoint(causes))
    }

    /// The kinds of failure that were met, and why those were not asked that were not.
    fn causes(&self, at: &At<'p, '_>, learned: &Learned) -> BTreeSet<FallbackCause> {
        let exclusions = self.exclusions(at, learned);
        let nobody = self.choice.candidates.is_empty().then_some(FallbackCause::Unavailable);
        exclusions.iter().map(Exclusion::cause).chain(nobody).chain(self.causes.iter().copied()).collect()
    }

    /// Why those candidates cannot be asked now that were not.
    fn exclusions(&self, at: &At<'p, '_>, learned: &Learned) -> Vec<Exclusion> {
        let unasked = self.choice.candidates.iter().zip(&self.met).filter(|(_, met)| !met.asked);
        let exclusion = |judged: &Judged<'_>| {
            let filtered = judged.out.clone().filter(|exclusion| !exclusion.passes());
            filtered.or_else(|| learned.check(at.world, self.name, judged.backend, at.now).err())
        };
        unasked.filter_map(|(judged, _)| exclusion(judged)).collect()
    }

    fn attempt(
        &mut self,
        at: &At<'p, '_>,
        learned: &mut Learned,
        backend: &'p str,
        key: Option<&'p str>,
        place: Option<usize>,
        why: Why,
    ) -> Option<Step> {
        let endpoints = at.world.endpoints.get(backend);
        let pod = endpoints.and_then(|endpoints| learned.best_pod(backend, endpoints, &self.pods, at.chance));
        let running = learned.begin(at.world, self.name, backend, key, pod, at.now)?;
        self.made = self.made.saturating_add(1);
        self.pods.extend(pod);
        self.asked.push(backend);
        self.keys.extend(key.map(|key| (backend, key)));
        let candidate = place.and_then(|place| self.choice.order.get(place));
        if let Some(met) = candidate.and_then(|candidate| self.met.get_mut(*candidate)) {
            met.asked = true;
        }
        self.last = Some(Last { place, backend, key, failure: None });
        // A plain answer has the time of the whole call.
        let own = if self.streams { at.now.saturating_add(self.route.timeouts.backend_request) } else { self.deadline };
        Some(Step::Attempt(Attempt { running, why, number: self.made, deadline: own.min(self.deadline) }))
    }

    fn give_up(&self, at: &At<'p, '_>, learned: &Learned) -> Step {
        let causes = self.causes(at, learned);
        let fallback = self.choice.fallback.iter().enumerate().filter(|(index, _)| self.answers(*index, &causes));
        let out_of_fallback: Vec<(&Judged<'_>, Exclusion)> = fallback
            .filter_map(|(_, judged)| Some((judged, learned.check(at.world, self.name, judged.backend, at.now).err()?)))
            .collect();
        let starting = out_of_fallback.iter().filter(|(_, exclusion)| matches!(exclusion, Exclusion::Starting { .. }));
        let starting = starting.map(|(judged, _)| judged.backend.to_owned()).collect();
        let fallback = out_of_fallback.into_iter().map(|(_, exclusion)| exclusion);
        let out: Vec<Exclusion> = self.exclusions(at, learned).into_iter().chain(fallback).collect();
        let candidates = self.in_turn().filter_map(|place| self.wait_of(at, learned, place));
        let waits = candidates.chain(out.iter().filter_map(Exclusion::wait));
        let wait = waits.filter(|wait| !wait.is_zero()).min();
        let reason = match self.last.as_ref().and_then(|last| last.failure) {
            Some(kind) => GiveUpReason::Failed(kind),
            None => most_telling(out).map_or(GiveUpReason::NoCandidates, GiveUpReason::NothingToAsk),
        };
        Step::GiveUp(GiveUp { reason, wait, starting })
    }
}

/// Of several reasons the one that the client should hear: one that passes before one that does not, the sooner the better; of those
/// that do not, the one that concerns the caller.
fn most_telling(exclusions: Vec<Exclusion>) -> Option<Exclusion> {
    let rank = |exclusion: &Exclusion| {
        let kind = match exclusion {
            Exclusion::Starting { .. } | Exclusion::RateLimited { .. } => 0,
            Exclusion::QuotaExhausted { .. } | Exclusion::CircuitOpen { .. } => 1,
            Exclusion::KeysRejected | Exclusion::NoKeyValue => 2,
            Exclusion::Tier { .. } => 3,
            Exclusion::PriceMissing => 4,
            Exclusion::Format(_) => 5,
            Exclusion::DataPolicy => 6,
            Exclusion::NotInPlan => 7,
        };
        (kind, exclusion.wait().unwrap_or(Duration::MAX))
    };
    exclusions.into_iter().min_by_key(rank)
}

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
