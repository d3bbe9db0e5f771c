//! What budgets say to a call: whether it may begin at all, and the room that each of its attempts has to get before anything
//! is sent. A retry or a fallback for which there is no room ends the call: nothing has reached its client by then.

use std::time::Duration;

use hyper::HeaderMap;
use jiff::Timestamp;
use quartermaster_core::decide::account::spending::{Most, Need, Reservation, Short, Terms, Ticket};
use quartermaster_core::decide::account::tasks::ledger::TaskCall;
use quartermaster_core::decide::gateway::plan::{Backend, TaskLimits};
use quartermaster_core::decide::request::body::Body;
use quartermaster_core::decide::request::refusal::Refusal;
use quartermaster_core::decide::request::upper_bound;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::state::Gateway;
use super::tasks::{self, Reserved};

/// How long all attempts of a call together wait for room that the operator may grant. Mostly it does within two messages, a
/// fifth of a second; what another replica has to give back first takes a few more.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an attempt that found no room looks no more: in a burst of settlements all that wait would look at each.
const PAUSE: Duration = Duration::from_millis(10);

/// A call, as budgets see it.
pub struct Budgets<'call> {
    gateway: &'call Gateway,
    caller: &'call str,
    route: &'call str,
    /// The task that it is for; none where it names none, or where neither a budget covers it nor its pool limits tasks.
    task: Option<TaskCall>,
    terms: Terms,
    /// How long its attempts may still wait.
    patience: Duration,
}

impl<'call> Budgets<'call> {
    /// What budgets, and the limits of its task, say to a call that has come. `bytes` are those of its body.
    pub fn new(
        gateway: &'call Gateway,
        caller: &'call str,
        limits: TaskLimits,
        route: &'call str,
        headers: &HeaderMap,
        bytes: &[u8],
    ) -> Self {
        let terms = gateway.terms(caller, route);
        let is_counted = terms.is_some() || !limits.is_none();
        let task = is_counted.then(|| tasks::of_call(limits, headers, bytes)).flatten();
        let mut terms = terms.unwrap_or_default();
        if task.is_some() {
            let TaskLimits { max_tokens_per_request, max_tokens, max_cost, .. } = limits;
            terms.bounded_output |= max_tokens_per_request.is_some() || max_tokens.is_some() || max_cost.is_some();
            terms.needs_price |= limits.max_cost.is_some();
        }
        Self { gateway, caller, route, task, terms, patience: PATIENCE }
    }

    /// What they mean for where it may go.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The most tokens of output that an attempt at this backend is asked for, where they have to have a limit.
    pub fn output_ceiling(&self, body: &Body, backend: &Backend) -> Option<u32> {
        match self.task.and_then(|call| call.limits.max_tokens_per_request) {
            Some(most) => upper_bound::output_ceiling_within(body, backend, most),
            None => upper_bound::output_ceiling(body, backend),
        }
    }

    /// Whether it may begin. `bytes` are those that the body was read from.
    ///
    /// # Errors
    ///
    /// Why not, whatever it needs.
    pub fn admit(&self, body: &Body, bytes: &[u8]) -> Result<(), Refusal> {
        if self.terms.refused.is_some() {
            // Who refuses everything refuses what needs nothing, and counts it.
            match self.gateway.reserve(self.caller, self.route, Most { tokens: 0, cost: Some(0) }, None) {
                // Or not any more.
                Ok(reservation) => self.gateway.give_back(reservation),
                Err(Short::Wait) => {}
                Err(short) => return Err(refusal(short)),
            }
        }
        if let Some(refused) = &self.terms.new_tasks_refused
            && self.task.is_none_or(|call| self.gateway.is_new_task(self.caller, call.task))
        {
            return Err(Refusal::new_tasks_refused(refused.clone(), Timestamp::now()));
        }
        if let Some(call) = &self.task {
            self.gateway.check_task(self.caller, call).map_err(tasks::refusal)?;
        }
        if self.terms.walled
            && let Some(tool) = upper_bound::unbounded_tools(body, bytes)
        {
            return Err(Refusal::UnboundedTool { tool });
        }
        Ok(())
    }

    /// Reserves the most that an attempt can use, and waits for room where the operator may grant it, until a time at most. For
    /// the limits of its task nobody waits.
    ///
    /// # Errors
    ///
    /// Why the attempt cannot begin, with which the call ends.
    pub async fn reserve(&mut self, need: Need, until: Instant) -> Result<Reserved, Refusal> {
        let reserved = match self.gateway.reserve(self.caller, self.route, need, None) {
            Err(Short::Wait) => self.wait(need, until).await,
            reserved => reserved,
        };
        let budgets = reserved.map_err(refusal)?;
        let Some(call) = &mut self.task else { return Ok(budgets.into()) };
        match self.gateway.begin_task(self.caller, call, need.most) {
            Ok(task) => {
                // Further attempts are of the same request.
                call.body = None;
                Ok(Reserved { budgets, task: Some(task) })
            }
            Err(stopped) => {
                self.gateway.give_back(budgets);
                Err(tasks::refusal(stopped))
            }
        }
    }

    async fn wait(&mut self, need: Need, until: Instant) -> Result<Reservation, Short> {
        let mut waiting = Waiting::new(self.gateway, self.gateway.wait(self.caller, self.route, need.most));
        let until = until.min(waiting.begun + self.patience);
        let reserved = loop {
            // What changes while it looks is not missed.
            let changed = self.gateway.budgets_changed();
            let reserved = self.gateway.reserve(self.caller, self.route, need, waiting.ticket);
            if !matches!(reserved, Err(Short::Wait)) {
                waiting.ticket = None;
                break reserved;
            }
            let looked = Instant::now();
            if looked >= until {
                break reserved;
            }
            let changed = async {
                changed.await;
                sleep_until(looked + PAUSE).await;
            };
            let _in_vain = timeout_at(until, changed).await;
        };
        self.patience = self.patience.saturating_sub(waiting.begun.elapsed());
        waiting.outcome = match &reserved {
            Ok(_) => "granted",
            Err(Short::Wait) => "busy",
            Err(_) => "refused",
        };
        reserved
    }
}

/// What a call is told whose attempt cannot begin.
fn refusal(short: Short) -> Refusal {
    match short {
        Short::Wait => Refusal::BudgetBusy,
        Short::Exceeded(refused) => Refusal::budget_exceeded(refused, Timestamp::now()),
        Short::Unknown(refused) => Refusal::BudgetUnknown { budget: refused.budget },
        Short::PriceMissing(_) => Refusal::PriceMissing,
    }
}

/// An attempt that waits. Whatever ends that, also that its client leaves, no room is set aside for it any more, and it is
/// counted.
struct Waiting<'call> {
    gateway: &'call Gateway,
    begun: Instant,
    /// None once it is over.
    ticket: Option<Ticket>,
    outcome: &'static str,
}

impl<'call> Waiting<'call> {
    fn new(gateway: &'call Gateway, ticket: Ticket) -> Self {
        Self { gateway, begun: Instant::now(), ticket: Some(ticket), outcome: "left" }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.gateway.withdraw(ticket);
        }
        self.gateway.metrics.waited_for_budget(self.outcome, self.begun.elapsed());
    }
}

#[cfg(test)]
#[path = "budgets_tests.rs"]
mod tests;
