//! What a replica of the gateway has learnt from its calls: whose turn it is, who fails, which keys can be used, what runs where.
//!
//! It lives outside the plan, keyed by names, and outlives every change of it. It is a plain value: whoever holds it gives each call
//! to it in one piece, such as under a lock, so that two calls never both try a backend that is half open. None of its operations
//! takes longer than a few microseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::candidates::{Exclusion, World};
use super::circuit_breaker::CircuitBreaker;
use super::failure::{Failure, FailureKind};
use super::key_state::{Fingerprint, KeyOut, KeyState};
use super::retry_budget::RetryBudget;
use super::strategy::Turns;
use crate::decide::gateway::plan::{BackendEndpoints, CircuitBreaker as CircuitBreakerSettings, Endpoints, Plan};

/// What a replica has learnt. Times are counted from one origin of the process, on a clock that never goes back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// By name of the ModelRoute.
    routes: BTreeMap<String, OfRoute>,
    /// By name of the InferenceBackend.
    backends: BTreeMap<String, OfBackend>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfRoute {
    /// The name, which calls that run share.
    name: Arc<str>,
    /// Whose turn it is among the plain backends.
    turns: Turns,
    /// And among those of a rule, by its name.
    turns_of_rules: BTreeMap<String, Turns>,
    /// By name of the InferenceBackend: the route says when one is left alone.
    breakers: BTreeMap<String, CircuitBreaker>,
    retries: RetryBudget,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfBackend {
    /// The name, which calls that run share.
    name: Arc<str>,
    /// By name of the key; of a backend that takes none under [`NO_KEY`].
    keys: BTreeMap<String, KeyState>,
    /// Calls that run now, by pod: those that have any.
    running: BTreeMap<SocketAddr, u32>,
}

/// Under which name the state of a backend without keys is kept: it can say as well that there are too many calls.
const NO_KEY: &str = "";
/// What stands for the value of a key where none is needed.
const NO_VALUE: Fingerprint = [0; 32];

/// A call that was handed to a backend and is not over.
///
/// It has to come back to [`Learned::ended`] exactly once, whatever becomes of the attempt, which is why it cannot be copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Running {
    route: Arc<str>,
    backend: Arc<str>,
    key: Option<Arc<str>>,
    value: Fingerprint,
    pod: Option<SocketAddr>,
    circuit_breaker: CircuitBreakerSettings,
    tries_backend: bool,
    tries_quota: bool,
}

impl Running {
    /// Name of the InferenceBackend.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// The same to keep.
    pub fn shared_backend(&self) -> &Arc<str> {
        &self.backend
    }

    /// Name of its key; `None`: it takes none.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The same to keep.
    pub fn shared_key(&self) -> Option<&Arc<str>> {
        self.key.as_ref()
    }

    /// The pod that is called; `None`: the backend's `base_url`.
    pub fn pod(&self) -> Option<SocketAddr> {
        self.pod
    }
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// It was answered to the end.
    Succeeded,
    /// It failed, before or after its first content.
    Failed(&'a Failure),
    /// It says nothing about the backend: the client left, or the gateway ended.
    Abandoned,
}

impl Learned {
    /// Forgets what a new plan does not have. Calls that run still come back; what they say of forgotten names is passed over.
    pub fn retain(&mut self, plan: &Plan) {
        self.routes.retain(|name, _| plan.routes.contains_key(name));
        self.backends.retain(|name, _| plan.backends.contains_key(name));
        let backend = |name: &str| plan.backends.contains_key(name);
        for (name, of_route) in &mut self.routes {
            let rules: BTreeSet<&str> =
                plan.routes.get(name).into_iter().flat_map(|route| &route.rules).map(|rule| rule.name.as_str()).collect();
            of_route.turns_of_rules.retain(|rule, _| rules.contains(rule.as_str()));
            of_route.turns.retain(backend);
            of_route.turns_of_rules.values_mut().for_each(|turns| turns.retain(backend));
            of_route.breakers.retain(|name, _| backend(name));
        }
        for (name, of_backend) in &mut self.backends {
            let keys = plan.backends.get(name).map(|backend| backend.keys.as_slice()).unwrap_or_default();
            of_backend.keys.retain(|key, _| key == NO_KEY || keys.contains(key));
        }
    }

    /// Where pods of backends were and are ready. A pod reads its key when it starts: where the pods are others, or one has come back,
    /// keys that were refused are tried again.
    pub fn pods_changed(&mut self, before: &Endpoints, now: &Endpoints) {
        for (name, of_backend) in &mut self.backends {
            let ready = |endpoints: &Endpoints| endpoints.get(name).map(|endpoints| endpoints.ready.clone()).unwrap_or_default();
            if ready(before) != ready(now) {
                of_backend.keys.values_mut().for_each(KeyState::forget_refusal);
            }
        }
    }

    /// Whether a backend can be called for a route now: it has a ready pod, a key, and does not fail.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn check(&self, world: &World<'_, '_>, route: &str, backend: &str, now: Duration) -> Result<(), Exclusion> {
        if !world.plan.backends.contains_key(backend) {
            return Err(Exclusion::NotInPlan);
        }
        if let Some(endpoints) = world.endpoints.get(backend).filter(|endpoints| endpoints.ready.is_empty()) {
            let wait = endpoints.expected_in_seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
            return Err(Exclusion::Starting { wait });
        }
        let breaker = self.routes.get(route).and_then(|of_route| of_route.breakers.get(backend));
        // What the route says of its breakers need not be looked up for one that is closed.
        if let Some(breaker) = breaker.filter(|breaker| !breaker.is_closed()) {
            let settings = world.plan.routes.get(route).ok_or(Exclusion::NotInPlan)?.circuit_breaker;
            breaker.check(&settings, now).map_err(|open| Exclusion::CircuitOpen { wait: open.wait })?;
        }
        let mut out = Vec::new();
        for (.., state) in self.keys(world, backend, now) {
            match state {
                Ok(()) => return Ok(()),
                Err(key) => out.push(key),
            }
        }
        Err(Exclusion::of_keys(&out))
    }

    /// Why a key of a backend cannot be used now; `Ok` where it can, or nothing is known against it. `value` is the fingerprint of the
    /// value that it has.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn check_key(&self, backend: &str, key: &str, value: Option<&Fingerprint>, now: Duration) -> Result<(), KeyOut> {
        check_state(self.backends.get(backend).and_then(|of_backend| of_backend.keys.get(key)), value, now)
    }

    /// Calls of a backend that run now.
    pub fn running(&self, backend: &str) -> u32 {
        let keys = self.backends.get(backend).into_iter().flat_map(|of_backend| of_backend.keys.values());
        keys.map(|key| key.load().0).fold(0, u32::saturating_add)
    }

    /// The first content of a stream came: what tried the backend or the key has succeeded, though the call goes on.
    pub fn content(&mut self, running: &Running) {
        self.succeeded(running);
    }

    /// The head of an answer says that nothing is left of a limit of the key that was used, and for how long.
    pub fn limited(&mut self, running: &Running, wait: Duration, now: Duration) {
        self.each(running, |_, _| {}, |key, _| key.limited(wait, now));
    }

    /// A call that was handed to a backend is over.
    pub fn ended(&mut self, running: Running, outcome: Outcome<'_>, now: Duration) {
        if let Some(of_backend) = self.backends.get_mut(&*running.backend) {
            if let Some(key) = of_backend.keys.get_mut(running.key.as_deref().unwrap_or(NO_KEY)) {
                key.ended();
            }
            if let Some(pod) = running.pod
                && let Some(count) = of_backend.running.get_mut(&pod)
            {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    of_backend.running.remove(&pod);
                }
            }
        }
        match outcome {
            Outcome::Succeeded => self.succeeded(&running),
            Outcome::Abandoned => self.each(&running, CircuitBreaker::released, KeyState::released),
            Outcome::Failed(failure) => self.failed(&running, failure, now),
        }
    }

    fn succeeded(&mut self, running: &Running) {
        self.each(running, CircuitBreaker::succeeded, KeyState::succeeded);
    }

    fn failed(&mut self, running: &Running, failure: &Failure, now: Duration) {
        let settings = &running.circuit_breaker;
        self.each(
            running,
            |breaker, tries| match failure.kind {
                FailureKind::Timeout | FailureKind::Unavailable => breaker.failed(settings, tries, now),
                // The keys' matter: other keys may do.
                FailureKind::QuotaExhausted | FailureKind::RateLimited | FailureKind::KeyRejected => breaker.released(tries),
                // It answers.
                FailureKind::NotFound | FailureKind::ContextLengthExceeded | FailureKind::CallerFault => breaker.succeeded(tries),
            },
            |key, tries| match (failure.kind, &running.key) {
                // Without a key there is none to be set aside: the server refuses us, for now.
                (FailureKind::KeyRejected | FailureKind::QuotaExhausted, None) => {}
                _ => key.failed(failure, &running.value, tries, now),
            },
        );
    }

    fn each(&mut self, running: &Running, breaker: impl FnOnce(&mut CircuitBreaker, bool), key: impl FnOnce(&mut KeyState, bool)) {
        // A name that a plan has dropped meanwhile is not brought back by a call that began before.
        let of_route = self.routes.get_mut(&*running.route);
        if let Some(known) = of_route.and_then(|of_route| of_route.breakers.get_mut(&*running.backend)) {
            breaker(known, running.tries_backend);
        }
        let of_backend = self.backends.get_mut(&*running.backend);
        if let Some(known) = of_backend.and_then(|of_backend| of_backend.keys.get_mut(running.key.as_deref().unwrap_or(NO_KEY))) {
            key(known, running.tries_quota);
        }
    }

    /// Whose turn it is among the backends of a rule, or the plain ones. Never `None`.
    pub(super) fn turns(&mut self, route: &str, rule: Option<&str>) -> Option<&mut Turns> {
        let of_route = self.of_route(route)?;
        match rule {
            Some(rule) => entry(&mut of_route.turns_of_rules, rule, Turns::default),
            None => Some(&mut of_route.turns),
        }
    }

    /// The retry budget of a route. Never `None`.
    pub(super) fn retries(&mut self, route: &str) -> Option<&mut RetryBudget> {
        self.of_route(route).map(|of_route| &mut of_route.retries)
    }

    fn of_route(&mut self, name: &str) -> Option<&mut OfRoute> {
        entry(&mut self.routes, name, || OfRoute { name: name.into(), ..OfRoute::default() })
    }

    /// The usable key that is taken next: the one with the fewest running calls, of several the one that was used least lately. The
    /// inner `None`: the backend takes none.
    pub(super) fn best_key<'p>(
        &self,
        world: &World<'p, '_>,
        backend: &str,
        tried: &dyn Fn(&str) -> bool,
        now: Duration,
    ) -> Option<Option<&'p str>> {
        let usable = self.keys(world, backend, now).filter(|(key, _, state)| state.is_ok() && !tried(key.unwrap_or(NO_KEY)));
        usable.min_by_key(|(_, known, _)| known.map(KeyState::load).unwrap_or_default()).map(|(key, ..)| key)
    }

    /// Hands a call to a backend. `pod` is where it goes, `key` one that [`best_key`](Self::best_key) named.
    pub(super) fn begin(
        &mut self,
        world: &World<'_, '_>,
        route: &str,
        backend: &str,
        key: Option<&str>,
        pod: Option<SocketAddr>,
        now: Duration,
    ) -> Option<Running> {
        let circuit_breaker = world.plan.routes.get(route)?.circuit_breaker;
        let value = match key {
            Some(key) => (world.key_value)(backend, key)?,
            None => NO_VALUE,
        };
        let of_route = self.of_route(route)?;
        let route = Arc::clone(&of_route.name);
        let tries_backend = entry(&mut of_route.breakers, backend, CircuitBreaker::default)?.begin(now);
        let of_backend = entry(&mut self.backends, backend, || OfBackend { name: backend.into(), ..OfBackend::default() })?;
        let tries_quota = entry(&mut of_backend.keys, key.unwrap_or(NO_KEY), KeyState::default)?.begin(now);
        if let Some(pod) = pod {
            let count = of_backend.running.entry(pod).or_default();
            *count = count.saturating_add(1);
        }
        let (backend, key) = (Arc::clone(&of_backend.name), key.map(Arc::from));
        Some(Running { route, backend, key, value, pod, circuit_breaker, tries_backend, tries_quota })
    }

    /// The ready pod with the fewest running calls; of several one by chance (from 0 to 1), so that replicas of the gateway do not all
    /// take the same. One that `tried` names only where there is no other. `None`: there is none.
    pub(super) fn best_pod(
        &self,
        backend: &str,
        endpoints: &BackendEndpoints,
        tried: &[SocketAddr],
        chance: f64,
    ) -> Option<SocketAddr> {
        let running = |pod: &SocketAddr| self.backends.get(backend).and_then(|of_backend| of_backend.running.get(pod)).copied();
        let rank = |pod: &SocketAddr| (tried.contains(pod), running(pod).unwrap_or(0));
        let least = endpoints.ready.iter().map(rank).min()?;
        let best: Vec<&SocketAddr> = endpoints.ready.iter().filter(|pod| rank(pod) == least).collect();
        best.get(by_chance(chance, best.len())).or(best.first()).map(|pod| **pod)
    }

    /// The keys of a backend, each with what is known of it and whether it can be used: one without a name for a backend that takes
    /// none.
    fn keys<'a, 'p>(
        &'a self,
        world: &'a World<'p, 'a>,
        backend: &'a str,
        now: Duration,
    ) -> impl Iterator<Item = (Option<&'p str>, Option<&'a KeyState>, Result<(), KeyOut>)> {
        let of_backend = self.backends.get(backend);
        let names = world.plan.backends.get(backend).map(|backend| backend.keys.as_slice()).unwrap_or_default();
        let none = names.is_empty().then_some((None, Some(NO_VALUE)));
        let keys = names.iter().map(move |key| (Some(key.as_str()), (world.key_value)(backend, key)));
        none.into_iter().chain(keys).map(move |(key, value)| {
            let known = of_backend.and_then(|of_backend| of_backend.keys.get(key.unwrap_or(NO_KEY)));
            (key, known, check_state(known, value.as_ref(), now))
        })
    }
}

/// Whether a key can be used. Nothing is known against one that no call has used.
fn check_state(known: Option<&KeyState>, value: Option<&Fingerprint>, now: Duration) -> Result<(), KeyOut> {
    match known {
        Some(state) => state.check(value, now),
        None => KeyState::default().check(value, now),
    }
}

/// What a name stands for, made where it is new. Never `None`. A name is copied only then: most calls find what the ones before have
/// made.
fn entry<'a, T>(map: &'a mut BTreeMap<String, T>, name: &str, make: impl FnOnce() -> T) -> Option<&'a mut T> {
    if !map.contains_key(name) {
        map.insert(name.to_owned(), make());
    }
    map.get_mut(name)
}

/// An index below `len`, as likely as any other for a chance from 0 to 1.
fn by_chance(chance: f64, len: usize) -> usize {
    // Enough steps for any number of pods, and exact in the arithmetic.
    const STEPS: u32 = 1 << 20;
    let steps = Duration::from_secs(u64::from(STEPS)).mul_f64(chance.clamp(0.0, 1.0)).as_secs();
    let step = usize::try_from(steps).unwrap_or(0);
    step.saturating_mul(len).checked_div(usize::try_from(STEPS).unwrap_or(usize::MAX)).unwrap_or(0).min(len.saturating_sub(1))
}

#[cfg(test)]
#[path = "learned_tests.rs"]
mod tests;
