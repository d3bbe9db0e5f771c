//! What a call comes to, settled once whatever happens to it: in drop. From its head on a call holds a [`Settlement`], and hands it
//! to the body of its answer; who leaves, panics or ends drops it.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use quartermaster_core::decide::gateway::exchange::usage::{Counts, Hour, Series};
use quartermaster_core::decide::gateway::plan::Price;
use quartermaster_core::decide::request::failure::{Failure, FailureKind};
use quartermaster_core::decide::request::learned::{Outcome, Running};
use quartermaster_core::decide::request::usage::{Metered, Usage};
use tokio::time::Instant;

use super::call_id::CallId;
use super::routing_log::{AttemptLine, Line, Tokens};
use super::state::Gateway;

/// The outcome of a call whose client left.
const LEFT: &str = "left";
/// The outcome of a call that ended in a panic.
const PANICKED: &str = "panicked";

/// A call that has not ended.
pub struct Settlement {
    gateway: Arc<Gateway>,
    begun: Instant,
    /// The hour in which it was admitted, to which all that it uses belongs.
    admitted: Hour,
    /// Its line of the routing log, as far as it is known.
    pub line: Line,
    attempt: Option<Attempt>,
    /// The status that the client gets, once the answer's head is known.
    status: Option<StatusCode>,
    ended: bool,
}

/// An attempt that has not ended.
struct Attempt {
    running: Running,
    begun: Instant,
    /// The most that it can use: what counts where nobody says it.
    most: Usage,
    price: Option<Price>,
    status: Option<u16>,
    backend: Arc<str>,
}

impl Settlement {
    /// A call has come.
    pub fn new(gateway: Arc<Gateway>, id: CallId, operation: &'static str) -> Self {
        gateway.metrics.in_flight.inc();
        let time = jiff::Timestamp::now();
        let line = Line {
            time,
            id,
            caller: None,
            operation,
            route: None,
            rule: None,
            backend: None,
            reason: None,
            attempts: Vec::new(),
            status: None,
            outcome: LEFT,
            stream: false,
            tokens: None,
            cost_micros: None,
            first_content_milliseconds: None,
            milliseconds: 0,
        };
        Self { gateway, begun: Instant::now(), admitted: Hour::of(time), line, attempt: None, status: None, ended: false }
    }

    /// An attempt begins that can use this much at most.
    pub fn attempt(&mut self, running: Running, most: Usage, price: Option<Price>) {
        self.abandon();
        let backend = Arc::clone(running.shared_backend());
        self.line.backend = Some(Arc::clone(&backend));
        self.attempt = Some(Attempt { running, begun: Instant::now(), most, price, status: None, backend });
    }

    /// The head of the backend's answer came. `limited`: nothing is left of the limits of its key for this long.
    pub fn answered(&mut self, status: u16, limited: Option<Duration>) {
        let Some(attempt) = &mut self.attempt else { return };
        attempt.status = Some(status);
        if let Some(wait) = limited {
            self.gateway.learn(|learned, now| learned.limited(&attempt.running, wait, now));
        }
    }

    /// The first content of a stream came: no other attempt follows.
    pub fn content(&mut self) {
        if let Some(attempt) = &self.attempt {
            self.gateway.learn(|learned, _| learned.content(&attempt.running));
        }
        self.first_content();
    }

    fn first_content(&mut self) {
        let Some(attempt) = &self.attempt else { return };
        self.gateway.metrics.first_content(&attempt.backend, attempt.begun.elapsed());
        self.line.first_content_milliseconds = Some(milliseconds(self.begun.elapsed()));
    }

    /// The attempt failed. `error` says how, where no status does; it holds no secret.
    pub fn failed(&mut self, failure: &Failure, metered: Metered, error: Option<String>) {
        self.end_attempt(Outcome::Failed(failure), outcome_of(failure.kind), metered, error);
    }

    /// The attempt was answered by a plain answer: its first content is its end.
    pub fn answered_at_once(&mut self, metered: Metered) {
        self.first_content();
        self.succeeded(metered);
    }

    /// The attempt was answered to the end.
    pub fn succeeded(&mut self, metered: Metered) {
        self.end_attempt(Outcome::Succeeded, "answered", metered, None);
    }

    /// The attempt is given up though the backend may be well: its client left.
    pub fn left(&mut self, metered: Metered) {
        self.end_attempt(Outcome::Abandoned, LEFT, metered, None);
    }

    /// The status that the client gets.
    pub fn status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// The call ends so, when it is dropped. Without this its client has left.
    pub fn ends(&mut self, outcome: &'static str) {
        self.line.outcome = outcome;
        self.ended = true;
    }

    /// The call ended in a panic.
    pub fn panicked(&mut self) {
        self.abandon();
        self.ends(PANICKED);
    }

    fn abandon(&mut self) {
        self.end_attempt(Outcome::Abandoned, LEFT, Metered::Unknown, None);
    }

    fn end_attempt(&mut self, outcome: Outcome<'_>, name: &'static str, metered: Metered, error: Option<String>) {
        let Some(Attempt { running, begun, most, price, status, backend }) = self.attempt.take() else { return };
        let (usage, exact) = metered.or_at_most(most);
        let key = running.shared_key().cloned();
        let failed = matches!(outcome, Outcome::Failed(_));
        self.gateway.learn(|learned, now| learned.ended(running, outcome, now));
        self.gateway.metrics.attempted(&backend, name);
        if let Some((caller, route)) = self.line.caller.as_ref().zip(self.line.route.as_ref()) {
            let series = Series { caller: (**caller).to_owned(), route: (**route).to_owned(), backend: (*backend).to_owned() };
            self.gateway.used(series, self.admitted, &counts(&usage, exact, failed));
        }
        // A call used what all its attempts did. What cost nothing needs no price.
        let price = price.or((usage == Usage::default()).then(Price::default));
        let cost = price.map(|price| cost(&usage, &if exact { price } else { at_most(price) }));
        let (tokens, before) = (tokens(&usage, exact), self.line.tokens);
        self.line.tokens = Some(before.map_or(tokens, |before| before.and(&tokens)));
        self.line.cost_micros = match before {
            Some(_) => self.line.cost_micros.zip(cost).map(|(before, cost)| before.saturating_add(cost)),
            None => cost,
        };
        let took = milliseconds(begun.elapsed());
        self.line.attempts.push(AttemptLine { backend, key, outcome: name, status, error, milliseconds: took });
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        self.abandon();
        if !self.ended {
            self.line.outcome = if std::thread::panicking() { PANICKED } else { LEFT };
        }
        match self.line.outcome {
            PANICKED => self.gateway.metrics.panics.inc(),
            LEFT => self.gateway.metrics.client_left.inc(),
            _ => {}
        }
        let took = self.begun.elapsed();
        self.line.time = jiff::Timestamp::now();
        self.line.milliseconds = milliseconds(took);
        self.line.status = self.status.map(|status| status.as_u16());
        let metrics = &self.gateway.metrics;
        metrics.ended(self.line.operation, self.line.route.as_deref().unwrap_or_default(), self.status, took);
        metrics.in_flight.dec();
        if !self.gateway.log.write(&self.line) {
            metrics.lost_lines.inc();
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn tokens(usage: &Usage, exact: bool) -> Tokens {
    let input = usage.input.saturating_add(usage.cached_input).saturating_add(usage.cache_write);
    Tokens { input, cached_input: usage.cached_input, cache_write: usage.cache_write, output: usage.output, exact }
}

/// What an attempt adds to what its caller used.
fn counts(usage: &Usage, exact: bool, failed: bool) -> Counts {
    let Tokens { input, cached_input, output, .. } = tokens(usage, exact);
    let estimated = if exact { 0 } else { input.saturating_add(output) };
    Counts { input, output, cached_input, estimated, requests: 1, errors: u64::from(failed) }
}

/// The price of a bound: nobody said which of the input was written into a cache.
fn at_most(price: Price) -> Price {
    Price { input: price.input.max(price.cache_write), ..price }
}

/// In millionths of the currency, rounded up: prices are for a million tokens.
fn cost(usage: &Usage, price: &Price) -> u64 {
    let of = |tokens: u64, price: u64| u128::from(tokens).saturating_mul(u128::from(price));
    let parts = [
        of(usage.input, price.input),
        of(usage.cached_input, price.cached_input),
        of(usage.cache_write, price.cache_write),
        of(usage.output, price.output),
    ];
    let sum = parts.into_iter().fold(0, u128::saturating_add);
    u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// What a failure is called in metrics and the routing log.
pub fn outcome_of(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::QuotaExhausted => "quota_exhausted",
        FailureKind::RateLimited => "rate_limited",
        FailureKind::Timeout => "timeout",
        FailureKind::Unavailable => "unavailable",
        FailureKind::KeyRejected => "key_rejected",
        FailureKind::NotFound => "not_found",
        FailureKind::ContextLengthExceeded => "context_length_exceeded",
        FailureKind::CallerFault => "caller_fault",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_costs_each_kind_of_token_at_its_own_price_rounded_up() {
        let price = Price { input: 3_000_000, output: 15_000_000, cached_input: 300_000, cache_write: 3_750_000 };
        let usage = Usage { input: 1000, cached_input: 10_000, cache_write: 2000, output: 100 };
        assert_eq!(cost(&usage, &price), 3000 + 3000 + 7500 + 1500);
        assert_eq!(cost(&Usage { input: 1, ..Usage::default() }, &Price { input: 1, ..price }), 1);
        assert_eq!(cost(&Usage { input: u64::MAX, ..Usage::default() }, &price), u64::MAX);
    }

    #[test]
    fn a_bound_costs_as_if_all_of_its_input_was_written_into_a_cache() {
        let price = Price { input: 3_000_000, output: 15_000_000, cached_input: 300_000, cache_write: 3_750_000 };
        assert_eq!(at_most(price), Price { input: 3_750_000, ..price });
        let cheap = Price { cache_write: 0, ..price };
        assert_eq!(at_most(cheap), cheap);
    }

    #[test]
    fn an_attempt_counts_as_a_call_with_its_tokens_and_says_which_are_a_bound() {
        let usage = Usage { input: 1, cached_input: 2, cache_write: 4, output: 8 };
        let exact = Counts { input: 7, output: 8, cached_input: 2, requests: 1, ..Counts::default() };
        assert_eq!(counts(&usage, true, false), exact);
        assert_eq!(counts(&usage, false, false), Counts { estimated: 15, ..exact });
        assert_eq!(counts(&Usage::default(), true, true), Counts { requests: 1, errors: 1, ..Counts::default() });
    }

    #[test]
    fn a_call_used_what_all_its_attempts_did_and_is_exact_if_they_all_are() {
        let attempt = Tokens { input: 7, cached_input: 2, cache_write: 4, output: 8, exact: true };
        let both = Tokens { input: 14, cached_input: 4, cache_write: 8, output: 16, exact: true };
        assert_eq!(attempt.and(&attempt), both);
        assert_eq!(attempt.and(&Tokens { exact: false, ..attempt }), Tokens { exact: false, ..both });
    }

    #[test]
    fn input_includes_what_caches_served_and_took() {
        let usage = Usage { input: 1, cached_input: 2, cache_write: 4, output: 8 };
        let expected = Tokens { input: 7, cached_input: 2, cache_write: 4, output: 8, exact: false };
        assert_eq!(tokens(&usage, false), expected);
    }
}
