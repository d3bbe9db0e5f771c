//! What a call comes to, settled once whatever happens to it: in drop. From its head on a call holds a [`Settlement`], and hands it
//! to the body of its answer; who leaves, panics or ends drops it.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use quartermaster_core::decide::gateway::exchange::usage::{Hour, Series};
use quartermaster_core::decide::gateway::plan::Price;
use quartermaster_core::decide::request::failure::{Failure, FailureKind};
use quartermaster_core::decide::request::learned::{Outcome, Running};
use quartermaster_core::decide::request::refusal::Refusal;
use quartermaster_core::decide::request::usage::{Metered, Usage};
use quartermaster_core::decide::request::{cost, counted};
use tokio::time::Instant;

use super::call_id::CallId;
use super::routing_log::{AttemptLine, Line, Tokens};
use super::state::Gateway;
use super::tasks::Reserved;

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
    /// Tokens that are left of the caller's budgets, of several the least. None: no limit of tokens is known.
    pub budget_remaining: Option<u64>,
    attempt: Option<Attempt>,
    /// The status that the client gets, once the answer's head is known.
    status: Option<StatusCode>,
    ended: bool,
}

/// An attempt that has not ended.
struct Attempt {
    running: Running,
    /// What it has reserved in budgets, and of the limits of its task. None: it has not begun.
    reserved: Option<Reserved>,
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
            budget_refused: None,
            stream: false,
            tokens: None,
            cost_micros: None,
            first_content_milliseconds: None,
            milliseconds: 0,
        };
        Self {
            gateway,
            begun: Instant::now(),
            admitted: Hour::of(time),
            line,
            budget_remaining: None,
            attempt: None,
            status: None,
            ended: false,
        }
    }

    /// An attempt is to begin that can use this much at most. Until it [begins](Self::begins) nothing is sent, and nothing
    /// comes of it.
    pub fn attempt(&mut self, running: Running, most: Usage, price: Option<Price>) {
        self.abandon();
        let backend = Arc::clone(running.shared_backend());
        self.attempt = Some(Attempt { running, reserved: None, begun: Instant::now(), most, price, status: None, backend });
    }

    /// The attempt has room in every budget, and begins.
    pub fn begins(&mut self, reserved: Reserved) {
        match &mut self.attempt {
            Some(attempt) => {
                self.line.backend = Some(Arc::clone(&attempt.backend));
                attempt.begun = Instant::now();
                attempt.reserved = Some(reserved);
            }
            None => self.gateway.give_back(reserved),
        }
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

    /// The gateway answers the call itself.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.status(refusal.status());
        self.ends(refusal.code());
        if let Some(reason) = of_budget(refusal) {
            self.line.budget_refused = budget_of(refusal).map(str::to_owned);
            self.gateway.metrics.refused_by_budget(self.line.route.as_deref().unwrap_or_default(), reason);
        }
        if is_of_task(refusal) {
            self.gateway.metrics.refused_of_task(self.line.route.as_deref().unwrap_or_default(), refusal.code());
        }
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
        let Some(Attempt { running, reserved, begun, most, price, status, backend }) = self.attempt.take() else { return };
        let Some(reserved) = reserved else {
            // It has waited for room in a budget, and says nothing about the backend.
            self.gateway.learn(|learned, now| learned.ended(running, Outcome::Abandoned, now));
            return;
        };
        let (usage, exact) = metered.or_at_most(most);
        let key = running.shared_key().cloned();
        let failed = matches!(outcome, Outcome::Failed(_));
        self.gateway.learn(|learned, now| learned.ended(running, outcome, now));
        self.gateway.metrics.attempted(&backend, name);
        let cost = cost::of(&usage, price, exact);
        let names = self.line.caller.as_ref().zip(self.line.route.as_ref());
        let series = names.map(|(caller, route)| Series {
            caller: (**caller).to_owned(),
            route: (**route).to_owned(),
            backend: (*backend).to_owned(),
        });
        let counts = counted::counts(&usage, cost, exact, failed);
        if self.gateway.settle(series, self.admitted, &counts, reserved, counted::used(&usage, cost, exact)).exceeded {
            self.gateway.metrics.reservation_exceeded(&backend);
        }
        // A call used what all its attempts did.
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
    let Usage { cached_input, cache_write, output, .. } = *usage;
    Tokens { input: usage.all_input(), cached_input, cache_write, output, exact }
}

/// What a refusal by a budget is called in metrics; none for any other.
fn of_budget(refusal: &Refusal) -> Option<&'static str> {
    match refusal {
        // It has the code of the next, for clients.
        Refusal::NewTasksRefused(_) => Some("new_task"),
        Refusal::BudgetExceeded(_)
        | Refusal::BudgetUnknown { .. }
        | Refusal::BudgetBusy
        | Refusal::UnboundedTool { .. }
        | Refusal::PriceMissing => Some(refusal.code()),
        _ => None,
    }
}

/// Whether a call is refused because its task may do no more.
fn is_of_task(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::TaskRequestTooLarge { .. }
            | Refusal::TaskLimitExceeded { .. }
            | Refusal::TaskBusy
            | Refusal::IdenticalRequests { .. }
    )
}

/// The budget that refuses a call, where it is one.
fn budget_of(refusal: &Refusal) -> Option<&str> {
    match refusal {
        Refusal::BudgetExceeded(spent) | Refusal::NewTasksRefused(spent) => Some(&spent.budget),
        Refusal::BudgetUnknown { budget } => Some(budget),
        _ => None,
    }
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
