//! What one process of the gateway is made of, and the one way to give it a plan.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use quartermaster_core::decide::account::Now;
use quartermaster_core::decide::account::message::Told;
use quartermaster_core::decide::account::spending::{Most, Need, Reservation, Settled, Short, Spending, Terms, Ticket, Used};
use quartermaster_core::decide::account::tasks::TaskId;
use quartermaster_core::decide::account::tasks::ledger::{Stopped, TaskCall, TaskLedger, TaskReservation};
use quartermaster_core::decide::gateway::exchange::gateway_session::Facts;
use quartermaster_core::decide::gateway::exchange::usage::{Counts, Hour, Series, Usage, UsageCounters};
use quartermaster_core::decide::gateway::plan::{Endpoints, Plan};
use quartermaster_core::decide::request::candidates::World;
use quartermaster_core::decide::request::learned::Learned;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::demand::Demand;
use super::in_force::{InForce, PlanError, Secrets};
use super::metrics::Metrics;
use super::request_body::Room;
use super::routing_log::RoutingLog;
use super::tasks::Reserved;
use crate::exchange::server::Changes;
use crate::sources::connect::Connector;

/// A gateway. All calls share it.
pub struct Gateway {
    /// The way to backends.
    pub connector: Arc<Connector>,
    /// The metrics.
    pub metrics: Metrics,
    /// The room for the bytes that calls hold.
    pub room: Room,
    /// The routing log.
    pub log: RoutingLog,
    /// Notified when there is something new to report: a call was settled, one waits for room in a budget, or the gateway
    /// drains.
    pub news: Arc<Notify>,
    in_force: ArcSwapOption<InForce>,
    /// What this replica learns. It outlives plans.
    learned: Mutex<Learned>,
    /// Where the times in it are counted from.
    origin: Instant,
    accounting: Mutex<Accounting>,
    /// Notified when calls that wait for room in a budget are to look again.
    budgets_changed: Notify,
    /// What calls of the last minute wanted.
    demand: Mutex<Demand>,
    hash: watch::Sender<Option<String>>,
    draining: AtomicBool,
    closed: AtomicBool,
}

/// What callers used, and what of that counts in budgets: under one lock, so that no report has the one without the other.
#[derive(Default)]
struct Accounting {
    /// What callers used since the process began.
    usage: UsageCounters,
    /// What budgets let them use, and what was used of it.
    spending: Spending,
    /// What tasks used of callers that budgets cover, or whose tasks are limited.
    tasks: TaskLedger,
}

impl Gateway {
    /// A gateway without a plan: it answers every call that it cannot judge yet.
    pub fn new(connector: Arc<Connector>, metrics: Metrics, room: Room, log: RoutingLog) -> Self {
        Self {
            connector,
            metrics,
            room,
            log,
            news: Arc::default(),
            in_force: ArcSwapOption::empty(),
            learned: Mutex::default(),
            origin: Instant::now(),
            accounting: Mutex::default(),
            budgets_changed: Notify::new(),
            demand: Mutex::default(),
            hash: watch::Sender::default(),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Puts a plan in force, with its secrets and with where the pods of backends are: all of it for every call that begins from
    /// now on, or nothing. Calls in flight end under what they began with. Returns the hash of the plan.
    ///
    /// # Errors
    ///
    /// Why it cannot be put in force; then the last one stays.
    pub fn apply(&self, plan: Plan, secrets: &Secrets, endpoints: Endpoints) -> Result<String, PlanError> {
        let in_force = InForce::new(plan, secrets, endpoints).inspect_err(|_| self.metrics.planned(None))?;
        let hash = in_force.hash.clone();
        let before = self.in_force.load();
        let mut learned = self.learned();
        learned.retain(&in_force.plan);
        if let Some(before) = &*before {
            learned.pods_changed(&before.endpoints, &in_force.endpoints);
        }
        drop(learned);
        let mut accounting = lock(&self.accounting);
        accounting.spending.plan(in_force.plan.budgets.clone());
        accounting.tasks.retain(|caller| in_force.plan.callers.contains_key(caller));
        drop(accounting);
        self.in_force.store(Some(Arc::new(in_force)));
        self.metrics.planned(Some(&hash));
        self.hash.send_replace(Some(hash.clone()));
        Ok(hash)
    }

    /// Lets something be decided, by what a call began with and what is learnt by now; others decide before or after it.
    pub fn decide<'p, T>(&self, in_force: &'p InForce, decide: impl FnOnce(&World<'p, '_>, &mut Learned, Duration) -> T) -> T {
        let key_value = |backend: &str, key: &str| in_force.key_value(backend, key);
        let world = World { plan: &in_force.plan, endpoints: &in_force.endpoints, key_value: &key_value };
        let mut learned = self.learned();
        decide(&world, &mut learned, self.origin.elapsed())
    }

    /// Lets something be learnt. The time is now.
    pub fn learn<T>(&self, learn: impl FnOnce(&mut Learned, Duration) -> T) -> T {
        let mut learned = self.learned();
        learn(&mut learned, self.origin.elapsed())
    }

    /// Now, by both clocks.
    fn now(&self) -> Now {
        Now { wall: Timestamp::now(), elapsed: self.origin.elapsed() }
    }

    /// A time that was decided, on the clock that is waited by.
    pub fn instant(&self, time: Duration) -> Instant {
        self.origin + time
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        lock(&self.learned)
    }

    /// What budgets mean for the calls of a caller on a route now; none: no budget covers them.
    pub fn terms(&self, caller: &str, route: &str) -> Option<Terms> {
        let now = self.now();
        lock(&self.accounting).spending.terms(caller, route, now)
    }

    /// Reserves the most that an attempt can use in every budget that covers it. `ticket` is that of its call, if it waits: it
    /// is over unless the answer is [`Short::Wait`].
    ///
    /// # Errors
    ///
    /// Why the attempt cannot begin.
    pub fn reserve(&self, caller: &str, route: &str, need: impl Into<Need>, ticket: Option<Ticket>) -> Result<Reservation, Short> {
        let now = self.now();
        let mut accounting = lock(&self.accounting);
        let reserved = accounting.spending.reserve(caller, route, need, ticket, now);
        if ticket.is_some() && reserved.as_ref().is_err_and(|short| *short != Short::Wait) {
            // What was set aside for it is there for those behind it.
            self.look_again(accounting);
        }
        reserved
    }

    /// Lets a call wait for room that the operator may grant, and asks for it. It has to be given up by [`Gateway::withdraw`],
    /// unless a reservation with its ticket ends it.
    pub fn wait(&self, caller: &str, route: &str, most: Most) -> Ticket {
        let now = self.now();
        let ticket = lock(&self.accounting).spending.wait(caller, route, most, now);
        self.news.notify_one();
        ticket
    }

    /// A call waits no more.
    pub fn withdraw(&self, ticket: Ticket) {
        let mut accounting = lock(&self.accounting);
        accounting.spending.withdraw(ticket);
        self.look_again(accounting);
    }

    /// Ends when calls that wait are to look again, at whatever happens from now on.
    pub fn budgets_changed(&self) -> Notified<'_> {
        self.budgets_changed.notified()
    }

    fn look_again(&self, accounting: MutexGuard<'_, Accounting>) {
        let somebody_waits = accounting.spending.waiting() > 0;
        drop(accounting);
        if somebody_waits {
            self.budgets_changed.notify_waiters();
        }
    }

    /// Whether nothing was heard lately of a task of a caller.
    pub fn is_new_task(&self, caller: &str, task: TaskId) -> bool {
        let now = self.origin.elapsed();
        !lock(&self.accounting).tasks.knows(caller, task, now)
    }

    /// Whether a call of a task can begin, if it needs nothing. Nothing is counted.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn check_task(&self, caller: &str, call: &TaskCall) -> Result<(), Stopped> {
        let now = self.origin.elapsed();
        lock(&self.accounting).tasks.check(caller, call, now)
    }

    /// An attempt of a call of a task begins, and reserves the most that it can use of the task's limits.
    ///
    /// # Errors
    ///
    /// Why it cannot begin.
    pub fn begin_task(&self, caller: &str, call: &TaskCall, most: Most) -> Result<TaskReservation, Stopped> {
        let now = self.origin.elapsed();
        let mut accounting = lock(&self.accounting);
        let before = accounting.tasks.changes();
        let begun = accounting.tasks.begin(caller, call, most, now);
        let is_news = accounting.tasks.changes() != before;
        drop(accounting);
        if is_news {
            self.news.notify_one();
        }
        begun
    }

    /// An attempt of a call is settled that was admitted in this hour: for its caller, if that is known, in the budgets in which it
    /// has a reservation, and for its task.
    pub fn settle(
        &self,
        series: Option<Series>,
        admitted: Hour,
        counts: &Counts,
        reserved: impl Into<Reserved>,
        used: Used,
    ) -> Settled {
        let hour = Hour::of(Timestamp::now());
        let Reserved { budgets, task } = reserved.into();
        let mut accounting = lock(&self.accounting);
        if let Some(series) = series {
            accounting.usage.record(series, admitted, hour, counts);
        }
        if let Some(task) = task {
            accounting.tasks.settle(task, Some(&used));
        }
        let settled = accounting.spending.settle(budgets, Some(used));
        self.look_again(accounting);
        self.news.notify_one();
        settled
    }

    /// Nothing comes of an attempt that has a reservation: nothing is sent.
    pub fn give_back(&self, reserved: impl Into<Reserved>) {
        let Reserved { budgets, task } = reserved.into();
        let mut accounting = lock(&self.accounting);
        if let Some(task) = task {
            accounting.tasks.settle(task, None);
        }
        accounting.spending.settle(budgets, None);
        self.look_again(accounting);
        self.news.notify_one();
    }

    /// Whether everything is settled that has begun.
    pub fn is_settled(&self) -> bool {
        lock(&self.accounting).spending.is_idle()
    }

    /// The operator has said what may be spent, or only that it is there: for so long from now on. `acknowledged` is the
    /// highest report that it has taken, 0 before it has said all that there is to say of accounts.
    pub fn told(&self, told: &Told, acknowledged: u64, valid_for: Duration) {
        let now = self.now();
        let mut accounting = lock(&self.accounting);
        if *told == Told::default() {
            accounting.spending.heard(acknowledged, valid_for, now);
        } else {
            accounting.spending.take(told, acknowledged, valid_for, now);
            accounting.tasks.take(&told.tasks, now.elapsed);
        }
        self.look_again(accounting);
    }

    /// What report `seq` says of what was used: the rows that have changed since what the operator knows. The other facts are
    /// empty.
    pub fn used_since(&self, known: Changes, seq: u64) -> Facts {
        let mut accounting = lock(&self.accounting);
        let (mut accounts, account_changes) = accounting.spending.report(known.accounts, seq);
        let (tasks, task_changes) = accounting.tasks.report(known.tasks);
        accounts.tasks = tasks;
        let (usage, usage_changes) = (accounting.usage.since(known.usage), accounting.usage.changes());
        Facts { usage, usage_changes, accounts, account_changes, task_changes, ..Facts::default() }
    }

    /// How often what was used has changed.
    pub fn changes(&self) -> Changes {
        let accounting = lock(&self.accounting);
        let Accounting { usage, spending, tasks } = &*accounting;
        Changes { usage: usage.changes(), accounts: spending.changes(), tasks: tasks.changes() }
    }

    /// The rows of what callers used that have changed since there were so many changes, and how many there are now.
    pub fn usage_since(&self, changes: u64) -> (Usage, u64) {
        let accounting = lock(&self.accounting);
        (accounting.usage.since(changes), accounting.usage.changes())
    }

    /// A call wants a backend.
    pub fn wanted(&self, backend: &str) {
        lock(&self.demand).count(backend, self.origin.elapsed());
    }

    /// The calls of the last minute by the backend that they wanted.
    pub fn demand(&self) -> BTreeMap<String, u64> {
        lock(&self.demand).of_last_minute(self.origin.elapsed())
    }

    /// What is in force now.
    pub fn in_force(&self) -> Option<Arc<InForce>> {
        self.in_force.load_full()
    }

    /// Tells the hash of the plan in force.
    pub fn hash(&self) -> watch::Receiver<Option<String>> {
        self.hash.subscribe()
    }

    /// Clients are asked to go elsewhere from now on: each connection ends with its call.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.news.notify_one();
    }

    /// Whether clients are asked to go elsewhere.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// No call begins any more: what is settled by now is all that this process will ever have used. The operator must not hear it
    /// before, or it would charge less than is used by calls that still come while clients are asked to go elsewhere.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.news.notify_one();
    }

    /// Whether no call begins any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// Every operation leaves what is locked here whole, so that a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
